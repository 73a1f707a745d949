//! Lets so many events a second through, and counts the others by their node. Pure.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Cap {
    /// 0 is no limit.
    limit: u32,
    window: Option<Instant>,
    used: u32,
    /// Of each node.
    held: Vec<u64>,
}

impl Cap {
    pub(super) const SECOND: Duration = Duration::from_secs(1);

    /// So many a second, of all of so many nodes together.
    pub(super) fn new(limit: u32, nodes: usize) -> Self {
        Self { limit, window: None, used: 0, held: vec![0; nodes] }
    }

    pub(super) fn admits(&mut self, node: usize, now: Instant) -> bool {
        if self.limit == 0 {
            return true;
        }
        if self.window.is_none_or(|start| now.duration_since(start) >= Self::SECOND) {
            self.window = Some(now);
            self.used = 0;
        }
        let admitted = self.used < self.limit;
        if admitted {
            self.used += 1;
        } else if let Some(held) = self.held.get_mut(node) {
            *held += 1;
        }
        admitted
    }

    /// When what is held back is to be told.
    pub(super) fn due(&self) -> Option<Instant> {
        self.window.filter(|_| self.held.iter().any(|h| *h > 0)).map(|start| start + Self::SECOND)
    }

    /// What is held back, node by node, if that is to be told now.
    pub(super) fn take(&mut self, now: Instant) -> Vec<(usize, u64)> {
        if self.due().is_some_and(|due| now >= due) { self.rest() } else { Vec::new() }
    }

    pub(super) fn rest(&mut self) -> Vec<(usize, u64)> {
        let all = self.held.iter_mut().map(std::mem::take).enumerate();
        all.filter(|(_, held)| *held > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_lets_so_many_a_second_through_and_tells_the_rest() {
        let start = Instant::now();
        let mut cap = Cap::new(2, 2);
        // Of one node two, of the other none: they share it.
        assert_eq!((0..5).filter(|i| cap.admits(i % 2, start)).count(), 2);
        let almost = start + Duration::from_millis(999);
        assert_eq!((cap.due(), cap.take(almost)), (Some(start + Cap::SECOND), vec![]));
        let next = start + Cap::SECOND;
        assert_eq!((cap.take(next), cap.admits(1, next), cap.due()), (vec![(0, 2), (1, 1)], true, None));
        let mut none = Cap::new(0, 1);
        assert!((0..1000).all(|_| none.admits(0, start)));
    }
}

//! How often the node's state may be written. Pure.

use std::time::Duration;

use tokio::time::Instant;

use super::state::Urgency;

/// In the long run there is one write in so much time.
pub(super) const APART: Duration = Duration::from_secs(10);
/// So many may follow one another after a quiet time: of a policy, its edit, and what becomes of it.
const BURST: u32 = 5;
/// Between two writes lies so much time where nothing but numbers of backends changed.
const APART_FOR_NUMBERS: Duration = Duration::from_secs(60);

/// The writes so far: a bucket of [`BURST`] tokens, of which one comes back every [`APART`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// From then on the bucket is full.
    full: Option<Instant>,
}

impl Pace {
    /// When a change of this urgency may be written; `None`: never.
    pub(super) fn next(&self, urgency: Urgency, now: Instant) -> Option<Instant> {
        let after = |pause| self.last.map_or(now, |last| last + pause).max(now);
        match urgency {
            Urgency::Never => None,
            Urgency::Later => Some(after(APART_FOR_NUMBERS)),
            // Nothing of the burst goes to these.
            Urgency::Soon => Some(after(APART)),
            Urgency::Now => Some(self.free(now)),
        }
    }

    /// When there is a token.
    pub(super) fn free(&self, now: Instant) -> Instant {
        let spent = self.full.map_or(Duration::ZERO, |full| full.saturating_duration_since(now));
        now + spent.saturating_sub(APART * (BURST - 1))
    }

    /// One was written.
    pub(super) fn wrote(&mut self, now: Instant) {
        self.last = Some(now);
        self.full = Some(self.full.map_or(now, |full| full.max(now)) + APART);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Seconds from now until a write of that urgency.
    fn wait(pace: &Pace, urgency: Urgency, now: Instant) -> Option<u64> {
        pace.next(urgency, now).map(|at| (at - now).as_secs())
    }

    #[test]
    fn what_is_new_goes_at_once_until_a_few_have_gone() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(wait(&pace, Urgency::Now, now), Some(0));
            pace.wrote(now);
            now += Duration::from_secs(1);
        }
        // Five at 0, 1, 2, 3, 4: the first comes back at 10.
        assert_eq!(wait(&pace, Urgency::Now, now), Some(5));
        now += Duration::from_secs(5);
        assert_eq!(wait(&pace, Urgency::Now, now), Some(0));
        pace.wrote(now);
        assert_eq!(wait(&pace, Urgency::Now, now), Some(10));
        now += Duration::from_secs(1000);
        pace.wrote(now);
        assert_eq!(wait(&pace, Urgency::Now, now), Some(0));
    }

    #[test]
    fn what_nobody_waits_for_takes_nothing_from_what_is_new() {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        assert_eq!(wait(&pace, Urgency::Never, now), None);
        for urgency in [Urgency::Soon, Urgency::Later] {
            assert_eq!(wait(&pace, urgency, now), Some(0), "the first");
        }
        pace.wrote(now);
        assert_eq!(wait(&pace, Urgency::Soon, now), Some(10));
        assert_eq!(wait(&pace, Urgency::Later, now), Some(60));
        for _ in 0..100 {
            now = pace.next(Urgency::Soon, now).unwrap();
            pace.wrote(now);
        }
        for _ in 1..BURST {
            assert_eq!(wait(&pace, Urgency::Now, now), Some(0));
            pace.wrote(now);
        }
        assert_eq!(wait(&pace, Urgency::Now, now), Some(10));
    }

    proptest! {
        /// Whatever changes and whenever: in any time there are no more writes than the burst and one every ten seconds.
        #[test]
        fn writes_are_bounded(
            changes in prop::collection::vec((0_u64..30_000, prop::sample::select(vec![Urgency::Later, Urgency::Soon, Urgency::Now])), 1..200),
        ) {
            let (mut pace, mut now) = (Pace::default(), Instant::now());
            let mut written: Vec<Instant> = Vec::new();
            for (pause, urgency) in changes {
                now += Duration::from_millis(pause);
                now = pace.next(urgency, now).unwrap();
                pace.wrote(now);
                written.push(now);
            }
            for (first, from) in written.iter().enumerate() {
                for (last, to) in written.iter().enumerate().skip(first) {
                    let most = u64::from(BURST) + (*to - *from).as_secs() / APART.as_secs();
                    prop_assert!((last - first + 1) as u64 <= most);
                }
            }
        }
    }
}

//! What is free: ranges of backends, and numbers of slots, policies and counters.

use std::collections::{BTreeMap, BTreeSet};

/// Free ranges of an array, first fit, neighbours joined.
#[derive(Debug)]
pub(super) struct Ranges {
    free: BTreeMap<u32, u32>,
    used: u32,
    elements: u32,
}

impl Ranges {
    /// An array of that many elements, all free.
    pub(super) fn new(elements: u32) -> Self {
        Self { free: (elements > 0).then_some((0, elements)).into_iter().collect(), used: 0, elements }
    }

    /// The array has so many elements now, not fewer than before: the new ones are free.
    pub(super) fn extend(&mut self, elements: u32) {
        let more = elements.saturating_sub(self.elements);
        if more > 0 {
            self.used += more;
            let first = std::mem::replace(&mut self.elements, elements);
            self.give(first, more);
        }
    }

    /// Elements in use.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// Takes a range of `count` elements, 1 or more; `None`: there is none of that length.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        let (&first, &length) = self.free.iter().find(|&(_, &length)| length >= count)?;
        self.free.remove(&first);
        if length > count {
            self.free.insert(first + count, length - count);
        }
        self.used += count;
        Some(first)
    }

    /// Takes this very range. False: part of it is in use, or it lies outside.
    pub(super) fn claim(&mut self, first: u32, count: u32) -> bool {
        let Some((&start, &length)) = self.free.range(..=first).next_back() else { return false };
        if u64::from(first - start) + u64::from(count) > u64::from(length) {
            return false;
        }
        self.free.remove(&start);
        if first > start {
            self.free.insert(start, first - start);
        }
        let rest = start + length - (first + count);
        if rest > 0 {
            self.free.insert(first + count, rest);
        }
        self.used += count;
        true
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, first: u32, count: u32) {
        self.used -= count;
        let (mut first, mut count) = (first, count);
        if let Some((&before, &length)) = self.free.range(..first).next_back()
            && before + length == first
        {
            self.free.remove(&before);
            first = before;
            count += length;
        }
        if let Some(length) = self.free.remove(&(first + count)) {
            count += length;
        }
        self.free.insert(first, count);
    }
}

/// Free numbers, lowest first.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
    end: u32,
    given_back: BTreeSet<u32>,
}

impl Numbers {
    /// The numbers from `first` to `end`, without `end`.
    pub(super) fn new(first: u32, end: u32) -> Self {
        Self { next: first, end, given_back: BTreeSet::new() }
    }

    /// There are the numbers up to `end` now, without it; not fewer than before.
    pub(super) fn extend(&mut self, end: u32) {
        self.end = self.end.max(end);
    }

    /// Takes a number; `None`: all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.given_back.pop_first() {
            return Some(number);
        }
        let number = self.next;
        (number < self.end).then(|| {
            self.next += 1;
            number
        })
    }

    /// Takes this very number. False: it is in use, or is none.
    pub(super) fn claim(&mut self, number: u32) -> bool {
        if number >= self.next && number < self.end {
            self.given_back.extend(self.next..number);
            self.next = number + 1;
            return true;
        }
        self.given_back.remove(&number)
    }

    /// Gives a number back.
    pub(super) fn give(&mut self, number: u32) {
        self.given_back.insert(number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_join_when_given_back() {
        let mut ranges = Ranges::new(10);
        let taken: Vec<u32> = (0..5).filter_map(|_| ranges.take(2)).collect();
        assert_eq!(taken, [0, 2, 4, 6, 8]);
        assert_eq!(ranges.take(1), None);
        for first in [2, 6, 4] {
            ranges.give(first, 2);
        }
        assert_eq!(ranges.take(6), Some(2));
        assert_eq!(ranges.used(), 10);
    }

    #[test]
    fn a_range_in_use_cannot_be_claimed() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.claim(3, 4));
        assert!(!ranges.claim(6, 2));
        assert!(!ranges.claim(9, 2));
        assert!(ranges.claim(0, 3) && ranges.claim(7, 3));
        assert_eq!(ranges.take(1), None);
    }

    #[test]
    fn numbers_below_a_claimed_one_stay_free() {
        let mut numbers = Numbers::new(1, 5);
        assert!(numbers.claim(3) && !numbers.claim(3) && !numbers.claim(0) && !numbers.claim(5));
        let rest: Vec<u32> = std::iter::from_fn(|| numbers.take()).collect();
        assert_eq!(rest, [1, 2, 4]);
    }

    #[test]
    fn what_is_added_is_free_and_joins_what_was() {
        let mut ranges = Ranges::new(10);
        assert_eq!((ranges.take(8), ranges.take(4)), (Some(0), None));
        ranges.extend(12);
        assert_eq!((ranges.used(), ranges.take(4), ranges.take(1)), (8, Some(8), None));
        ranges.extend(11);
        assert_eq!(ranges.take(1), None);
        let mut numbers = Numbers::new(0, 1);
        assert_eq!((numbers.take(), numbers.take()), (Some(0), None));
        numbers.extend(2);
        assert_eq!((numbers.take(), numbers.take()), (Some(1), None));
    }

    proptest! {
        /// No element is ever in two ranges, and all are free again in the end.
        #[test]
        fn ranges_never_overlap(sizes in prop::collection::vec((1u32..6, any::<bool>()), 1..60)) {
            let mut ranges = Ranges::new(40);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (size, give) in sizes {
                if give && !held.is_empty() {
                    let (first, count) = held.swap_remove(size as usize % held.len());
                    ranges.give(first, count);
                } else if let Some(first) = ranges.take(size) {
                    prop_assert!(first + size <= 40);
                    prop_assert!(held.iter().all(|&(f, c)| first >= f + c || f >= first + size));
                    held.push((first, size));
                }
            }
            for (first, count) in held {
                ranges.give(first, count);
            }
            prop_assert_eq!(ranges.take(40), Some(0));
        }
    }
}

//! What the records of a load say: pure judgements.

use std::{collections::BTreeMap, fmt};

use crate::protocol::Record;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// A full second of the kernel programs' clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which second since boot.
    pub second: u64,
    /// Operations that began in it.
    pub demand: usize,
    /// Hits that were decided in it for certain.
    pub sure: usize,
    /// Hits whose call straddles one of its ends: they may count on either side.
    pub straddling: usize,
}

impl Window {
    /// Can it hold exactly that many hits?
    #[must_use]
    pub fn can_be(&self, limit: usize) -> bool {
        self.sure <= limit && limit <= self.sure + self.straddling
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "second {}: {} hits", self.second, self.sure)?;
        if self.straddling > 0 {
            write!(f, " (or up to {})", self.sure + self.straddling)?;
        }
        write!(f, " of {}", self.demand)
    }
}

/// The full seconds of the kernel programs' clock that the load covers. A decision lies between a call and its return, on this
/// clock: on the exact one a call may begin in a second when for the programs the one before is not over.
#[must_use]
pub fn windows(records: &[Record], is_hit: impl Fn(&Record) -> bool) -> Vec<Window> {
    let Some(begin) = records.iter().map(|r| r.coarse.0).min() else { return Vec::new() };
    let end = records.iter().map(|r| r.coarse.1).max().unwrap_or(begin);
    let mut windows: BTreeMap<u64, Window> = (begin.div_ceil(SECOND)..end / SECOND)
        .map(|second| (second, Window { second, demand: 0, sure: 0, straddling: 0 }))
        .collect();
    for record in records {
        let (first, last) = (record.coarse.0 / SECOND, record.coarse.1 / SECOND);
        if let Some(w) = windows.get_mut(&first) {
            w.demand += 1;
        }
        if is_hit(record) {
            for second in first..=last {
                if let Some(w) = windows.get_mut(&second) {
                    if first == last { w.sure += 1 } else { w.straddling += 1 }
                }
            }
        }
    }
    windows.into_values().collect()
}

/// How often each name occurs, for messages.
pub fn tally<T: Ord>(names: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Sets that follow one another, and since when each can be and is surely in force.
///
/// Set `i` can be in force from `written[i]`, the moment before it was written, until `in_force[i + 1]`, the moment at
/// which its successor was seen to work.
#[derive(Clone, Debug, Default)]
pub struct Succession {
    /// Moments before each set was written, nanoseconds of CLOCK_MONOTONIC.
    pub written: Vec<u64>,
    /// Moments at which each set was seen to be in effect.
    pub in_force: Vec<u64>,
}

impl Succession {
    /// Can set `i`, for some `i` that `fits`, have been in force at some moment of the span?
    #[must_use]
    pub fn can_hold(&self, span: (u64, u64), fits: impl Fn(usize) -> bool) -> bool {
        let oldest = self.in_force.partition_point(|t| *t < span.0).saturating_sub(1);
        let newest = self.written.partition_point(|t| *t <= span.1);
        (oldest..newest).any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(begin: u64, end: u64, hit: bool) -> Record {
        let at = if hit { "10.0.0.1:81" } else { "10.0.0.2:80" }.parse().unwrap();
        Record { span: (begin, end), coarse: (begin, end), at, errno: 0, target: 0, true_name: true }
    }

    fn hit(r: &Record) -> bool {
        r.at.port() == 81
    }

    #[test]
    fn only_full_seconds_count_and_straddlers_may_be_on_either_side() {
        let s = SECOND;
        let records = [
            record(s / 2, s / 2 + 1, true),
            record(s + 1, s + 2, true),
            record(s + 3, s + 4, false),
            record(2 * s - 1, 2 * s + 1, true),
            record(2 * s + 5, 2 * s + 6, true),
            record(3 * s + 5, 3 * s + 6, true),
        ];
        let windows = windows(&records, hit);
        let one = Window { second: 1, demand: 3, sure: 1, straddling: 1 };
        let two = Window { second: 2, demand: 1, sure: 1, straddling: 1 };
        assert_eq!(windows, [one, two]);
        assert!(one.can_be(1) && one.can_be(2) && !one.can_be(0) && !one.can_be(3));
    }

    /// The programs' clock is a tick behind: what is redirected right after the exact second has turned spends what the
    /// programs' second before has left.
    #[test]
    fn seconds_turn_when_they_turn_for_the_programs() {
        const TICK: u64 = 4_000_000;
        let s = SECOND;
        let behind = |at: u64, hit| Record { coarse: (at - TICK, at - TICK), ..record(at, at + 1000, hit) };
        let records = [
            behind(2 * s - 9, false),
            behind(2 * s + 9, true),
            behind(2 * s + TICK, true),
            behind(3 * s + 9, false),
            behind(3 * s + TICK, true),
        ];
        let only = Window { second: 2, demand: 2, sure: 1, straddling: 0 };
        assert_eq!(windows(&records, hit), [only]);
    }

    #[test]
    fn no_records_no_windows() {
        assert_eq!(windows(&[], hit), []);
    }

    #[test]
    fn a_set_is_possible_from_its_writing_until_its_successor_works() {
        let sets = Succession { written: vec![0, 10, 20], in_force: vec![5, 15, 25] };
        let possible = |span| (0..3).filter(|i| sets.can_hold(span, |j| j == *i)).collect::<Vec<_>>();
        assert_eq!(possible((6, 7)), [0]);
        assert_eq!(possible((8, 12)), [0, 1]);
        assert_eq!(possible((16, 17)), [1]);
        assert_eq!(possible((14, 21)), [0, 1, 2]);
        assert_eq!(possible((30, 31)), [2]);
    }
}

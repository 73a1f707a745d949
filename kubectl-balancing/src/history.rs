//! What was measured over the last minutes, for charts. What was not measured is a gap, never a zero. Pure.

use std::collections::{HashMap, VecDeque};

use balancing_api::{cli::PolicyTopItem, policy::PolicyRef};
use jiff::Timestamp;

use crate::sample::Board;

/// Numbers kept at the most: few rows have a long history, many a short one.
const BUDGET: usize = 1_500_000;
/// Samples kept of a row: the longest window at the shortest interval, and what many rows still get.
const SAMPLES: (usize, usize) = (60, 1800);
/// Longest time a sample stands for, in intervals. What is longer was a pause.
const PATIENCE: f64 = 2.5;

/// What is measured of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Sent to the policy's backends, per second.
    Taken,
    /// QoS drops, per second.
    QosDrops,
    /// Fallbacks, per second.
    Fallbacks,
    /// Refused, per second.
    Refusals,
}

type Point = [f32; 4];
const NOTHING: Point = [f32::NAN; 4];

/// A row's measurements: one a sample since the first that had it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Series {
    first: u64,
    /// Of [`Measure::Taken`]; NaN where nothing was measured.
    taken: VecDeque<f32>,
    /// Of the others, which most rows never have: each as long as `taken`, or empty while all of it is zero.
    others: Option<Box<[VecDeque<f32>; 3]>>,
}

/// When a sample was taken and how long the time is that it speaks of.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moment {
    at: Timestamp,
    span: f64,
}

/// The measurements of all rows.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Number of the first moment kept.
    first: u64,
    moments: VecDeque<Moment>,
    all: Series,
    policies: HashMap<PolicyRef, Series>,
}

impl History {
    /// Takes a sample in. `expected` is the time between two of them, in seconds.
    pub fn push(&mut self, board: &Board, expected: f64) {
        let at = board.sample.taken_at();
        if self.moments.back().is_some_and(|m| m.at >= at) {
            return;
        }
        let number = self.first + self.moments.len() as u64;
        let span = board.interval.unwrap_or(expected).min(expected * PATIENCE);
        self.moments.push_back(Moment { at, span });
        let mut all: Option<Point> = None;
        for row in &board.policies {
            let point = point(row);
            if let Some(point) = point {
                let sum = all.get_or_insert([0.0; 4]);
                sum.iter_mut().zip(point).for_each(|(s, p)| *s += p);
            }
            let new = || Series { first: number, ..Series::default() };
            let series = match self.policies.get_mut(&row.policy) {
                Some(series) => series,
                None => self.policies.entry(row.policy.clone()).or_insert_with(new),
            };
            series.push(number, point.unwrap_or(NOTHING));
        }
        if let (Some(sum), true) = (&mut all, board.interval.is_some()) {
            sum[Measure::Refusals as usize] =
                board.frontends.iter().filter_map(|f| f.rates).map(|r| r.refusals as f32).sum();
        }
        self.all.push(number, all.unwrap_or(NOTHING));
        self.forget(board.policies.len());
    }

    fn forget(&mut self, rows: usize) {
        let (least, most) = SAMPLES;
        let keep = (BUDGET / 4 / rows.max(1)).clamp(least, most);
        while self.moments.len() > keep {
            self.moments.pop_front();
            self.first += 1;
        }
        let first = self.first;
        self.all.forget(first);
        self.policies.retain(|_, series| {
            series.forget(first);
            !series.taken.is_empty()
        });
    }

    /// A policy's measurements in so many parts of the last `window` seconds, oldest first: the largest of each part,
    /// none where nothing was measured.
    #[must_use]
    pub fn policy(
        &self,
        policy: &PolicyRef,
        measure: Measure,
        window: f64,
        parts: usize,
    ) -> Vec<Option<f64>> {
        match self.policies.get(policy) {
            Some(series) => self.parts(series, measure, window, parts),
            None => vec![None; parts],
        }
    }

    /// The sum of all policies in the same way.
    #[must_use]
    pub fn total(&self, measure: Measure, window: f64, parts: usize) -> Vec<Option<f64>> {
        self.parts(&self.all, measure, window, parts)
    }

    fn parts(&self, series: &Series, measure: Measure, window: f64, parts: usize) -> Vec<Option<f64>> {
        let mut out: Vec<Option<f64>> = vec![None; parts];
        let Some(last) = self.moments.back() else { return out };
        if parts == 0 || window <= 0.0 {
            return out;
        }
        let width = window / parts as f64;
        for (i, moment) in self.moments.iter().enumerate().rev() {
            let end = last.at.duration_since(moment.at).as_secs_f64();
            if end >= window {
                break;
            }
            let number = self.first + i as u64;
            let Some(value) = series.get(number, measure) else { continue };
            // From the newest part backwards. A part belongs to the sample that speaks of its middle; a short sample
            // has the part that it ends in.
            let newest = (end / width).floor();
            let oldest = ((end + moment.span) / width - 0.5).floor().max(newest);
            for part in (newest as usize)..=(oldest as usize).min(parts - 1) {
                let cell = &mut out[parts - 1 - part];
                *cell = Some(cell.map_or(value, |v| v.max(value)));
            }
        }
        out
    }
}

impl Series {
    fn push(&mut self, number: u64, point: Point) {
        let next = self.first + self.taken.len() as u64;
        // While it was away nothing was measured.
        for _ in next..number {
            self.push_next(NOTHING);
        }
        self.push_next(point);
    }

    fn push_next(&mut self, [taken, others @ ..]: Point) {
        if others.iter().any(|value| *value > 0.0) {
            self.others.get_or_insert_default();
        }
        let measured = self.taken.len();
        for (column, value) in self.columns().zip(others) {
            if value > 0.0 {
                column.resize(measured, 0.0);
            }
            if value > 0.0 || !column.is_empty() {
                column.push_back(value);
            }
        }
        self.taken.push_back(taken);
    }

    /// Those of `others`, where there are any.
    fn columns(&mut self) -> impl Iterator<Item = &mut VecDeque<f32>> {
        self.others.iter_mut().flat_map(|others| others.iter_mut())
    }

    /// What was measured at a moment; none where nothing was.
    fn get(&self, number: u64, measure: Measure) -> Option<f64> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let taken = *self.taken.get(index)?;
        let other = |column: usize| self.others.as_ref()?[column].get(index).copied();
        let value = match measure {
            Measure::Taken => taken,
            rare => other(rare as usize - 1).unwrap_or(0.0),
        };
        (!taken.is_nan()).then_some(f64::from(value))
    }

    fn forget(&mut self, first: u64) {
        while self.first < first && !self.taken.is_empty() {
            self.taken.pop_front();
            for column in self.columns() {
                column.pop_front();
            }
            self.first += 1;
        }
    }
}

fn point(row: &PolicyTopItem) -> Option<Point> {
    let r = row.rates.as_ref()?;
    let fallbacks: f64 = r.fallbacks.values().sum();
    Some([(r.redirects + r.balanced) as f32, r.qos_drops as f32, fallbacks as f32, r.refusals as f32])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{demo::Demo, fixture::lr};

    /// Boards of the synthetic cluster, a second apart; those of `missed` are not taken in.
    fn history(seconds: u64, missed: std::ops::Range<u64>) -> History {
        let mut demo = Demo::new(1, 3);
        let (mut history, mut before) = (History::default(), None);
        for i in 0..seconds {
            let sample = demo.next(Duration::from_secs(1));
            if missed.contains(&i) {
                continue;
            }
            let board = Board::new(sample, before.as_ref());
            history.push(&board, 1.0);
            before = Some(board.sample);
        }
        history
    }

    fn marks(values: &[Option<f64>]) -> String {
        values.iter().map(|v| if v.is_some() { '#' } else { '.' }).collect()
    }

    #[test]
    fn the_first_sample_has_no_rate_and_is_a_gap() {
        let history = history(10, 0..0);
        let taken = history.policy(&lr("node-local-dns"), Measure::Taken, 10.0, 10);
        assert_eq!(marks(&taken), ".#########");
        assert_eq!(marks(&history.policy(&lr("unknown"), Measure::Taken, 10.0, 10)), "..........");
        assert_eq!(marks(&history.total(Measure::QosDrops, 20.0, 10)), ".....#####");
    }

    #[test]
    fn what_was_missed_is_a_gap() {
        let history = history(20, 8..14);
        let taken = history.policy(&lr("node-local-dns"), Measure::Taken, 20.0, 20);
        // The sample after the gap speaks of two and a half seconds at the most.
        assert_eq!(marks(&taken), ".#######....########");
    }

    #[test]
    fn many_samples_share_a_part_and_the_largest_is_shown() {
        let history = history(60, 0..0);
        let fine = history.policy(&lr("node-local-dns"), Measure::Taken, 60.0, 60);
        let coarse = history.policy(&lr("node-local-dns"), Measure::Taken, 60.0, 6);
        for (i, part) in coarse.iter().enumerate() {
            let largest = fine[i * 10..i * 10 + 10].iter().flatten().copied().fold(0.0, f64::max);
            assert!(part.is_some_and(|p| p >= largest), "{i}");
        }
    }

    #[test]
    fn ten_thousand_rows_have_a_short_history() {
        let mut history = History::default();
        let mut demo = Demo::new(1, 1);
        let mut before = None;
        for _ in 0..100 {
            let mut board = Board::new(demo.next(Duration::from_secs(1)), before.as_ref());
            before = Some(board.sample.clone());
            let row = board.policies[0].clone();
            board.policies =
                (0..10_000).map(|i| PolicyTopItem { policy: lr(&format!("p{i}")), ..row.clone() }).collect();
            history.push(&board, 1.0);
        }
        assert_eq!(history.moments.len(), 60);
        assert!(history.policies.values().all(|s| s.taken.len() <= 60));
    }

    #[test]
    fn measures_that_are_rare_are_kept_where_they_were_and_forgotten_in_time() {
        const ALL: [Measure; 4] = [Measure::Taken, Measure::QosDrops, Measure::Fallbacks, Measure::Refusals];
        let point = |n: u64| {
            let n = n as u16;
            [f32::from(n), f32::from(n % 7 / 6 * n), f32::from(n / 30), 0.0]
        };
        let (mut series, first) = (Series { first: 5, ..Series::default() }, 20);
        for n in (5..40).chain(45..60) {
            series.push(n, point(n));
            series.forget(n.min(first));
        }
        for n in 0..70 {
            let was = (first..40).contains(&n) || (45..60).contains(&n);
            for measure in ALL {
                let want = was.then(|| f64::from(point(n)[measure as usize]));
                assert_eq!(series.get(n, measure), want, "{measure:?} of {n}");
            }
        }
        series.forget(60);
        assert_eq!(series.get(59, Measure::QosDrops), None);
        assert_eq!(series.others.map(|o| o.map(|column| column.len())), Some([0; 3]));
    }
}

//! Other ways to look at rates than over the last interval: smoothed, and since the counters began. Pure.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use balancing_api::cli::{BackendRates, FrontendRates, NodeRates, PolicyRates};

use crate::{
    columns::{Row, RowId},
    sample::Board,
};

/// What rates are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateMode {
    /// The last two samples.
    #[default]
    Interval,
    /// All samples, the newest with a quarter of the weight (as the kernel's IPVS estimates).
    Smoothed,
    /// The totals since the counters began.
    SinceStart,
}

impl RateMode {
    /// The next of them.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Interval => Self::Smoothed,
            Self::Smoothed => Self::SinceStart,
            Self::SinceStart => Self::Interval,
        }
    }

    /// What a screen calls it; empty for that of every day.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interval => "",
            Self::Smoothed => "rates smoothed",
            Self::SinceStart => "rates since start",
        }
    }
}

const WEIGHT: f64 = 0.25;

fn mixed(before: f64, now: f64) -> f64 {
    before + (now - before) * WEIGHT
}

fn mixed_map(before: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    now.iter().map(|(k, n)| (k.clone(), mixed(before.get(k).copied().unwrap_or(0.0), *n))).collect()
}

/// Mixes the rates of rows that both boards have. What is not known now is as it was.
fn mix<R: Row, T: Clone>(
    before: &[R],
    now: &mut [R],
    rates: fn(&R) -> Option<&T>,
    set: fn(&mut R, T),
    mixed: fn(&T, &T) -> T,
) {
    let mut known: HashMap<RowId, &T> = HashMap::new();
    for row in before {
        if let (Some(r), Entry::Vacant(place)) = (rates(row), known.entry(row.id())) {
            place.insert(r);
        }
    }
    for row in now {
        let Some(old) = known.get(&row.id()) else { continue };
        let new = rates(row).map_or_else(|| (*old).clone(), |new| mixed(old, new));
        set(row, new);
    }
}

/// The board with rates smoothed: `before` is the smoothed board of the sample before.
#[must_use]
pub fn smoothed(before: &Board, now: &Board) -> Board {
    let mut board = now.clone();
    mix(
        &before.policies,
        &mut board.policies,
        |r| r.rates.as_ref(),
        |r, x| r.rates = Some(x),
        |a, b| PolicyRates {
            redirects: mixed(a.redirects, b.redirects),
            balanced: mixed(a.balanced, b.balanced),
            qos_drops: mixed(a.qos_drops, b.qos_drops),
            fallbacks: mixed_map(&a.fallbacks, &b.fallbacks),
            refusals: mixed(a.refusals, b.refusals),
        },
    );
    mix(
        &before.nodes,
        &mut board.nodes,
        |r| r.rates.as_ref(),
        |r, x| r.rates = Some(x),
        |a, b| NodeRates {
            redirects: mixed(a.redirects, b.redirects),
            balanced: mixed(a.balanced, b.balanced),
            qos_drops: mixed(a.qos_drops, b.qos_drops),
            fallbacks: mixed(a.fallbacks, b.fallbacks),
            refusals: mixed(a.refusals, b.refusals),
            lost: mixed(a.lost, b.lost),
        },
    );
    mix(
        &before.frontends,
        &mut board.frontends,
        |r| r.rates.as_ref(),
        |r, x| r.rates = Some(x),
        |a, b| FrontendRates {
            redirects: mixed(a.redirects, b.redirects),
            balanced: mixed(a.balanced, b.balanced),
            resolved: mixed(a.resolved, b.resolved),
            qos_drops: mixed(a.qos_drops, b.qos_drops),
            refusals: mixed(a.refusals, b.refusals),
        },
    );
    mix(
        &before.backends,
        &mut board.backends,
        |r| r.rates.as_ref(),
        |r, x| r.rates = Some(x),
        |a, b| BackendRates { selected: mixed(a.selected, b.selected) },
    );
    board
}

/// The board with the totals over the time that their counters count. Of several nodes the longest time.
#[must_use]
pub fn since_start(now: &Board) -> Board {
    let mut board = now.clone();
    let seconds = now
        .sample
        .nodes
        .iter()
        .map(|n| n.counters.taken_at.duration_since(n.counters.since).as_secs_f64())
        .fold(0.0, f64::max);
    if seconds <= 0.0 {
        return board;
    }
    let rate = |n: u64| n as f64 / seconds;
    for r in &mut board.policies {
        r.rates = Some(PolicyRates {
            redirects: rate(r.redirects),
            balanced: rate(r.balanced),
            qos_drops: rate(r.qos_drops),
            fallbacks: r.fallbacks.iter().map(|(k, n)| (k.clone(), rate(*n))).collect(),
            refusals: rate(r.refusals),
        });
    }
    for r in board.nodes.iter_mut().filter(|r| r.taken_at.is_some()) {
        r.rates = Some(NodeRates {
            redirects: rate(r.redirects),
            balanced: rate(r.balanced),
            qos_drops: rate(r.qos_drops),
            fallbacks: rate(r.fallbacks),
            refusals: rate(r.refusals),
            lost: rate(r.lost),
        });
    }
    for r in &mut board.frontends {
        r.rates = Some(FrontendRates {
            redirects: rate(r.redirects),
            balanced: rate(r.balanced),
            resolved: rate(r.resolved),
            qos_drops: rate(r.qos_drops),
            refusals: rate(r.refusals),
        });
    }
    for r in &mut board.backends {
        r.rates = Some(BackendRates { selected: rate(r.selected) });
    }
    board
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::Demo;

    fn taken(board: &Board) -> f64 {
        let row = board.policies.iter().find(|r| r.policy.name == "edge-proxy").unwrap();
        row.rates.as_ref().unwrap().balanced
    }

    #[test]
    fn the_newest_sample_has_a_quarter_of_the_weight() {
        let mut demo = Demo::new(1, 3);
        let one = Board::new(demo.next(Duration::from_secs(1)), None);
        let two = Board::new(demo.next(Duration::from_secs(1)), Some(&one.sample));
        let three = Board::new(demo.next(Duration::from_secs(1)), Some(&two.sample));
        // Without a rate before, the first one is it.
        assert_eq!(smoothed(&one, &two).policies, two.policies);
        let mixed = smoothed(&two, &three);
        assert!((taken(&mixed) - (0.75 * taken(&two) + 0.25 * taken(&three))).abs() < 1e-9);
        assert_eq!(smoothed(&two, &two).policies, two.policies);
    }

    #[test]
    fn totals_over_the_time_they_took() {
        let mut demo = Demo::new(1, 1);
        let board = Board::new(demo.next(Duration::from_secs(1)), None);
        let row = board.policies.iter().find(|r| r.policy.name == "edge-proxy").unwrap();
        assert_eq!(row.rates, None);
        assert!((taken(&since_start(&board)) - row.balanced as f64 / 5401.0).abs() < 1e-9);
    }
}

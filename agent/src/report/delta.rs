//! From two samples to the report of what changed. Pure.

use std::{collections::HashMap, hash::Hash};

use balancing_api::{agent::Counters, stream::NodeReport};

use super::trim::Sample;

/// A report of everything.
pub(super) fn full(sample: &Sample) -> NodeReport {
    NodeReport {
        full: true,
        status: Some(sample.status.clone()),
        frontends: Some(sample.frontends.clone()),
        counters: Some(sample.counters.clone()),
        left_out: sample.left_out,
    }
}

/// A report of what is other than before. What cannot be told as rows that changed is told in full.
pub(super) fn delta(before: &Sample, now: &Sample) -> NodeReport {
    let Some(counters) = changed(&before.counters, &now.counters) else { return full(now) };
    NodeReport {
        full: false,
        status: (before.status != now.status).then(|| now.status.clone()),
        frontends: (before.frontends != now.frontends).then(|| now.frontends.clone()),
        counters: Some(counters),
        left_out: now.left_out,
    }
}

/// The rows that changed; nothing where rows are gone, or they count anew.
fn changed(before: &Counters, now: &Counters) -> Option<Counters> {
    if before.since != now.since {
        return None;
    }
    Some(Counters {
        since: now.since,
        taken_at: now.taken_at,
        policies: rows(&before.policies, &now.policies, |c| c.policy.clone())?,
        frontends: rows(&before.frontends, &now.frontends, |c| c.frontend)?,
        backends: rows(&before.backends, &now.backends, |c| {
            (c.address, c.port, c.protocol, c.owner.clone())
        })?,
        events: now.events,
    })
}

fn rows<T: Clone + PartialEq, K: Hash + Eq>(
    before: &[T],
    now: &[T],
    key: impl Fn(&T) -> K,
) -> Option<Vec<T>> {
    let old: HashMap<K, &T> = before.iter().map(|row| (key(row), row)).collect();
    let mut known = 0;
    let mut changed = Vec::new();
    for row in now {
        match old.get(&key(row)) {
            Some(old) => {
                known += 1;
                if *old != row {
                    changed.push(row.clone());
                }
            }
            None => changed.push(row.clone()),
        }
    }
    (known == old.len()).then_some(changed)
}

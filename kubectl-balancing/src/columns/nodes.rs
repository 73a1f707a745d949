//! The columns of `top nodes`.

use balancing_api::cli::{NodeRates, NodeState, NodeTopItem};

use super::{Cell, Column, Row, RowId, Tone, column, counted};

fn rate(r: &NodeTopItem, of: fn(&NodeRates) -> f64) -> Cell {
    Cell::Rate(r.rates.as_ref().map(of))
}

impl Row for NodeTopItem {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<NodeTopItem>] = &[
            column(
                "state",
                "STATE",
                "does its agent report, and are its conditions met?",
                |r: &NodeTopItem| Cell::Ranked(r.state as u8, format!("{:?}", r.state)),
            )
            .max(9)
            .end_cut(),
            column("name", "NODE", "name of the node", |r: &NodeTopItem| Cell::text(r.name.as_str())),
            column("agent", "AGENT", "version of its agent", |r: &NodeTopItem| {
                Cell::unknown(r.agent.as_deref())
            })
            .priority(4),
            column(
                "policies",
                "POLICIES",
                "policies whose rung is in the maps, of those that select the node",
                |r: &NodeTopItem| match r.agent {
                    Some(_) => Cell::Ratio(r.policies.programmed, r.policies.wanted),
                    None => Cell::unknown(None),
                },
            )
            .number()
            .priority(2),
            counted::redirects(|r: &NodeTopItem| rate(r, |x| x.redirects + x.balanced)),
            counted::qos_drops(|r: &NodeTopItem| rate(r, |x| x.qos_drops)),
            counted::fallbacks(|r: &NodeTopItem| rate(r, |x| x.fallbacks)),
            counted::refusals(|r: &NodeTopItem| rate(r, |x| x.refusals)),
            column("mapFill", "MAP", "how full its fullest map is", |r: &NodeTopItem| {
                Cell::Share(r.map_fill)
            })
            .number()
            .priority(3),
            column(
                "lost",
                "LOST/s",
                "events that found no room; counters are exact all the same",
                |r: &NodeTopItem| rate(r, |x| x.lost),
            )
            .summed()
            .priority(5),
            column("age", "AGE", "how much older its numbers are than the newest", |r: &NodeTopItem| {
                Cell::Age(r.age)
            })
            .number()
            .priority(4),
            column("reason", "WHY", "reason of the first condition that is not met", |r: &NodeTopItem| {
                Cell::text(r.reason.as_str())
            })
            .priority(3)
            .max(22)
            .end_cut(),
            column(
                "programs",
                "PROGRAMS",
                "programs attached, of those that should be",
                |r: &NodeTopItem| match r.agent {
                    Some(_) => Cell::Ratio(r.programs.programmed, r.programs.wanted),
                    None => Cell::unknown(None),
                },
            )
            .wide()
            .number(),
            column("map", "FULLEST-MAP", "name of its fullest map", |r: &NodeTopItem| {
                Cell::unknown(r.map.as_deref())
            })
            .wide(),
            column("kernel", "KERNEL", "release of its kernel", |r: &NodeTopItem| {
                Cell::unknown(r.kernel.as_deref())
            })
            .wide(),
            column("cgroup", "CGROUP", "the cgroup that its programs are attached to", |r: &NodeTopItem| {
                Cell::unknown(r.cgroup_root.as_deref())
            })
            .wide(),
            column(
                "limit",
                "QOS-LIMIT",
                "limit of policies that have none of their own; <none> is no limit",
                |r: &NodeTopItem| match r.default_redirects_per_second {
                    Some(limit) => Cell::Limit(limit),
                    None => Cell::unknown(None),
                },
            )
            .wide()
            .number(),
            column("uptime", "UPTIME", "time since its agent started", |r: &NodeTopItem| {
                let times = r.started_at.zip(r.taken_at);
                Cell::Age(times.map(|(start, now)| now.duration_since(start).as_secs_f64()))
            })
            .wide()
            .number(),
            counted::redirects_total(|r: &NodeTopItem| Cell::Count(r.redirects)),
            counted::balanced_total(|r: &NodeTopItem| Cell::Count(r.balanced)),
            counted::qos_drops_total(|r: &NodeTopItem| Cell::Count(r.qos_drops)),
            counted::fallbacks_total(|r: &NodeTopItem| Cell::Count(r.fallbacks)),
            counted::refusals_total(|r: &NodeTopItem| Cell::Count(r.refusals)),
            column("message", "MESSAGE", "the reason in words", |r: &NodeTopItem| {
                Cell::text(r.message.as_str())
            })
            .wide(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Node(self.name.clone())
    }

    fn reports(&self) -> bool {
        matches!(self.state, NodeState::Ready | NodeState::Degraded)
    }

    fn useless_uncounted() -> &'static [&'static str] {
        &["mapFill", "age", "programs", "map", "cgroup", "limit", "uptime"]
    }

    fn tone(&self) -> Tone {
        match self.state {
            NodeState::Ready => Tone::Good,
            NodeState::Stale => Tone::Dim,
            NodeState::Degraded | NodeState::Missing => Tone::Bad,
        }
    }
}

//! The columns of `top nodes`.

use balancing_api::cli::{NodeRates, NodeState, NodeTopItem};

use super::{Cell, Column, Row, RowId, Tone, column};
use crate::text::age;

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
            column(
                "redirects",
                "REDIR/s",
                "connections sent to policies' backends: redirected or balanced",
                |r: &NodeTopItem| rate(r, |x| x.redirects + x.balanced),
            )
            .number(),
            column(
                "qosDrops",
                "QOS-DROPS/s",
                "redirects not made because a limit was reached: the connection went on down the ladder",
                |r: &NodeTopItem| rate(r, |x| x.qos_drops),
            )
            .number()
            .priority(1),
            column(
                "fallbacks",
                "FALLBACK/s",
                "redirects not made for another reason: the connection went on down the ladder",
                |r: &NodeTopItem| rate(r, |x| x.fallbacks),
            )
            .number()
            .priority(1),
            column(
                "refusals",
                "REFUSED/s",
                "connections for which the client got an error",
                |r: &NodeTopItem| rate(r, |x| x.refusals),
            )
            .number()
            .priority(1),
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
            .number()
            .priority(5),
            column("age", "AGE", "how much older its numbers are than the newest", |r: &NodeTopItem| match r
                .age
            {
                Some(seconds) => Cell::Ranked(seconds.min(255.0) as u8, age(seconds as i64)),
                None => Cell::unknown(None),
            })
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
            column(
                "redirectsTotal",
                "REDIRECTS",
                "connections sent to local backends, in all",
                |r: &NodeTopItem| Cell::Count(r.redirects),
            )
            .wide()
            .number(),
            column(
                "balancedTotal",
                "BALANCED",
                "connections BalancingPolicies sent, in all",
                |r: &NodeTopItem| Cell::Count(r.balanced),
            )
            .wide()
            .number(),
            column(
                "qosDropsTotal",
                "QOS-DROPS",
                "redirects not made because of a limit, in all",
                |r: &NodeTopItem| Cell::Count(r.qos_drops),
            )
            .wide()
            .number(),
            column(
                "fallbacksTotal",
                "FALLBACKS",
                "redirects not made for another reason, in all",
                |r: &NodeTopItem| Cell::Count(r.fallbacks),
            )
            .wide()
            .number(),
            column("refusalsTotal", "REFUSED", "connections refused, in all", |r: &NodeTopItem| {
                Cell::Count(r.refusals)
            })
            .wide()
            .number(),
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

    fn tone(&self) -> Tone {
        match self.state {
            NodeState::Ready => Tone::Good,
            NodeState::Stale => Tone::Dim,
            NodeState::Degraded | NodeState::Missing => Tone::Bad,
        }
    }
}

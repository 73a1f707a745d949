//! The columns of `top policies`.

use balancing_api::{agent::PolicyState, cli::PolicyTopItem, names::rung_reason, policy::PolicyNodes};

use super::{Cell, Column, Row, RowId, Tone, column, counted, policy_tone};
use crate::{sample::severity, text::list};

fn frontends_of(row: &PolicyTopItem) -> String {
    let claimed = row.service.as_deref().or(row.address.as_deref());
    match (row.frontends.as_slice(), claimed) {
        (_, Some(service)) if row.service.is_some() => service.to_owned(),
        ([], Some(claimed)) => claimed.to_owned(),
        ([], None) => String::new(),
        ([one], _) => one.to_string(),
        ([first, rest @ ..], _) => format!("{first} +{}", rest.len()),
    }
}

impl Row for PolicyTopItem {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<PolicyTopItem>] = &[
            column("state", "STATE", "is the policy in force on this node?", |r: &PolicyTopItem| {
                Cell::Ranked(severity(r.state), r.state.to_string())
            })
            .max(11)
            .end_cut(),
            column("name", "POLICY", "name of the policy", |r: &PolicyTopItem| {
                Cell::text(r.policy.name.as_str())
            }),
            column("kind", "KIND", "lr: LocalRedirectPolicy, bl: BalancingPolicy", |r: &PolicyTopItem| {
                Cell::text(r.policy.kind.short_name())
            })
            .priority(5),
            column("frontend", "FRONTEND", "the Service or address that it matches", |r: &PolicyTopItem| {
                Cell::text(frontends_of(r))
            })
            .priority(5),
            column(
                "nodes",
                "NODES",
                "nodes on which it is programmed, of those it selects",
                |r: &PolicyTopItem| Cell::Ratio(r.nodes.programmed, r.nodes.wanted),
            )
            .number()
            .priority(2),
            column(
                "backends",
                "BACKENDS",
                "backends in the maps, of those it should have",
                |r: &PolicyTopItem| Cell::Ratio(r.backends.programmed, r.backends.wanted),
            )
            .number()
            .priority(4),
            column(
                "ready",
                "READY",
                "is everything about it as it should be, over all nodes? As the operator says",
                |r: &PolicyTopItem| match &r.cluster {
                    Some(c) if !c.ready.is_empty() && c.current => Cell::text(c.ready.as_str()),
                    _ => Cell::unknown(None),
                },
            )
            .cluster(),
            column(
                "programmed",
                "PROGRAMMED",
                "nodes that have it in their maps or know that it has no backend there, of those it selects",
                |r: &PolicyTopItem| summed(r, |n| n.programmed),
            )
            .cluster()
            .number(),
            column(
                "effective",
                "EFFECTIVE",
                "nodes on which it really redirects, of those it selects",
                |r: &PolicyTopItem| summed(r, |n| n.effective),
            )
            .cluster()
            .number(),
            column(
                "readyReason",
                "REASON",
                "why it is Ready or not; before the operator has looked, what its nodes say",
                |r: &PolicyTopItem| match &r.cluster {
                    Some(c) if c.current && !c.reason.is_empty() => Cell::text(c.reason.as_str()),
                    _ => Cell::text(r.reason.as_str()),
                },
            )
            .cluster(),
            counted::redirects(|r: &PolicyTopItem| {
                Cell::Rate(r.rates.as_ref().map(|x| x.redirects + x.balanced))
            }),
            counted::qos_drops(|r: &PolicyTopItem| Cell::Rate(r.rates.as_ref().map(|x| x.qos_drops))),
            counted::fallbacks(|r: &PolicyTopItem| {
                Cell::Rate(r.rates.as_ref().map(|x| x.fallbacks.values().fold(0.0, |a, b| a + b)))
            }),
            counted::refusals(|r: &PolicyTopItem| Cell::Rate(r.rates.as_ref().map(|x| x.refusals))),
            column(
                "reason",
                "WHY",
                "reason of the state, or why redirects are not made",
                |r: &PolicyTopItem| Cell::text(why(r)),
            )
            .priority(3)
            .max(22)
            .end_cut(),
            column(
                "trend",
                "TREND",
                "connections sent to the policy's backends, over time",
                |_: &PolicyTopItem| Cell::text(""),
            )
            .live()
            .priority(2),
            column("age", "AGE", "time since it was created", |r: &PolicyTopItem| Cell::Age(r.age))
                .number()
                .priority(6),
            column(
                "limit",
                "QOS-LIMIT",
                "redirects a second and node; <none> is no limit",
                |r: &PolicyTopItem| Cell::Limit(r.redirects_per_second),
            )
            .wide()
            .number(),
            column(
                "affinity",
                "AFFINITY",
                "seconds that a client keeps its backend, as its Service says",
                |r: &PolicyTopItem| Cell::Limit(r.affinity_seconds.unwrap_or(0)),
            )
            .wide()
            .number(),
            column(
                "lastHit",
                "LAST-HIT",
                "time since this view last saw it send a connection to its backends",
                |r: &PolicyTopItem| Cell::Age(r.last_hit),
            )
            .wide()
            .number(),
            column(
                "generation",
                "GEN",
                "generation of its spec that every node has applied, of the newest that one has",
                |r: &PolicyTopItem| Cell::text(generation(r)),
            )
            .wide(),
            column("id", "ID", "the policy's serviceId", |r: &PolicyTopItem| Cell::Id(r.id)).wide().number(),
            counted::redirects_total(|r: &PolicyTopItem| Cell::Count(r.redirects)),
            counted::balanced_total(|r: &PolicyTopItem| Cell::Count(r.balanced)),
            counted::qos_drops_total(|r: &PolicyTopItem| Cell::Count(r.qos_drops)),
            counted::fallbacks_total(|r: &PolicyTopItem| Cell::Count(r.fallbacks.values().sum())),
            counted::refusals_total(|r: &PolicyTopItem| Cell::Count(r.refusals)),
            column("addresses", "ADDRESSES", "the frontends that it holds", |r: &PolicyTopItem| {
                Cell::text(list(&r.frontends, 4).replace(", ", " "))
            })
            .wide(),
            column("message", "MESSAGE", "reason of the state, in words", |r: &PolicyTopItem| {
                Cell::text(r.message.as_str())
            })
            .wide(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Policy(self.policy.clone())
    }

    fn useless_uncounted() -> &'static [&'static str] {
        &["state", "nodes", "backends", "reason", "affinity", "addresses"]
    }

    fn tone(&self) -> Tone {
        if is_saturated(self) { Tone::Warn } else { policy_tone(self.state) }
    }
}

/// A number of nodes as the operator sums it up, of those selected.
fn summed(row: &PolicyTopItem, of: fn(&PolicyNodes) -> u32) -> Cell {
    match &row.cluster {
        Some(c) if c.current => Cell::Ratio(of(&c.nodes), c.nodes.selected),
        _ => Cell::unknown(None),
    }
}

/// `3`; `2/3` where some nodes still have an older one.
fn generation(row: &PolicyTopItem) -> String {
    match (row.generation, row.newest_generation) {
        (0, 0) => String::new(),
        (all, newest) if all == newest => all.to_string(),
        (all, newest) => format!("{all}/{newest}"),
    }
}

/// Does its limit keep connections from its backends?
pub(crate) fn is_saturated(row: &PolicyTopItem) -> bool {
    row.state == PolicyState::Programmed && row.rates.as_ref().is_some_and(|r| r.qos_drops > 0.0)
}

fn why(row: &PolicyTopItem) -> &str {
    if is_saturated(row) { rung_reason::QOS_LIMIT } else { &row.reason }
}

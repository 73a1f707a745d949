//! Columns that several tables have: connections by what became of them, a second and in all.

use super::{Cell, Column, column};

/// A rate.
const fn rate<R>(
    key: &'static str,
    header: &'static str,
    help: &'static str,
    cell: fn(&R) -> Cell,
) -> Column<R> {
    column(key, header, help, cell).summed()
}

pub(super) const fn redirects<R>(cell: fn(&R) -> Cell) -> Column<R> {
    const HELP: &str = "connections sent to policies' backends: redirected (lr) or balanced (bl)";
    rate("redirects", "REDIR/s", HELP, cell)
}

pub(super) const fn qos_drops<R>(cell: fn(&R) -> Cell) -> Column<R> {
    const HELP: &str =
        "redirects not made because a limit was reached: the connection went on down the ladder";
    rate("qosDrops", "QOS-DROPS/s", HELP, cell).priority(1)
}

pub(super) const fn fallbacks<R>(cell: fn(&R) -> Cell) -> Column<R> {
    const HELP: &str = "redirects not made for another reason: the connection went on down the ladder";
    rate("fallbacks", "FALLBACK/s", HELP, cell).priority(1)
}

pub(super) const fn refusals<R>(cell: fn(&R) -> Cell) -> Column<R> {
    rate("refusals", "REFUSED/s", "connections for which the client got an error", cell).priority(1)
}

/// A number since the counters began.
const fn total<R>(
    key: &'static str,
    header: &'static str,
    help: &'static str,
    cell: fn(&R) -> Cell,
) -> Column<R> {
    column(key, header, help, cell).wide().summed()
}

pub(super) const fn redirects_total<R>(cell: fn(&R) -> Cell) -> Column<R> {
    total("redirectsTotal", "REDIRECTS", "connections sent to local backends, in all", cell)
}

pub(super) const fn balanced_total<R>(cell: fn(&R) -> Cell) -> Column<R> {
    total("balancedTotal", "BALANCED", "connections BalancingPolicies sent, in all", cell)
}

pub(super) const fn qos_drops_total<R>(cell: fn(&R) -> Cell) -> Column<R> {
    total("qosDropsTotal", "QOS-DROPS", "redirects not made because of a limit, in all", cell)
}

pub(super) const fn fallbacks_total<R>(cell: fn(&R) -> Cell) -> Column<R> {
    total("fallbacksTotal", "FALLBACKS", "redirects not made for another reason, in all", cell)
}

pub(super) const fn refusals_total<R>(cell: fn(&R) -> Cell) -> Column<R> {
    total("refusalsTotal", "REFUSED", "connections refused, in all", cell)
}

//! The columns of `top frontends`.

use balancing_api::cli::{FrontendState, FrontendTopItem};

use super::{Cell, Column, Row, RowId, Tone, column, counted};

impl Row for FrontendTopItem {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<FrontendTopItem>] = &[
            column("state", "STATE", "where connections to it go", |r: &FrontendTopItem| {
                Cell::Ranked(r.state as u8, format!("{:?}", r.state))
            })
            .max(10)
            .end_cut(),
            column(
                "frontend",
                "FRONTEND",
                "address, port and protocol that clients dial",
                |r: &FrontendTopItem| Cell::text(r.frontend.to_string()),
            )
            .max(52),
            column("policy", "POLICY", "the policy that holds it", |r: &FrontendTopItem| {
                Cell::optional(r.policy.as_ref().map(|p| format!("{}/{}", p.kind.short_name(), p.name)))
            })
            .priority(2),
            column("service", "SERVICE", "the Service behind it", |r: &FrontendTopItem| {
                Cell::optional(r.service.clone())
            })
            .priority(3),
            column("backends", "BACKENDS", "backends that connections go to now", |r: &FrontendTopItem| {
                Cell::Count(u64::from(r.backends))
            })
            .number()
            .priority(2),
            counted::redirects(|r: &FrontendTopItem| Cell::Rate(r.rates.map(|x| x.redirects + x.balanced))),
            column(
                "resolved",
                "SERVICE/s",
                "connections sent to an endpoint of the Service",
                |r: &FrontendTopItem| Cell::Rate(r.rates.map(|x| x.resolved)),
            )
            .summed()
            .priority(1),
            counted::qos_drops(|r: &FrontendTopItem| Cell::Rate(r.rates.map(|x| x.qos_drops))),
            counted::refusals(|r: &FrontendTopItem| Cell::Rate(r.rates.map(|x| x.refusals))),
            counted::redirects_total(|r: &FrontendTopItem| Cell::Count(r.redirects)),
            counted::balanced_total(|r: &FrontendTopItem| Cell::Count(r.balanced)),
            column(
                "resolvedTotal",
                "RESOLVED",
                "connections sent to the Service's endpoints, in all",
                |r: &FrontendTopItem| Cell::Count(r.resolved),
            )
            .wide()
            .summed(),
            counted::qos_drops_total(|r: &FrontendTopItem| Cell::Count(r.qos_drops)),
            counted::refusals_total(|r: &FrontendTopItem| Cell::Count(r.refusals)),
            column(
                "otherwise",
                "OTHERWISE",
                "what happens where no rung takes a connection",
                |r: &FrontendTopItem| Cell::text(r.otherwise.as_str()),
            )
            .wide(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Frontend(self.frontend)
    }

    fn tone(&self) -> Tone {
        match self.state {
            FrontendState::Redirected | FrontendState::Balanced => Tone::Good,
            FrontendState::Fallback | FrontendState::Unknown => Tone::Warn,
            FrontendState::Refused => Tone::Bad,
            FrontendState::Service => Tone::Plain,
            FrontendState::Untouched => Tone::Dim,
        }
    }
}

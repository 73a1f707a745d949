//! The columns of `top backends`.

use balancing_api::cli::{BackendState, BackendTopItem};

use super::{Cell, Column, Row, RowId, Tone, column};
use crate::sample::BackendId;

impl Row for BackendTopItem {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<BackendTopItem>] = &[
            column(
                "state",
                "STATE",
                "Active: on the rung that takes connections; Standby: on one below",
                |r: &BackendTopItem| Cell::Ranked(r.state as u8, format!("{:?}", r.state)),
            )
            .max(8)
            .end_cut(),
            column(
                "backend",
                "BACKEND",
                "address and port that connections are sent to",
                |r: &BackendTopItem| {
                    Cell::text(format!("{}/{}", std::net::SocketAddr::new(r.address, r.port), r.protocol))
                },
            )
            .max(52),
            column("pod", "POD", "its pod, where known", |r: &BackendTopItem| Cell::optional(r.pod.clone()))
                .priority(3),
            column("node", "NODE", "its node, where known", |r: &BackendTopItem| {
                Cell::optional(r.node.clone())
            })
            .priority(4),
            column("owner", "OWNER", "the policy or Service that leads to it", |r: &BackendTopItem| {
                Cell::text(
                    r.owner
                        .replace("LocalRedirectPolicy/", "lr/")
                        .replace("BalancingPolicy/", "bl/")
                        .replace("Service/", "svc/"),
                )
            })
            .priority(1),
            column(
                "share",
                "SHARE",
                "its part of what its owner's backends were chosen, in all",
                |r: &BackendTopItem| Cell::Share(r.share),
            )
            .number()
            .priority(2),
            column("selected", "CHOSEN/s", "how often it was chosen", |r: &BackendTopItem| {
                Cell::Rate(r.rates.map(|x| x.selected))
            })
            .summed(),
            column("selectedTotal", "CHOSEN", "how often it was chosen, in all", |r: &BackendTopItem| {
                Cell::Count(r.selected)
            })
            .summed()
            .priority(5),
            column("lastHit", "LAST-HIT", "time since this view last saw it chosen", |r: &BackendTopItem| {
                Cell::Age(r.last_hit)
            })
            .wide()
            .number(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Backend(BackendId {
            address: self.address,
            port: self.port,
            protocol: self.protocol,
            owner: self.owner.clone(),
        })
    }

    fn tone(&self) -> Tone {
        match self.state {
            BackendState::Active => Tone::Good,
            BackendState::Standby => Tone::Plain,
            BackendState::Removed => Tone::Dim,
        }
    }
}

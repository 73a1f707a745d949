//! The columns of `top problems`.

use balancing_api::cli::{ProblemItem, Severity};

use super::{Cell, Column, Row, RowId, Tone, column};
use crate::{
    problems::short_object,
    text::{list, plural},
};

/// Of a node as a whole its name, also where there is no room for a column of nodes.
fn object(row: &ProblemItem) -> String {
    match (row.object.as_str(), row.nodes.as_slice()) {
        ("node", [one]) => format!("node {one}"),
        ("node", all) => plural(all.len(), "node", "nodes"),
        _ => short_object(row),
    }
}

fn nodes(row: &ProblemItem) -> String {
    match row.nodes.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        all => plural(all.len(), "node", "nodes"),
    }
}

impl Row for ProblemItem {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<ProblemItem>] = &[
            column(
                "severity",
                "SEVERITY",
                "Error: it does not work; Warning: not as it should",
                |r: &ProblemItem| Cell::Ranked(r.severity as u8, format!("{:?}", r.severity)),
            )
            .priority(3)
            .max(8)
            .end_cut(),
            column("reason", "CAUSE", "the cause in one word", |r: &ProblemItem| {
                Cell::text(r.reason.as_str())
            })
            .max(19)
            .end_cut(),
            column("object", "CONCERNS", "the policy, frontend, map, file or node", |r: &ProblemItem| {
                Cell::text(object(r))
            })
            .max(34),
            column("nodes", "NODES", "the node that has it, or how many have", |r: &ProblemItem| {
                Cell::text(nodes(r))
            })
            .priority(2)
            .max(24)
            .end_cut(),
            column("message", "WHAT", "what is, in words", |r: &ProblemItem| Cell::text(r.message.as_str()))
                .max(200)
                .end_cut(),
            column("next", "NEXT", "what to do, or to look at", |r: &ProblemItem| {
                Cell::text(r.next.as_str())
            })
            .wide(),
            column("nodeNames", "NODE-NAMES", "all nodes that have it", |r: &ProblemItem| {
                Cell::text(list(&r.nodes, 1000).replace(", ", " "))
            })
            .wide(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Problem(
            self.reason.clone(),
            self.object.clone(),
            self.nodes.first().cloned().unwrap_or_default(),
        )
    }

    fn tone(&self) -> Tone {
        match self.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warn,
        }
    }
}

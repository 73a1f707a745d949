//! The tables of `top`, whatever the type of their rows.

use clap::ValueEnum;

/// What `top` shows. The order is that of the number keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// A row a policy: its state, its rates, and why it is not in force.
    #[default]
    #[value(alias = "policy", alias = "lr", alias = "bl")]
    Policies,
    /// A row a node: does its agent report, how full are its maps?
    #[value(alias = "node", alias = "no")]
    Nodes,
    /// A row an address and port that clients dial.
    #[value(alias = "frontend", alias = "fe")]
    Frontends,
    /// A row a backend, with its share of the traffic.
    #[value(alias = "backend", alias = "be")]
    Backends,
    /// Decisions as they are made. Live only; without a terminal `kubectl balancing trace` prints them.
    #[value(skip)]
    Trace,
    /// What is wrong, in words, with what to do next.
    #[value(alias = "problem")]
    Problems,
}

impl What {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Policies, Self::Nodes, Self::Frontends, Self::Backends, Self::Trace, Self::Problems];

    /// What its rows are.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policies => "policies",
            Self::Nodes => "nodes",
            Self::Frontends => "frontends",
            Self::Backends => "backends",
            Self::Trace => "trace",
            Self::Problems => "problems",
        }
    }
}

/// Does something with the rows of a table, whatever their type.
macro_rules! with_rows {
    ($what:expr, $board:expr, $events:expr, $rows:ident => $body:expr) => {
        match $what {
            $crate::rows::What::Policies => {
                let $rows = &$board.policies[..];
                $body
            }
            $crate::rows::What::Nodes => {
                let $rows = &$board.nodes[..];
                $body
            }
            $crate::rows::What::Frontends => {
                let $rows = &$board.frontends[..];
                $body
            }
            $crate::rows::What::Backends => {
                let $rows = &$board.backends[..];
                $body
            }
            $crate::rows::What::Trace => {
                let $rows: &[$crate::columns::events::EventRow] = &$events[..];
                $body
            }
            $crate::rows::What::Problems => {
                let $rows = &$board.problems[..];
                $body
            }
        }
    };
}
pub(crate) use with_rows;

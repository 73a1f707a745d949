//! `explain`: what a policy or a connection comes to on a node, and why.

pub mod checks;
pub mod connection;
pub mod node;
pub mod policy;
pub mod policy_text;
pub mod short;

#[cfg(test)]
mod tests;

use balancing_api::cli::FrontendState;
use clap::ValueEnum;

pub use crate::output::Error;

/// `-o` of `explain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// A JSON document.
    Json,
    /// A YAML document.
    Yaml,
}

/// `Key:         value`, further lines of the value below its first.
pub(crate) fn field(out: &mut String, key: &str, value: &str) {
    const WIDTH: usize = 13;
    for (i, line) in value.lines().enumerate() {
        let label = if i == 0 && !key.is_empty() { format!("{key}:") } else { String::new() };
        out.push_str(format!("{label:WIDTH$}{line}").trim_end());
        out.push('\n');
    }
}

/// Columns two blanks apart, without a header.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |i: usize| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}  "));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// `10.244.1.7:53  pod kube-system/node-local-dns-x9f  node n1` as cells.
fn backend_cells(b: &balancing_api::agent::BackendInfo) -> Vec<String> {
    let mut cells = vec![std::net::SocketAddr::new(b.address, b.port).to_string()];
    if let Some(pod) = &b.pod {
        cells.push(format!("pod {}", crate::text::sanitise(pod)));
    }
    if let Some(node) = &b.node {
        cells.push(format!("node {}", crate::text::sanitise(node)));
    }
    cells
}

/// What a state of a frontend means, in words.
fn state_of_frontend(state: FrontendState) -> &'static str {
    match state {
        FrontendState::Refused => "refused: nothing serves it",
        FrontendState::Fallback => "falls back",
        FrontendState::Unknown => "taken by a rung that this program does not know: the agent is newer",
        FrontendState::Redirected => "redirected",
        FrontendState::Balanced => "balanced",
        FrontendState::Service => "served by the Service",
        FrontendState::Untouched => "untouched",
    }
}

//! Whose decisions the live trace shows: those of the agent that is asked, or those of one node of a cluster. Pure.

use super::model::{Model, Screen};
use crate::{rows::What, source::Origin};

/// Whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traced {
    /// Of the one agent that is asked.
    Agent,
    /// Of a node of the cluster.
    Node(String),
}

impl Model {
    /// Whose decisions are to be followed now: they are only while they are looked at, since that costs an agent something.
    #[must_use]
    pub fn traced(&self) -> Option<Traced> {
        if self.what() != What::Trace || self.origin != Origin::Live {
            return None;
        }
        if !self.cluster {
            return Some(Traced::Agent);
        }
        self.traced_node().map(|name| Traced::Node(name.to_owned()))
    }

    /// The node of a cluster whose trace is shown: the one that was selected last, or the only one.
    #[must_use]
    pub fn traced_node(&self) -> Option<&str> {
        let only = self.board.as_deref().and_then(|b| match b.nodes.as_slice() {
            [one] => Some(one.name.as_str()),
            _ => None,
        });
        self.trace_node.as_deref().or(only).filter(|_| self.cluster)
    }

    /// The node that is selected, or whose screen is on top, if its trace can be shown.
    pub(super) fn node_to_trace(&self) -> Option<String> {
        let name = match self.screen() {
            Screen::Node { name, .. } => Some(name.clone()),
            Screen::Table(_) => self.selected_node(),
            Screen::Policy { .. } | Screen::Text { .. } => None,
        };
        let known =
            |name: &String| self.board.as_ref().is_some_and(|b| b.nodes.iter().any(|n| n.name == *name));
        name.filter(|name| self.cluster && known(name))
    }

    /// The trace is to be that of the node that is selected. What another one decided goes.
    pub(super) fn aim(&mut self) {
        let Some(name) = self.node_to_trace().filter(|n| self.trace_node.as_ref() != Some(n)) else { return };
        self.trace_node = Some(name);
        self.events.clear();
        self.events_lost = 0;
        self.trace_error = None;
        self.board_number += 1;
    }
}

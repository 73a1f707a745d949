//! The kubectl plugin: shows what Balancing does on a node, and why. It only reads.
//!
//! Decisions are pure functions over the agent's documents ([`sample`], [`explain`], [`simulate`]); asking the agent
//! ([`client`]) and the terminal ([`tui`]) are thin shells around them.

pub mod cli;
pub mod client;
pub mod cluster;
pub mod colour;
pub mod columns;
pub mod completion;
pub mod demo;
pub mod explain;
pub mod filter;
pub mod get;
pub mod history;
pub mod nodes;
pub mod output;
pub mod problems;
pub mod rates;
pub mod recording;
pub mod rows;
pub mod sample;
pub mod scope;
pub mod services;
pub mod simulate;
pub mod source;
pub mod status;
pub mod table;
pub mod target;
pub mod text;
pub mod top;
pub mod trace;
pub mod tui;
mod unread;
pub mod validate;
pub mod version;

#[cfg(test)]
mod reference;

#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;

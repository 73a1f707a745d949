//! The live view: agents dial the leader and report while somebody watches; whoever watches reads one stream.
//!
//! [`hub`] knows who reports and what was said last, [`frame`] makes of it what a viewer sees, [`access`] says who may.
//! The lines are those of [`balancing_api::stream`].

pub mod access;
mod agents;
pub mod announce;
mod frame;
mod hub;
mod query;
mod relay;
mod serve;
mod viewers;

pub use hub::Hub;
pub use serve::{Observer, router};

#[cfg(test)]
mod tests;

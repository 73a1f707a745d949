//! The shapes and names that Balancing's programs share: policy types, the agent's JSON documents, conditions and
//! reasons, annotation and metric names, and the one engine of validation rules.
//!
//! Nothing here does I/O. A name that others can see (label, annotation, metric, condition, reason, rule code) is
//! spelled in this crate and nowhere else.

pub mod agent;
pub mod backends;
pub mod claims;
pub mod cli;
pub mod crd;
pub mod leader;
pub mod manifest;
pub mod names;
pub mod net;
pub mod node;
pub mod node_state;
pub mod open;
pub mod overview;
pub mod pattern;
pub mod placement;
pub mod policy;
pub mod published;
pub mod recording;
pub mod records;
pub mod rules;
mod schema;
pub mod services;
pub mod stream;
pub mod trace;
pub mod version;
pub mod watch;

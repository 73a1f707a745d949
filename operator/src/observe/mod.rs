//! The live view: agents dial the leader and report while somebody watches; whoever watches reads one stream.

pub mod announce;

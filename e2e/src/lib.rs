//! Fixtures of the tests against the real kernel: a network of namespaces, nodes with an agent, clients, servers.
//!
//! Everything a run makes carries its process id in its name, lives in namespaces, cgroups and bpffs folders of its
//! own, and is removed when its value is dropped, on a panic, on SIGTERM, and by the next run if this one was killed.
//! No namespace has a way out: what nobody serves is an `unreachable` route, so an address that was not translated
//! fails at once.

pub mod agent;
pub mod client;
pub mod cluster;
pub mod demo;
pub mod dns;
pub mod ground;
pub mod http;
pub mod judge;
pub mod manifests;
pub mod network;
pub mod node;
pub mod protocol;
pub mod run;
pub mod suite;
pub mod tls;
pub mod wait;
pub mod worker;

//! The agent of one node: reads what is wanted, compiles it, programs the kernel, and says what it did.

pub mod config;
pub mod desired;
pub mod events;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod compile;
pub mod select;
pub mod snapshot;
pub mod kernel;
pub mod source;

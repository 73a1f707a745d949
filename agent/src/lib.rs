//! The agent of one node: reads what is wanted, compiles it, programs the kernel, and says what it did.

pub mod config;
pub mod desired;

//! `balancing-agent`
fn main() {}

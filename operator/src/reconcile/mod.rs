//! One policy, step by step: what it refers to ([`dereference`], pure), whether that holds ([`validate`], pure), what
//! follows ([`build`], pure), the writes of what follows ([`apply`], client), the write of its status
//! ([`update_status`], client).

pub mod apply;
pub mod build;
pub mod dereference;
pub mod update_status;
pub mod validate;

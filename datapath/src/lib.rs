//! The layouts of the maps, their version, and the one decision function.
//!
//! The kernel programs and user space run the same [`decide`]: in the kernel over the maps themselves, in the agent over
//! the live maps through `mmap`, in tests and in the plugin over plain values.
#![no_std]

mod decide;
mod layout;

pub use decide::{Decision, Kept, Maps, Outcome, PolicyReason, decide};
pub use layout::*;

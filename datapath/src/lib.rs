//! The layouts of the maps, their version, and the one decision function.
//!
//! The kernel programs and user space run the same [`decide`]: in the kernel over the maps themselves, in the agent over
//! the live maps through `mmap`, in tests and in the plugin over plain values.
#![no_std]

mod decide;
mod index;
mod layout;

pub use decide::{Decision, Kept, Maps, Outcome, PolicyReason, decide};
pub use index::{INDEX_EMPTY, Indexed, index_hash, index_is, index_shared, index_word, indexed};
pub use layout::*;

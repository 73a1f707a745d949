//! The kernel side: loads and attaches the programs, keeps links and maps pinned, writes the desired state into the maps,
//! and reads back what they hold.

mod before;
mod grace;
mod index;
mod layout;
mod load;
mod memory;
mod pins;
mod programmer;
mod store;
mod sys;
mod view;

pub use grace::{Epoch, Grace};
pub use layout::{Room, Sizes, possible_cpus};
pub use load::{Attachment, Grower, Grown, LoadError, Loaded, Opened, Trial, has_maps, open, trials};
pub use pins::{CleanupError, LockError, cleanup};
pub use programmer::{Clock, Failure, Programmer, Side, Unread, Written, service_group};
pub use store::{KernelStore, Limits, Residue, RuntimeChange, Store, StoreError};
pub use sys::{monotonic, release_memory};
pub use view::{CounterTotals, Explained, ProgrammedFrontend, ProgrammedRung, View};

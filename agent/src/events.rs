//! Events of the data path: read from the kernel's bytes, and handed to whoever listens.

mod decode;
mod filter;
mod hub;

pub use decode::{DecodeError, Resolve, WallClock, decode};
pub use filter::{Filter, FilterError, Query};
pub use hub::{EventHub, Item, Subscription};

//! The certificates of the operator's ports. It makes them itself: a certificate authority and a serving certificate in
//! one Secret, which all replicas follow and the leader renews.

mod identity;
mod issue;
mod keeper;
pub mod rotation;
mod stored;

pub use identity::Identity;
pub use issue::IssueError;
pub use keeper::{Keeper, Settings};
pub use rotation::{Certificates, Step};

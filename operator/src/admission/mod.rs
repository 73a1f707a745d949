//! The admission webhook: says at once, to whoever applies a policy, what its status would say a moment later, and gives
//! it a number. All of it holds without the webhook: two policies may be made at the same time, and the operator may be
//! away. So it refuses only what is no policy; everything about other objects is a warning.

mod judge;
mod review;
mod serve;

pub use judge::{Asks, Candidate, Desk, Question, answer};
pub use review::{Review, Verdict};
pub use serve::router;

//! The live view: [`model`] is what it knows and how that changes, [`view`] draws it, [`shell`] talks to the terminal
//! and the agent.

pub mod fit;
pub mod grid;
pub mod keys;
pub mod layout;
pub mod model;
pub mod policy;
pub mod shell;
pub mod style;
pub mod terminal;
pub mod view;

#[cfg(test)]
mod tests;

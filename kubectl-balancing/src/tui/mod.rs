//! The live view: [`model`] is what it knows and how that changes, [`view`] draws it, [`shell`] talks to the terminal
//! and the agent.

pub mod keys;
pub mod layout;
pub mod model;
pub mod shell;
pub mod terminal;
pub mod view;

#[cfg(test)]
mod tests;

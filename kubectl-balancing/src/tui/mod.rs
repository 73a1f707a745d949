//! The live view: [`model`] is what it knows and how that changes, [`view`] draws it, [`shell`] talks to the terminal
//! and the agent.

mod act;
pub mod chart;
pub mod details;
pub mod export;
pub mod fit;
pub mod grid;
pub mod keys;
pub mod layout;
mod message;
pub mod model;
pub mod node;
pub mod policy;
pub mod shell;
pub mod style;
pub mod svg;
pub mod table;
pub mod terminal;
pub mod traced;
pub mod view;

#[cfg(test)]
mod tests;

//! The one engine of validation rules: for the plugin, the agent and the admission webhook.
//!
//! [`check`] looks at one object's JSON value and answers findings with paths, and the parsed [`Policy`] where nothing
//! blocks it. [`check_set`] looks at several policies together. Whoever has the text turns paths into positions.

mod catalogue;
pub mod checked;
pub mod document;
mod files;
mod finding;
mod policy;
mod ports;
mod reader;
mod selector;
mod services;
mod set;
mod suppress;
mod syntax;
mod workloads;

pub use catalogue::{Example, RULES, Rule, index, page, rule};
pub use checked::Policy;
pub use files::{Examined, Located, Site, check_files};
pub use finding::{Finding, Place, Severity};
pub use policy::{Checked, check, concerns};
pub use set::{SetFinding, check_set};
pub use suppress::{ParseSuppressionError, Suppression};

#[cfg(test)]
mod tests;

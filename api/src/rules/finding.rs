//! What a rule has to say about an object.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::manifest::Path;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Wrong.
    Error,
}

impl Severity {
    /// The word for people: `error`, `warning`, `info`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// A place in an object: its value, or (where the finding is about the field itself) its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The path in the object.
    pub path: Path,
    /// Is it about the key?
    pub key: bool,
}

impl Place {
    /// The value at a path.
    #[must_use]
    pub fn value(path: Path) -> Self {
        Self { path, key: false }
    }

    /// The key at a path.
    #[must_use]
    pub fn key(path: Path) -> Self {
        Self { path, key: true }
    }
}

/// What a rule found in one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule: `BAL0102`. See [`super::rule`].
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong, with the value that is.
    pub message: String,
    /// What to do; empty where the message says it.
    pub help: String,
    /// Other places of the same object that belong to it, with a word on each.
    pub related: Vec<(Place, String)>,
    /// Must an agent leave the object unprogrammed?
    pub blocks: bool,
}

impl fmt::Display for Finding {
    /// `BAL0102 spec.backend.toPorts[0].port: port "abc" is no number`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.code, self.place.path, self.message)
    }
}

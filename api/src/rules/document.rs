//! What `kubectl balancing validate -o json` prints.

use serde::{Deserialize, Serialize};

use super::Severity;

/// Kind of [`FindingList`].
pub const FINDING_LIST: &str = "FindingList";

/// All findings of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingList {
    /// By file, then line.
    pub items: Vec<FindingItem>,
    /// How many of what.
    pub summary: Summary,
}

/// A finding in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingItem {
    /// `BAL0102`
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// The file as it was named, or found in a folder; `-` is the standard input.
    pub file: String,
    /// Which document of the file, from 1; empty documents count.
    pub document: usize,
    /// `Kind/name`, empty where the object says neither.
    pub object: String,
    /// Path in the object, `spec.frontend.addressMatcher.ip`; empty where it is about the text or the whole object.
    pub path: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// From 1.
    pub end_line: u32,
    /// Behind the last character.
    pub end_column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do; empty where the message says it.
    pub help: String,
}

/// Counts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Files that were read.
    pub files: usize,
    /// Policies that were checked.
    pub objects: usize,
    /// Findings that are errors.
    pub errors: usize,
    /// Findings that are warnings.
    pub warnings: usize,
    /// Objects of other kinds, and documents that are no objects.
    pub skipped: usize,
    /// Findings that somebody has decided to live with; not among the items.
    #[serde(default)]
    pub suppressed: usize,
    /// Files that hold no object of any kind.
    #[serde(default)]
    pub empty: usize,
}

//! Which rows are shown.

use crate::columns::Row;

/// A filter: text that a row's cells contain, or with `!` in front do not contain. Case does not matter; several words
/// must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    inverse: bool,
    text: String,
}

impl Filter {
    /// Reads a filter. Every text is one; an empty one lets everything through.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let terms = text
            .split_whitespace()
            .map(|word| {
                let (inverse, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
                Term { inverse, text: word.to_lowercase() }
            })
            .filter(|term| !term.text.is_empty())
            .collect();
        Self { terms }
    }

    /// Does it let everything through?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Does it let this row through? All columns count, also those not shown.
    #[must_use]
    pub fn matches<R: Row>(&self, row: &R) -> bool {
        if self.is_empty() {
            return true;
        }
        let cells: Vec<String> = R::columns().iter().map(|c| (c.cell)(row).shown().to_lowercase()).collect();
        self.terms.iter().all(|t| cells.iter().any(|c| c.contains(&t.text)) != t.inverse)
    }
}

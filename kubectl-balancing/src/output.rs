//! What commands that print once have in common: formats, documents, errors.

use balancing_api::overview::Gap;
use clap::ValueEnum;
use serde::Serialize;

/// Why a command could not print what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent did not answer.
    #[error(transparent)]
    Client(#[from] crate::client::Error),
    /// Nothing of the cluster can be read.
    #[error(transparent)]
    Unreachable(#[from] crate::cluster::read::Unreachable),
    /// It is not known which nodes to ask.
    #[error(transparent)]
    Nodes(#[from] crate::cluster::relay::NodesError),
    /// What was asked for cannot be read.
    #[error("{}", crate::cluster::read::gap_text(.0))]
    Gap(Box<Gap>),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// An argument is none.
    #[error("{0}")]
    Usage(String),
    /// `--sort-by` names no column.
    #[error(transparent)]
    Column(#[from] crate::columns::UnknownColumn),
    /// `--filter` is none.
    #[error("--filter: {0}")]
    Filter(#[from] crate::filter::FilterError),
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Write(#[from] std::io::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Json(#[from] serde_json::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

impl Error {
    /// Is the command line wrong, rather than that what it asks for failed?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Unreachable(error) => error.is_usage(),
            _ => matches!(self, Self::Usage(_) | Self::Column(_) | Self::Filter(_)),
        }
    }
}

/// `-o` of commands that print a page or a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Page {
    /// For people.
    #[default]
    Text,
    /// A JSON document.
    Json,
    /// A YAML document.
    Yaml,
}

impl Page {
    /// The document in this format; `text` is what people get.
    pub fn render<T: Serialize>(self, document: &T, text: impl FnOnce() -> String) -> Result<String, Error> {
        match self {
            Self::Text => Ok(text()),
            Self::Json => json(document),
            Self::Yaml => yaml(document),
        }
    }
}

/// `-o` of commands that print a table or a list document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    /// As kubectl prints tables.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// A JSON document, a list.
    Json,
    /// The same in one line.
    Jsonl,
    /// A YAML document.
    Yaml,
    /// TYPE/NAME, one a line.
    Name,
}

/// A JSON document for people and programs.
pub fn json<T: Serialize>(document: &T) -> Result<String, Error> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}

/// A JSON document in one line.
pub fn jsonl<T: Serialize>(document: &T) -> Result<String, Error> {
    Ok(serde_json::to_string(document)? + "\n")
}

/// A YAML document.
pub fn yaml<T: Serialize>(document: &T) -> Result<String, Error> {
    Ok(format!("---\n{}", serde_yaml::to_string(document)?))
}

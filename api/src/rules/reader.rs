//! Fields out of a JSON value: every wrong type, missing field and unknown field becomes a finding, and reading goes on.

use serde_json::{Map, Value};

use super::{Finding, Place, Severity, catalogue::code, syntax::nearest};
use crate::manifest::{Path, describe, quote};

/// Collects findings.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
}

impl Report {
    /// How many findings block.
    pub(super) fn blocking(&self) -> usize {
        self.findings.iter().filter(|f| f.blocks).count()
    }

    /// An error that keeps an agent from programming the object.
    pub(super) fn block(&mut self, code: &'static str, path: &Path, message: String, help: &str) {
        self.add(code, Severity::Error, Place::value(path.clone()), message, help).blocks = true;
    }

    /// A warning.
    pub(super) fn warn(&mut self, code: &'static str, path: &Path, message: String, help: &str) {
        self.add(code, Severity::Warning, Place::value(path.clone()), message, help);
    }

    /// A finding that does not block, to be changed further.
    pub(super) fn add(
        &mut self,
        code: &'static str,
        severity: Severity,
        place: Place,
        message: String,
        help: &str,
    ) -> &mut Finding {
        let help = help.to_owned();
        self.findings.push(Finding {
            code,
            severity,
            place,
            message,
            help,
            related: Vec::new(),
            blocks: false,
        });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    /// A value that is not of its type.
    pub(super) fn wrong_type(&mut self, path: &Path, expected: &str, found: &Value, help: &str) {
        self.block(code::TYPE, path, format!("{path} has to be {expected}, not {}", describe(found)), help);
    }
}

/// A mapping, whose unknown fields were reported when it was opened.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    pub(super) path: Path,
    known: &'static [&'static str],
}

impl<'a> Fields<'a> {
    /// Open a mapping with these fields.
    pub(super) fn open(
        report: &mut Report,
        value: &'a Value,
        path: Path,
        known: &'static [&'static str],
    ) -> Option<Self> {
        let Value::Object(map) = value else {
            report.wrong_type(
                &path,
                "a mapping",
                value,
                "write its fields beneath it, two spaces further in",
            );
            return None;
        };
        let fields = Self { map, path, known };
        for key in map.keys().filter(|k| !known.contains(&k.as_str())) {
            fields.unknown(report, key);
        }
        Some(fields)
    }

    fn unknown(&self, report: &mut Report, key: &str) {
        let parent = if self.path.is_empty() { "the object".to_owned() } else { self.path.to_string() };
        let message = format!("unknown field {} in {parent}", quote(key));
        let help = match self.meant_by(key) {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => match super::policy::homes_of(key).as_slice() {
                [] => format!("known here: {}", self.known.join(", ")),
                homes => format!("{key} belongs in {}", homes.join(" or ")),
            },
        };
        let place = Place::key(self.path.key(key));
        report.add(code::UNKNOWN_FIELD, Severity::Error, place, message, &help);
    }

    /// The known field, not itself there, that an unknown one is a slip of: nearly the same, or the last word of it
    /// (`name` for `serviceName`).
    fn meant_by(&self, key: &str) -> Option<&'static str> {
        let absent = || self.known.iter().copied().filter(|k| self.get(k).is_none());
        let last_word =
            |known: &str| known.strip_suffix(&*capitalised(key)).is_some_and(|start| !start.is_empty());
        nearest(key, absent()).or_else(|| {
            let mut ends = absent().filter(|known| last_word(known));
            ends.next().filter(|_| ends.next().is_none())
        })
    }

    /// A field; null is absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        debug_assert!(self.known.contains(&key), "{key} is read and not known");
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// A field that has to be there.
    pub(super) fn require(&self, report: &mut Report, key: &'static str) -> Option<&'a Value> {
        let value = self.get(key);
        if value.is_none() {
            self.missing(report, key);
        }
        value
    }

    /// Say that a field is missing; where it is misspelt, that finding says it.
    pub(super) fn missing(&self, report: &mut Report, key: &'static str) {
        if self.is_misspelt(key) {
            return self.block_misspelt(report);
        }
        let path = self.path.key(key);
        let state = if self.map.contains_key(key) { "is empty" } else { "is missing" };
        report.block(code::TYPE, &path, format!("{path} {state}"), to_add(key));
    }

    /// Is there an unknown field that is a slip of this one?
    pub(super) fn is_misspelt(&self, key: &str) -> bool {
        let slips = self.map.keys().filter(|k| !self.known.contains(&k.as_str()));
        slips.into_iter().any(|k| self.meant_by(k) == Some(key))
    }

    /// What is misspelt here had to be there: its finding blocks.
    pub(super) fn block_misspelt(&self, report: &mut Report) {
        let slips: Vec<_> = self.map.keys().filter(|k| self.meant_by(k).is_some()).collect();
        for finding in report.findings.iter_mut().filter(|f| f.code == code::UNKNOWN_FIELD) {
            finding.blocks |= slips.iter().any(|k| finding.place.path == self.path.key(k));
        }
    }

    /// Text that has to be there.
    pub(super) fn require_text(&self, report: &mut Report, key: &'static str) -> Option<&'a str> {
        self.require(report, key)?;
        self.text(report, key)
    }

    /// Text that may be absent.
    pub(super) fn text(&self, report: &mut Report, key: &'static str) -> Option<&'a str> {
        let value = self.get(key)?;
        if value.is_string() {
            return value.as_str();
        }
        report.wrong_type(&self.path.key(key), "text", value, to_text(value));
        None
    }

    /// A boolean that may be absent.
    pub(super) fn boolean(&self, report: &mut Report, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        if !value.is_boolean() {
            let help = "write true or false, without quotes";
            report.wrong_type(&self.path.key(key), "true or false", value, help);
        }
        value.as_bool()
    }

    /// A list that may be absent.
    pub(super) fn list(&self, report: &mut Report, key: &'static str) -> Option<&'a Vec<Value>> {
        let value = self.get(key)?;
        if !value.is_array() {
            report.wrong_type(&self.path.key(key), "a list", value, "start each entry with \"- \"");
        }
        value.as_array()
    }

    /// One of several words, the first that is asked for where it is absent.
    pub(super) fn choice<T: Copy>(
        &self,
        report: &mut Report,
        key: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let written = self.text(report, key)?;
        if let Some(&(_, value)) = choices.iter().find(|(word, _)| *word == written) {
            return Some(value);
        }
        let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
        let help = match nearest(written, words.iter().copied()) {
            Some(word) => format!("did you mean {word}?"),
            None => format!("write {}", words.join(" or ")),
        };
        let path = self.path.key(key);
        report.block(
            code::CHOICE,
            &path,
            format!("{path} is {}, which is no choice here", quote(written)),
            &help,
        );
        None
    }

    /// A mapping inside that may be absent.
    pub(super) fn fields(
        &self,
        report: &mut Report,
        key: &'static str,
        known: &'static [&'static str],
    ) -> Option<Fields<'a>> {
        Fields::open(report, self.get(key)?, self.path.key(key), known)
    }
}

/// What to write where a field is missing.
fn to_add(key: &str) -> &'static str {
    match key {
        "spec" => "add spec with frontend and backend",
        "frontend" => "add frontend: what clients dial, by addressMatcher or serviceMatcher",
        "backend" => "add backend: where it leads",
        "ip" => "add ip: ADDRESS, what clients dial",
        "serviceName" => "add serviceName: NAME of the Service that clients dial",
        "namespace" => "add namespace: NAME of the Service's namespace",
        "toPorts" => "add toPorts: a list of {port: NUMBER, protocol: TCP or UDP, name: NAME}",
        "port" => "add port: a number from 1 to 65535",
        "protocol" => "add protocol: TCP or protocol: UDP",
        "endpointSelector" => {
            "add endpointSelector: the labels of the backend pods, as matchLabels: {app: NAME}"
        }
        "addresses" => "add addresses: a list of IP addresses",
        "key" => "add key: the name of the label",
        "operator" => "add operator: In, NotIn, Exists or DoesNotExist",
        _ => "add it",
    }
}

/// How to make text of a value. What it was before YAML made a number of it is not known any more.
pub(super) fn to_text(value: &Value) -> &'static str {
    if value.is_number() || value.is_boolean() { "put it in quotes" } else { "" }
}

/// The key as it stands at the end of a longer one.
fn capitalised(key: &str) -> String {
    let mut letters = key.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

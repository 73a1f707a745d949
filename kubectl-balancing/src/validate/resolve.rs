//! From places in objects to places in texts.

use std::collections::HashMap;

use balancing_api::{
    manifest::{Span, Spans},
    rules::{Finding, Located, Place, Site, document::FindingItem},
};

use super::input::File;

/// A finding with its place in the text.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) file: usize,
    pub(super) document: usize,
    pub(super) object: String,
    pub(super) finding: Finding,
    pub(super) span: Span,
    /// Other places that belong to it, with a word on each.
    pub(super) related: Vec<Related>,
}

/// Another place.
#[derive(Debug)]
pub(super) struct Related {
    pub(super) file: usize,
    pub(super) span: Span,
    pub(super) label: String,
}

impl Resolved {
    /// `LocalRedirectPolicy/web spec.frontend.addressMatcher.ip`, as far as there is an object and a path in it.
    pub(super) fn whereabouts(&self) -> String {
        let path = self.finding.place.path.to_string();
        [self.object.as_str(), &path].iter().filter(|t| !t.is_empty()).copied().collect::<Vec<_>>().join(" ")
    }

    /// The finding as documents have it.
    pub(super) fn item(&self, files: &[File]) -> FindingItem {
        let Finding { code, severity, place, message, help, .. } = &self.finding;
        FindingItem {
            code: (*code).to_owned(),
            severity: *severity,
            file: files[self.file].name.clone(),
            document: self.document,
            object: self.object.clone(),
            path: place.path.to_string(),
            line: self.span.line,
            column: self.span.column,
            end_line: self.span.end_line,
            end_column: self.span.end_column,
            message: message.clone(),
            help: help.clone(),
        }
    }
}

/// Find the places of all findings -> by file, document, and place.
pub(super) fn resolve(files: &[File], findings: Vec<Located>) -> Vec<Resolved> {
    let mut spans = HashMap::new();
    let mut resolved: Vec<_> = findings.into_iter().map(|found| one(files, &mut spans, found)).collect();
    resolved.sort_by_key(|r| (r.file, r.document, r.span.line, r.span.column));
    resolved
}

fn one(files: &[File], spans: &mut HashMap<usize, Spans>, found: Located) -> Resolved {
    let Located { site, position, object, finding, other } = found;
    let mut span_of = |site: &Site, place: &Place| {
        let spans = spans.entry(site.file).or_insert_with(|| Spans::of(&files[site.file].text));
        match position {
            Some((line, column)) => spans.word(line, column),
            None => {
                let path = site.origin.join(&place.path);
                if place.key {
                    spans.locate_key(site.document, &path)
                } else {
                    spans.locate(site.document, &path)
                }
            }
        }
    };
    let span = span_of(&site, &finding.place);
    let mut related: Vec<_> = finding
        .related
        .iter()
        .map(|(place, label)| Related { file: site.file, span: span_of(&site, place), label: label.clone() })
        .collect();
    related.extend(other.map(|(site, place, label)| Related {
        file: site.file,
        span: span_of(&site, &place),
        label,
    }));
    Resolved { file: site.file, document: site.document, object, finding, span, related }
}

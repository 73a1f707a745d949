//! The rules over whole files: syntax, every policy in them, and all policies together.

use std::collections::HashSet;

use super::{Finding, Place, Severity, catalogue, check, check_set, concerns, services::Services};
use crate::manifest::{Object, Parsed, Path};

/// A finding and the place in the files that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Which file, and which object in it.
    pub site: Site,
    /// Line and column, from 1, of findings about the text itself; otherwise the place in the finding counts.
    pub position: Option<(u32, u32)>,
    /// `Kind/name` of the object, as far as it has them.
    pub object: String,
    /// What was found.
    pub finding: Finding,
    /// A place in another object that belongs to it, with a word on it.
    pub other: Option<(Site, Place, String)>,
}

/// An object in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    /// Index of the file.
    pub file: usize,
    /// Document in the file, from 1.
    pub document: usize,
    /// Where the object stands in its document.
    pub origin: Path,
}

/// What [`check_files`] found and what it looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examined {
    /// By file, document and object.
    pub findings: Vec<Located>,
    /// Policies that were checked, valid or not.
    pub policies: usize,
    /// Objects of other kinds and documents that are no objects, which were not.
    pub skipped: usize,
}

/// Check files that were read, in the order in which they were given.
#[must_use]
pub fn check_files(files: &[Parsed]) -> Examined {
    let mut examined = Examined::default();
    let mut valid = Vec::new();
    let mut services = Services::default();
    for (file, parsed) in files.iter().enumerate() {
        let mut documents = HashSet::new();
        let rejected: Vec<_> =
            parsed.rejected.iter().map(|r| (&r.object, Some(r.message.as_str()))).collect();
        for (object, message) in parsed.objects.iter().map(|o| (o, None)).chain(rejected) {
            let site = Site { file, document: object.document, origin: object.origin.clone() };
            if !concerns(&object.value) {
                examined.skipped += 1;
                services.note(object);
                let about = message.map(|m| not_an_object(object, m));
                examined.findings.extend(about.map(|f| located(site, object, f)));
                continue;
            }
            examined.policies += 1;
            documents.insert(object.document);
            let checked = check(&object.value);
            let locate = |f| located(site.clone(), object, f);
            examined.findings.extend(checked.findings.into_iter().map(locate));
            valid.extend(checked.policy.map(|p| (p, site, named(object))));
        }
        examined.findings.extend(of_the_text(file, parsed, &documents));
    }
    valid.sort_by(|a, b| a.1.cmp(&b.1));
    for (policy, site, object) in &valid {
        examined.findings.extend(services.check(policy).into_iter().map(|finding| Located {
            site: site.clone(),
            position: None,
            object: object.clone(),
            finding,
            other: None,
        }));
    }
    let policies: Vec<_> = valid.iter().map(|(p, _, _)| p.clone()).collect();
    examined.findings.extend(check_set(&policies).into_iter().map(|found| {
        let (_, site, object) = &valid[found.policy];
        let (index, place, label) = found.other;
        let other = Some((valid[index].1.clone(), place, label));
        Located { site: site.clone(), position: None, object: object.clone(), finding: found.finding, other }
    }));
    examined.findings.sort_by(|a, b| a.site.cmp(&b.site));
    examined
}

/// Findings about the syntax of a file. Warnings concern documents with policies alone: other objects are not checked.
fn of_the_text<'a>(
    file: usize,
    parsed: &'a Parsed,
    documents: &'a HashSet<usize>,
) -> impl Iterator<Item = Located> + 'a {
    let text_finding = move |document, position, code, severity, message: &str, help: &str| Located {
        site: Site { file, document, origin: Path::default() },
        position: Some(position),
        object: String::new(),
        finding: Finding {
            code,
            severity,
            place: Place::default(),
            message: message.to_owned(),
            help: help.to_owned(),
            related: Vec::new(),
            blocks: severity == Severity::Error,
        },
        other: None,
    };
    let warnings = parsed.warnings.iter().filter(|w| documents.contains(&w.document)).map(move |w| {
        let help = "put it in quotes, or write the other value out";
        let at = (w.line, w.column);
        text_finding(w.document, at, catalogue::AMBIGUOUS, Severity::Warning, &w.message, help)
    });
    let error = parsed.error.iter().map(move |e| {
        let at = (e.line, e.column);
        let help = "nothing behind this place was read";
        text_finding(e.document, at, catalogue::SYNTAX, Severity::Error, &e.message, help)
    });
    warnings.chain(error)
}

/// A word on a document that is neither a policy nor an object: a slip, or a file of something else.
fn not_an_object(object: &Object, message: &str) -> Finding {
    let severity = if object.value.is_object() { Severity::Info } else { Severity::Warning };
    Finding {
        code: catalogue::code::KIND,
        severity,
        place: Place::default(),
        message: message.to_owned(),
        help: "it is skipped".to_owned(),
        related: Vec::new(),
        blocks: false,
    }
}

fn located(site: Site, object: &Object, finding: Finding) -> Located {
    Located { site, position: None, object: named(object), finding, other: None }
}

fn named(object: &Object) -> String {
    match (object.kind.as_str(), object.name.as_str()) {
        (kind, "") => kind.to_owned(),
        (kind, name) => format!("{kind}/{name}"),
    }
}

//! The rules over whole files: syntax, every policy in them, and all policies together.

use std::collections::HashSet;

use super::{
    Finding, Place, Policy, Severity, catalogue, check, check_set, concerns, services::Services, suppress,
    workloads::Workloads,
};
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
    /// Policies that were checked, valid or not: the file, the document in it from 1, and `Kind/name`.
    pub policies: Vec<(usize, usize, String)>,
    /// Objects of other kinds and documents that are no objects, which were not.
    pub skipped: usize,
    /// Findings that annotations of policies keep quiet.
    pub suppressed: usize,
}

/// A policy that no finding blocks.
struct Valid {
    policy: Policy,
    site: Site,
    object: String,
    /// Codes that its annotation keeps quiet.
    quiet: Vec<&'static str>,
}

/// Check files that were read, in the order in which they were given.
#[must_use]
pub fn check_files(files: &[Parsed]) -> Examined {
    let mut examined = Examined::default();
    let mut valid = Vec::new();
    let mut services = Services::default();
    let mut workloads = Workloads::default();
    for (file, parsed) in files.iter().enumerate() {
        let mut documents = HashSet::new();
        let rejected: Vec<_> =
            parsed.rejected.iter().map(|r| (&r.object, Some(r.message.as_str()))).collect();
        for (object, message) in parsed.objects.iter().map(|o| (o, None)).chain(rejected) {
            let site = Site { file, document: object.document, origin: object.origin.clone() };
            if !concerns(&object.value) {
                examined.skipped += 1;
                services.note(object);
                workloads.note(object);
                let about = message.map(|m| not_an_object(object, m));
                examined.findings.extend(about.map(|f| located(site, object, f)));
                continue;
            }
            examined.policies.push((file, object.document, named(object)));
            documents.insert(object.document);
            let checked = check(&object.value);
            examined.suppressed += checked.suppressed;
            let locate = |f| located(site.clone(), object, f);
            examined.findings.extend(checked.findings.into_iter().map(locate));
            let quiet = suppress::codes(&object.value);
            valid.extend(checked.policy.map(|p| Valid { policy: p, site, object: named(object), quiet }));
        }
        examined.findings.extend(of_the_text(file, parsed, &documents));
    }
    valid.sort_by(|a, b| a.site.cmp(&b.site));
    let mut together = Vec::new();
    for (i, v) in valid.iter().enumerate() {
        let found = services
            .check(&v.policy, workloads.are_all_there_is())
            .into_iter()
            .chain(workloads.check(&v.policy));
        together.extend(found.map(|finding| (i, finding, None)));
    }
    let policies: Vec<_> = valid.iter().map(|v| v.policy.clone()).collect();
    together.extend(check_set(&policies).into_iter().map(|found| {
        let (index, place, label) = found.other;
        (found.policy, found.finding, Some((valid[index].site.clone(), place, label)))
    }));
    for (i, finding, other) in together {
        let Valid { site, object, quiet, .. } = &valid[i];
        if quiet.contains(&finding.code) {
            examined.suppressed += 1;
            continue;
        }
        let (site, object) = (site.clone(), object.clone());
        examined.findings.push(Located { site, position: None, object, finding, other });
    }
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

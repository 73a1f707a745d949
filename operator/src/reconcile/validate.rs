//! Judges a policy: is its spec valid, is what it refers to there, and where does another hold its frontends. Pure.

use balancing_api::{
    claims::{Claims, References},
    names::reason,
    net::Frontend,
    records::Unsupported,
    rules::checked::{self, Backend, Port},
};

use super::dereference::{Dereferenced, Earlier};
use crate::world::Bits;

/// A verdict with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Is it so?
    pub met: bool,
    /// Why; see [`reason`].
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Verdict {
    /// It is so.
    #[must_use]
    pub fn yes(reason: &'static str, message: impl Into<String>) -> Self {
        Self { met: true, reason, message: message.into() }
    }

    /// It is not so.
    #[must_use]
    pub fn no(reason: &'static str, message: impl Into<String>) -> Self {
        Self { met: false, reason, message: message.into() }
    }
}

/// What is to be said of a policy before any node is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Its spec is valid, and it holds a frontend somewhere.
    pub accepted: Verdict,
    /// Others hold frontends of it, but not all of them everywhere.
    pub conflicted: Option<Verdict>,
    /// What it refers to is there. Nothing where the spec is invalid: nobody looked.
    pub references: Option<Verdict>,
    /// Nodes on which others hold all its frontends.
    pub lost: Bits,
}

/// Judges a policy.
#[must_use]
pub fn validate(of: &Dereferenced<'_>) -> Judged {
    let (Ok(spec), Some(claims)) = (&of.policy.spec, of.claims) else {
        let why = of.policy.spec.as_ref().err().cloned().unwrap_or_default();
        let accepted = Verdict::no(reason::INVALID_SPEC, why);
        return Judged { accepted, conflicted: None, references: None, lost: Bits::default() };
    };
    let conflict = conflict(of, claims);
    let references = Some(references(spec, claims));
    let accepted = Verdict::yes(reason::ACCEPTED, "the spec is valid");
    match conflict {
        Conflict::None => Judged { accepted, conflicted: None, references, lost: Bits::default() },
        Conflict::Everywhere { lost, message } => Judged {
            accepted: Verdict::no(reason::FRONTEND_CONFLICT, message),
            conflicted: None,
            references,
            lost,
        },
        Conflict::Somewhere { lost, message } => Judged {
            accepted,
            conflicted: Some(Verdict::yes(reason::CONFLICT_ON_SOME_NODES, message)),
            references,
            lost,
        },
    }
}

fn references(spec: &checked::Policy, claims: &Claims) -> Verdict {
    let service = format!("Service {}", spec.matcher);
    match claims.references {
        References::NoService => Verdict::no(reason::SERVICE_NOT_FOUND, format!("{service} does not exist")),
        References::Unsupported(why) => unsupported(&service, why),
        References::NoSuchPort => Verdict::no(
            reason::PORT_NOT_FOUND,
            format!("{service} has no port {}", list(&claims.missing_ports)),
        ),
        References::NoPair => Verdict::no(
            reason::PORT_MISMATCH,
            format!("no backend port has the name and protocol of frontend port {}", list(&claims.unpaired)),
        ),
        References::Found if !claims.missing_ports.is_empty() => Verdict::no(
            reason::PORT_NOT_FOUND,
            format!("{service} has no port {}; the other ports are taken", list(&claims.missing_ports)),
        ),
        References::Found => families(spec, claims),
    }
}

fn unsupported(service: &str, why: Unsupported) -> Verdict {
    Verdict::no(reason::SERVICE_NOT_SUPPORTED, format!("{service} {}", why.describe()))
}

/// Fixed addresses have to be of a family of the frontend; what family pods have is seen only when they are there.
fn families(spec: &checked::Policy, claims: &Claims) -> Verdict {
    if let Backend::Addresses(addresses) = &spec.backend {
        let served = |f: &Frontend| addresses.iter().any(|a| a.is_ipv4() == f.address.is_ipv4());
        if !claims.frontends.keys().any(served) {
            let message = format!("no address of the backend is of the family of {}", spec.matcher);
            return Verdict::no(reason::ADDRESS_FAMILY_MISMATCH, message);
        }
    }
    let unpaired = match claims.unpaired.as_slice() {
        [] => String::new(),
        some => format!("; no backend port goes with {}, which stays as it is", list(some)),
    };
    Verdict::yes(reason::RESOLVED_REFS, format!("everything it refers to is there{unpaired}"))
}

/// `53/UDP "dns", 80/TCP`
fn list(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

enum Conflict {
    None,
    Everywhere { lost: Bits, message: String },
    Somewhere { lost: Bits, message: String },
}

/// On a node the first by rank of those that select it holds a frontend (design.md §4.1).
fn conflict(of: &Dereferenced<'_>, claims: &Claims) -> Conflict {
    let nowhere = of.selected.is_empty();
    let everywhere = of.policy.spec.as_ref().is_ok_and(|spec| spec.nodes.is_none());
    // Nodes on which each frontend is lost, and all nodes on which any is.
    let (mut all, mut any): (Option<Bits>, Bits) = (None, Bits::default());
    let mut taken: Vec<&Earlier<'_>> = Vec::new();
    let mut lost_without_nodes = 0;
    for frontend in claims.frontends.keys() {
        let mut lost = Bits::default();
        let mut first = None;
        for earlier in of.earlier.iter().filter(|e| e.frontend == *frontend) {
            let mut shared = earlier.selected.clone();
            shared.intersect(of.selected);
            if !shared.is_empty() || (nowhere && everywhere && earlier.everywhere) {
                first.get_or_insert(earlier);
            }
            lost.unite(&shared);
        }
        lost_without_nodes += usize::from(first.is_some());
        taken.extend(first);
        any.unite(&lost);
        match &mut all {
            Some(all) => all.intersect(&lost),
            None => all = Some(lost),
        }
    }
    let Some(example) = taken.first() else { return Conflict::None };
    let lost = all.unwrap_or_default();
    let held = format!(
        "{} is held by {}: {}",
        example.frontend,
        example.rank.policy,
        example.rank.why_before(&of.rank)
    );
    let more = match taken.len() - 1 {
        0 => String::new(),
        1 => "; so is 1 frontend more".to_owned(),
        n => format!("; so are {n} frontends more"),
    };
    // Where there is no node yet, those that select all of them meet all the same.
    let total = if nowhere { lost_without_nodes == claims.frontends.len() } else { lost == *of.selected };
    if total {
        return Conflict::Everywhere { lost, message: format!("{held}{more}") };
    }
    let place = if nowhere || any == *of.selected {
        String::new()
    } else {
        format!("on {} of {} nodes ", any.count(), of.selected.count())
    };
    Conflict::Somewhere { lost, message: format!("{place}{held}{more}") }
}

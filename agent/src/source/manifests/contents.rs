//! What one file says: records, and what of it cannot be understood and why.

use std::collections::BTreeMap;

use balancing_api::{
    manifest::{self, Item, Object as Manifest, Path, Spans},
    names::API_VERSION,
    policy::{PolicyKind, PolicyRef},
    rules::{self, Finding, Place},
};
use k8s_openapi::api::{core::v1, discovery::v1 as discovery};

use crate::snapshot::{ConvertError, Converter, Name, Object, ObjectKey, Policy};

/// Something that cannot be understood, with its place in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problem {
    /// 1-based; 0 where there is none.
    pub line: u32,
    /// 1-based, in characters; 0 where there is none.
    pub column: u32,
    /// `Kind/name`, empty where none could be told.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

impl From<manifest::SyntaxError> for Problem {
    fn from(e: manifest::SyntaxError) -> Self {
        Self { line: e.line, column: e.column, object: String::new(), message: e.message }
    }
}

/// The objects of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Those that were understood, each with its place.
    pub objects: BTreeMap<ObjectKey, Placed>,
    /// Those that were not: what was said of them before stays in force.
    pub not_understood: Vec<ObjectKey>,
    /// Is there something of which it cannot be told which object it is?
    pub unidentified: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// What is legal and remarkable.
    pub warnings: Vec<Problem>,
    /// Objects of kinds that are not the agent's.
    pub skipped: usize,
}

/// An object with its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub object: Object,
    pub line: u32,
    pub column: u32,
}

/// Reads a text.
///
/// # Errors
/// It is no YAML: then nothing of it counts.
pub(super) fn read(text: &str, converter: &mut Converter) -> Result<Contents, Problem> {
    let mut reader = Reader { text, spans: None, converter, contents: Contents::default() };
    let mut rejected = Vec::new();
    // One document's tree at a time: those of a whole file would leave holes between the records that stay.
    let parsed = manifest::parse_each(text, |item| match item {
        Item::Object(object) => reader.add(&object),
        Item::Rejected(one) => rejected.push(Problem {
            line: one.object.line,
            column: one.object.column,
            object: label(&one.object),
            message: one.message,
        }),
    });
    if let Some(e) = parsed.error {
        return Err(e.into());
    }
    reader.contents.unidentified |= !rejected.is_empty();
    reader.contents.problems.splice(0..0, rejected);
    let remarks = parsed.warnings.into_iter().map(|w| Problem {
        line: w.line,
        column: w.column,
        object: String::new(),
        message: w.message,
    });
    reader.contents.warnings.splice(0..0, remarks);
    Ok(reader.contents)
}

/// The kinds that the agent knows.
#[derive(Clone, Copy)]
enum Kind {
    Node,
    Service,
    Slice,
    Pod,
    Policy(PolicyKind),
}

fn kind(object: &Manifest) -> Option<Kind> {
    Some(match (object.api_version.as_str(), object.kind.as_str()) {
        ("v1", "Node") => Kind::Node,
        ("v1", "Service") => Kind::Service,
        ("v1", "Pod") => Kind::Pod,
        ("discovery.k8s.io/v1", "EndpointSlice") => Kind::Slice,
        (API_VERSION, "LocalRedirectPolicy") => Kind::Policy(PolicyKind::LocalRedirectPolicy),
        (API_VERSION, "BalancingPolicy") => Kind::Policy(PolicyKind::BalancingPolicy),
        _ => return None,
    })
}

/// `Kind/name`, with the namespace before the name of what has one; the kind alone where there is no name. Empty where
/// there is no kind.
fn label(object: &Manifest) -> String {
    let (name, namespace) = (&object.name, object.namespace.as_deref());
    let namespace = match kind(object) {
        Some(Kind::Node | Kind::Policy(_)) => None,
        Some(_) => namespace.or(Some("default")),
        None => namespace,
    };
    match (object.kind.as_str(), namespace) {
        (kind, _) if kind.is_empty() || name.is_empty() => kind.to_owned(),
        (kind, Some(namespace)) => format!("{kind}/{namespace}/{name}"),
        (kind, None) => format!("{kind}/{name}"),
    }
}

/// A place and what is wrong there.
struct Fault {
    path: Path,
    message: String,
}

impl From<ConvertError> for Fault {
    fn from(e: ConvertError) -> Self {
        Self { message: e.to_string(), path: e.field }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Positions of everything, made when the first is asked for.
    spans: Option<Spans>,
    converter: &'a mut Converter,
    contents: Contents,
}

impl Reader<'_> {
    fn add(&mut self, object: &Manifest) {
        let Some(kind) = kind(object) else {
            self.contents.skipped += 1;
            // A policy of a kind or version that does not exist would silently do nothing.
            if rules::concerns(&object.value) {
                self.unidentified_policy(object);
            }
            return;
        };
        if object.name.is_empty() && matches!(kind, Kind::Policy(_)) {
            self.unidentified_policy(object);
            return;
        }
        let key = self.key(kind, object);
        if self.contents.objects.contains_key(&key) || self.contents.not_understood.contains(&key) {
            let message = "the same object stands above in this file: the first counts".to_owned();
            self.fault(object, &Place::default(), message);
            return;
        }
        if let Kind::Policy(kind) = kind {
            let record = self.policy(kind, object);
            self.insert(Object::Policy(record.into()), object);
            return;
        }
        match self.convert(kind, object) {
            Ok(record) => self.insert(record, object),
            Err(fault) => {
                self.contents.unidentified |= object.name.is_empty();
                self.contents.not_understood.push(key);
                self.fault(object, &Place::value(fault.path), fault.message);
            }
        }
    }

    /// Something that is meant as a policy, and it cannot be told as which.
    fn unidentified_policy(&mut self, object: &Manifest) {
        for finding in rules::check(&object.value).findings {
            self.contents.unidentified = true;
            self.fault(object, &finding.place, finding.to_string());
        }
    }

    fn insert(&mut self, record: Object, object: &Manifest) {
        // The record's own key shares its strings.
        let key = record.key();
        let placed = Placed { object: record, line: object.line, column: object.column };
        self.contents.objects.insert(key, placed);
    }

    fn key(&mut self, kind: Kind, object: &Manifest) -> ObjectKey {
        let strings = &mut self.converter.strings;
        let mut name = || Name {
            namespace: strings.text(object.namespace.as_deref().unwrap_or("default")),
            name: object.name.as_str().into(),
        };
        match kind {
            Kind::Node => ObjectKey::Node(object.name.as_str().into()),
            Kind::Service => ObjectKey::Service(name()),
            Kind::Slice => ObjectKey::Slice(name()),
            Kind::Pod => ObjectKey::Pod(name()),
            Kind::Policy(kind) => ObjectKey::Policy(PolicyRef::new(kind, object.name.as_str())),
        }
    }

    fn convert(&mut self, kind: Kind, object: &Manifest) -> Result<Object, Fault> {
        Ok(match kind {
            Kind::Node => {
                let node = self.decode::<v1::Node>(object)?;
                Object::Node(self.converter.node(&node)?.into())
            }
            Kind::Service => {
                let service = self.decode::<v1::Service>(object)?;
                Object::Service(self.converter.service(&service)?.into())
            }
            Kind::Slice => {
                let slice = self.decode::<discovery::EndpointSlice>(object)?;
                Object::Slice(self.converter.slice(&slice)?.into())
            }
            Kind::Pod => {
                let pod = self.decode::<v1::Pod>(object)?;
                Object::Pod(self.converter.pod(&pod)?.into())
            }
            Kind::Policy(kind) => Object::Policy(self.policy(kind, object).into()),
        })
    }

    fn decode<T: serde::de::DeserializeOwned>(&mut self, object: &Manifest) -> Result<T, Fault> {
        let decoded =
            manifest::decode::<T>(object).map_err(|e| Fault { message: e.to_string(), path: e.path })?;
        for path in decoded.unknown_fields {
            let message = format!("unknown field {path} is ignored");
            self.warn(object, &Place::key(path), message);
        }
        Ok(decoded.value)
    }

    /// The record of a policy. One that breaks a rule is a record that says so.
    fn policy(&mut self, kind: PolicyKind, object: &Manifest) -> Policy {
        let checked = rules::check(&object.value);
        let (blocking, remarks): (Vec<Finding>, Vec<Finding>) =
            checked.findings.into_iter().partition(|f| f.blocks);
        for finding in &remarks {
            self.warn(object, &finding.place, finding.to_string());
        }
        for finding in &blocking {
            self.fault(object, &finding.place, finding.to_string());
        }
        match checked.policy {
            Some(policy) if blocking.is_empty() => Policy::valid(policy),
            _ => {
                let all: Vec<String> = blocking.iter().map(ToString::to_string).collect();
                let generation = object.value["metadata"]["generation"].as_i64().unwrap_or_default();
                Policy::invalid(PolicyRef::new(kind, object.name.as_str()), generation, &all.join("; "))
            }
        }
    }

    fn problem(&mut self, object: &Manifest, place: &Place, message: String) -> Problem {
        let (line, column) = if place.path.is_empty() {
            (object.line, object.column)
        } else {
            let spans = self.spans.get_or_insert_with(|| Spans::of(self.text));
            let span = if place.key {
                spans.locate_key(object.document, &object.origin.join(&place.path))
            } else {
                object.locate(spans, &place.path)
            };
            (span.line, span.column)
        };
        Problem { line, column, object: label(object), message }
    }

    fn fault(&mut self, object: &Manifest, place: &Place, message: String) {
        let problem = self.problem(object, place, message);
        self.contents.problems.push(problem);
    }

    fn warn(&mut self, object: &Manifest, place: &Place, message: String) {
        let problem = self.problem(object, place, message);
        self.contents.warnings.push(problem);
    }
}

//! Kubernetes objects from text: multi-document YAML (JSON is YAML), `List`s flattened, positions kept.
//!
//! Plain scalars are read by the core schema of YAML 1.2; what is quoted stays text. Mappings of more than one key of
//! the same name, cycles, deep nesting and expansions of aliases beyond a limit are errors, never a panic.

mod decode;
mod file;
mod path;
mod scalar;
mod spans;
mod tree;

pub use decode::{DecodeError, Decoded, decode, decode_value};
pub use file::{MAX_BYTES, is_file_name, utf8};
pub use path::{Path, Segment};
use serde_json::Value;
pub use spans::{Span, Spans};

/// Levels of nesting that a document may have.
pub const MAX_DEPTH: usize = 128;
/// How much the anchored values and aliases of a text may copy, in bytes of text plus 64 a node.
pub const MAX_ALIAS_WEIGHT: usize = 16 << 20;

/// What a text holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Every object, in the order of the text; those before a syntax error too.
    pub objects: Vec<Object>,
    /// Documents (or items of a list) that are no objects: not a mapping, or without `apiVersion` or `kind`.
    pub rejected: Vec<Rejected>,
    /// Where reading ended early. What follows it was not read.
    pub error: Option<SyntaxError>,
    /// What is legal, and is likely to mean something else to other readers.
    pub warnings: Vec<Warning>,
    /// Documents that hold something.
    pub documents: usize,
}

/// Why the text is no YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct SyntaxError {
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// Which document of the text, from 1.
    pub document: usize,
    /// What is wrong.
    pub message: String,
}

/// A remark on a place of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which document of the text, from 1.
    pub document: usize,
    /// 1-based.
    pub line: u32,
    /// 1-based, in characters.
    pub column: u32,
    /// What is remarkable.
    pub message: String,
}

/// A document that is no object.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// What there is of it; missing names are empty.
    pub object: Object,
    /// What is missing.
    pub message: String,
}

/// A Kubernetes object and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, where it is text and not empty.
    pub namespace: Option<String>,
    /// `metadata.name`, empty where it is missing or no text ([`decode`] refuses such an object).
    pub name: String,
    /// All of it.
    pub value: Value,
    /// Which document of the text, from 1; empty documents count.
    pub document: usize,
    /// Where it stands in its document: empty, or `items[3]` in a list.
    pub origin: Path,
    /// 1-based line of its start.
    pub line: u32,
    /// 1-based column of its start, in characters.
    pub column: u32,
}

impl Object {
    /// The span of a path of this object in the text it came from; of the nearest existing parent where the text has no
    /// such path. `spans` are those of that text.
    #[must_use]
    pub fn locate(&self, spans: &Spans, path: &Path) -> Span {
        spans.locate(self.document, &self.origin.join(path))
    }
}

/// Something that stands in a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An object.
    Object(Object),
    /// A document, or item of a list, that is none.
    Rejected(Rejected),
}

/// Read a text. Never panics and never recurses with the text's depth.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    let (mut objects, mut rejected) = (Vec::new(), Vec::new());
    let parsed = parse_each(text, |item| match item {
        Item::Object(object) => objects.push(object),
        Item::Rejected(one) => rejected.push(one),
    });
    Parsed { objects, rejected, ..parsed }
}

/// Read a text as [`parse`] does and hand each item on as soon as its document ends, so that one document at a time is
/// in memory: values take about 18 times the space of their text. The answer is without objects.
pub fn parse_each(text: &str, mut each: impl FnMut(Item)) -> Parsed {
    let mut parsed = Parsed::default();
    parsed.error = tree::documents(text, &mut parsed.warnings, |document| {
        parsed.documents += 1;
        flatten(document, &mut each);
    })
    .err();
    parsed
}

/// Hand on the objects of a document, those inside of lists one by one.
fn flatten(document: tree::Document, each: &mut impl FnMut(Item)) {
    let tree::Document { value, number, position, item_positions } = document;
    let mut todo = vec![(value, Path::default(), position)];
    while let Some((mut value, origin, position)) = todo.pop() {
        let Some(items) = list_items(&mut value) else {
            each(item(value, number, origin, position));
            continue;
        };
        let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
        let outermost = origin.is_empty();
        for (i, mut item) in items.into_iter().enumerate().rev() {
            name_item(&mut item, &api_version, &kind);
            let at = if outermost { item_positions.get(i).copied().unwrap_or(position) } else { position };
            todo.push((item, origin.key("items").index(i), at));
        }
    }
}

/// The items of a list, taken out of it. A list has a kind that ends in `List`, `items`, and no name.
fn list_items(value: &mut Value) -> Option<Vec<Value>> {
    let map = value.as_object_mut()?;
    let is_list = map.get("kind")?.as_str()?.ends_with("List")
        && map.get("metadata").is_none_or(|m| m.get("name").is_none());
    let Some(Value::Array(items)) = map.get_mut("items").filter(|_| is_list) else { return None };
    Some(std::mem::take(items))
}

/// Items of a list that an API server answered say neither `apiVersion` nor `kind`: the list does.
fn name_item(item: &mut Value, api_version: &str, kind: &str) {
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    if let (Value::Object(map), false) = (item, kind.is_empty())
        && !map.contains_key("kind")
        && !map.contains_key("apiVersion")
    {
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), kind.into());
    }
}

/// Text behind a key, empty where there is none.
fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The object that a value is, or why it is none.
fn item(value: Value, document: usize, origin: Path, (line, column): (u32, u32)) -> Item {
    let (api_version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    let metadata = value.get("metadata").unwrap_or(&Value::Null);
    let namespace = Some(text(metadata, "namespace")).filter(|n| !n.is_empty());
    let name = text(metadata, "name");
    let missing = |what: &str| format!("{what} missing, so this is no object of Kubernetes");
    let message = match (value.is_object(), api_version.is_empty(), kind.is_empty()) {
        (true, false, false) => None,
        (true, true, true) => Some(missing("apiVersion and kind are")),
        (true, true, false) => Some(missing("apiVersion is")),
        (true, false, true) => Some(missing("kind is")),
        (false, _, _) => Some(format!("expected an object of Kubernetes, found {}", describe(&value))),
    };
    let object = Object { api_version, kind, namespace, name, value, document, origin, line, column };
    match message {
        None => Item::Object(object),
        Some(message) => Item::Rejected(Rejected { object, message }),
    }
}

/// A value in words, for messages.
#[must_use]
pub fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => format!("the text {}", quote(s)),
        Value::Array(a) if a.is_empty() => "an empty list".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A text in quotes for messages: control characters escaped, the middle of what is long left out.
#[must_use]
pub fn quote(text: &str) -> String {
    const LONGEST: usize = 64;
    let count = text.chars().count();
    if count <= LONGEST {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(48).collect();
    let tail: String = text.chars().skip(count - 12).collect();
    format!("{:?}", format!("{head}...{tail}"))
}

#[cfg(test)]
mod tests;

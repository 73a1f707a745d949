//! Reports held against the formats of others: the schema of SARIF 2.1.0, what GitHub's code scanning asks for beyond it,
//! and the XSD by which Jenkins reads JUnit's reports (junit-10.xsd).

use std::{collections::HashMap, sync::LazyLock};

use jsonschema::Validator;
use serde_json::Value;

static SARIF: LazyLock<Validator> = LazyLock::new(|| {
    let schema = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemas/sarif-2.1.0.json"));
    jsonschema::options().should_validate_formats(true).build(&serde_json::from_str(schema).unwrap()).unwrap()
});

/// What the schema says against a document.
pub(super) fn against_sarif(document: &Value) -> Vec<String> {
    SARIF.iter_errors(document).map(|e| format!("{}: {e}", e.instance_path())).collect()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.filter(|t| !t.is_empty()).unwrap_or_else(|| panic!("{pointer} of {value}"))
}

/// The fields that code scanning takes no file without, and its limits.
/// Source: "SARIF support for code scanning" of GitHub's documentation.
pub(super) fn is_for_code_scanning(document: &Value) {
    assert_eq!(document["version"], "2.1.0");
    assert!(text(document, "/$schema").contains("sarif-schema-2.1.0.json"));
    let runs = document["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1);
    text(&runs[0], "/tool/driver/name");
    for rule in runs[0]["tool"]["driver"]["rules"].as_array().unwrap() {
        text(rule, "/id");
        assert!(text(rule, "/shortDescription/text").chars().count() <= 1024);
        assert!(text(rule, "/fullDescription/text").chars().count() <= 1024);
        text(rule, "/help/text");
    }
    for result in runs[0]["results"].as_array().unwrap() {
        text(result, "/ruleId");
        text(result, "/message/text");
        assert!(["error", "warning", "note"].contains(&text(result, "/level")));
        assert!(!result["partialFingerprints"].as_object().unwrap().is_empty());
        // The first location alone is shown.
        let place = &result["locations"][0]["physicalLocation"];
        text(place, "/artifactLocation/uri");
        for field in ["startLine", "startColumn", "endLine", "endColumn"] {
            assert!(place["region"][field].as_u64().is_some_and(|n| n >= 1), "{field} of {place}");
        }
    }
}

#[test]
fn the_schema_finds_what_is_wrong() {
    let right = serde_json::json!({"version": "2.1.0", "runs": [{"tool": {"driver": {"name": "x"}}, "results": [
        {"message": {"text": "x"}, "locations": [{"physicalLocation": {"artifactLocation": {"uri": "a.yaml"}}}]}
    ]}]});
    assert_eq!(against_sarif(&right), Vec::<String>::new());
    for (pointer, wrong) in [
        ("/version", Value::from("2.0.0")),
        ("/runs/0/tool/driver/name", Value::Null),
        ("/runs/0/results/0/message", serde_json::json!({"txt": "x"})),
        ("/runs/0/results/0/locations/0/physicalLocation/artifactLocation/uri", Value::from("a b%zz")),
    ] {
        let mut bent = right.clone();
        *bent.pointer_mut(pointer).unwrap() = wrong;
        assert!(!against_sarif(&bent).is_empty(), "{pointer}");
    }
}

/// An element of XML.
struct Element {
    name: String,
    attributes: HashMap<String, String>,
    children: Vec<Element>,
}

impl Element {
    fn number(&self, name: &str) -> usize {
        let value = self.attributes.get(name).unwrap_or_else(|| panic!("no {name} of {}", self.name));
        value.parse().unwrap()
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |c| c.name == name)
    }

    /// It has these attributes, may have those, and only such children.
    fn has(&self, required: &[&str], optional: &[&str], children: &[&str]) {
        for name in required {
            assert!(self.attributes.contains_key(*name), "{} without {name}", self.name);
        }
        for name in self.attributes.keys() {
            let name = &name.as_str();
            assert!(required.contains(name) || optional.contains(name), "{} with {name}", self.name);
        }
        for child in &self.children {
            assert!(children.contains(&child.name.as_str()), "{} in {}", child.name, self.name);
        }
    }
}

/// Text without markup: no `<`, and `&` in references alone.
fn plain(text: &str) {
    assert!(!text.contains('<'), "{text:?}");
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
        assert!(known.iter().any(|k| text[at..].starts_with(k)), "{text:?}");
    }
}

/// The tree of a text that must be well formed.
fn parsed(xml: &str) -> Element {
    let mut rest = xml.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").unwrap();
    let root = Element { name: String::new(), attributes: HashMap::new(), children: Vec::new() };
    let mut open = vec![root];
    while let Some(at) = rest.find('<') {
        plain(&rest[..at]);
        let end = rest.find('>').unwrap();
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let closed = open.pop().unwrap();
            assert_eq!(closed.name, name);
            open.last_mut().unwrap().children.push(closed);
            continue;
        }
        let (tag, alone) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut words) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = HashMap::new();
        while !words.is_empty() {
            let (key, behind) = words.split_once("=\"").unwrap();
            let (value, behind) = behind.split_once('"').unwrap();
            plain(value);
            assert_eq!(attributes.insert(key.to_owned(), value.to_owned()), None, "{key} twice");
            words = behind.trim_start();
        }
        let element = Element { name: name.to_owned(), attributes, children: Vec::new() };
        if alone {
            open.last_mut().unwrap().children.push(element);
        } else {
            open.push(element);
        }
    }
    assert!(rest.trim().is_empty() && open.len() == 1, "{rest:?}");
    let mut root = open.pop().unwrap();
    assert_eq!(root.children.len(), 1);
    root.children.pop().unwrap()
}

/// The shape of junit-10.xsd, and sums that are those of what is there.
pub(super) fn is_junit(xml: &str) {
    let root = parsed(xml);
    assert_eq!(root.name, "testsuites");
    root.has(&[], &["name", "time", "tests", "failures", "errors", "disabled"], &["testsuite"]);
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for suite in &root.children {
        let optional = ["group", "time", "skipped", "timestamp", "hostname", "id", "package", "file"];
        suite.has(
            &["name", "tests", "failures", "errors"],
            &optional,
            &["properties", "testcase", "system-out"],
        );
        let cases: Vec<&Element> = suite.named("testcase").collect();
        let with = |name: &'static str| cases.iter().filter(|c| c.named(name).next().is_some()).count();
        assert_eq!(suite.number("tests"), cases.len());
        assert_eq!((suite.number("failures"), suite.number("errors")), (with("failure"), with("error")));
        for case in &cases {
            case.has(
                &["name", "classname"],
                &["time", "group"],
                &["failure", "error", "skipped", "system-out"],
            );
            for child in case.named("failure").chain(case.named("error")) {
                child.has(&[], &["type", "message"], &[]);
            }
            case.named("system-out").for_each(|c| c.has(&[], &[], &[]));
        }
        tests += cases.len();
        failures += with("failure");
        errors += with("error");
    }
    assert_eq!(
        (root.number("tests"), root.number("failures"), root.number("errors")),
        (tests, failures, errors)
    );
}

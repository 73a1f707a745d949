use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    checked::{Backend, Condition, Matcher, Pair, Port, Ports, Requirement, Selector, pair},
    *,
};
use crate::{
    manifest::{Path, parse},
    net::Protocol::{self, Tcp, Udp},
    policy::{OnNoBackend, RedirectMode},
};

fn codes(text: &str) -> Vec<&'static str> {
    check_files(&[parse(text)]).findings.iter().map(|f| f.finding.code).collect()
}

#[test]
fn every_example_does_what_its_rule_says() {
    for rule in RULES {
        let found = check_files(&[parse(&rule.bad.text())]).findings;
        let seen: Vec<_> = found.iter().map(|f| f.finding.code).collect();
        assert!(!seen.is_empty() && seen.iter().all(|c| *c == rule.code), "{}: {seen:?}", rule.code);
        assert_eq!(found[0].finding.severity, rule.severity, "{}", rule.code);
        assert_eq!(codes(&rule.good.text()), [""; 0], "{} right", rule.code);
    }
}

#[test]
fn codes_are_ordered_and_unique() {
    assert!(RULES.windows(2).all(|w| w[0].code < w[1].code));
    assert!(rule("bal0102").is_some_and(|r| r.code == "BAL0102"));
    assert!(rule("BAL9999").is_none());
}

#[test]
fn the_pages_are_those_of_the_engine() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/rules");
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut expected: Vec<(String, String)> =
        RULES.iter().map(|r| (format!("{}.md", r.code), page(r))).collect();
    expected.push(("README.md".to_owned(), index()));
    if update {
        std::fs::create_dir_all(&folder).expect("docs/rules");
        for (name, text) in &expected {
            std::fs::write(folder.join(name), text).expect("write a page");
        }
    }
    for (name, text) in &expected {
        let written = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(&written, text, "{name} is stale: UPDATE_DOCS=1 cargo test -p balancing-api pages");
    }
    let mut present: Vec<_> = std::fs::read_dir(&folder)
        .expect("docs/rules")
        .map(|e| e.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    present.sort();
    let mut names: Vec<_> = expected.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(present, names, "a page without a rule");
}

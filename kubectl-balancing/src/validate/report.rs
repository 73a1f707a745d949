//! Findings for machines: SARIF, GitHub's workflow commands, JUnit.

use std::fmt::Write as _;

use balancing_api::rules::{Severity, rule};
use serde_json::{Value, json};

use super::{input::File, resolve::Resolved};
use crate::{
    explain::policy::kind_of,
    text::{percent_encoded, sanitise},
};

/// Annotations of a level that GitHub shows of one step.
const MOST_ANNOTATIONS: usize = 10;

/// Everything a report speaks of.
pub(super) struct Report<'a> {
    pub(super) files: &'a [File],
    pub(super) findings: &'a [&'a Resolved],
    /// Every policy: its file, its document, and what it is called.
    pub(super) policies: &'a [(usize, usize, String)],
    /// What could not be read.
    pub(super) failures: &'a [String],
}

impl Report<'_> {
    /// SARIF 2.1.0 with the rules that were broken.
    pub(super) fn sarif(&self) -> Value {
        let mut codes: Vec<&str> = self.findings.iter().map(|f| f.finding.code).collect();
        codes.sort_unstable();
        codes.dedup();
        let rules: Vec<Value> = codes.iter().filter_map(|code| rule(code)).map(sarif_rule).collect();
        let index = |code: &str| codes.iter().position(|c| *c == code);
        let results: Vec<Value> =
            self.findings.iter().map(|f| self.sarif_result(f, index(f.finding.code))).collect();
        let failures: Vec<Value> = self
            .failures
            .iter()
            .map(|text| json!({"level": "error", "message": {"text": sanitise(text)}}))
            .collect();
        json!({
            "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
            "version": "2.1.0",
            "runs": [{
                "tool": {"driver": {
                    "name": "kubectl-balancing",
                    "semanticVersion": env!("CARGO_PKG_VERSION"),
                    "rules": rules,
                }},
                "columnKind": "unicodeCodePoints",
                "invocations": [{
                    "executionSuccessful": self.failures.is_empty(),
                    "toolExecutionNotifications": failures,
                }],
                "results": results,
            }],
        })
    }

    fn sarif_result(&self, found: &Resolved, index: Option<usize>) -> Value {
        let finding = &found.finding;
        let place = |file: usize, span: &balancing_api::manifest::Span| {
            let file = &self.files[file];
            match &file.made_from {
                Some(name) => json!({"artifactLocation": {"uri": uri(name)}, "region": {
                    // Code scanning wants all four.
                    "startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1,
                }}),
                None => json!({
                    "artifactLocation": {"uri": uri(&file.name)},
                    "region": {
                        "startLine": span.line, "startColumn": span.column,
                        "endLine": span.end_line, "endColumn": span.end_column,
                    },
                }),
            }
        };
        let mut location = json!({"physicalLocation": place(found.file, &found.span)});
        if !found.object.is_empty() {
            location["logicalLocations"] = json!([{"fullyQualifiedName": found.whereabouts()}]);
        }
        let related: Vec<Value> = found
            .related
            .iter()
            .enumerate()
            .map(|(id, r)| {
                json!({"id": id, "physicalLocation": place(r.file, &r.span), "message": {"text": r.label}})
            })
            .collect();
        let level = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "note",
        };
        let mut result = json!({
            "ruleId": finding.code,
            "ruleIndex": index,
            "level": level,
            "message": {"text": text(found)},
            "locations": [location],
            // Not the line: it moves when something above it is edited.
            "partialFingerprints": {"finding/v1": fingerprint(&[
                finding.code, &self.files[found.file].name, &found.object, &finding.place.path.to_string(),
                &finding.message,
            ])},
        });
        if !related.is_empty() {
            result["relatedLocations"] = related.into();
        }
        result
    }

    /// `::error file=...,line=...::...`, the worst first. GitHub shows ten of a level a step; the rest is counted.
    pub(super) fn github(&self) -> String {
        let mut out = String::new();
        let mut more = 0;
        for (severity, command) in
            [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Info, "notice")]
        {
            let findings: Vec<_> = self.findings.iter().filter(|f| f.finding.severity == severity).collect();
            more += findings.len().saturating_sub(MOST_ANNOTATIONS);
            for found in findings.into_iter().take(MOST_ANNOTATIONS) {
                out.push_str(&self.command(command, found));
            }
        }
        if more > 0 {
            let _ =
                writeln!(out, "and {more} more; `kubectl balancing validate` without -o github shows all");
        }
        out
    }

    fn command(&self, command: &str, found: &Resolved) -> String {
        let span = &found.span;
        let code = found.finding.code;
        let title = rule(code).map_or_else(|| code.to_owned(), |r| format!("{code}: {}", r.title));
        let file = &self.files[found.file];
        let mut properties = Vec::new();
        let mut text = text(found);
        if file.has_lines() {
            properties.push(("file", file.name.clone()));
            properties.push(("line", span.line.to_string()));
            properties.push(("endLine", span.end_line.to_string()));
            // GitHub takes columns within one line alone.
            if span.line == span.end_line {
                properties.push(("col", span.column.to_string()));
                properties.push(("endColumn", span.end_column.to_string()));
            }
        } else {
            if let Some(name) = &file.made_from {
                properties.push(("file", name.clone()));
                properties.push(("line", "1".to_owned()));
            }
            let place = match found.whereabouts() {
                object if object.is_empty() => format!("line {}", span.line),
                object => object,
            };
            text = format!("{}: {text}", sanitise(&place));
        }
        properties.push(("title", title));
        let properties: Vec<String> =
            properties.into_iter().map(|(key, value)| format!("{key}={}", property(&value))).collect();
        format!("::{command} {}::{}\n", properties.join(","), data(&text))
    }

    /// What findings are about as kubectl names objects, each once, a line each; and a word on those about none.
    pub(super) fn names(&self) -> (String, Vec<String>) {
        let (mut names, mut nameless) = (Vec::new(), Vec::new());
        for found in self.findings {
            match found.object.split_once('/') {
                Some((kind, name)) => names.push(full_name(kind, name)),
                None => nameless.push(format!("about no object with a name: {}", self.line(found))),
            }
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        (names.iter().map(|name| sanitise(name).into_owned() + "\n").collect(), nameless)
    }

    /// A suite a file, a test a policy. Findings from `fail_on` on make it fail, others are its output.
    pub(super) fn junit(&self, fail_on: Severity) -> String {
        let suites: Vec<Suite> = (0..self.files.len()).map(|file| self.suite(file, fail_on)).collect();
        let sum = |of: fn(&Suite) -> usize| suites.iter().map(of).sum::<usize>();
        let (tests, failures) = (sum(|s| s.tests), sum(|s| s.failures));
        let errors = self.failures.len();
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(
            out,
            "<testsuites name=\"kubectl balancing validate\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\">",
            tests + errors
        );
        for suite in &suites {
            out.push_str(&suite.text);
        }
        if errors > 0 {
            let _ = writeln!(
                out,
                "  <testsuite name=\"files\" tests=\"{errors}\" failures=\"0\" errors=\"{errors}\">"
            );
            for failure in self.failures {
                let _ = writeln!(
                    out,
                    "    <testcase name=\"read\" classname=\"files\"><error message=\"{}\"/></testcase>",
                    xml(failure)
                );
            }
            out.push_str("  </testsuite>\n");
        }
        out.push_str("</testsuites>\n");
        out
    }

    fn suite(&self, file: usize, fail_on: Severity) -> Suite {
        let name = xml(&self.files[file].name);
        let mut cases: Vec<(usize, &str)> = self
            .policies
            .iter()
            .filter(|p| p.0 == file)
            .map(|(_, document, object)| (*document, object.as_str()))
            .collect();
        let of_file = || self.findings.iter().copied().filter(|f| f.file == file);
        // What is about no policy, such as a slip of syntax, is a test of its own.
        for found in of_file() {
            let case = (found.document, found.object.as_str());
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases.sort_unstable();
        let (mut text, mut failures, mut seen) = (String::new(), 0, None);
        for &(document, object) in &cases {
            let twice = seen.replace((document, object)) == Some((document, object));
            let about: Vec<&Resolved> = of_file()
                .filter(|f| !twice && (f.document, f.object.as_str()) == (document, object))
                .collect();
            let (failed, noted): (Vec<&Resolved>, Vec<&Resolved>) =
                about.into_iter().partition(|f| f.finding.severity >= fail_on);
            failures += usize::from(!failed.is_empty());
            let title = if object.is_empty() { format!("document {document}") } else { xml(object) };
            let _ = writeln!(text, "    <testcase name=\"{title}\" classname=\"{name}\">");
            for found in failed {
                let _ = writeln!(
                    text,
                    "      <failure type=\"{}\" message=\"{}\">{}</failure>",
                    found.finding.code,
                    xml(&found.finding.message),
                    xml(&self.line(found))
                );
            }
            for found in noted {
                let _ = writeln!(text, "      <system-out>{}</system-out>", xml(&self.line(found)));
            }
            text.push_str("    </testcase>\n");
        }
        let tests = cases.len();
        let text = format!(
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">\n{text}  </testsuite>\n"
        );
        Suite { tests, failures, text }
    }

    /// `web.yaml:10:17: error BAL0102: ...`
    fn line(&self, found: &Resolved) -> String {
        let (finding, span) = (&found.finding, &found.span);
        format!(
            "{}:{}:{}: {} {}: {}",
            self.files[found.file].name,
            span.line,
            span.column,
            finding.severity,
            finding.code,
            text(found)
        )
    }
}

/// A suite of JUnit.
struct Suite {
    tests: usize,
    failures: usize,
    text: String,
}

fn sarif_rule(rule: &balancing_api::rules::Rule) -> Value {
    let level = match rule.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "note",
    };
    json!({
        "id": rule.code,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.explanation},
        "help": {
            "text": format!("kubectl balancing validate --explain {}", rule.code),
            "markdown": balancing_api::rules::page(rule),
        },
        "defaultConfiguration": {"level": level},
    })
}

/// `localredirectpolicy.balancing.elf.io/web`
fn full_name(kind: &str, name: &str) -> String {
    let lower = kind.to_lowercase();
    match kind_of(kind) {
        Ok(_) => format!("{lower}.{}/{name}", balancing_api::names::GROUP),
        Err(_) => format!("{lower}/{name}"),
    }
}

/// The message, and what to do about it.
fn text(found: &Resolved) -> String {
    let finding = &found.finding;
    let whole = if finding.help.is_empty() {
        finding.message.clone()
    } else {
        format!("{} ({})", finding.message, finding.help)
    };
    sanitise(&whole).into_owned()
}

/// A file name as a URI reference (RFC 3986).
fn uri(name: &str) -> String {
    if name == "-" {
        return "stdin".to_owned();
    }
    let scheme = if name.starts_with('/') { "file://" } else { "" };
    format!("{scheme}{}", percent_encoded(name.strip_prefix("./").unwrap_or(name)))
}

/// What is the same for the same finding in every run: FNV-1a, 64 bits.
fn fingerprint(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// Text behind the `::` of a workflow command.
fn data(text: &str) -> String {
    sanitise(&text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")).into_owned()
}

/// A property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Text of an attribute or element of XML 1.0, without the characters that it cannot have.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in sanitise(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_meaning_of_its_own_is_escaped() {
        assert_eq!(uri("./a b/ü.yaml"), "a%20b/%C3%BC.yaml");
        assert_eq!(uri("/tmp/x.yaml"), "file:///tmp/x.yaml");
        assert_eq!(data("50%\r\n::error::\u{1b}[2J"), "50%25%0D%0A::error::^[[2J");
        assert_eq!(property("a:b,c%"), "a%3Ab%2Cc%25");
        assert_eq!(xml("<a b=\"&\">\u{1b}\u{ffff}"), "&lt;a b=&quot;&amp;&quot;&gt;^[\u{fffd}");
    }

    /// Code scanning tells findings apart by this from one run to the next: it must never change.
    #[test]
    fn fingerprints_stay() {
        assert_eq!(fingerprint(&[]), "cbf29ce484222325");
        // The test vector of FNV-1a for "a", continued by a zero byte.
        let a: u64 = 0xaf63_dc4c_8601_ec8c;
        assert_eq!(fingerprint(&["a"]), format!("{:016x}", a.wrapping_mul(0x100_0000_01b3)));
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
    }
}

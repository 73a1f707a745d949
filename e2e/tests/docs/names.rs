//! Names of metrics, flags, values, conditions and reasons.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{markdown, none, pages, read};

/// The texts of the constants of a module of `api/src/names.rs`.
fn constants(module: &str) -> BTreeSet<String> {
    let source = read("api/src/names.rs");
    let begin = source.find(&format!("pub mod {module} {{")).unwrap_or_else(|| panic!("no module {module}"));
    let body = &source[begin..];
    let body = &body[..body.find("\n}").expect("its end")];
    let lines = body.lines().filter(|l| l.trim_start().starts_with("pub const "));
    let found: BTreeSet<_> = lines.filter_map(|l| l.split('"').nth(1)).map(str::to_owned).collect();
    assert!(!found.is_empty(), "no names in {module}");
    found
}

/// The spans of code in a cell.
fn spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Names of metrics as they are scraped, with their type and labels.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

/// The families of a page of `/metrics`, in a snapshot.
fn served(snapshot: &str) -> Families {
    let page = read(snapshot);
    let mut families = Families::new();
    let mut family = (String::new(), String::new());
    for line in page.lines().skip_while(|l| !l.starts_with("# ")) {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            family = (format!("{name}{suffix}"), kind.to_owned());
            families.insert(family.0.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').and_then(|(_, l)| l.rsplit_once('}')).map_or("", |(l, _)| l);
            let names = labels.split(',').filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            let own = names.filter(|n| *n != "le" && n.chars().all(|c| c.is_ascii_lowercase()));
            if let Some((_, known)) = families.get_mut(&family.0) {
                known.extend(own.map(str::to_owned));
            }
        }
    }
    families
}

/// The families that the page of metrics describes below a heading.
fn described(heading: &str) -> Families {
    let page = read("docs/reference/metrics.md");
    let mut families = Families::new();
    for row in markdown::rows(&page, heading) {
        // `label`: `value`, `value`; `label`
        let labels = row[2].split(';').flat_map(|part| {
            let (names, values) = part.split_once(':').unwrap_or((part, ""));
            // What stands before a colon is one label; without one there may be several.
            let names = spans(names);
            assert!(values.is_empty() || !names.is_empty(), "{part}");
            names
        });
        let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
        for name in spans(row[0]) {
            let told = families.insert(name.to_owned(), (row[1].to_owned(), labels.clone()));
            assert!(told.is_none(), "{name} stands twice below {heading:?}");
        }
    }
    families
}

#[test]
fn the_page_of_metrics_is_what_is_served() {
    let mut known = BTreeSet::new();
    for (snapshot, heading) in [
        ("snapshots/agent-metrics.snap", "What does an agent count?"),
        ("snapshots/operator-metrics.snap", "What does the operator count?"),
    ] {
        let served = served(snapshot);
        assert_eq!(described(heading), served, "docs/reference/metrics.md, {heading:?} beside {snapshot}");
        known.extend(served.into_keys());
    }
    // A name that no page has is one that somebody forgot to register.
    let bare = |name: &String| {
        name.trim_end_matches("_total").trim_end_matches("_seconds").trim_end_matches("_info").to_owned()
    };
    let known: BTreeSet<_> = known.iter().map(bare).collect();
    let named: BTreeSet<_> = constants("metric").iter().map(bare).collect();
    assert_eq!(known, named, "what is served, and api/src/names.rs");
}

/// The flags of a help text in a snapshot, `--help` and `--version` left out.
fn flags(snapshot: &str) -> BTreeSet<String> {
    let text = read(snapshot);
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("--")?.split([' ', '=', '[']).next());
    let name = |w: &&str| {
        w.starts_with(|c: char| c.is_ascii_lowercase())
            && w.chars().all(|c| c.is_ascii_lowercase() || c == '-')
    };
    words.filter(name).filter(|n| !matches!(*n, "help" | "version")).map(str::to_owned).collect()
}

#[test]
fn every_flag_is_on_its_page_and_every_flag_of_the_page_exists() {
    for (snapshot, path, heading) in [
        ("snapshots/agent-help.snap", "docs/reference/agent.md", "Agent"),
        ("snapshots/operator-help.snap", "docs/reference/operator.md", "Flags"),
    ] {
        let page = read(path);
        let rows = markdown::rows(&page, heading);
        let told = rows.iter().flat_map(|row| spans(row[0])).filter_map(|s| s.strip_prefix("--"));
        let told: BTreeSet<_> =
            told.map(|flag| flag.split([' ', '=']).next().unwrap_or(flag).to_owned()).collect();
        assert_eq!(told, flags(snapshot), "{path} beside {snapshot}");
    }
}

#[test]
fn every_condition_and_reason_is_on_its_page_and_every_one_of_the_page_exists() {
    let page = read("docs/reference/states.md");
    let named: BTreeSet<_> = markdown::spans(&page).into_iter().map(|(_, span)| span).collect();
    let mut known = BTreeSet::new();
    for module in ["condition", "reason", "rung_reason"] {
        known.extend(constants(module));
    }
    let lacking: Vec<String> = known.difference(&named).map(|n| format!("states.md lacks {n}")).collect();
    none(&lacking);
    for heading in ["Conditions of a policy", "Conditions of the node", "Why a rung was not taken"] {
        for word in markdown::rows(&page, heading).concat().into_iter().flat_map(spans) {
            let is_word = word.starts_with(|c: char| c.is_ascii_uppercase())
                && word.chars().all(|c| c.is_ascii_alphanumeric())
                && word.chars().any(|c| c.is_ascii_lowercase());
            assert!(!is_word || known.contains(word), "states.md, {heading:?}: nothing says {word}");
        }
    }
    let events = read("docs/reference/api.md");
    for failure in constants("event_failure") {
        assert!(events.contains(&format!("`{failure}`")), "api.md lacks {failure}");
    }
}

/// Words of the first level of the chart's values.
fn values() -> Value {
    serde_yaml::from_str(&read("charts/operator/values.yaml")).expect("values.yaml")
}

fn has_value(values: &Value, path: &str) -> bool {
    path.split('.').try_fold(values, |at, key| at.get(key)).is_some()
}

#[test]
fn every_value_of_the_chart_that_pages_name_exists() {
    let all = values();
    let mut defects = Vec::new();
    let mut found = 0;
    for (name, page) in pages() {
        let spans = markdown::spans(&page);
        // `--set a.b=c` and `a.b=c`, anywhere.
        let code = markdown::code(&page);
        let lines = code.iter().map(|(line, text)| (*line, (*text).to_owned()));
        let set = lines.chain(spans.iter().cloned()).flat_map(|(line, text)| {
            let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let after = words.windows(2).filter(|w| w[0] == "--set").map(|w| w[1].clone());
            after.map(|word| (line, word)).collect::<Vec<_>>()
        });
        let bare = spans.iter().filter(|(_, span)| {
            let (path, _) = span.split_once('=').unwrap_or((span, ""));
            let (first, rest) = path.split_once('.').unwrap_or((path, ""));
            let file = ["yaml", "md", "rs", "log", "sock", "json", "snap"]
                .iter()
                .any(|e| path.ends_with(&format!(".{e}")));
            all.get(first).is_some()
                && !file
                && !rest.is_empty()
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '.')
        });
        for (line, text) in set.chain(bare.cloned()) {
            found += 1;
            let path = text.trim_matches('\'').split('=').next().unwrap_or_default();
            if !has_value(&all, path) {
                defects.push(format!("{name}:{line}: the chart has no value {path}"));
            }
        }
    }
    assert!(found > 20, "only {found} values were found");
    none(&defects);
}

//! The page about the agent's profile says what the profile says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use serde_json::Value;

const PROFILE: &str = "bench/profiles/agent-20261125.json";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

#[test]
fn the_page_and_the_profile_agree() {
    let page = read("docs/reference/agent-profile.md");
    assert!(page.contains(PROFILE), "the page names another profile");
    let profile: Value = serde_json::from_str(&read(PROFILE)).unwrap();
    let rows = |list: &str, unit: &str, after: &str| -> Vec<String> {
        let row = |item: &Value| format!("| {} | {}{after} |", item["part"].as_str().unwrap(), item[unit]);
        profile[list].as_array().unwrap().iter().map(row).collect()
    };
    let mut expected = rows("time", "percent", " %");
    expected.extend(rows("memory", "megabytes", ""));
    expected.push(format!("| together, `VmRSS` | {} |", profile["resident"]));
    let figures = |line: &&str| line.starts_with("| ") && line.chars().any(|c| c.is_ascii_digit());
    let found: Vec<&str> = page.lines().filter(figures).collect();
    assert_eq!(found, expected);
    let sum: f64 = profile["memory"].as_array().unwrap().iter().filter_map(|m| m["megabytes"].as_f64()).sum();
    assert!((sum - profile["resident"].as_f64().unwrap()).abs() < 0.1, "the parts make {sum}");
}

//! Without helm: values and their schema, comments and table; versions; names of metrics.

use std::{collections::BTreeSet, env, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Pure, chart, root};

pub(crate) const TESTS: &[(&str, Pure)] = &[
    ("every_value_is_explained_and_in_the_schema", every_value_is_explained_and_in_the_schema),
    ("the_schema_knows_no_other_value", the_schema_knows_no_other_value),
    ("the_table_of_values_is_that_of_the_chart", the_table_of_values_is_that_of_the_chart),
    ("the_chart_has_the_version_of_the_programs", the_chart_has_the_version_of_the_programs),
    ("alerts_and_dashboard_ask_for_metrics_that_exist", alerts_and_dashboard_ask_for_metrics_that_exist),
];

/// A value of the chart.
struct Described {
    path: String,
    default: Value,
    text: String,
}

fn read(file: &str) -> Result<String> {
    let path = chart().join(file);
    fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
}

/// The values in their order. A comment `# -- TEXT` describes the next line's key with all below it.
fn values() -> Result<(Vec<Described>, Value)> {
    let text = read("values.yaml")?;
    let all: Value = serde_yaml::from_str(&text).context("values.yaml")?;
    let (mut path, mut pending, mut described) = (Vec::<(usize, String)>::new(), None, Vec::new());
    for line in text.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if let Some(comment) = trimmed.strip_prefix("# -- ") {
            ensure!(pending.is_none(), "two comments, one key: {line}");
            pending = Some(comment.to_owned());
            continue;
        }
        let key = trimmed.split_once(':').map(|(key, _)| key);
        let Some(key) = key.filter(|k| !k.is_empty() && !k.starts_with(['#', '-', '{'])) else { continue };
        while path.last().is_some_and(|(d, _)| *d >= depth) {
            path.pop();
        }
        path.push((depth, key.to_owned()));
        if let Some(text) = pending.take() {
            let keys: Vec<_> = path.iter().map(|(_, k)| k.as_str()).collect();
            let default = all.pointer(&format!("/{}", keys.join("/"))).with_context(|| keys.join("."))?;
            described.push(Described { path: keys.join("."), default: default.clone(), text });
        }
    }
    Ok((described, all))
}

/// The schema of a value.
fn schema_of<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(schema, |at, key| at["properties"].get(key))
}

fn every_value_is_explained_and_in_the_schema() -> Result<()> {
    let (described, all) = values()?;
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    ensure!(described.len() > 40, "only {} values are explained", described.len());
    for value in &described {
        ensure!(schema_of(&schema, &value.path).is_some(), "{} is not in values.schema.json", value.path);
        ensure!(!value.text.ends_with('.'), "{}: a cell of a table has no full stop", value.path);
    }
    // Each leaf is described, or something above it.
    let mut leaves = Vec::new();
    gather(String::new(), &all, &mut leaves);
    for leaf in leaves {
        let covered = described.iter().any(|d| leaf == d.path || leaf.starts_with(&format!("{}.", d.path)));
        ensure!(covered, "nothing says what {leaf} is: write \"# -- ...\" above it");
    }
    Ok(())
}

fn gather(path: String, value: &Value, leaves: &mut Vec<String>) {
    match value.as_object().filter(|map| !map.is_empty()) {
        Some(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                gather(path, value, leaves);
            }
        }
        None => leaves.push(path),
    }
}

fn the_schema_knows_no_other_value() -> Result<()> {
    let (_, all) = values()?;
    let schema: Value = serde_json::from_str(&read("values.schema.json")?)?;
    let mut open = vec![(String::new(), &schema, &all)];
    while let Some((path, schema, value)) = open.pop() {
        let Some(properties) = schema["properties"].as_object() else { continue };
        ensure!(schema["additionalProperties"] == false, "{path}: a misspelt value would go unseen");
        // Of charts that have this one as a part; and parts of what Kubernetes defines.
        let foreign = |key: &str| (path.is_empty() && key == "global") || path.ends_with(".resources");
        for (key, inner) in properties.iter().filter(|(key, _)| !foreign(key)) {
            let value =
                value.get(key).with_context(|| format!("{path}.{key} has no default in values.yaml"))?;
            open.push((format!("{path}.{key}"), inner, value));
        }
    }
    Ok(())
}

fn the_table_of_values_is_that_of_the_chart() -> Result<()> {
    let (described, _) = values()?;
    let mut table = String::from(
        "# Values of the chart\n\nMade by `cargo xtask crds` from `charts/operator/values.yaml`. A value that is not here is refused.\n\n\
         | value | default | meaning |\n|---|---|---|\n",
    );
    for value in &described {
        let default = serde_json::to_string(&value.default)?;
        table += &format!("| `{}` | `{default}` | {} |\n", value.path, value.text.replace('|', "\\|"));
    }
    let path = root().join("docs/reference/values.md");
    if env::var_os("BALANCING_UPDATE").is_some() {
        fs::write(&path, &table)?;
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    ensure!(
        written == table,
        "docs/reference/values.md is not what values.yaml says: run `cargo xtask crds`"
    );
    Ok(())
}

fn the_chart_has_the_version_of_the_programs() -> Result<()> {
    let chart: Value = serde_yaml::from_str(&read("Chart.yaml")?)?;
    for key in ["version", "appVersion"] {
        ensure!(chart[key] == env!("CARGO_PKG_VERSION"), "Chart.yaml: {key} is {}", chart[key]);
    }
    Ok(())
}

/// Words of a text that begin like a metric of the product.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !word(c)).filter(|w| w.starts_with("balancing_")).collect()
}

fn alerts_and_dashboard_ask_for_metrics_that_exist() -> Result<()> {
    // Every name that others see stands there.
    let names = fs::read_to_string(root().join("api/src/names.rs"))?;
    let known = metrics_in(&names);
    for file in ["files/alerts.yaml", "files/dashboard.json"] {
        let text = read(file)?;
        let asked = metrics_in(&text);
        ensure!(asked.len() > 5, "{file} asks for {asked:?}");
        for metric in asked {
            let base = metric.trim_end_matches("_bucket").trim_end_matches("_total");
            let known = known.contains(base) || known.contains(base.trim_end_matches("_seconds"));
            ensure!(known, "{file} asks for {metric}, which api/src/names.rs does not know");
        }
    }
    let alerts: Value = serde_yaml::from_str(&read("files/alerts.yaml")?)?;
    for rule in alerts["groups"][0]["rules"].as_array().context("rules")? {
        let name = rule["alert"].as_str().context("a name")?;
        ensure!(name.starts_with("Balancing"), "{name}");
        ensure!(rule["annotations"]["description"].is_string(), "{name} does not say what to do");
        ensure!(rule["for"].is_string() && rule["labels"]["severity"].is_string(), "{name}");
    }
    serde_json::from_str::<Value>(&read("files/dashboard.json")?)?;
    Ok(())
}

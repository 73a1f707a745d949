//! Label selectors, as `metav1.LabelSelector`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    catalogue::code,
    checked::{Condition, Requirement, Selector},
    reader::{Fields, Report, to_text},
    syntax::{is_label_key, is_label_value, nearest},
};
use crate::manifest::{Path, quote};

const SELECTOR: &[&str] = &["matchLabels", "matchExpressions"];
const EXPRESSION: &[&str] = &["key", "operator", "values"];
const OPERATORS: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];

/// Read a selector; nothing where a part of it is wrong, which was reported and blocks.
pub(super) fn read(report: &mut Report, value: &Value, path: &Path) -> Option<Selector> {
    if let Value::Object(map) = value
        && !map.is_empty()
        && map.iter().all(|(k, v)| !SELECTOR.contains(&k.as_str()) && v.is_string())
        && map.keys().all(|k| nearest(k, SELECTOR.iter().copied()).is_none())
    {
        let message = format!("{path} holds labels where it has to hold matchLabels");
        report.block(
            code::SELECTOR,
            path,
            message,
            "put matchLabels: above them and move them two spaces in",
        );
        return None;
    }
    let before = report.blocking();
    let fields = Fields::open(report, value, path.clone(), SELECTOR)?;
    let mut requirements = match_labels(report, &fields);
    if fields.is_misspelt("matchLabels") || fields.is_misspelt("matchExpressions") {
        fields.block_misspelt(report);
        return None;
    }
    for (i, value) in fields.list(report, "matchExpressions").into_iter().flatten().enumerate() {
        requirements.extend(expression(report, value, path.key("matchExpressions").index(i)));
    }
    // Without what could not be read it would select more than was meant.
    (report.blocking() == before).then_some(Selector { requirements })
}

fn match_labels(report: &mut Report, fields: &Fields<'_>) -> Vec<Requirement> {
    let path = fields.path.key("matchLabels");
    let map = match fields.get("matchLabels") {
        None => return Vec::new(),
        Some(Value::Object(map)) => map,
        Some(other) => {
            report.wrong_type(&path, "a mapping of labels", other, "write it as matchLabels: {app: NAME}");
            return Vec::new();
        }
    };
    let mut requirements = Vec::new();
    for (key, value) in map {
        let path = path.key(key);
        key_syntax(report, key, &path);
        let Some(value) = value_syntax(report, value, &path) else { continue };
        requirements
            .push(Requirement { key: key.clone(), condition: Condition::In(BTreeSet::from([value])) });
    }
    requirements
}

fn expression(report: &mut Report, value: &Value, path: Path) -> Option<Requirement> {
    let fields = Fields::open(report, value, path, EXPRESSION)?;
    let key = fields.require_text(report, "key");
    if let Some(key) = key {
        key_syntax(report, key, &fields.path.key("key"));
    }
    let operator = fields.require_text(report, "operator")?;
    let path = fields.path.key("values");
    let values: Vec<_> = fields.list(report, "values").into_iter().flatten().collect();
    let checked: BTreeSet<_> =
        values.iter().enumerate().filter_map(|(i, v)| value_syntax(report, v, &path.index(i))).collect();
    let condition = match operator {
        "In" | "NotIn" if values.is_empty() => {
            let message = format!("operator {operator} needs values");
            report.block(
                code::SELECTOR,
                &fields.path.key("operator"),
                message,
                "add values: [...], at least one",
            );
            return None;
        }
        "In" => Condition::In(checked),
        "NotIn" => Condition::NotIn(checked),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let message = format!("operator {operator} takes no values");
            report.block(code::SELECTOR, &path, message, "remove the values, or use In or NotIn");
            return None;
        }
        "Exists" => Condition::Exists,
        "DoesNotExist" => Condition::DoesNotExist,
        other => {
            let help = match nearest(other, OPERATORS) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("the operators are {}", OPERATORS.join(", ")),
            };
            let message = format!("there is no operator {}", quote(other));
            report.block(code::SELECTOR, &fields.path.key("operator"), message, &help);
            return None;
        }
    };
    Some(Requirement { key: key?.to_owned(), condition })
}

fn key_syntax(report: &mut Report, key: &str, path: &Path) {
    if !is_label_key(key) {
        let help = "a key is at most 63 letters, digits, -, _ and ., perhaps behind a domain and a slash: example.com/app";
        report.block(code::SELECTOR, path, format!("{} is no key of a label", quote(key)), help);
    }
}

fn value_syntax(report: &mut Report, value: &Value, path: &Path) -> Option<String> {
    let Some(text) = value.as_str() else {
        report.wrong_type(path, "text", value, to_text(value));
        return None;
    };
    if !is_label_value(text) {
        let help = "a value is at most 63 letters, digits, -, _ and ., with a letter or digit at each end";
        report.block(code::SELECTOR, path, format!("{} is no value of a label", quote(text)), help);
        return None;
    }
    Some(text.to_owned())
}

//! The definitions of the custom resources, as the chart installs them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use serde_json::{Number, Value};

use crate::{
    node_state::NodeBalancingState,
    policy::{BalancingPolicy, LocalRedirectPolicy},
};

/// All of them, in the order in which they are installed.
#[must_use]
pub fn all() -> Vec<Value> {
    [LocalRedirectPolicy::crd(), BalancingPolicy::crd(), NodeBalancingState::crd()]
        .iter()
        .map(plain)
        .collect()
}

/// The definition without what Rust's types say and an API server has no use for.
fn plain(definition: &CustomResourceDefinition) -> Value {
    // A definition is maps, lists, text and numbers; nothing in it can fail.
    let mut value = serde_json::to_value(definition).unwrap_or_default();
    tidy(&mut value);
    // What Rust reads where a writer says nothing; the API server has no need to write it.
    value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status").map(without_defaults);
    value
}

fn without_defaults(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.shift_remove("default");
            map.values_mut().for_each(without_defaults);
        }
        Value::Array(list) => list.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

/// A `null` in an object is dropped by the API server unless its schema says `nullable`; then it would be kept, and
/// rules that ask for the field would find it. Bounds are whole numbers.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.shift_remove("nullable");
            map.retain(|key, value| key != "title" || !value.is_string());
            for (key, value) in map {
                // A label without a value is `null`, which a rule refuses: dropped, its selector would select more.
                let kept = value.get("nullable").filter(|_| key == "additionalProperties").cloned();
                tidy(value);
                if let Some(kept) = kept {
                    value["nullable"] = kept;
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy),
        Value::Number(n) => {
            let whole = n.as_f64().filter(|f| n.is_f64() && f.fract() == 0.0).map(|f| format!("{f:.0}"));
            if let Some(whole) = whole.and_then(|f| f.parse::<i64>().ok()) {
                *n = Number::from(whole);
            }
        }
        _ => {}
    }
}

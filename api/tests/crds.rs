//! The definitions that the chart installs are those that Rust's types give.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::{fs, path::PathBuf};

use serde_json::Value;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/operator/templates/crds"))
}

/// The definition as a template of the chart.
fn template(definition: &Value) -> String {
    let spec = serde_yaml::to_string(&serde_json::json!({"spec": definition["spec"]})).expect("plain data");
    let name = definition["metadata"]["name"].as_str().expect("a name");
    format!(
        "{{{{- /* Made by `cargo xtask crds` from api/src; an edit here is lost. */ -}}}}
{{{{- if .Values.crds.install }}}}
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {name}
  labels:
    {{{{- include \"balancing.labels\" . | nindent 4 }}}}
  {{{{- if .Values.crds.keep }}}}
  annotations:
    helm.sh/resource-policy: keep
  {{{{- end }}}}
{spec}{{{{- end }}}}
"
    )
}

#[test]
fn the_chart_installs_what_the_types_say() {
    for definition in balancing_api::crd::all() {
        let plural = definition["spec"]["names"]["plural"].as_str().expect("a name");
        let path = folder().join(format!("{plural}.yaml"));
        let wanted = template(&definition);
        if std::env::var_os("BALANCING_UPDATE").is_some() {
            fs::write(&path, &wanted).expect("the chart is there");
        }
        let written = fs::read_to_string(&path).unwrap_or_default();
        assert!(written == wanted, "{} is not what api/src says: run `cargo xtask crds`", path.display());
    }
}

/// Every schema in a definition, with where it stands.
fn schemas<'a>(at: &str, schema: &'a Value, all: &mut Vec<(String, &'a Value)>) {
    all.push((at.to_owned(), schema));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        schemas(&format!("{at}.{name}"), property, all);
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            schemas(&format!("{at}[]"), &schema[inner], all);
        }
    }
}

#[test]
fn schemas_are_structural_and_known_to_every_api_server() {
    // https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation
    let formats = ["int32", "int64", "date-time"];
    for definition in balancing_api::crd::all() {
        let kind = definition["spec"]["names"]["kind"].as_str().expect("a kind");
        let version = &definition["spec"]["versions"][0];
        assert!(version["subresources"]["status"].is_object(), "{kind} has a status of its own");
        let mut all = Vec::new();
        schemas(kind, &version["schema"]["openAPIV3Schema"], &mut all);
        assert!(all.len() > 20, "{kind}: {} schemas", all.len());
        for (at, schema) in all {
            let one_of_two = schema["x-kubernetes-int-or-string"] == true;
            assert!(schema["type"].is_string() != one_of_two, "{at} has no type: {schema}");
            // Only labels may be null, for a rule to refuse them.
            assert!(schema.get("nullable").is_none() || at.ends_with("matchLabels[]"), "{at} may be null");
            for word in ["$ref", "oneOf", "anyOf", "allOf", "title", "$schema"] {
                assert!(schema.get(word).is_none(), "{at} has {word}");
            }
            if let Some(format) = schema["format"].as_str() {
                assert!(formats.contains(&format), "{at}: an API server does not know the format {format}");
            }
            if schema["type"] == "array" && at.contains(".spec") {
                assert!(schema["maxItems"].is_u64(), "{at} has no bound: rules over it cost too much");
            }
        }
    }
}

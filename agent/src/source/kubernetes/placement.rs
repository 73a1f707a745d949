//! Does the template of a DaemonSet select a node? As its controller judges it, which ends the pods of nodes that are
//! selected no more: the nodeSelector, and what the affinity requires. Taints are not looked at.

use serde_json::Value;

/// May a pod of this spec run on the node of this name with these labels?
pub(super) fn selects(pod: &Value, name: &str, labels: &Value) -> bool {
    let selector = pod["nodeSelector"].as_object();
    if selector.is_some_and(|all| all.iter().any(|(key, value)| labels[key] != *value)) {
        return false;
    }
    let required = &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    // One term is enough; without any list nothing is required.
    required["nodeSelectorTerms"].as_array().is_none_or(|terms| terms.iter().any(|t| term(t, name, labels)))
}

fn term(term: &Value, name: &str, labels: &Value) -> bool {
    let of = |list: &str| term[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let (expressions, fields) = (of("matchExpressions"), of("matchFields"));
    let label = |e: &Value| holds(e, labels[e["key"].as_str().unwrap_or_default()].as_str());
    let field = |e: &Value| e["key"] != "metadata.name" || holds(e, Some(name));
    // An empty term matches nothing.
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(label)
        && fields.iter().all(field)
}

fn holds(requirement: &Value, value: Option<&str>) -> bool {
    let values = requirement["values"].as_array().map(Vec::as_slice).unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || {
        let limit: i64 = values.first()?.as_str()?.parse().ok()?;
        Some((value?.parse::<i64>().ok()?, limit))
    };
    match requirement["operator"].as_str().unwrap_or_default() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, limit)| value > limit),
        "Lt" => numbers().is_some_and(|(value, limit)| value < limit),
        // Of a later Kubernetes: a node is not left for what is not understood.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn here(pod: &Value) -> bool {
        selects(pod, "n1", &json!({"kubernetes.io/os": "linux", "place": "edge", "cores": "8"}))
    }

    fn requiring(terms: &Value) -> Value {
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
        json!({"affinity": {"nodeAffinity": required}})
    }

    #[test]
    fn every_label_of_the_selector_has_to_be_there() {
        assert!(here(&json!({})));
        assert!(here(&json!({"nodeSelector": {"place": "edge"}})));
        assert!(!here(&json!({"nodeSelector": {"kubernetes.io/os": "linux", "place": "core"}})));
        assert!(!here(&json!({"nodeSelector": {"tier": "1"}})));
    }

    #[test]
    fn one_term_is_enough_and_each_of_its_requirements_has_to_hold() {
        let is = |operator: &str, key: &str, values: &[&str]| {
            here(&requiring(
                &json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]),
            ))
        };
        assert!(
            is("In", "place", &["core", "edge"])
                && !is("In", "place", &["core"])
                && !is("In", "tier", &["1"])
        );
        assert!(
            is("NotIn", "place", &["core"])
                && !is("NotIn", "place", &["edge"])
                && is("NotIn", "tier", &["1"])
        );
        assert!(is("Exists", "place", &[]) && !is("Exists", "tier", &[]));
        assert!(is("DoesNotExist", "tier", &[]) && !is("DoesNotExist", "place", &[]));
        assert!(is("Gt", "cores", &["7"]) && !is("Gt", "cores", &["8"]) && !is("Gt", "place", &["1"]));
        assert!(is("Lt", "cores", &["9"]) && !is("Lt", "cores", &["8"]));
        assert!(is("Near", "place", &["moon"]), "what is not understood keeps the agent");

        let edge = json!({"key": "place", "operator": "In", "values": ["edge"]});
        let core = json!({"key": "place", "operator": "In", "values": ["core"]});
        assert!(here(&requiring(&json!([{"matchExpressions": [core]}, {"matchExpressions": [edge]}]))));
        assert!(!here(&requiring(&json!([{"matchExpressions": [core, edge]}]))));
        assert!(!here(&requiring(&json!([{}]))), "an empty term matches nothing");
        let named = |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
        assert!(here(&requiring(&named("n1"))) && !here(&requiring(&named("n2"))));
        let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 1, "preference": {"matchExpressions": [core]}}]}}});
        assert!(here(&preferred));
    }
}

//! Which nodes the pods of a DaemonSet may run on, as its controller judges it: by the nodeSelector, and by what the
//! node affinity requires. Taints are not looked at.

use serde_json::Value;

/// What a pod spec says of the nodes it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    selector: Value,
    terms: Value,
}

impl Placement {
    /// That of a pod spec (core/v1 PodSpec). What is absent, or of another shape, leaves no node out.
    #[must_use]
    pub fn of(spec: &Value) -> Self {
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        Self { selector: spec["nodeSelector"].clone(), terms: required["nodeSelectorTerms"].clone() }
    }

    /// May such a pod run on the node of this name, whose labels have these values?
    pub fn selects<'v>(&self, name: &str, label: impl Fn(&str) -> Option<&'v str>) -> bool {
        let selector = self.selector.as_object();
        if selector.is_some_and(|all| all.iter().any(|(key, value)| label(key) != value.as_str())) {
            return false;
        }
        // One term is enough; without any list nothing is required.
        self.terms.as_array().is_none_or(|terms| terms.iter().any(|t| term(t, name, &label)))
    }
}

fn term<'v>(term: &Value, name: &str, label: &impl Fn(&str) -> Option<&'v str>) -> bool {
    let of = |list: &str| term[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let (expressions, fields) = (of("matchExpressions"), of("matchFields"));
    let label = |e: &Value| holds(e, label(e["key"].as_str().unwrap_or_default()));
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
        let labels = json!({"kubernetes.io/os": "linux", "place": "edge", "cores": "8"});
        Placement::of(pod).selects("n1", |key| labels[key].as_str())
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

//! The API server and the rules of `validate` agree on what is no policy: every field of four policies is left out,
//! doubled, and replaced by what people and programs write wrongly.

use anyhow::{Result, ensure};
use balancing_api::rules;
use balancing_e2e::cluster::{Kube, objects};
use http::Method;
use serde_json::{Value, json};

use crate::{Cluster, Test};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("wrong_policies_are_wrong_to_both", wrong_policies_are_wrong_to_both)];

fn bases() -> [Value; 4] {
    let policy = |kind: &str, frontend: Value, backend: Value| {
        json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": kind, "metadata": {"name": "agree"},
               "spec": {"frontend": frontend, "backend": backend}})
    };
    let service = json!({"serviceMatcher": {"serviceName": "web", "namespace": "default", "toPorts": [
        {"port": "80", "protocol": "TCP", "name": "a"}, {"port": 81, "protocol": "TCP", "name": "b"}]}});
    let address =
        json!({"addressMatcher": {"ip": "169.254.0.90", "toPorts": [{"port": 53, "protocol": "UDP"}]}});
    let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [
        {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "y", "operator": "Exists"}]});
    let two = json!([{"port": 8080, "protocol": "TCP", "name": "A"}, {"port": "8081", "protocol": "TCP", "name": "b"}]);
    let one = json!([{"port": 5353, "protocol": "UDP"}]);
    let mut local = policy(
        "LocalRedirectPolicy",
        service.clone(),
        json!({"endpointSelector": selector, "toPorts": two, "namespaces": ["default"], "skipRedirectFromBackend": true}),
    );
    local["spec"]["config"] = json!({"nodeLabelSelector": {"matchLabels": {"region": "edge"}},
        "enableOutCluster": true, "onNoBackend": "Fallback"});
    local["spec"]["qos"] = json!({"redirectsPerSecond": 100});
    [
        local,
        policy("LocalRedirectPolicy", address.clone(), json!({"endpointSelector": {}, "toPorts": one})),
        policy(
            "BalancingPolicy",
            address,
            json!({"addressEndpoint": {"addresses": ["10.0.0.1"], "toPorts": one}}),
        ),
        policy(
            "BalancingPolicy",
            service,
            json!({"serviceEndpoint": {"endpointSelector": selector, "redirectMode": "hostPort", "toPorts": two}}),
        ),
    ]
}

/// What stands in place of a field. Unknown fields are not among it: an API server drops them, with a warning.
fn wrong() -> Vec<Value> {
    let mut values =
        vec![json!(null), json!(true), json!([]), json!({}), json!(0), json!(-1), json!(1.5), json!(65536)];
    values.push(json!(4_294_967_296_i64));
    values.push(
        json!([{"port": 1, "protocol": "TCP", "name": "a"}, {"port": 1, "protocol": "TCP", "name": "b"}]),
    );
    values.push(json!([{"port": 1, "protocol": "SCTP"}]));
    values.push(json!({"ip": "10.0.0.9", "toPorts": [{"port": 7, "protocol": "TCP"}]}));
    let texts = [
        "",
        "x",
        "X",
        "0",
        "080",
        " 80",
        "65536",
        "80-90",
        "TCP",
        "UDP",
        "sctp",
        "10.0.0.1",
        "fd00::1",
        "127.0.0.1",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "10.0.0.1/32",
        "fe80::1%eth0",
        "010.0.0.1",
        "In",
        "Exists",
        "Refuse",
        "podEndpoint",
        "-a",
        "a_b",
        "a.b",
        "default/web",
        "*",
    ];
    values.extend(texts.map(|t| json!(t)));
    values.push(json!("l".repeat(64)));
    values
}

/// Paths of everything below `spec`, as JSON pointers.
fn paths(at: &str, value: &Value, all: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let path = format!("{at}/{key}");
        paths(&path, child, all);
        all.push(path);
    }
}

/// The object without what is at a path.
fn without(object: &Value, path: &str) -> Value {
    let mut object = object.clone();
    let (parent, key) = path.rsplit_once('/').unwrap_or_default();
    match object.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.remove(key)),
        Some(Value::Array(list)) => drop(key.parse::<usize>().map(|i| list.remove(i))),
        _ => {}
    }
    object
}

/// The object with something else at a path; in a list also beside it.
fn variants(object: &Value, path: &str) -> Vec<Value> {
    let mut all = vec![without(object, path)];
    for value in wrong() {
        let mut changed = object.clone();
        if let Some(place) = changed.pointer_mut(path) {
            *place = value;
        }
        all.push(changed);
    }
    let (parent, _) = path.rsplit_once('/').unwrap_or_default();
    let (item, mut doubled) = (object.pointer(path).cloned(), object.clone());
    if let (Some(Value::Array(list)), Some(item)) = (doubled.pointer_mut(parent), item) {
        list.push(item);
        all.push(doubled);
    }
    all
}

fn verdict(kube: &Kube, policy: &Value) -> Result<Option<String>> {
    let kind = policy["kind"].as_str().unwrap_or_default();
    let path = format!("{}?dryRun=All", objects::collection(kind, "")?);
    let answer = kube.request(&Method::POST, &path, "application/json", Some(policy))?;
    ensure!(answer.is_success() || answer.status == 422 || answer.status == 400, "{answer:?}");
    Ok((!answer.is_success()).then(|| answer.complaint()))
}

fn wrong_policies_are_wrong_to_both(cluster: &Cluster) -> Result<()> {
    let kube = cluster.plane.admin()?;
    let (mut tried, mut refused, mut differences) = (0, 0, Vec::new());
    for base in bases() {
        ensure!(verdict(&kube, &base)?.is_none(), "{base} is refused");
        let mut places = Vec::new();
        paths("/spec", &base["spec"], &mut places);
        for place in places {
            for policy in variants(&base, &place) {
                let complaint = verdict(&kube, &policy)?;
                let checked = rules::check(&policy);
                let blocked: Vec<_> = checked.blocking().map(|f| f.message.clone()).collect();
                tried += 1;
                refused += usize::from(complaint.is_some());
                if complaint.is_some() == blocked.is_empty() {
                    let value = policy.pointer(&place).map_or("left out".to_owned(), Value::to_string);
                    let said = complaint.unwrap_or_else(|| "accepted".to_owned());
                    differences.push(format!(
                        "{} {place} = {value}\n  server: {said}\n  rules:  {blocked:?}",
                        base["kind"]
                    ));
                }
            }
        }
    }
    ensure!(tried > 2000 && refused > 1000, "{tried} tried, {refused} refused");
    ensure!(differences.is_empty(), "{} of {tried} differ:\n{}", differences.len(), differences.join("\n"));
    Ok(())
}

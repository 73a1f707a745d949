//! What the API server says of policies: what it takes, what it refuses and in which words, what `kubectl get` shows.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use balancing_e2e::cluster::objects;
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, condition_of, is_true, kubectl, kubectl_ok},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("definitions_are_accepted_without_a_warning", definitions_are_accepted_without_a_warning),
    ("published_policies_are_accepted_in_every_way", published_policies_are_accepted_in_every_way),
    ("what_is_wrong_is_refused_in_words", what_is_wrong_is_refused_in_words),
    ("specs_are_edited_in_place_by_several_hands", specs_are_edited_in_place_by_several_hands),
    (
        "policies_are_found_by_short_name_category_and_field",
        policies_are_found_by_short_name_category_and_field,
    ),
    ("a_state_holds_256_policies_and_no_more", a_state_holds_256_policies_and_no_more),
];

/// A BalancingPolicy as published.
const BALANCING: &str = include_str!("balancing-podendpoint.yaml");

/// Every published policy: what it is called, and its text.
fn published() -> Result<Vec<(String, String)>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut all = vec![("balancing-podendpoint.yaml".to_owned(), BALANCING.to_owned())];
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".yaml") {
            all.push((name, fs::read_to_string(&path)?));
        }
    }
    ensure!(all.len() >= 6, "the published policies are in {}: {all:?}", folder.display());
    Ok(all)
}

fn definitions_are_accepted_without_a_warning(cluster: &Cluster) -> Result<()> {
    let kube = cluster.plane.admin()?;
    for definition in balancing_api::crd::all() {
        let answer = kube.try_apply(&definition)?;
        ensure!(answer.is_success(), "{}", answer.complaint());
        ensure!(answer.warnings.is_empty(), "{}: {:?}", definition["metadata"]["name"], answer.warnings);
        let path = objects::place(&definition)?.path();
        kube.wait_for(&path, SOON, "an established definition", |d| is_true(d, "Established"))?;
        let made = kube.object(&path)?;
        let loose = condition_of(&made, "NonStructuralSchema");
        ensure!(loose.is_none_or(|c| c["status"] == "False"), "not structural: {loose:?}");
        // Nobody but the operator and the agent of the node writes what happened.
        let version = &made["spec"]["versions"][0];
        ensure!(version["subresources"]["status"].is_object(), "no status of its own: {version}");
    }
    Ok(())
}

/// By `kubectl create`, by `kubectl apply`, by server-side apply; with their annotations and without.
fn published_policies_are_accepted_in_every_way(cluster: &Cluster) -> Result<()> {
    let folder = cluster.plane.folder().join("published");
    fs::create_dir_all(&folder)?;
    let ways: [&[&str]; 4] =
        [&["create"], &["apply"], &["apply", "--server-side"], &["create", "--validate=strict"]];
    for (name, text) in published()? {
        let annotations = ["annotations:", "balancing.elf.io/serviceId:", "balancing.elf.io/suppress:"];
        let plain: Vec<&str> = text
            .lines()
            .filter(|line| !annotations.iter().any(|a| line.trim_start().starts_with(a)))
            .collect();
        for (form, text) in [("as published", text.clone()), ("without annotations", plain.join("\n"))] {
            let file = folder.join(&name);
            fs::write(&file, text)?;
            let file = file.display().to_string();
            for way in ways {
                let arguments = [way, &["-f", &file]].concat();
                let (out, warned) = kubectl_ok(&cluster.plane, "admin", &arguments)?;
                let what = || format!("{name} {form}, kubectl {}", way.join(" "));
                ensure!(warned.is_empty(), "{}: {warned}", what());
                ensure!(out.contains("created") || out.contains("serverside-applied"), "{}: {out}", what());
                // Once more the same way of applying is no change; and it goes again.
                if way[0] == "apply" {
                    let (_, warned) = kubectl_ok(&cluster.plane, "admin", &arguments)?;
                    ensure!(warned.is_empty(), "{} again: {warned}", what());
                }
                kubectl_ok(&cluster.plane, "admin", &["delete", "-f", &file])?;
            }
        }
    }
    Ok(())
}

/// A policy that is right, of which each case spoils one thing.
fn right() -> Value {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1", "kind": "LocalRedirectPolicy", "metadata": {"name": "spoilt"},
        "spec": {
            "frontend": {"addressMatcher": {"ip": "198.51.100.7", "toPorts": [
                {"port": "80", "protocol": "TCP", "name": "a"}, {"port": 53, "protocol": "UDP", "name": "b"},
            ]}},
            "backend": {"endpointSelector": {"matchLabels": {"app": "web"}}, "toPorts": [
                {"port": "8080", "protocol": "TCP", "name": "a"}, {"port": "5353", "protocol": "UDP", "name": "b"},
            ]},
        },
    })
}

/// A BalancingPolicy that is right.
fn right_balancing() -> Value {
    json!({
        "apiVersion": "balancing.elf.io/v1beta1", "kind": "BalancingPolicy", "metadata": {"name": "spoilt"},
        "spec": {
            "frontend": {"addressMatcher": {"ip": "198.51.100.7", "toPorts": [{"port": "80", "protocol": "TCP"}]}},
            "backend": {"addressEndpoint": {"addresses": ["203.0.113.9"], "toPorts": [{"port": "8080", "protocol": "TCP"}]}},
        },
    })
}

fn what_is_wrong_is_refused_in_words(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    for object in [right(), right_balancing()] {
        let made = scene.apply(&object)?;
        ensure!(made["metadata"]["generation"] == 1, "{made}");
        scene.delete(&object)?;
    }
    let (ip, front, back) = (
        "/spec/frontend/addressMatcher/ip",
        "/spec/frontend/addressMatcher/toPorts",
        "/spec/backend/toPorts",
    );
    let service = json!({"serviceName": "web", "namespace": "default"});
    let port = |port: Value| json!([{"port": port, "protocol": "TCP"}]);
    let cases: [(&str, &str, Value, &str); 19] = [
        ("both matchers", "/spec/frontend/serviceMatcher", service, "exactly one of"),
        ("no matcher", "/spec/frontend", json!({}), "exactly one of"),
        ("no address", ip, json!("web.example"), "IPv4 or IPv6"),
        ("a network", ip, json!("198.51.100.0/24"), "IPv4 or IPv6"),
        ("a mapped address", ip, json!("::ffff:198.51.100.7"), "IPv4 or IPv6"),
        ("an address nobody can dial", ip, json!("0.0.0.0"), "IPv4 or IPv6"),
        ("port 0", back, port(json!("0")), "1 to 65535"),
        ("port 65536", back, port(json!(65536)), "1 to 65535"),
        ("a negative port", back, port(json!(-1)), "1 to 65535"),
        ("leading zeros", back, port(json!("0080")), "1 to 65535"),
        ("a port that is a name", back, port(json!("http")), "1 to 65535"),
        ("an unknown protocol", back, json!([{"port": 80, "protocol": "ICMP"}]), "supported values"),
        (
            "two ports of one name",
            front,
            json!([
                {"port": 80, "protocol": "TCP", "name": "a"}, {"port": 81, "protocol": "TCP", "name": "a"},
            ]),
            "same name",
        ),
        (
            "a port twice",
            front,
            json!([
                {"port": 80, "protocol": "TCP", "name": "a"}, {"port": "80", "protocol": "TCP", "name": "c"},
            ]),
            "twice",
        ),
        (
            "names that pair with nothing",
            back,
            json!([
                {"port": 80, "protocol": "TCP", "name": "x"}, {"port": 81, "protocol": "TCP", "name": "y"},
            ]),
            "pair",
        ),
        ("no backend ports", back, json!([]), "at least 1"),
        ("a negative limit", "/spec/qos/redirectsPerSecond", json!(-1), "greater than or equal to 0"),
        ("an unknown answer to no backend", "/spec/config/onNoBackend", json!("Drop"), "supported values"),
        (
            "an operator that needs values",
            "/spec/backend/endpointSelector/matchExpressions",
            json!([{"key": "a", "operator": "In"}]),
            "need values",
        ),
    ];
    for (what, pointer, value, words) in cases {
        refused(&scene, what, &balancing_e2e::manifests::with(right(), pointer, value), words)?;
    }
    let back = "/spec/backend";
    for (what, pointer, value, words) in [
        (
            "both kinds of backend",
            "/spec/backend/serviceEndpoint",
            json!({"endpointSelector": {"matchLabels": {"a": "b"}}, "toPorts": port(json!(80))}),
            "exactly one of",
        ),
        ("no backend", back, json!({}), "exactly one of"),
        (
            "a backend that is no address",
            "/spec/backend/addressEndpoint/addresses",
            json!(["nowhere"]),
            "IPv4 or IPv6",
        ),
        (
            "an unknown mode",
            back,
            json!({"serviceEndpoint": {
                "endpointSelector": {"matchLabels": {"a": "b"}}, "redirectMode": "somehow", "toPorts": port(json!(80)),
            }}),
            "supported values",
        ),
    ] {
        refused(&scene, what, &balancing_e2e::manifests::with(right_balancing(), pointer, value), words)?;
    }
    Ok(())
}

fn refused(scene: &Scene, what: &str, object: &Value, words: &str) -> Result<()> {
    scene.note(objects::place(object)?.path());
    let answer = scene.kube.try_apply(object)?;
    ensure!(answer.status == 422, "{what}: answered {} {}", answer.status, answer.text);
    ensure!(answer.complaint().contains(words), "{what}: {words:?} is not in {}", answer.complaint());
    Ok(())
}

fn specs_are_edited_in_place_by_several_hands(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    scene.apply(&right())?;
    let path = objects::place(&right())?.path();
    // Another hand, with a manager of its own: an annotation, then the backend.
    scene
        .kube
        .patch(&path, &json!({"metadata": {"annotations": {"balancing.elf.io/serviceId": "10091"}}}))?;
    let edited = scene.kube.patch(&path, &json!({"spec": {"backend": {"toPorts": [
        {"port": "8081", "protocol": "TCP", "name": "a"}, {"port": "5353", "protocol": "UDP", "name": "b"},
    ]}}}))?;
    ensure!(edited["metadata"]["generation"] == 2, "an annotation is no new generation, a port is: {edited}");
    let managers = edited["metadata"]["managedFields"].as_array().map(Vec::len);
    ensure!(managers.is_some_and(|m| m >= 2), "{managers:?} managers");
    // The matcher may change its kind too.
    let service =
        json!({"serviceMatcher": {"serviceName": "web", "namespace": "default"}, "addressMatcher": null});
    let edited = scene.kube.patch(&path, &json!({"spec": {"frontend": service}}))?;
    ensure!(edited["metadata"]["generation"] == 3, "{edited}");
    // And the first hand takes all of its fields back.
    let back = scene.apply(&right());
    let words = back.err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(words.contains("exactly one of"), "the other hand's matcher is still there: {words:?}");
    scene.kube.patch(&path, &json!({"spec": {"frontend": {"serviceMatcher": null, "addressMatcher": right()["spec"]["frontend"]["addressMatcher"]}}}))?;
    let back = scene.apply(&right())?;
    ensure!(back["spec"]["backend"]["toPorts"][0]["port"] == "8080", "{back}");
    ensure!(back["metadata"]["annotations"]["balancing.elf.io/serviceId"] == "10091", "{back}");
    Ok(())
}

fn policies_are_found_by_short_name_category_and_field(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    scene.apply(&right())?;
    scene.apply(&right_balancing())?;
    let mut by_service = right();
    by_service["metadata"]["name"] = json!("by-service");
    by_service["spec"]["frontend"] = json!({"serviceMatcher": {"serviceName": "web", "namespace": "shop"}});
    scene.apply(&by_service)?;

    let get = |arguments: &[&str]| Ok::<_, anyhow::Error>(kubectl_ok(&cluster.plane, "admin", arguments)?.0);
    let table = get(&["get", "lr"])?;
    let header: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    for column in ["NAME", "FRONTEND", "BACKEND", "READY", "EFFECTIVE", "NODES", "AGE"] {
        ensure!(header.contains(&column), "{column} is not in {header:?}");
    }
    for (name, shown) in [("spoilt", "198.51.100.7"), ("by-service", "web")] {
        let line = table.lines().find(|l| l.starts_with(name)).with_context(|| table.clone())?;
        ensure!(line.contains(shown), "{shown} is not in {line:?}");
    }
    let table = get(&["get", "bl", "-o", "wide"])?;
    ensure!(table.contains("198.51.100.7") && table.contains("203.0.113.9"), "{table}");
    let both = get(&["get", "elf", "-o", "name"])?;
    for name in ["localredirectpolicy.balancing.elf.io/spoilt", "balancingpolicy.balancing.elf.io/spoilt"] {
        ensure!(both.contains(name), "{name} is not in {both:?}");
    }
    let selected = get(&[
        "get",
        "lr",
        "-o",
        "name",
        "--field-selector",
        "spec.frontend.serviceMatcher.serviceName=web",
    ])?;
    ensure!(selected.trim() == "localredirectpolicy.balancing.elf.io/by-service", "{selected:?}");
    ensure!(get(&["get", "nbs"])?.is_empty(), "no node has written its state");
    let explained = get(&["explain", "lr.spec.qos.redirectsPerSecond"])?;
    ensure!(explained.contains("DESCRIPTION") && !explained.contains("<empty>"), "{explained}");
    ensure!(!kubectl(&cluster.plane, "nobody", &["get", "lr"])?.status.success(), "nobody may read them");
    Ok(())
}

fn a_state_holds_256_policies_and_no_more(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let state = json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": "n9"}});
    scene.create(&state)?;
    let path = objects::place(&state)?.path();
    let policies = |count: usize| {
        let one = |i| {
            json!({
                "kind": "LocalRedirectPolicy", "name": format!("p{i}"), "observedGeneration": 1, "state": "Programmed",
                "reason": "Programmed",
            })
        };
        (0..count).map(one).collect::<Value>()
    };
    let status = |count| json!({"policies": policies(count)});
    let made = scene.kube.set_status(&path, &status(256))?;
    ensure!(made["status"]["policies"].as_array().map(Vec::len) == Some(256), "{made}");
    let more = scene.kube.set_status(&path, &status(257)).err().map(|e| format!("{e:#}")).unwrap_or_default();
    ensure!(more.contains("256"), "257 policies: {more:?}");
    Ok(())
}

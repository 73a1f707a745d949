//! The admission webhook, asked by a real API server: who makes a policy is told at once what its status will say.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{Operator, objects},
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, dns_policy, dns_service, kubectl_ok},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("who_makes_a_policy_is_told_and_it_gets_a_number", who_makes_a_policy_is_told_and_it_gets_a_number),
    ("new_certificates_are_taken_by_everybody", new_certificates_are_taken_by_everybody),
    (
        "without_an_operator_policies_are_made_all_the_same",
        without_an_operator_policies_are_made_all_the_same,
    ),
];

/// The certificates that the API server trusts for the webhook of that kind.
fn trusted(scene: &Scene, kind: &str) -> Result<String> {
    let path = format!("/apis/admissionregistration.k8s.io/v1/{kind}/balancing-operator");
    let text = |c: &Value| c["webhooks"][0]["clientConfig"]["caBundle"].as_str().map(str::to_owned);
    scene.kube.wait_for(&path, SOON, "whom to trust", text)
}

/// Policy `dns` under another name.
pub(crate) fn named(name: &str) -> Value {
    let mut policy = objects::written(dns_policy());
    policy["metadata"]["name"] = json!(name);
    policy
}

/// What kubectl prints and warns of when it creates a policy that is deleted at once.
pub(crate) fn create(cluster: &Cluster, policy: &Value) -> Result<(Value, String)> {
    let file = cluster.plane.folder().join("webhook.json");
    fs::write(&file, policy.to_string())?;
    let file = file.display().to_string();
    let (out, warned) = kubectl_ok(&cluster.plane, "admin", &["create", "-o", "json", "-f", &file])?;
    kubectl_ok(&cluster.plane, "admin", &["delete", "-f", &file])?;
    Ok((serde_json::from_str(&out).context(out)?, warned))
}

/// Waits until policies on the frontend of policy `dns` are warned of, as the API server learns of the webhook.
pub(crate) fn wait_for_warnings(cluster: &Cluster) -> Result<(Value, String)> {
    wait::until(
        SOON,
        || "a warning of the webhook".to_owned(),
        || {
            Ok(Some(create(cluster, &named("second"))?)
                .filter(|(_, warned)| warned.contains("FrontendConflict")))
        },
    )
}

fn who_makes_a_policy_is_told_and_it_gets_a_number(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let _operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    ensure!(
        trusted(&scene, "validatingwebhookconfigurations")?
            == trusted(&scene, "mutatingwebhookconfigurations")?,
        "both trust the same"
    );
    dns_service(cluster, &scene)?;
    scene.apply(&dns_policy())?;
    let (made, warned) = wait_for_warnings(cluster)?;
    ensure!(
        warned.contains("Warning: FrontendConflict: ")
            // Older, or made in the same second and first by name.
            && warned.contains("LocalRedirectPolicy/dns: "),
        "{warned}"
    );
    let number = made["metadata"]["annotations"]["balancing.elf.io/serviceId"].as_str().unwrap_or_default();
    ensure!(number.parse::<u32>().is_ok_and(|n| n > 0), "it has a number from the start: {made}");
    // The same name gets the same number, a number that was written stays.
    let (again, _) = create(cluster, &named("second"))?;
    ensure!(again["metadata"]["annotations"]["balancing.elf.io/serviceId"] == number, "{again}");
    let mut numbered = named("third");
    numbered["metadata"]["annotations"] = json!({"balancing.elf.io/serviceId": "77"});
    let (kept, _) = create(cluster, &numbered)?;
    ensure!(kept["metadata"]["annotations"]["balancing.elf.io/serviceId"] == "77", "{kept}");
    // A reference that leads nowhere.
    let mut lost = named("lost");
    lost["spec"]["frontend"]["serviceMatcher"]["serviceName"] = json!("nowhere");
    let (_, warned) = create(cluster, &lost)?;
    ensure!(warned.contains("ServiceNotFound: Service default/nowhere does not exist"), "{warned}");
    ensure!(!warned.contains("FrontendConflict"), "{warned}");
    // What nothing is wrong with is not warned of.
    let (_, warned) = create(cluster, &elsewhere("fine"))?;
    ensure!(warned.is_empty(), "{warned}");
    // A number that another has is told, and who keeps it.
    let held = scene.kube.object(&objects::place(&dns_policy())?.path())?;
    let held = &held["metadata"]["annotations"]["balancing.elf.io/serviceId"];
    let mut same = elsewhere("same");
    same["metadata"]["annotations"] = json!({"balancing.elf.io/serviceId": held});
    let (_, warned) = create(cluster, &same)?;
    let words =
        format!("serviceId {} is also that of LocalRedirectPolicy/dns", held.as_str().unwrap_or_default());
    ensure!(warned.contains(&words), "{words:?} is not in {warned:?}");
    Ok(())
}

/// A policy of that name that is in nobody's way.
fn elsewhere(name: &str) -> Value {
    let ports = dns_policy()["spec"]["frontend"]["serviceMatcher"]["toPorts"].clone();
    let front = json!({"addressMatcher": {"ip": "198.51.100.77", "toPorts": ports}});
    let mut policy = named(name);
    policy["spec"]["frontend"] = front;
    policy
}

fn new_certificates_are_taken_by_everybody(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    // The second serves the webhook too, by what the first, the leader, has made.
    let _first = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let _second = Operator::start(&cluster.network, &cluster.plane, "op2", &[])?;
    dns_service(cluster, &scene)?;
    scene.apply(&dns_policy())?;
    wait_for_warnings(cluster)?;
    let before = trusted(&scene, "validatingwebhookconfigurations")?;
    let secret = "/api/v1/namespaces/elf/secrets/balancing-operator-tls";
    scene.kube.delete(secret)?;
    // By the leader: the lease of one that was killed before has to end first.
    wait::until(
        3 * SOON,
        || "other certificates".to_owned(),
        || Ok((trusted(&scene, "validatingwebhookconfigurations")? != before).then_some(())),
    )?;
    wait_for_warnings(cluster)?;
    // Both replicas serve them: the API server asks one or the other.
    for _ in 0..20 {
        let (_, warned) = create(cluster, &named("second"))?;
        ensure!(warned.contains("FrontendConflict"), "one replica was not asked: {warned:?}");
    }
    Ok(())
}

fn without_an_operator_policies_are_made_all_the_same(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    dns_service(cluster, &scene)?;
    scene.apply(&dns_policy())?;
    wait_for_warnings(cluster)?;
    operator.stop()?;
    let begun = Instant::now();
    let (made, _) = create(cluster, &named("second"))?;
    ensure!(made["metadata"]["name"] == "second", "{made}");
    // Both webhooks are given the time that the chart says, and no more.
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "accepted after {:.1} s",
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

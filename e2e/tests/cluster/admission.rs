//! The operator's webhook on a real API server: what it tells whoever applies a policy, and what happens without it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{Answer, Operator, objects},
    manifests::with,
    wait,
};
use serde_json::{Value, json};

use crate::{
    Cluster, Test,
    bed::{SOON, Scene, dns_policy, dns_service},
};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("what_is_applied_is_told_its_faults_at_once", what_is_applied_is_told_its_faults_at_once)];

const REGISTRATION: &str = "/apis/admissionregistration.k8s.io/v1";
const SERVICE_ID: &str = "balancing.elf.io/serviceId";

/// Waits until the operator has said who signed its certificate.
fn signed(scene: &Scene, kind: &str, webhook: &str) -> Result<()> {
    let ours = |list: &Value| {
        let mut hooks =
            list["items"].as_array()?.iter().flat_map(|c| c["webhooks"].as_array().into_iter().flatten());
        let hook = hooks.find(|h| h["name"] == webhook)?;
        hook["clientConfig"]["caBundle"].as_str().filter(|b| !b.is_empty()).map(|_| ())
    };
    scene.kube.wait_for(&format!("{REGISTRATION}/{kind}"), SOON, "a caBundle", ours)
}

/// Applies, which must succeed.
fn applied(scene: &Scene, policy: &Value) -> Result<(Answer, Value)> {
    scene.note(objects::place(policy)?.path());
    let answer = scene.kube.try_apply(&objects::written(policy.clone()))?;
    Ok((answer.clone(), answer.object()?))
}

fn what_is_applied_is_told_its_faults_at_once(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    signed(&scene, "validatingwebhookconfigurations", "validate.balancing.elf.io")?;
    signed(&scene, "mutatingwebhookconfigurations", "mutate.balancing.elf.io")?;
    // The API server hears of the certificate and of the operator's address a moment later.
    let missing = wait::until(
        SOON,
        || "a warning of a Service that is not there".to_owned(),
        || {
            let (answer, _) = applied(&scene, &dns_policy())?;
            scene.delete(&dns_policy())?;
            Ok(answer.warnings.into_iter().find(|w| w.contains("default/dns")))
        },
    );
    let missing = missing.with_context(|| operator.log_tail())?;
    ensure!(missing.contains("ServiceNotFound"), "{missing:?}");

    dns_service(cluster, &scene)?;
    // The operator sees the Service a moment later.
    let made = wait::until(
        SOON,
        || "a policy without a warning".to_owned(),
        || {
            let (answer, made) = applied(&scene, &dns_policy())?;
            if answer.warnings.is_empty() {
                return Ok(Some(made));
            }
            scene.delete(&dns_policy())?;
            Ok(None)
        },
    )?;
    let id = made["metadata"]["annotations"][SERVICE_ID].as_str().unwrap_or_default().to_owned();
    ensure!(id.parse::<u32>().is_ok_and(|id| id > 0), "no id is given to {}", made["metadata"]);

    let warned = |policy: &Value, words: &[&str]| {
        wait::until(
            SOON,
            || format!("a warning with {words:?}"),
            || {
                let (answer, _) = applied(&scene, policy)?;
                let fits = |w: &String| words.iter().all(|word| w.contains(word));
                let found = answer.warnings.iter().any(fits);
                scene.delete(policy)?;
                Ok(found.then_some(()))
            },
        )
    };
    let second = with(dns_policy(), "/metadata/name", json!("second"));
    warned(&second, &["FrontendConflict", "LocalRedirectPolicy/dns"])?;
    let elsewhere = with(
        second,
        "/spec/frontend",
        json!({"addressMatcher": {
            "ip": "198.51.100.77", "toPorts": dns_policy()["spec"]["frontend"]["serviceMatcher"]["toPorts"],
        }}),
    );
    warned(
        &with(elsewhere, "/metadata/annotations", json!({SERVICE_ID: id})),
        &[&id, "LocalRedirectPolicy/dns"],
    )?;

    // Without an operator everything is accepted, in no more than the time that the API server gives to it.
    drop(operator);
    let begun = Instant::now();
    applied(&scene, &with(dns_policy(), "/metadata/name", json!("without")))?;
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "accepted after {:.1} s",
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

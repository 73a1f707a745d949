//! The fixture itself: what the control plane does before anything of the product is in it.

use std::time::Duration;

use anyhow::{Result, ensure};
use balancing_e2e::cluster::objects;
use serde_json::{Value, json};

use crate::{Cluster, Test};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("rights_are_checked", rights_are_checked), ("slices_follow_pods", slices_follow_pods)];

const SOON: Duration = Duration::from_secs(20);

fn rights_are_checked(cluster: &Cluster) -> Result<()> {
    let nobody = cluster.plane.client("nobody")?.get("/api/v1/nodes")?;
    ensure!(nobody.status == 403 && nobody.complaint().contains("cannot list resource"), "{nobody:?}");
    ensure!(cluster.plane.admin()?.get("/api/v1/nodes")?.status == 200, "the administrator may");
    Ok(())
}

fn slices_follow_pods(cluster: &Cluster) -> Result<()> {
    let kube = cluster.plane.admin()?;
    let labels = json!({"app": "fixture"});
    let pod = objects::pod(&cluster.network, "fixture", "a1", "n1", labels.clone()).object();
    let service = objects::service("fixture", &[[10, 96, 5, 1].into()], &["p1:80->81/TCP"], labels);
    objects::ensure_node(&kube, &cluster.network, "n1")?;
    kube.create(&service)?;
    kube.create(&pod)?;
    let slices = format!(
        "{}?labelSelector=kubernetes.io/service-name%3Dfixture",
        objects::collection("EndpointSlice", "default")?
    );
    let endpoint = |list: &Value| {
        let slice = list["items"].as_array()?.first()?;
        let endpoint = slice["endpoints"].as_array()?.first()?;
        Some((endpoint.clone(), slice["ports"][0]["port"].clone()))
    };
    let ready = |list: &Value| endpoint(list).filter(|(e, _)| e["conditions"]["ready"] == true);
    let (found, port) = kube.wait_for(&slices, SOON, "a slice with a ready endpoint", ready)?;
    ensure!(found["addresses"] == json!([cluster.network.v4("a1")]) && found["nodeName"] == "n1", "{found}");
    ensure!(port == 81, "the target port, not {port}");
    kube.delete(&objects::path("Pod", "default", "fixture")?)?;
    let gone = |list: &Value| endpoint(list).is_none().then_some(());
    kube.wait_for(&slices, SOON, "a slice without endpoints", gone)?;
    kube.delete(&objects::path("Service", "default", "fixture")?)
}

//! A hundred nodes whose agents only talk: how much is written to the API server, and is the status right at the end?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    cluster::{
        Operator,
        fleet::{Fleet, node_name, policy, policy_name},
        objects,
    },
    wait,
};
use serde_json::Value;

use crate::{
    Cluster, Test,
    bed::{REST, SOON, Scene},
};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("a_rollout_costs_few_writes_and_rest_costs_none", a_rollout_costs_few_writes_and_rest_costs_none)];

const NODES: usize = 100;
const POLICIES_OF_ALL: usize = 50;
/// Nodes that write at the same time.
const WRITERS: usize = 4;
/// What a busy machine needs for so many objects.
const LONG: Duration = Duration::from_secs(120);

fn a_rollout_costs_few_writes_and_rest_costs_none(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let writes = || Ok::<_, anyhow::Error>(operator.metrics()?.sum("balancing_status_writes_total", ""));
    let mut fleet = Fleet::new(&cluster.plane, NODES, WRITERS)?;
    fleet.paths()?.into_iter().for_each(|path| scene.note(path));
    fleet.join()?;
    let all_programmed = fleet.all_programmed();
    for index in 0..POLICIES_OF_ALL {
        scene.apply(&policy(index, 8080))?;
        fleet.read(&policy_name(index))?;
    }
    let begun = Instant::now();
    fleet.say_all()?;
    let said = begun.elapsed();
    wait::until(
        LONG,
        || "every policy is programmed everywhere".to_owned(),
        || Ok(fleet.statuses()?.values().all(|(_, nodes)| *nodes == all_programmed).then_some(())),
    )
    .with_context(|| format!("{:?}", fleet.statuses()))?;
    let settled = begun.elapsed();
    wait::until(SOON, || "every policy has its number".to_owned(), || Ok(fleet.numbered()?.then_some(())))?;
    let (before, counted) = wait::rest(LONG, REST, "the API server", || Ok((fleet.statuses()?, writes()?)))?;

    // One policy is edited, and every node says that it has it.
    let begun = Instant::now();
    scene.apply(&policy(7, 8081))?;
    fleet.read(&policy_name(7))?;
    fleet.say_all()?;
    let path = objects::path("LocalRedirectPolicy", "", &policy_name(7))?;
    let done = |p: &Value| {
        let current = p["status"]["observedGeneration"] == 2 && p["status"]["nodes"] == all_programmed;
        current.then_some(())
    };
    scene.kube.wait_for(&path, LONG, "the edit is programmed everywhere", done)?;
    let cost = writes()? - counted;
    // A status that changes is written once a second at most, however many nodes speak meanwhile.
    let most = begun.elapsed().as_secs_f64() + 3.0;
    ensure!(
        (1.0..=most).contains(&cost),
        "a rollout to {NODES} nodes cost {cost} writes of statuses, and {most:.1} are allowed"
    );
    let after = fleet.statuses()?;
    let touched: Vec<_> =
        before.iter().filter(|(name, was)| after[*name].0 != was.0).map(|(n, _)| n).collect();
    ensure!(touched == [&policy_name(7)], "the rollout of one policy wrote {touched:?}");

    // One node cannot.
    fleet.say(42, Some(&policy_name(7)))?;
    let named = |p: &Value| {
        let problem = &p["status"]["problemNodes"][0];
        (problem["node"] == node_name(42))
            .then(|| (problem["reason"].clone(), p["status"]["programmed"].clone()))
    };
    let (reason, programmed) = scene.kube.wait_for(&path, LONG, "the node is named", named)?;
    ensure!(reason == "MapFull" && programmed == "99/100", "{reason}, {programmed}");
    eprintln!(
        "{NODES} nodes, {POLICIES_OF_ALL} policies: all states said in {:.1} s, all statuses right after {:.1} s; {cost} writes \
         for a rollout, none at rest",
        said.as_secs_f32(),
        settled.as_secs_f32()
    );
    Ok(())
}

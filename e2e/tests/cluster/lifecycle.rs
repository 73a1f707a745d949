//! Releases of the agent follow one another in a cluster, also those with another layout of the maps: clients notice nothing.

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    protocol::{Flow, LoadSpec, Mode},
};
use serde_json::Value;

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, expect, redirecting, tcp, udp},
    nodes::{said_of, state_of},
    outage::{ended_in, steady},
};

pub(crate) const TESTS: &[(&str, Test)] =
    &[("another_map_layout_takes_over_under_open_sockets", another_map_layout_takes_over_under_open_sockets)];

fn another_map_layout_takes_over_under_open_sockets(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let mut node = redirecting(cluster, &scene)?;
    let own = node.api().status()?.datapath.layout_version;

    // New connections, a socket a thread that is never connected and stays open, and sockets that were connected before.
    let loads = [
        ("tcp", steady(tcp(DNS, 53))),
        ("udp", LoadSpec { fresh: false, threads: 4, pace_us: 1_000, ..steady(udp(DNS, 53)) }),
    ];
    for (name, load) in &loads {
        node.client_as("c1", name)?.start_load(load.clone())?;
    }
    let connected = Flow { mode: Mode::ConnectedUdp, ..udp(DNS, 53) };
    let kept = [("connected", connected), ("stream", tcp(DNS, 53))];
    for (name, flow) in kept {
        let outcome = node.client_as("c1", "kept")?.keep(name, flow)?;
        ensure!(cluster.network.label(&outcome) == "a1:5353", "{flow:?}: {outcome:?}");
    }

    let next = Options { binary: Some("balancing-agent-next-layout".to_owned()), ..Options::default() };
    // Upgrade, rollback; ended as a kubelet ends it, and killed.
    for (options, layout, kill) in
        [(&next, own + 1, false), (&Options::default(), own, true), (&next, own + 1, true)]
    {
        if kill {
            node.agent.kill9()?;
        } else {
            let status = node.agent.sigterm()?;
            ensure!(status.success(), "the agent ended with {status}");
        }
        node.start(options)?;
        let is = node.api().status()?.datapath.layout_version;
        ensure!(is == layout, "the layout is {is}, not {layout}");
        for (name, _) in kept {
            let outcome = node.client_as("c1", "kept")?.echo(name)?;
            ensure!(outcome.error.is_none(), "{name} over layout {layout}: {outcome:?}");
            let shown = [outcome.peer, outcome.source].into_iter().flatten();
            let other: Vec<_> = shown.filter(|address| *address != connected.to).collect();
            ensure!(other.is_empty(), "{name} over layout {layout} is answered by {other:?}");
        }
        expect(cluster, &mut node, "c1", udp(DNS, 53), "a1:5353")?;
        let said = |state: &Value| said_of(state, "dns").filter(|(state, _)| state == "Programmed");
        scene.kube.wait_for(&state_of("n1")?, SOON, "the node says so", said)?;
    }
    for (name, load) in loads {
        let records = node.client_as("c1", name)?.finish_load(true)?;
        ended_in(cluster, &records, &["a1:5353"]).with_context(|| name.to_owned())?;
        let renamed = records.iter().filter(|r| !r.true_name).count();
        // Of TCP only `getpeername` asks, and its element may be another socket's meanwhile.
        ensure!(
            load.mode == Mode::Tcp || renamed == 0,
            "{renamed} of {} datagrams were answered by another address than the one asked",
            records.len()
        );
    }
    let left: Vec<_> =
        node.pins().into_iter().filter(|p| p.to_string_lossy().contains(&format!("/v{own}/"))).collect();
    ensure!(left.is_empty(), "still pinned: {left:?}");
    node.healthy()
}

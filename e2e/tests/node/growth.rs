//! The maps grow with the node's need: under load, without a failed connect, a wrong backend or a lost count.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use balancing_api::{agent::Counters, net::Protocol};
use balancing_e2e::{
    agent::Options,
    manifests::service,
    network::{Network, farm},
    node::TestNode,
    protocol::{LoadSpec, Mode, Until},
    wait,
};
use serde_json::Value;

use crate::{
    Test,
    bed::{self, WEB, all_served, at, expect, expect_from_pod, load, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("maps_grow_under_load", maps_grow_under_load),
    ("killed_while_the_maps_grow", killed_while_the_maps_grow),
    ("other_limits_keep_what_a_broken_file_said", other_limits_keep_what_a_broken_file_said),
];

/// What an agent says in its log when its maps have grown.
const GROWN: &str = "the maps have grown";

const PATIENCE: Duration = Duration::from_secs(60);

/// Services in a file, each with one address.
const FILE: u16 = 500;

fn address(service: u16) -> IpAddr {
    [10, 97, (service / 250) as u8, (service % 250) as u8].into()
}

/// A file of Services with these endpoints each.
fn services(endpoints: &[IpAddr], file: u16) -> Vec<Value> {
    let one = |i| service(&format!("g{i}"), &[address(i)], &["80/TCP"], endpoints);
    (file * FILE..(file + 1) * FILE).flat_map(one).collect()
}

fn name(file: u16) -> String {
    format!("50-services-{file:02}.json")
}

fn start_loads(node: &mut TestNode<'_>) -> Result<()> {
    let until = Until::Told(300);
    let tcp = LoadSpec { pace_us: 500, ..load(vec![at(WEB, 8080)], 8, until) };
    node.client_as("c1", "load")?.start_load(tcp)?;
    let kept = LoadSpec { mode: Mode::Udp, fresh: false, pace_us: 1000, ..load(vec![at(WEB, 53)], 4, until) };
    node.client_as("c2", "load")?.start_load(kept)
}

/// Redirects of `default/web`'s two ports, as the counters of backends and frontends tell.
fn redirects(counters: &Counters) -> [u64; 2] {
    [(8080, Protocol::Tcp), (53, Protocol::Udp)].map(|(port, protocol)| {
        let of = |f: &&balancing_api::agent::FrontendCounters| {
            (f.frontend.address, f.frontend.port, f.frontend.protocol) == (WEB, port, protocol)
        };
        counters.frontends.iter().find(of).map_or(0, |f| f.redirects)
    })
}

fn frontends(node: &TestNode<'_>) -> Result<u64> {
    let maps = node.api().status()?.datapath.maps;
    Ok(maps.iter().find(|map| map.name == "frontends").map_or(0, |map| map.entries))
}

/// From room for 1,024 frontends to more than 4,000. Counts what was served and compares it with what was counted: also
/// what programs counted in the smaller maps while those were being replaced.
fn maps_grow_under_load(network: &Network) -> Result<()> {
    const FILES: u16 = 8;
    // Some with many endpoints, so that now this map grows and now that.
    let many: Vec<IpAddr> = (0..20).map(|i| IpAddr::from(farm(i))).collect();
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    let pod = bed::local_pod(network, "l1");
    node.pod_client("l1", &pod)?;
    wait::until(
        PATIENCE,
        || "the exemption of l1".to_owned(),
        || Ok((node.api().policy("lr-web")?.exempt_callers.active == 1).then_some(())),
    )?;
    expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080))).context("before the maps grow")?;
    let since = node.api().counters()?.since;
    start_loads(&mut node)?;
    let mut last = [0; 2];
    for file in 0..FILES {
        let endpoints = if file % 2 == 0 { &[network.v4("r1")][..] } else { &many };
        node.folder.write(&name(file), &services(endpoints, file))?;
        // While larger maps are made, as well as before and after.
        let entries = u64::from((file + 1) * FILE);
        wait::until(
            PATIENCE,
            || format!("{entries} frontends"),
            || {
                let counters = node.api().counters()?;
                let now = redirects(&counters);
                ensure!(counters.since == since, "the counters began anew");
                ensure!(now.iter().zip(last).all(|(now, last)| *now >= last), "{last:?}, then {now:?}");
                last = now;
                Ok((frontends(&node)? > entries).then_some(()))
            },
        )?;
    }
    node.settle()?;
    for probe in [0, 6 * FILE, 6 * FILE + FILE - 1] {
        expect(&mut node, "r1:80", tcp(at(address(probe), 80)))?;
    }
    let (sent_tcp, sent_udp) =
        (node.client_as("c1", "load")?.finish_load(true)?, node.client_as("c2", "load")?.finish_load(true)?);
    all_served(network, &sent_tcp, &["l1:81"])?;
    bed::all_named(&sent_udp)?;
    all_served(network, &sent_udp, &["l1:5353"])?;
    let grown = node.agent.log().matches(GROWN).count();
    ensure!(grown >= 3, "the maps have grown only {grown} times:\n{}", node.agent.log_tail());
    let sent = [sent_tcp.len() as u64, sent_udp.len() as u64];
    let mut counted = [0; 2];
    // After the grace period that follows the last change of maps.
    wait::until(
        PATIENCE,
        || format!("as many redirects counted as made, {sent:?}"),
        || {
            counted = redirects(&node.api().counters()?);
            ensure!(
                counted.iter().zip(sent).all(|(counted, sent)| *counted <= sent),
                "{counted:?} of {sent:?}"
            );
            Ok((counted == sent).then_some(()))
        },
    )?;
    expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080)))
        .context("after the maps have grown")?;
    node.healthy()
}

/// At ever later moments; whatever maps the next agent finds, it goes on from there.
fn killed_while_the_maps_grow(network: &Network) -> Result<()> {
    const FILES: u16 = 14;
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    start_loads(&mut node)?;
    let mut grown = 0;
    for file in 0..FILES {
        node.folder.write(&name(file), &services(&[network.v4("r1")], file))?;
        thread::sleep(Duration::from_millis(60 * u64::from(file)));
        grown += node.agent.log().matches(GROWN).count();
        node.agent.kill9()?;
        node.agent.start(&Options::default())?;
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        expect(&mut node, "r1:80", tcp(at(address(file * FILE), 80)))?;
        expect(&mut node, "r1:80", tcp(at(address(file * FILE + FILE - 1), 80)))?;
    }
    node.settle()?;
    node.healthy()?;
    grown += node.agent.log().matches(GROWN).count();
    ensure!(grown > 0, "the maps have not grown");
    let entries = frontends(&node)?;
    ensure!(entries > u64::from(FILES * FILE), "only {entries} frontends");
    let left: Vec<_> =
        node.pins().into_iter().filter(|pin| pin.to_string_lossy().contains("grown")).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    let (sent_tcp, sent_udp) =
        (node.client_as("c1", "load")?.finish_load(true)?, node.client_as("c2", "load")?.finish_load(true)?);
    all_served(network, &sent_tcp, &["l1:81"])?;
    bed::all_named(&sent_udp)?;
    all_served(network, &sent_udp, &["l1:5353"])
}

/// Maps do not lose what only a file says that cannot be read at the moment, because the agent's limits are others.
fn other_limits_keep_what_a_broken_file_said(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    let only = at([10, 98, 0, 1].into(), 80);
    let mut only_there = service("only", &[only.ip()], &["80/TCP"], &[network.v4("r2")]);
    only_there.push(bed::vip_policy("vip", bed::VIP));
    node.apply("30-only.json", &only_there)?;
    node.agent.kill9()?;
    node.folder.write_text("30-only.json", "{ not yaml")?;
    for limits in [["--max-frontends", "4096"], ["--max-backends", "9999"], ["--max-frontends", "300"]] {
        let flags = limits.map(str::to_owned).to_vec();
        node.agent.start(&Options { flags, ..Options::default() })?;
        for (front, place) in [(at(bed::VIP, 8080), "l1:81"), (only, "r2:80")] {
            expect(&mut node, place, tcp(front)).with_context(|| format!("{limits:?}"))?;
        }
        expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
        node.agent.kill9()?;
    }
    // A larger need than the limit before: it grows from what is there.
    node.agent.start(&Options::default())?;
    for file in 0..3 {
        node.folder.write(&name(file), &services(&[network.v4("r1")], file))?;
    }
    node.settle()?;
    ensure!(node.agent.log().contains(GROWN), "the maps have not grown:\n{}", node.agent.log_tail());
    expect(&mut node, "l1:81", tcp(at(bed::VIP, 8080)))?;
    expect(&mut node, "r2:80", tcp(only))?;
    expect(&mut node, "r1:80", tcp(at(address(2 * FILE), 80)))
}

//! QoS: exactly the limit in every second of the kernel's clock, the rest on the next rung, nothing fails.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    judge::{Window, tally, windows},
    manifests::with,
    network::Network,
    node::TestNode,
    protocol::{LoadSpec, Mode, Record, Until},
};
use serde_json::{Value, json};

use crate::{
    Test,
    bed::{self, RAW_VIP, WEB, WEB6, all_served, at, end, load},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("tcp_1_thread", |n| exact_and_counted(n, Mode::Tcp, 1)),
    ("tcp_4_threads", |n| exact_and_counted(n, Mode::Tcp, 4)),
    ("tcp_16_threads", |n| exact_and_counted(n, Mode::Tcp, 16)),
    ("udp_1_thread", |n| exact_and_counted(n, Mode::Udp, 1)),
    ("udp_16_threads", |n| exact_and_counted(n, Mode::Udp, 16)),
    ("connected_udp_16_threads", |n| exact_and_counted(n, Mode::ConnectedUdp, 16)),
    ("all_ports_and_families_share_one_budget", all_ports_and_families_share_one_budget),
    ("a_change_of_the_limit_applies_at_once", a_change_of_the_limit_applies_at_once),
    ("the_agents_default_holds_where_a_policy_has_none", the_agents_default_holds_where_a_policy_has_none),
    ("over_the_limit_a_vip_is_left_alone_and_refuse_does_not_refuse", over_the_limit_a_vip_is_left_alone),
];

/// Redirects a second in most tests here.
const LIMIT: usize = 100;

fn limited(policy: Value, limit: usize) -> Value {
    with(policy, "/spec/qos/redirectsPerSecond", json!(limit))
}

/// Service, local pod and a policy with a limit.
fn scenario(network: &Network, limit: usize) -> Vec<Value> {
    let mut objects = bed::web_service(network);
    objects.extend([bed::local_pod(network, "l1").object(), limited(bed::web_policy(), limit)]);
    objects
}

/// Was the connection redirected to the local pod?
fn redirected(network: &Network) -> impl Fn(&Record) -> bool {
    let pod: [IpAddr; 2] = [network.v4("l1"), network.v6("l1")];
    move |r| pod.contains(&r.at.ip())
}

/// Every full second with more load than `limit` holds exactly that many redirects, and there are so many such seconds; none
/// holds more.
fn exact(network: &Network, records: &[Record], limit: usize, seconds: usize) -> Result<()> {
    let windows = windows(records, redirected(network));
    let told = || windows.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let enough = |w: &&Window| w.demand > limit;
    let judged = windows.iter().filter(enough).count();
    ensure!(
        judged >= seconds,
        "{judged} full seconds with enough load for a limit of {limit}, wanted {seconds}: {}",
        told()
    );
    ensure!(
        windows.iter().filter(enough).all(|w| w.can_be(limit)),
        "not exactly {limit} a second: {}",
        told()
    );
    ensure!(windows.iter().all(|w| w.sure <= limit), "more than {limit} a second: {}", told());
    Ok(())
}

fn exact_and_counted(network: &Network, mode: Mode, threads: u16) -> Result<()> {
    let (port, local_port, remote_port) = if mode == Mode::Tcp { (8080, 81, 80) } else { (53, 5353, 53) };
    let mut node = TestNode::started(network, &scenario(network, LIMIT))?;
    node.settle()?;
    let udp = mode != Mode::Tcp;
    let counts = |node: &TestNode<'_>| -> Result<[u64; 4]> {
        let agent = node.api().policy_counters("lr-web")?;
        let servers = [network.served("l1", local_port, udp)?, network.served("r1", remote_port, udp)?];
        Ok([agent.redirects, servers[0], agent.qos_drops, servers[1]])
    };
    let before = counts(&node)?;
    let client = node.client("c1")?;
    client.start_load(LoadSpec { mode, ..load(vec![at(WEB, port)], threads, Until::FullSeconds(3)) })?;
    let records = client.finish_load(false)?;
    let after = counts(&node)?;

    all_served(network, &records, &[&format!("l1:{local_port}"), &format!("r1:{remote_port}")])?;
    if udp {
        bed::all_named(&records)?;
    }
    exact(network, &records, LIMIT, 3)?;
    let [redirects, local, drops, remote] = std::array::from_fn(|i| after[i] - before[i]);
    let seen = records.iter().filter(|r| redirected(network)(r)).count() as u64;
    ensure!(
        redirects == local && local == seen,
        "{redirects} redirects counted, {local} served, {seen} seen"
    );
    let rest = records.len() as u64 - seen;
    ensure!(drops == remote && remote == rest, "{drops} QoS drops counted, {remote} served, {rest} seen");
    node.healthy()
}

fn all_ports_and_families_share_one_budget(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &scenario(network, LIMIT))?;
    node.settle()?;
    // Two processes, TCP and UDP, each with both families.
    let (both, until) = (|port| vec![at(WEB, port), at(WEB6, port)], Until::Told(8));
    node.client("c1")?.start_load(load(both(8080), 4, until))?;
    let udp = LoadSpec { mode: Mode::Udp, ..load(both(53), 4, Until::FullSeconds(3)) };
    let udp_client = node.client("c2")?;
    udp_client.start_load(udp)?;
    let udp = udp_client.finish_load(false)?;
    let tcp = node.client("c1")?.finish_load(true)?;
    all_served(network, &tcp, &["l1:81", "r1:80"])?;
    bed::all_named(&udp)?;
    all_served(network, &udp, &["l1:5353", "r1:53"])?;
    for (records, ip) in [(&tcp, network.v6("l1")), (&udp, network.v6("l1")), (&tcp, network.v4("l1"))] {
        ensure!(
            records.iter().any(|r| r.at.ip() == ip),
            "none was redirected to {ip}: the test shows nothing"
        );
    }
    let mut all = [tcp, udp].concat();
    all.sort_by_key(|r| r.span.0);
    exact(network, &all, LIMIT, 3)
}

fn a_change_of_the_limit_applies_at_once(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &scenario(network, 10))?;
    for limit in [10, 40, 0, 10] {
        node.apply("10-objects.json", &scenario(network, limit))?;
        let told = node.api().policy("lr-web")?.redirects_per_second;
        ensure!(told as usize == limit, "the status says {told} instead of {limit}");
        // No second that began under the old limit is judged: the load begins after the change.
        let client = node.client("c1")?;
        client.start_load(load(
            vec![at(WEB, 8080)],
            4,
            Until::FullSeconds(if limit == 0 { 1 } else { 2 }),
        ))?;
        let records = client.finish_load(false)?;
        if limit == 0 {
            all_served(network, &records, &["l1:81"]).context("no limit")?;
        } else {
            all_served(network, &records, &["l1:81", "r1:80"])?;
            exact(network, &records, limit, 2)?;
        }
    }
    node.healthy()
}

fn the_agents_default_holds_where_a_policy_has_none(network: &Network) -> Result<()> {
    let options = balancing_e2e::agent::Options {
        env: vec![("REDIRECT_QOS_LIMIT".to_owned(), "30".to_owned())],
        ..Default::default()
    };
    let mut objects = bed::scenario(network);
    objects.push(limited(bed::vip_policy("unlimited", RAW_VIP), 0));
    let mut node = TestNode::started_with(network, &objects, &options)?;
    node.settle()?;
    let client = node.client("c1")?;
    client.start_load(load(vec![at(WEB, 8080)], 4, Until::FullSeconds(2)))?;
    let records = client.finish_load(false)?;
    all_served(network, &records, &["l1:81", "r1:80"])?;
    exact(network, &records, 30, 2)?;
    client.start_load(load(vec![at(RAW_VIP, 8080)], 4, Until::Count(2000)))?;
    let records = client.finish_load(false)?;
    all_served(network, &records, &["l1:81"]).context("a limit of 0 overrides the default")
}

fn over_the_limit_a_vip_is_left_alone(network: &Network) -> Result<()> {
    let policy = with(bed::vip_policy("raw", RAW_VIP), "/spec/config/onNoBackend", json!("Refuse"));
    let objects = [bed::local_pod(network, "l1").object(), limited(policy, 20)];
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    let client = node.client("c1")?;
    client.start_load(load(vec![at(RAW_VIP, 8080)], 4, Until::FullSeconds(2)))?;
    let records = client.finish_load(false)?;
    all_served(network, &records, &["l1:81", "raw:8080"])?;
    exact(network, &records, 20, 2)?;
    let ends = tally(records.iter().map(|r| end(network, r)));
    let counters = node.api().policy_counters("raw")?;
    let (local, raw) = (ends["l1:81"] as u64, ends["raw:8080"] as u64);
    ensure!(
        (counters.redirects, counters.qos_drops, counters.refusals) == (local, raw, 0),
        "{counters:?}, clients saw {ends:?}"
    );
    Ok(())
}

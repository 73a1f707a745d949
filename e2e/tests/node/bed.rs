//! The vocabulary of the tests: the scenario most start from, and what they expect.
//!
//! Service `default/web` leads to port 80 (53/UDP) of r1, the policy to port 81 (5353/UDP) of local pods labelled
//! `app: web`: the port in an outcome shows who decided.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    judge::tally,
    manifests::{Front, Pod, redirect, service},
    network::Network,
    node::TestNode,
    protocol::{Flow, LoadSpec, Mode, Outcome, Record, Until},
};
use rustix::io::Errno;
use serde_json::Value;

/// ClusterIPs of `default/web`.
pub(crate) const WEB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
pub(crate) const WEB6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0x10));
/// A VIP that exists nowhere.
pub(crate) const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10));
/// A VIP that exists on the network: `raw` has it.
pub(crate) const RAW_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 90));

/// Left untouched, and nobody is there.
pub(crate) const DEAD: &str = "EHOSTUNREACH";

/// Ports of `default/web`, and of the policy's two sides.
const SERVICE_PORTS: [&str; 2] = ["p1:8080->80/TCP", "dns:53/UDP"];
const FRONT_PORTS: [&str; 2] = ["p1:8080/TCP", "dns:53/UDP"];
const BACK_PORTS: [&str; 2] = ["p1:81/TCP", "dns:5353/UDP"];

pub(crate) fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

pub(crate) fn tcp(to: SocketAddr) -> Flow {
    Flow { mode: Mode::Tcp, to, mapped: false }
}

/// An unconnected UDP socket.
pub(crate) fn udp(to: SocketAddr) -> Flow {
    Flow { mode: Mode::Udp, to, mapped: false }
}

pub(crate) fn udp_connected(to: SocketAddr) -> Flow {
    Flow { mode: Mode::ConnectedUdp, to, mapped: false }
}

/// From an IPv6 socket to `::ffff:a.b.c.d`.
pub(crate) fn mapped(flow: Flow) -> Flow {
    Flow { mapped: true, ..flow }
}

/// The address as the client spells it.
pub(crate) fn dialled(flow: Flow) -> SocketAddr {
    match flow.to.ip() {
        IpAddr::V4(v4) if flow.mapped => at(v4.to_ipv6_mapped().into(), flow.to.port()),
        _ => flow.to,
    }
}

/// Service `default/web`, dual-stack, with r1 as endpoint.
pub(crate) fn web_service(network: &Network) -> Vec<Value> {
    service("web", &[WEB, WEB6], &SERVICE_PORTS, &[network.v4("r1"), network.v6("r1")])
}

/// The pod in the namespace of that name, dual-stack.
pub(crate) fn local_pod(network: &Network, name: &str) -> Pod {
    Pod::new(name, &[network.v4(name), network.v6(name)])
}

/// The policy on both ports of `default/web`.
pub(crate) fn web_policy() -> Value {
    redirect("lr-web", Front::Service("default/web"), Some(&FRONT_PORTS), &BACK_PORTS)
}

/// A policy on both kinds of port of an address.
pub(crate) fn vip_policy(name: &str, vip: IpAddr) -> Value {
    redirect(name, Front::Address(vip), Some(&FRONT_PORTS), &BACK_PORTS)
}

/// Service, one local pod, policy.
pub(crate) fn scenario(network: &Network) -> Vec<Value> {
    let mut objects = web_service(network);
    objects.extend([local_pod(network, "l1").object(), web_policy()]);
    objects
}

/// A TCP load as fast as it goes.
pub(crate) fn load(to: Vec<SocketAddr>, threads: u16, until: Until) -> LoadSpec {
    LoadSpec { mode: Mode::Tcp, to, mapped: false, threads, until, pace_us: 0, fresh: false }
}

/// Where an operation of a load ended: `l1:81`, or the errno's name.
pub(crate) fn end(network: &Network, record: &Record) -> String {
    if record.errno == 0 {
        network.name(record.at)
    } else {
        balancing_e2e::client::errno_name(Errno::from_raw_os_error(record.errno.into()))
    }
}

/// One TCP socket in so many may show its backend to `getpeername`: another socket, whose cookie has the same low bits, took
/// its element of `tcp_slots` in between.
const LOSSY: usize = 10_000;

/// Every operation ended in one of these places, and the kernel showed the client the address it asked for.
pub(crate) fn all_served(network: &Network, records: &[Record], places: &[&str]) -> Result<()> {
    ensure!(!records.is_empty(), "the load did nothing");
    let astray = |r: &&Record| !places.contains(&end(network, r).as_str());
    let bad = records.iter().filter(astray).collect::<Vec<_>>();
    let names = || tally(bad.iter().map(|r| end(network, r)));
    ensure!(
        bad.is_empty(),
        "{} of {} operations did not end in {places:?}: {:?}",
        bad.len(),
        records.len(),
        names()
    );
    renamed_at_most(records, records.len() / LOSSY)
}

/// Every client was shown the address it asked for: true of all but TCP.
pub(crate) fn all_named(records: &[Record]) -> Result<()> {
    renamed_at_most(records, 0)
}

fn renamed_at_most(records: &[Record], most: usize) -> Result<()> {
    let renamed = records.iter().filter(|r| !r.true_name).count();
    ensure!(
        renamed <= most,
        "{renamed} of {} clients saw another address than they had asked for",
        records.len()
    );
    Ok(())
}

/// Eight new connections in a row from a client of namespace c1 end in `want`.
pub(crate) fn expect(node: &mut TestNode<'_>, want: &str, flow: Flow) -> Result<()> {
    expect_from(node, "c1", want, flow)
}

/// Eight new connections in a row from an ordinary client in a namespace end in `want`.
pub(crate) fn expect_from(node: &mut TestNode<'_>, from: &str, want: &str, flow: Flow) -> Result<()> {
    let outcomes = node.client(from)?.dial_all(vec![flow], 8)?;
    let judged = judge(node.network(), &outcomes, &[want], flow, from);
    if judged.is_err() {
        // Late or never: that tells two kinds of defect apart.
        let (late, network) = (Instant::now(), node.network());
        while late.elapsed() < Duration::from_secs(2) {
            if network.label(&node.client(from)?.dial(flow)?) == want {
                return judged.with_context(|| format!("it did so {} ms later", late.elapsed().as_millis()));
            }
        }
        return judged.context("it never did so");
    }
    judged
}

/// Eight new connections in a row from a process of a pod end in `want`.
pub(crate) fn expect_from_pod(
    node: &mut TestNode<'_>,
    netns: &str,
    pod: &Pod,
    want: &str,
    flow: Flow,
) -> Result<()> {
    let outcomes = node.pod_client(netns, pod)?.dial_all(vec![flow], 8)?;
    judge(node.network(), &outcomes, &[want], flow, &format!("pod {}", pod.name))
}

/// Sixty new connections end in every one of these places and in no other.
pub(crate) fn expect_spread(node: &mut TestNode<'_>, want: &[&str], flow: Flow) -> Result<()> {
    let outcomes = node.client("c1")?.dial_all(vec![flow], 60)?;
    judge(node.network(), &outcomes, want, flow, "c1")?;
    let seen: BTreeSet<_> = outcomes.iter().map(|o| node.network().label(o)).collect();
    ensure!(seen.len() == want.len(), "{flow:?} used only {seen:?} of {want:?}");
    Ok(())
}

/// Every outcome is one of these, and shows the address that was asked.
pub(crate) fn judge(
    network: &Network,
    outcomes: &[Outcome],
    want: &[&str],
    flow: Flow,
    who: &str,
) -> Result<()> {
    let seen = tally(outcomes.iter().map(|o| network.label(o)));
    ensure!(
        seen.keys().all(|s| want.contains(&s.as_str())),
        "{who}: {flow:?} went to {seen:?}, expected {want:?}"
    );
    for outcome in outcomes.iter().filter(|o| o.error.is_none()) {
        let shown: Vec<_> = [outcome.peer, outcome.source].into_iter().flatten().collect();
        let asked = dialled(flow);
        ensure!(
            !shown.is_empty() && shown.iter().all(|s| *s == asked),
            "{who}: {asked} is shown as {shown:?}"
        );
    }
    Ok(())
}

/// What a refused client gets: `EPERM` where the kernel has no `bpf_set_retval` in these hooks.
pub(crate) fn refused(node: &TestNode<'_>) -> Result<&'static str> {
    let features = node.api().status()?.kernel.features;
    Ok(if features.set_retval { "ECONNREFUSED" } else { "EPERM" })
}

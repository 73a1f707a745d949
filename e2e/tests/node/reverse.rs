//! A client sees the address it asked for, in `recvfrom` and `getpeername`, whatever else the machine does.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use balancing_e2e::{
    client::Client,
    manifests::{Front, redirect, service, with},
    network::{Network, farm},
    node::TestNode,
    protocol::Many,
};
use rustix::process::{Resource, getrlimit};
use serde_json::json;

use crate::{
    Test,
    bed::{self, WEB, WEB6, at, mapped, tcp, udp, udp_connected},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("kept_sockets_show_what_was_asked_again_and_again", kept_sockets_show_what_was_asked_again_and_again),
    ("two_vips_on_one_unconnected_socket", two_vips_on_one_unconnected_socket),
    ("an_unconnected_socket_keeps_its_backend", an_unconnected_socket_keeps_its_backend),
    ("direct_traffic_is_not_renamed", direct_traffic_is_not_renamed),
    ("a_connection_and_datagrams_of_one_socket", a_connection_and_datagrams_of_one_socket),
    ("a_hundred_thousand_udp_sockets_lose_no_record", a_hundred_thousand_udp_sockets_lose_no_record),
];

fn kept_sockets_show_what_was_asked_again_and_again(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    for flow in [
        tcp(at(WEB, 8080)),
        tcp(at(WEB6, 8080)),
        mapped(tcp(at(WEB, 8080))),
        udp_connected(at(WEB, 53)),
        udp_connected(at(WEB6, 53)),
        mapped(udp_connected(at(WEB, 53))),
    ] {
        let asked = bed::dialled(flow);
        let client = node.client("c1")?;
        let first = client.keep("s", flow)?;
        ensure!(first.peer == Some(asked), "{flow:?}: {first:?}");
        for _ in 0..20 {
            let again = client.echo("s")?;
            ensure!(again.error.is_none() && again.peer == Some(asked), "{flow:?}: {again:?}");
            ensure!(again.source.is_none_or(|s| s == asked), "{flow:?}: {again:?}");
        }
    }
    Ok(())
}

/// Two VIPs of two policies that lead to different ports of one pod, and a Service's rung beside them.
fn two_vips_on_one_unconnected_socket(network: &Network) -> Result<()> {
    let other: IpAddr = [10, 96, 0, 11].into();
    let other6: IpAddr = "fd00:96::11".parse()?;
    let mut objects = bed::scenario(network);
    objects.extend(service(
        "other",
        &[other, other6],
        &["dns:53/UDP"],
        &[network.v4("r2"), network.v6("r2")],
    ));
    let vip: IpAddr = [198, 51, 100, 20].into();
    objects.push(redirect("vip", Front::Address(vip), Some(&["53/UDP"]), &["5353/UDP"]));
    objects.push(bed::local_pod(network, "l2").labels(json!({"app": "second"})).object());
    let policy = objects.iter().position(|o| o["metadata"]["name"] == "vip").unwrap_or_default();
    objects[policy] =
        with(objects[policy].clone(), "/spec/backend/endpointSelector/matchLabels", json!({"app": "second"}));
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    for (v6, asked) in [
        (false, vec![(at(WEB, 53), "l1:5353"), (at(other, 53), "r2:53"), (at(vip, 53), "l2:5353")]),
        (true, vec![(at(WEB6, 53), "l1:5353"), (at(other6, 53), "r2:53")]),
        (
            true,
            vec![
                (at(mapped_ip(WEB), 53), "l1:5353"),
                (at(mapped_ip(vip), 53), "l2:5353"),
                (at(WEB6, 53), "l1:5353"),
            ],
        ),
    ] {
        let client = node.client("c1")?;
        client.open_udp("s", v6)?;
        for _ in 0..30 {
            let targets: Vec<SocketAddr> = asked.iter().map(|a| a.0).collect();
            let answers = client.send_to_all("s", targets)?;
            let seen: BTreeSet<_> = answers.iter().map(|o| (o.source, network.label(o))).collect();
            let want: BTreeSet<_> = asked.iter().map(|(a, w)| (Some(*a), (*w).to_owned())).collect();
            ensure!(seen == want, "answers came from {seen:?}, expected {want:?}");
        }
    }
    Ok(())
}

fn mapped_ip(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}

fn an_unconnected_socket_keeps_its_backend(network: &Network) -> Result<()> {
    let mut objects = bed::scenario(network);
    objects.extend(["l2", "l3"].map(|name| bed::local_pod(network, name).object()));
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    let mut used = BTreeSet::new();
    for n in 0..12 {
        let (client, name) = (node.client("c1")?, format!("s{n}"));
        client.open_udp(&name, false)?;
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(network.label(&client.send_to(&name, at(WEB, 53))?));
        }
        ensure!(seen.len() == 1, "socket {n} was spread over {seen:?}");
        used.extend(seen);
    }
    ensure!(used.len() > 1, "twelve sockets all chose {used:?}");
    // Its backend goes: it gets another one, and still sees the address it asked for.
    let gone = used.first().cloned().unwrap_or_default();
    let pods =
        ["l1", "l2", "l3"].map(|name| bed::local_pod(network, name).ready(!gone.starts_with(name)).object());
    objects.retain(|o| o["kind"] != "Pod");
    objects.extend(pods);
    node.apply("10-objects.json", &objects)?;
    for n in 0..12 {
        let outcome = node.client("c1")?.send_to(&format!("s{n}"), at(WEB, 53))?;
        let label = network.label(&outcome);
        ensure!(label != gone && label.ends_with(":5353"), "socket {n} went to {label}, {gone} is gone");
        ensure!(outcome.source == Some(at(WEB, 53)), "{outcome:?}");
    }
    Ok(())
}

/// Who talks to a backend by its own address sees that address, also on a socket that used the VIP before.
fn direct_traffic_is_not_renamed(network: &Network) -> Result<()> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    let direct = at(network.v4("l1"), 5353);
    bed::expect(&mut node, "l1:5353", udp(direct))?;
    bed::expect(&mut node, "l1:5353", udp_connected(direct))?;
    bed::expect(&mut node, "l1:81", tcp(at(network.v4("l1"), 81)))?;
    // A different backend directly: the socket holds a record of the VIP, but not of this backend.
    let other = at(network.v4("l2"), 5353);
    let client = node.client("c1")?;
    client.open_udp("s", false)?;
    for (to, want) in [(at(WEB, 53), "l1:5353"), (other, "l2:5353"), (at(WEB, 53), "l1:5353")] {
        let outcome = client.send_to("s", to)?;
        ensure!(network.label(&outcome) == want && outcome.source == Some(to), "{to}: {outcome:?}");
    }
    Ok(())
}

/// What a socket was connected to, and where else it sends datagrams, do not answer for one another.
fn a_connection_and_datagrams_of_one_socket(network: &Network) -> Result<()> {
    let mut objects = bed::scenario(network);
    // Two VIPs, one backend.
    objects.push(bed::vip_policy("vip", bed::VIP));
    let mut node = TestNode::started(network, &objects)?;
    node.settle()?;
    let (web, vip, direct) = (at(WEB, 53), at(bed::VIP, 53), at(network.v4("l1"), 5353));
    let client = node.client("c1")?;
    client.keep("s", udp_connected(web))?;
    let elsewhere = client.send_to("s", vip)?;
    ensure!(elsewhere.source == Some(vip), "a datagram to another VIP: {elsewhere:?}");
    let connected = client.echo("s")?;
    ensure!(connected.peer == Some(web), "the connection's peer: {connected:?}");

    client.keep("t", udp_connected(web))?;
    client.disconnect("t")?;
    for to in [direct, vip, direct, web] {
        let outcome = client.send_to("t", to)?;
        ensure!(
            outcome.source == Some(to) && network.label(&outcome) == "l1:5353",
            "connected no more, a datagram to {to}: {outcome:?}"
        );
    }
    Ok(())
}

fn a_hundred_thousand_udp_sockets_lose_no_record(network: &Network) -> Result<()> {
    const SOCKETS: u32 = 100_000;
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    // As many processes as their limit of open files asks for.
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let each = u32::try_from(limit.saturating_sub(100)).unwrap_or(u32::MAX).clamp(500, SOCKETS);
    let from: Vec<IpAddr> = (0..8).map(|i| farm(i).into()).collect();
    let cgroup = node.host_cgroup()?;
    let mut processes = Vec::new();
    let mut seen = Many::default();
    let mut left = SOCKETS;
    while left > 0 {
        let mut client = Client::start(&network.netns("farm"), Some(&cgroup))?;
        seen.sent += client.many_send(at(WEB, 53), left.min(each), from.clone())?.sent;
        processes.push(client);
        left -= left.min(each);
    }
    ensure!(seen.sent == SOCKETS, "only {} of {SOCKETS} sockets could send", seen.sent);
    for client in &mut processes {
        let part = client.many_receive()?;
        (seen.right, seen.wrong, seen.lost) =
            (seen.right + part.right, seen.wrong + part.wrong, seen.lost + part.lost);
    }
    ensure!(seen.wrong == 0, "{} of {SOCKETS} answers show another address than was asked", seen.wrong);
    // A datagram may be dropped on a virtual link; a lost record would show as a wrong address.
    ensure!(seen.right >= SOCKETS / 100 * 99, "only {} of {SOCKETS} sockets got an answer", seen.right);
    Ok(())
}

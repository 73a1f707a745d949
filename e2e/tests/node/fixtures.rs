//! The fixtures themselves: what the tests' network does where no agent is.

use anyhow::{Result, ensure};
use balancing_e2e::{
    client::Client,
    network::Network,
    protocol::{Flow, LoadSpec, Mode, Until},
};

use crate::{
    Test,
    bed::{self, DEAD, at, mapped, tcp, udp, udp_connected},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("servers_tell_where_they_were_reached", servers_tell_where_they_were_reached),
    ("what_nobody_serves_fails_at_once", what_nobody_serves_fails_at_once),
    ("a_load_notes_every_operation", a_load_notes_every_operation),
];

fn servers_tell_where_they_were_reached(network: &Network) -> Result<()> {
    let mut client = Client::start(&network.netns("c1"), None)?;
    let (v4, v6) = (at(network.v4("l1"), 81), at(network.v6("r2"), 53));
    for (flow, want) in [
        (tcp(v4), "l1:81"),
        (udp(v4), "l1:81"),
        (udp_connected(v4), "l1:81"),
        (mapped(tcp(v4)), "l1:81"),
        (mapped(udp(v4)), "l1:81"),
        (tcp(v6), "r2:53"),
        (udp(v6), "r2:53"),
        (tcp(at(bed::RAW_VIP, 80)), "raw:80"),
        (udp(at(bed::RAW_VIP, 53)), "raw:53"),
    ] {
        let outcome = client.dial(flow)?;
        ensure!(network.label(&outcome) == want, "{flow:?}: {outcome:?}, expected {want}");
        let shown = [outcome.peer, outcome.source].into_iter().flatten().collect::<Vec<_>>();
        ensure!(
            !shown.is_empty() && shown.iter().all(|a| *a == bed::dialled(flow)),
            "{flow:?} is shown as {shown:?}"
        );
    }
    Ok(())
}

fn what_nobody_serves_fails_at_once(network: &Network) -> Result<()> {
    let mut client = Client::start(&network.netns("c1"), None)?;
    for to in [at(bed::WEB, 80), at(bed::WEB6, 80), at(bed::VIP, 80)] {
        for flow in [tcp(to), udp(to), udp_connected(to), mapped(tcp(to))] {
            let outcome = client.dial(flow)?;
            ensure!(network.label(&outcome) == DEAD, "{flow:?}: {outcome:?}");
        }
    }
    Ok(())
}

fn a_load_notes_every_operation(network: &Network) -> Result<()> {
    let mut client = Client::start(&network.netns("c1"), None)?;
    let to = vec![at(network.v4("l1"), 80), at(network.v6("l2"), 81), at(bed::VIP, 80)];
    for (mode, port, udp) in [(Mode::Tcp, 80, false), (Mode::Udp, 80, true), (Mode::ConnectedUdp, 80, true)] {
        let before = network.served("l1", port, udp)?;
        client.start_load(LoadSpec { mode, ..bed::load(to.clone(), 4, Until::Count(300)) })?;
        let records = client.finish_load(false)?;
        ensure!(records.len() == 300, "{} records", records.len());
        ensure!(records.is_sorted_by_key(|r| r.span.0), "not sorted by time");
        for r in &records {
            let want = &["l1:80", "l2:81", DEAD][usize::from(r.target)];
            ensure!(
                bed::end(network, r) == *want && r.true_name == (*want != DEAD),
                "{r:?}, expected {want}"
            );
            ensure!(r.span.0 < r.span.1, "{r:?}");
            ensure!(
                r.coarse.0 <= r.coarse.1 && r.coarse.0 <= r.span.0 && r.coarse.1 <= r.span.1,
                "a coarse clock that is ahead: {r:?}"
            );
        }
        let served = network.served("l1", port, udp)? - before;
        ensure!(served == 100, "the server counted {served} of 100");
    }
    let flow = Flow { mode: Mode::Tcp, to: to[0], mapped: false };
    let kept = client.keep("a", flow)?;
    ensure!(network.label(&kept) == "l1:80" && client.echo("a")?.error.is_none(), "a kept connection echoes");
    Ok(())
}

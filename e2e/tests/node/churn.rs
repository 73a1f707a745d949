//! Backends come and go under load: no connect fails, and none lands on an address of no set that was in force.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Result, ensure};
use balancing_e2e::{
    judge::{Succession, tally},
    manifests::{Front, Pod, redirect, service, with},
    network::{FARM_PORT, Network, farm},
    node::TestNode,
    protocol::{LoadSpec, Record, Until},
    wait,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::{
    Test,
    bed::{DEAD, WEB, at, end, load, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a_set_is_replaced_a_thousand_times", a_set_is_replaced_a_thousand_times),
    ("a_thousand_frontends_change_in_bursts", a_thousand_frontends_change_in_bursts),
];

/// CLOCK_MONOTONIC in nanoseconds, the clock of a load's records.
fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned()
}

/// A pod at an address of the farm.
fn farm_pod(index: u8, labels: Value) -> Value {
    Pod::new(&format!("farm-{index}"), &[farm(index).into()]).labels(labels).object()
}

/// Round a ring of ten disjoint sets of four.
fn a_set_is_replaced_a_thousand_times(network: &Network) -> Result<()> {
    const TIMES: usize = 1000;
    let ring: [[u8; 4]; 10] = std::array::from_fn(|i| std::array::from_fn(|k| (4 * i + k) as u8));
    let holds = |set: usize, ip: IpAddr| ring[set % 10].iter().any(|i| IpAddr::from(farm(*i)) == ip);
    let pods = |set: usize| ring[set % 10].map(|i| farm_pod(i, json!({"app": "web"})));

    let mut objects = service("web", &[WEB], &["p1:8080->80/TCP"], &[]);
    objects.push(redirect("lr-web", Front::Service("default/web"), Some(&["p1:8080/TCP"]), &["p1:81/TCP"]));
    objects.extend(pods(0));
    let mut node = TestNode::started(network, &objects[..2])?;
    let mut sets = Succession::default();
    let mut replace = |set: usize, node: &mut TestNode<'_>| -> Result<()> {
        sets.written.push(now());
        node.folder.write("20-pods.json", &pods(set))?;
        let client = node.client_as("c2", "probe")?;
        wait::until(
            std::time::Duration::from_secs(20),
            || format!("set {set}"),
            || {
                let at = client.dial(tcp(at(WEB, 8080)))?.at;
                Ok(at.is_some_and(|at| holds(set, at.ip())).then_some(()))
            },
        )?;
        sets.in_force.push(now());
        Ok(())
    };
    replace(0, &mut node)?;
    node.client("c1")?
        .start_load(LoadSpec { pace_us: 3000, ..load(vec![at(WEB, 8080)], 16, Until::Told(150)) })?;
    for set in 1..=TIMES {
        replace(set, &mut node)?;
    }
    let records = node.client("c1")?.finish_load(true)?;

    let failed = tally(records.iter().filter(|r| r.errno != 0).map(|r| end(network, r)));
    ensure!(failed.is_empty(), "of {} connects some failed: {failed:?}", records.len());
    let astray = |r: &&Record| !sets.can_hold(r.span, |set| holds(set, r.at.ip()) && r.at.port() == 81);
    let stray = tally(records.iter().filter(astray).map(|r| end(network, r)));
    ensure!(
        stray.is_empty(),
        "of {} connects some ended in no set that was in force: {stray:?}",
        records.len()
    );
    ensure!(records.len() > TIMES, "only {} connects during {TIMES} replacements", records.len());
    let used: BTreeSet<_> = records.iter().map(|r| r.at.ip()).collect();
    ensure!(used.len() == 40, "only {} of the forty backends were used", used.len());
    node.healthy()
}

/// Frontends are Services; each has a set of its own, and so have the two policies that follow one another on it.
mod bursts {
    use super::{
        FARM_PORT, Front, IpAddr, Pod, Record, SocketAddr, Value, at, farm, json, redirect, service, with,
    };

    /// How many frontends, in files of how many.
    pub(super) const FRONTENDS: u16 = 1000;
    pub(super) const BURST: u16 = 50;

    /// What a file says of its frontends.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) enum State {
        /// The Service alone.
        Service,
        /// A policy with the first set.
        First,
        /// The same policy with the second.
        Second,
        /// Nothing: no Service and no policy.
        Gone,
    }

    /// What a client dials.
    pub(super) fn address(frontend: u16) -> SocketAddr {
        at(IpAddr::from([10, 96, 4 + (frontend / 250) as u8, (frontend % 250) as u8]), 80)
    }

    /// The farm addresses of a frontend's set, and its port; four addresses a group, a port for each of its members.
    fn set(frontend: u16, state: State) -> Vec<SocketAddr> {
        let (group, port) = (4 * (frontend / 100) as u8, FARM_PORT + frontend % 100);
        let members: &[u8] = match state {
            State::First => &[0, 1],
            State::Second => &[2],
            State::Service => &[3],
            State::Gone => &[],
        };
        members.iter().map(|m| at(farm(group + m).into(), port)).collect()
    }

    /// Can a record of that frontend end so in that state?
    pub(super) fn fits(record: &Record, frontend: u16, state: State) -> bool {
        // EHOSTUNREACH on Linux.
        if record.errno != 0 {
            state == State::Gone && record.errno == 113
        } else {
            set(frontend, state).contains(&record.at)
        }
    }

    /// The pods of all sets.
    pub(super) fn pods() -> Vec<Value> {
        let pod = |i: u8| {
            Pod::new(&format!("farm-{i}"), &[farm(i).into()]).labels(json!({"set": label(i)})).object()
        };
        (0..40).map(pod).collect()
    }

    fn label(index: u8) -> String {
        format!("g{}-{}", index / 4, ["first", "first", "second", "service"][usize::from(index % 4)])
    }

    /// The objects of a file.
    pub(super) fn objects(file: u16, state: State) -> Vec<Value> {
        let mut objects = Vec::new();
        for frontend in file * BURST..(file + 1) * BURST {
            let (name, port) = (format!("f{frontend}"), FARM_PORT + frontend % 100);
            if state == State::Gone {
                continue;
            }
            let endpoint = set(frontend, State::Service)[0].ip();
            objects.extend(service(
                &name,
                &[address(frontend).ip()],
                &[&format!("80->{port}/TCP")],
                &[endpoint],
            ));
            let which = match state {
                State::First => 0,
                State::Second => 2,
                _ => continue,
            };
            let labels = json!({"set": label(4 * (frontend / 100) as u8 + which)});
            let policy = redirect(
                &name,
                Front::Service(&format!("default/{name}")),
                Some(&["80/TCP"]),
                &[&format!("{port}/TCP")],
            );
            objects.push(with(policy, "/spec/backend/endpointSelector/matchLabels", labels));
        }
        objects
    }
}

fn a_thousand_frontends_change_in_bursts(network: &Network) -> Result<()> {
    use bursts::{BURST, FRONTENDS, State, address, fits, objects, pods};
    const FILES: u16 = FRONTENDS / BURST;
    // Files 0 to 15 always have their Services; the last four lose them as well, and only they may be unreachable.
    let state = |file: u16, round: u16| match (usize::from(file + round) % 4, file < 16) {
        (0, _) => State::Service,
        (1, _) => State::First,
        (2, _) => State::Second,
        (_, true) => State::Service,
        (_, false) => State::Gone,
    };
    let mut node = TestNode::started(network, &pods())?;
    let mut sets = vec![Succession::default(); FILES.into()];
    let mut burst = |round: u16, node: &mut TestNode<'_>| -> Result<()> {
        for file in 0..FILES {
            sets[usize::from(file)].written.push(now());
            node.folder.write(&format!("30-burst-{file:02}.json"), &objects(file, state(file, round)))?;
        }
        node.settle()?;
        sets.iter_mut().for_each(|s| s.in_force.push(now()));
        Ok(())
    };
    burst(0, &mut node)?;
    let targets = (0..FRONTENDS).map(address).collect();
    node.client("c1")?.start_load(LoadSpec { pace_us: 2000, ..load(targets, 16, Until::Told(120)) })?;
    for round in 1..=12 {
        burst(round, &mut node)?;
    }
    let records = node.client("c1")?.finish_load(true)?;

    let of = |r: &Record| &sets[usize::from(r.target / BURST)];
    let possible = |r: &&Record| {
        of(r).can_hold(r.span, |round| fits(r, r.target, state(r.target / BURST, round as u16)))
    };
    let bad: Vec<_> = records.iter().filter(|r| !possible(r)).collect();
    let told = || tally(bad.iter().map(|r| format!("f{} -> {}", r.target, end(network, r))));
    ensure!(
        bad.is_empty(),
        "{} of {} connects failed or went astray: {:?}",
        bad.len(),
        records.len(),
        told()
    );
    ensure!(
        records.iter().any(|r| end(network, r) == DEAD),
        "no removed frontend was dialled: the test shows nothing"
    );
    ensure!(records.len() > 2 * usize::from(FRONTENDS), "only {} connects", records.len());
    let policies = node.api().status()?.policies.len();
    ensure!(policies > 400, "only {policies} policies are known");
    node.healthy()
}

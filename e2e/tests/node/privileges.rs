//! The agent needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON and nothing else.

use std::fs;

use anyhow::{Context, Result, ensure};
use balancing_e2e::{agent::Options, network::Network, node::TestNode};
use serde_json::json;

use crate::{
    Test,
    bed::{self, WEB, at, expect, tcp, udp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("three_capabilities_are_enough", three_capabilities_are_enough),
    ("a_missing_capability_is_named", a_missing_capability_is_named),
    ("the_programs_load_in_every_way", the_programs_load_in_every_way),
];

/// Numbers of CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF (linux/capability.h).
const ALLOWED: u64 = 1 << 12 | 1 << 38 | 1 << 39;

fn three_capabilities_are_enough(network: &Network) -> Result<()> {
    let options = Options {
        capabilities: ["bpf", "net_admin", "perfmon"].map(str::to_owned).into(),
        ..Options::default()
    };
    let pod = bed::local_pod(network, "l1");
    let mut node = TestNode::new(network, "n1")?;
    node.pod_client("l1", &pod)?;
    node.write_nodes(json!({}))?;
    node.folder.write("10-objects.json", &bed::scenario(network))?;
    node.agent.start(&options).context("attach and program")?;
    let effective = effective_capabilities(node.agent.pid().context("the agent runs")?)?;
    ensure!(
        effective == ALLOWED,
        "the agent has capabilities {effective:#x}, not {ALLOWED:#x}: the test shows nothing"
    );

    node.settle()?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    expect(&mut node, "l1:5353", udp(at(WEB, 53)))?;
    bed::expect_from_pod(&mut node, "l1", &pod, "r1:80", tcp(at(WEB, 8080))).context("exemption")?;
    node.healthy()?;

    node.agent.kill9()?;
    node.agent.start(&options).context("take over")?;
    expect(&mut node, "l1:81", tcp(at(WEB, 8080)))?;
    node.apply("20-second.json", &[bed::local_pod(network, "l2").object()])
        .context("change after taking over")?;
    bed::expect_spread(&mut node, &["l1:81", "l2:81"], tcp(at(WEB, 8080)))?;
    node.healthy()?;

    node.agent.sigterm()?;
    let mut resized = options.clone();
    resized.flags = vec!["--max-frontends".to_owned(), "1024".to_owned()];
    node.agent.start(&resized).context("take over with another size")?;
    node.healthy()?;
    node.agent.sigterm()?;
    let cleanup = node.agent.cleanup(&options)?;
    let said = String::from_utf8_lossy(&cleanup.stderr).into_owned();
    ensure!(
        cleanup.status.success() && node.pins().is_empty(),
        "cleanup: {} {said} {:?}",
        cleanup.status,
        node.pins()
    );
    Ok(())
}

fn effective_capabilities(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).context("no CapEff")?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

fn a_missing_capability_is_named(network: &Network) -> Result<()> {
    let options =
        Options { capabilities: ["bpf", "net_admin"].map(str::to_owned).into(), ..Options::default() };
    let mut node = TestNode::new(network, "n1")?;
    let failed = node.agent.start(&options).err().context("it starts without CAP_PERFMON")?;
    let said = format!("{failed:#}");
    ensure!(said.contains("this process lacks CAP_PERFMON"), "the message is {said}");
    ensure!(node.pins().is_empty(), "it leaves {:?}", node.pins());
    Ok(())
}

/// Also those ways that only older kernels need.
fn the_programs_load_in_every_way(network: &Network) -> Result<()> {
    let node = TestNode::new(network, "n1")?;
    let folder = node.bpffs().join("trials");
    fs::create_dir(&folder)?;
    let trials = balancing_agent::kernel::trials(&folder, &balancing_agent::kernel::Sizes::new(64, 64, 2));
    ensure!(trials.len() == 4, "{} ways", trials.len());
    for trial in trials {
        let way = format!("set_retval {} atomics {}", trial.set_retval, trial.atomics);
        trial.result.with_context(|| way)?;
    }
    Ok(())
}

//! The plugin beside a real agent: what it prints is what sockets did.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{client::built, network::Network, node::TestNode};
use serde_json::Value;

use crate::{
    Test,
    bed::{self, WEB, at, tcp},
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("trace_tells_who_went_where", trace_tells_who_went_where),
    ("services_status_and_node_say_what_sockets_did", services_status_and_node_say_what_sockets_did),
];

fn plugin(node: &TestNode<'_>, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(built("kubectl-balancing")?);
    command.args(arguments).arg("--agent").arg(format!("unix:{}", node.agent.socket().display()));
    Ok(command)
}

fn document(node: &TestNode<'_>, arguments: &[&str]) -> Result<Value> {
    let output = plugin(node, arguments)?.args(["-o", "json"]).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?} ended with {}: {told}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} is no JSON"))
}

fn started(network: &Network) -> Result<TestNode<'_>> {
    let mut node = TestNode::started(network, &bed::scenario(network))?;
    node.settle()?;
    Ok(node)
}

fn trace_tells_who_went_where(network: &Network) -> Result<()> {
    let mut node = started(network)?;
    let to = at(WEB, 8080).to_string();
    let arguments = ["trace", "--policy", "lr/lr-web", "--to", &to, "--count", "7", "--duration", "20s"];
    let mut trace = plugin(&node, &arguments)?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(trace.stdout.take().context("its output")?).lines();
    // The header says that it listens. Until the kernel has heard of that, it samples: so dial until there were enough.
    let header = lines.next().context("no header")??;
    ensure!(header.starts_with("TIME"), "{header}");
    let client = node.client("c1")?;
    let mut chosen = String::new();
    let ended = loop {
        for outcome in client.dial_all(vec![tcp(at(WEB, 8080)); 7], 1)? {
            chosen = outcome.at.context("a dial failed")?.to_string();
        }
        if let Some(status) = trace.try_wait()? {
            break status;
        }
    };
    let lines = lines.collect::<std::io::Result<Vec<String>>>()?;
    ensure!(ended.success() && lines.len() == 7, "{ended}: {lines:?}");
    let to = format!("{to}/TCP");
    for line in &lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        for word in ["redirect", &to, &chosen, "lr/lr-web"] {
            ensure!(words.contains(&word), "{word} is not in {line:?}");
        }
    }
    // The agent still has them.
    let last = plugin(&node, &["trace", "--last", "7", "--outcome", "redirect"])?.output()?;
    let last = String::from_utf8(last.stdout)?;
    ensure!(last.lines().count() == 8, "{last}");
    Ok(())
}

fn services_status_and_node_say_what_sockets_did(network: &Network) -> Result<()> {
    let mut node = started(network)?;
    let outcomes = node.client("c1")?.dial_all(vec![tcp(at(WEB, 8080)); 9], 1)?;
    let served = outcomes[0].at.context("a dial failed")?;
    let services = document(&node, &["services", &format!("{}/tcp", at(WEB, 8080))])?;
    let item = &services["items"][0];
    ensure!(item["redirects"] == 9 && item["state"] == "Redirected", "{item}");
    let backend = &item["rungs"][0]["backends"][0];
    ensure!(backend["address"] == served.ip().to_string() && backend["selected"] == 9, "{backend}");
    let explained = document(&node, &["explain", "node", "n1"])?;
    ensure!(explained["healthy"] == true, "{explained}");
    ensure!(explained["differing"].as_array().is_some_and(Vec::is_empty), "{explained}");
    let status = document(&node, &["status", "--interval", "100ms"])?;
    ensure!(status["nodes"][0]["state"] == "Ready" && status["coverage"]["fresh"] == 1, "{status}");
    let policy = document(&node, &["get", "policies", "lr-web"])?;
    ensure!(policy["items"][0]["state"] == "Programmed" && policy["items"][0]["redirects"] == 9, "{policy}");
    let listed = plugin(&node, &["get", "lr", "lr-web", "-o", "name"])?.output()?;
    ensure!(listed.stdout == b"localredirectpolicy.balancing.elf.io/lr-web\n", "{listed:?}");
    Ok(())
}

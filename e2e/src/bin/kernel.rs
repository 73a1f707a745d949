//! What the kernel of this machine has for the product, as one line of JSON: what an agent found, and in which ways the
//! programs load. It is run in the virtual machines of `cargo xtask kernels`.

use std::{collections::BTreeMap, fs, process::ExitCode};

use anyhow::{Context, Result, ensure};
use balancing_agent::kernel::{Sizes, trials};
use balancing_e2e::{
    network::{Network, Plan},
    node::TestNode,
    run,
};
use serde_json::{Value, json};

fn main() -> ExitCode {
    match told() {
        Ok(told) => {
            #[expect(clippy::print_stdout, reason = "the answer of this program")]
            {
                println!("{told}");
            }
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn told() -> Result<Value> {
    if let Some(why) = run::missing() {
        anyhow::bail!("{why}");
    }
    run::claim()?;
    let address = "10.10.1.1".parse().context("an address")?;
    let plan = Plan { addresses: vec![address], ..Plan::default() };
    let network = Network::build(BTreeMap::from([("n1".to_owned(), plan)]))?;
    let mut told = json!({"release": release()?, "ways": ways(&network)?});
    match features(&network) {
        Ok(features) => told["features"] = features,
        Err(why) => told["why"] = format!("{why:#}").into(),
    }
    Ok(told)
}

fn release() -> Result<String> {
    let text =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("failed to read the kernel's release")?;
    Ok(text.trim().to_owned())
}

/// What an agent says of the kernel, once its programs are attached.
fn features(network: &Network) -> Result<Value> {
    let mut node = TestNode::new(network, "n1")?;
    let flags = vec!["--log-format".to_owned(), "json".to_owned()];
    let options = balancing_e2e::agent::Options { flags, ..Default::default() };
    node.agent.start(&options).map_err(|e| match last_error(&node.agent.log()) {
        Some(said) => anyhow::anyhow!("{said}"),
        None => e,
    })?;
    let status = node.api().status()?;
    let off: Vec<_> = status.datapath.programs.iter().filter(|p| !p.attached).map(|p| &p.hook).collect();
    ensure!(off.is_empty(), "not attached: {off:?}");
    Ok(serde_json::to_value(status.kernel.features)?)
}

/// The last error of an agent's log.
fn last_error(log: &str) -> Option<String> {
    log.lines().rev().find_map(|line| {
        let event: Value = serde_json::from_str(line).ok()?;
        let message = event["message"].as_str().or(event["fields"]["message"].as_str())?;
        (event["level"] == "ERROR").then(|| message.to_owned())
    })
}

/// Each way in which the programs can be loaded, and what the kernel says of it.
fn ways(network: &Network) -> Result<Vec<Value>> {
    let node = TestNode::new(network, "n1")?;
    let folder = node.bpffs().join("trials");
    fs::create_dir(&folder).context("failed to make a folder for pins")?;
    let way = |trial: balancing_agent::kernel::Trial| {
        json!({
            "setRetval": trial.set_retval,
            "atomics": trial.atomics,
            "refused": trial.result.err().map(|e| e.to_string()),
        })
    };
    Ok(trials(&folder, &Sizes::new(64, 64, 2)).into_iter().map(way).collect())
}

//! `version`: this program's version and the agent's, and whether they fit together.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use balancing_api::{
    agent::NodeStatus,
    cli::document,
    version::{AgentVersion, ClientVersion, VERSION, Versions},
};
use clap::Args;

use crate::{
    cluster::{facts::NodeState, read::STATES},
    output::{Error, Page},
    target::Target,
    text::{list, plural, sanitise},
};

/// Arguments of `version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// This program's version only; asks no agent.
    #[arg(long)]
    pub client: bool,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Page,
}

/// Prints the versions. This program's is printed where the agent does not answer, too.
pub async fn run(
    args: &VersionArgs,
    target: Option<&Target>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), Error> {
    let own = env!("CARGO_PKG_VERSION");
    let (agents, failure) = match target {
        None => (Vec::new(), None),
        Some(target) => match agents(target).await {
            Ok(agents) => (agents, None),
            Err(error) => (Vec::new(), Some(error)),
        },
    };
    let versions = Versions { client: ClientVersion { version: own.to_owned() }, agents };
    let text = args.output.render(&document(VERSION, &versions), || text(&versions))?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    let known: BTreeSet<&str> = versions.agents.iter().map(|a| a.version.as_str()).collect();
    for version in known {
        if let Some(warning) = skew(own, version) {
            writeln!(err, "warning: {}", sanitise(&warning))?;
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The agents, each with its node: one, or all that say so in a cluster.
async fn agents(target: &Target) -> Result<Vec<AgentVersion>, Error> {
    match target {
        Target::Agent(client) => Ok(vec![of_agent(&client.status().await?)]),
        Target::Cluster(cluster) => {
            let states = cluster.connection.list("agents", STATES, None, "").await;
            let states = match states {
                Ok(states) => states,
                Err(failure) => return Err(Error::Gap(Box::new(failure.gap()?))),
            };
            Ok(states.iter().filter_map(NodeState::of).map(of_state).collect())
        }
    }
}

fn of_state(state: NodeState) -> AgentVersion {
    AgentVersion {
        node: state.name,
        version: state.status.agent_version,
        kernel: state.status.kernel_release,
        layout_version: state.status.layout_version,
    }
}

fn of_agent(status: &NodeStatus) -> AgentVersion {
    AgentVersion {
        node: status.node.name.clone(),
        version: status.agent.version.clone(),
        kernel: status.kernel.release.clone(),
        layout_version: status.datapath.layout_version,
    }
}

fn text(versions: &Versions) -> String {
    let mut text = format!("Client:  {}\n", versions.client.version);
    if let [a] = versions.agents.as_slice() {
        let line = format!(
            "Agent:   {}   node {}, kernel {}, map layout {}",
            a.version, a.node, a.kernel, a.layout_version
        );
        text.push_str(&format!("{}\n", sanitise(&line)));
        return text;
    }
    let mut same: BTreeMap<(&str, u32), Vec<&str>> = BTreeMap::new();
    for a in &versions.agents {
        same.entry((&a.version, a.layout_version)).or_default().push(&a.node);
    }
    for ((version, layout), nodes) in same {
        let on = plural(nodes.len(), "node", "nodes");
        let line = format!("Agents:  {version}   {on}: {}; map layout {layout}", list(&nodes, 5));
        text.push_str(&format!("{}\n", sanitise(&line)));
    }
    text
}

/// What is to be said of two versions: one minor version of difference is supported (contract.md 5).
fn skew(own: &str, agent: &str) -> Option<String> {
    let parts = |text: &str| {
        let mut parts = text.split(['.', '-', '+']).map(|p| p.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    let fits = match (parts(own), parts(agent)) {
        (Some((major, minor)), Some((other, agent))) => major == other && minor.abs_diff(agent) <= 1,
        _ => own == agent,
    };
    (!fits).then(|| {
        format!("this program is of version {own} and the agent of {agent}: more than a minor version apart, so some of what they say to one another may be missing")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{snapshots, world};

    #[test]
    fn one_minor_version_apart_is_fine() {
        for (own, agent, fits) in [
            ("0.1.0", "0.1.7", true),
            ("0.1.0", "0.2.0-rc.1", true),
            ("0.3.0", "0.1.0", false),
            ("1.0.0", "0.1.0", false),
            ("0.1.0", "next", false),
            ("next", "next", true),
        ] {
            assert_eq!(skew(own, agent).is_none(), fits, "{own} {agent}");
        }
    }

    #[test]
    fn versions() {
        let client = ClientVersion { version: "0.1.0".to_owned() };
        let versions = Versions { client, agents: vec![of_agent(&world().status)] };
        snapshots().bind(|| {
            let json = Page::Json.render(&document(VERSION, &versions), String::new).unwrap();
            insta::assert_snapshot!("version", text(&versions) + &json);
        });
    }
}

//! What the demo takes place on: the network, the servers, the node and its agent.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use balancing_api::{
    agent::{Document, PolicyState},
    cli::{PolicyTopItem, Top},
    manifest,
};

use super::verdict::POLICIES;
use crate::{
    agent::Options,
    client::{Client, built, command_in},
    manifests::Folder,
    network::{Network, Plan},
    node::TestNode,
    protocol::TrafficKind,
    run, wait,
};

/// What it looks like, for people.
pub(super) const MAP: &str = "\
    node edge-1 (its agent is what you see)            elsewhere
      client          asks                               coredns     10.244.2.10  CoreDNS's part
      node-local-dns  10.244.1.10  DNS cache             web         10.244.2.11  HTTP 8080, 8081, 9153
      web-cache       10.244.1.11  HTTP 80               shop        10.244.2.12  HTTP 80, 443
      api-proxy       10.244.1.12  HTTP 443              apiserver   10.244.0.3   HTTP 6443
      shop-cache      10.244.1.13  HTTP 8080, 8443

    Services have addresses in 10.96.0.0/16, which nobody has: without the agent they cannot be reached.";

/// Namespaces, their addresses, and where their HTTP servers listen.
const SPACES: [(&str, [u8; 4], &[u16]); 11] = [
    ("edge-1", [10, 244, 0, 1], &[]),
    ("central-1", [10, 244, 0, 2], &[]),
    ("apiserver", [10, 244, 0, 3], &[6443]),
    ("client", [10, 244, 1, 20], &[]),
    ("node-local-dns", [10, 244, 1, 10], &[]),
    ("web-cache", [10, 244, 1, 11], &[80]),
    ("api-proxy", [10, 244, 1, 12], &[443]),
    ("shop-cache", [10, 244, 1, 13], &[8080, 8443]),
    ("coredns", [10, 244, 2, 10], &[]),
    ("web", [10, 244, 2, 11], &[8080, 8081, 9153]),
    ("shop", [10, 244, 2, 12], &[80, 443]),
];
/// Names that the cluster's DNS knows.
const RECORDS: [(&str, &str); 2] = [
    ("shop.default.svc.cluster.local", "10.96.0.90"),
    ("http-server-v4.default.svc.cluster.local", "10.96.0.80"),
];
/// The cluster's DNS Service.
pub(super) const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 10)), 53);
/// The file of the DNS cache's pod.
const CACHE_FILE: &str = "pod-node-local-dns.yaml";
/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The folder of examples.
pub(super) fn examples() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    folder.canonicalize().unwrap_or(folder)
}

/// The namespaces.
pub(super) fn network() -> Result<Network> {
    let plans = SPACES.iter().map(|(name, address, _)| {
        let routes = ["unreachable 10.96.0.0/16", "unreachable 169.254.0.0/16"].map(str::to_owned).into();
        ((*name).to_owned(), Plan { addresses: vec![IpAddr::from(*address)], routes, ..Plan::default() })
    });
    Network::build(plans.collect()).context("failed to make the network")
}

/// A pod of the examples.
struct Pod {
    /// Cgroup of its container, below the node's.
    cgroup: PathBuf,
    /// Does it run on the demo's node?
    local: bool,
}

/// Everything that runs.
pub(super) struct Stage<'n> {
    network: &'n Network,
    servers: Vec<Child>,
    node: TestNode<'n>,
    pods: BTreeMap<String, Pod>,
}

impl<'n> Stage<'n> {
    /// Starts servers and agent, and waits until every policy is programmed.
    pub(super) fn new(network: &'n Network) -> Result<Self> {
        let node = TestNode::new(network, "edge-1")?;
        let mut stage = Self { network, servers: Vec::new(), node, pods: BTreeMap::new() };
        stage.copy_examples()?;
        stage.start_servers()?;
        stage.node.agent.start(&Options::default())?;
        let api = stage.node.api();
        wait::until(
            PATIENCE,
            || "every policy of examples/ programmed".to_owned(),
            || {
                let status = api.status()?;
                let programmed = |name: &str| {
                    status.policies.iter().any(|p| p.name == name && p.state == PolicyState::Programmed)
                };
                Ok(POLICIES.iter().all(|p| programmed(p.name)).then_some(()))
            },
        )
        .with_context(|| stage.node.agent.log_tail())?;
        Ok(stage)
    }

    /// The agent's folder holds the examples as they are.
    fn copy_examples(&mut self) -> Result<()> {
        for folder in [examples(), examples().join("cluster")] {
            for entry in
                fs::read_dir(&folder).with_context(|| format!("failed to read {}", folder.display()))?
            {
                let path = entry?.path();
                if path.extension().is_none_or(|e| e != "yaml") {
                    continue;
                }
                let name = path.file_name().and_then(|n| n.to_str()).context("the name of a file")?;
                let text = fs::read_to_string(&path)?;
                for object in manifest::parse(&text).objects.into_iter().filter(|o| o.kind == "Pod") {
                    let uid = object.value["metadata"]["uid"].as_str().context("a pod without uid")?;
                    let cgroup = PathBuf::from(format!("kubepods/besteffort/pod{uid}/main"));
                    let local = object.value["spec"]["nodeName"] == "edge-1";
                    self.pods.insert(object.name, Pod { cgroup, local });
                }
                self.node.folder.write_text(name, &text)?;
            }
        }
        Ok(())
    }

    /// A program in a pod: in its namespace and, if it runs on the demo's node, in its cgroup.
    pub(super) fn in_pod(&self, pod: &str, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let cgroup = match self.pods.get(pod) {
            Some(p) if p.local => Some(self.node.make_cgroup(&p.cgroup)?),
            _ => None,
        };
        command_in(&self.network.netns(pod), cgroup.as_deref(), program)
    }

    /// A program of the host: in its namespace and in the node's cgroup, but in no pod.
    pub(super) fn on_host(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        command_in(&self.network.netns("edge-1"), Some(&self.node.host_cgroup()?), program)
    }

    fn start_servers(&mut self) -> Result<()> {
        let mut core = self.dns_server("coredns", "CoreDNS")?;
        core.args(RECORDS.iter().map(|(name, address)| format!("--host-record={name},{address}")));
        self.servers.push(core.arg("--local=/cluster.local/").spawn().context("failed to start dnsmasq")?);
        // The cache asks the Service that it backs: the policy does not lead it to itself.
        let mut cache = self.dns_server("node-local-dns", "node-local cache")?;
        cache.arg(format!("--server={}", DNS.ip()));
        self.servers.push(cache.spawn().context("failed to start dnsmasq")?);
        let worker = built("balancing-e2e-worker")?;
        for (name, _, ports) in SPACES.iter().filter(|(_, _, ports)| !ports.is_empty()) {
            let mut server = self.in_pod(name, &worker)?;
            server.args(["http", name]).args(ports.iter().map(ToString::to_string));
            // It serves until its input ends.
            self.servers.push(server.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
        }
        self.wait_for_servers()
    }

    /// Debian's dnsmasq in a pod; it answers `whoami.demo` with `text`.
    fn dns_server(&self, pod: &str, text: &str) -> Result<Command> {
        let mut command = self.in_pod(pod, "dnsmasq")?;
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        command.args(["--user=root", "--group=root", "--bind-interfaces", "--log-facility=/dev/null"]);
        command.arg(format!("--listen-address={}", self.network.v4(pod)));
        command.arg(format!("--txt-record={},{text}", crate::dns::WHOAMI));
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// From outside the node's cgroup, by their own addresses.
    fn wait_for_servers(&self) -> Result<()> {
        let mut outside = Client::start(&self.network.netns("central-1"), None)?;
        let http =
            SPACES.iter().flat_map(|(name, _, ports)| ports.iter().map(|p| (TrafficKind::Http, *name, *p)));
        for (kind, name, port) in http.chain(["coredns", "node-local-dns"].map(|n| (TrafficKind::Dns, n, 53)))
        {
            let to = SocketAddr::new(self.network.v4(name), port);
            let mut last = String::new();
            wait::until(
                PATIENCE,
                || format!("the server of {name}"),
                || {
                    last = outside.ask(kind, to)?;
                    Ok((!last.starts_with("error")).then_some(()))
                },
            )
            .with_context(|| last.clone())?;
        }
        Ok(())
    }

    /// The client pod.
    pub(super) fn client(&mut self) -> Result<&mut Client> {
        let cgroup = self.pods.get("client").context("no pod client in the examples")?.cgroup.clone();
        self.node.client_below("client", &cgroup)
    }

    /// State of a policy.
    pub(super) fn state(&self, policy: &str) -> Result<PolicyState> {
        Ok(self.node.api().policy(policy)?.state)
    }

    /// Ready or not: the pod of the DNS cache.
    pub(super) fn dns_cache(&self) -> Result<DnsCache> {
        let text = fs::read_to_string(examples().join("cluster").join(CACHE_FILE))?;
        let (ready, not) = ("status: \"True\"", "status: \"False\"");
        ensure!(text.matches(ready).count() == 1, "{CACHE_FILE} has no condition Ready to switch");
        Ok(DnsCache { folder: self.node.folder.clone(), texts: [text.replace(ready, not), text] })
    }

    /// A file for a program.
    pub(super) fn scratch(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.node.scratch().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// The agent's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.node.agent.socket()
    }

    /// `--agent unix:...`
    pub(super) fn agent_flag(&self) -> [String; 2] {
        ["--agent".to_owned(), format!("unix:{}", self.socket().display())]
    }

    /// What `kubectl balancing ARGUMENTS` prints.
    pub(super) fn plugin(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(built("kubectl-balancing")?);
        run::output(command.args(arguments).args(self.agent_flag()))
    }

    /// `kubectl balancing top policies --once -o json`.
    pub(super) fn top(&self) -> Result<Top<PolicyTopItem>> {
        let text = self.plugin(&["top", "policies", "--once", "-o", "json"])?;
        let document: Document<_> = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(document.body)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It may have ended by itself.
            server.kill().ok();
            server.wait().ok();
        }
    }
}

/// The pod of the DNS cache, as its manifest shows it.
#[derive(Clone)]
pub(super) struct DnsCache {
    folder: Folder,
    /// Not Ready, Ready.
    texts: [String; 2],
}

impl DnsCache {
    /// Rewrites its manifest.
    pub(super) fn set_ready(&self, ready: bool) -> Result<()> {
        self.folder.write_text(CACHE_FILE, &self.texts[usize::from(ready)])
    }
}

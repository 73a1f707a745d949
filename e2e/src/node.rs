//! A node of a test: a cgroup, a bpffs folder and a folder of manifests of its own, an agent, and clients.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Api, Options, Places},
    client::{Client, tcp},
    manifests::{self, Folder, Front, Pod, redirect},
    network::Network,
    run, wait,
};

/// VIP of settling markers; nobody has it.
const MARKER_VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 254));
/// Markers take the ports after this one.
const MARKER_PORT: u16 = 20_000;
/// File of settling markers: the last in byte order.
const MARKER_FILE: &str = "zz-marker.json";
/// How long a change may take to be in effect before a test fails. The promise is 100 ms; what is measured is not here.
const SETTLE: Duration = Duration::from_secs(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A node. Everything of it is removed when it is dropped.
#[derive(Debug)]
pub struct TestNode<'n> {
    network: &'n Network,
    /// Its agent. Declared first, so that it ends before its places go.
    pub agent: Agent,
    /// Its folder of manifests.
    pub folder: Folder,
    clients: BTreeMap<(String, PathBuf, String), Client>,
    name: String,
    cgroup: PathBuf,
    bpffs: PathBuf,
    scratch: PathBuf,
    markers: u16,
}

impl<'n> TestNode<'n> {
    /// A node whose host is the namespace of that name; its agent is not started.
    ///
    /// # Errors
    /// Its folders cannot be made.
    pub fn new(network: &'n Network, name: &str) -> Result<Self> {
        let own = run::name(&format!("{name}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let cgroup = run::cgroup2_mount().context("no cgroup v2 mount")?.join(&own);
        let bpffs = Path::new(run::BPFFS).join(&own);
        let scratch = std::env::temp_dir().join(&own);
        for folder in [&cgroup, &bpffs, &scratch] {
            fs::create_dir(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        let folder = Folder::create(scratch.join("manifests"))?;
        let places = Places {
            node: name.to_owned(),
            netns: network.netns(name),
            manifests: folder.path().to_owned(),
            cgroup: cgroup.clone(),
            bpffs: bpffs.clone(),
            scratch: scratch.clone(),
        };
        let (agent, clients) = (Agent::new(places), BTreeMap::new());
        Ok(Self {
            network,
            agent,
            folder,
            clients,
            name: name.to_owned(),
            cgroup,
            bpffs,
            scratch,
            markers: 0,
        })
    }

    /// A node with the two Node objects and these objects, and a ready agent.
    ///
    /// # Errors
    /// The agent does not become ready.
    pub fn started(network: &'n Network, objects: &[Value]) -> Result<Self> {
        Self::started_with(network, objects, &Options::default())
    }

    /// As [`Self::started`], with options of the agent.
    ///
    /// # Errors
    /// The agent does not become ready.
    pub fn started_with(network: &'n Network, objects: &[Value], options: &Options) -> Result<Self> {
        let mut node = Self::new(network, "n1")?;
        node.write_nodes(json!({}))?;
        node.folder.write("10-objects.json", objects)?;
        node.agent.start(options)?;
        Ok(node)
    }

    /// Writes the Node objects n1, with these labels, and n2.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_nodes(&self, labels: Value) -> Result<()> {
        let addresses = |name| [self.network.v4(name), self.network.v6(name)];
        let nodes = [
            manifests::node("n1", &addresses("n1"), labels),
            manifests::node("n2", &addresses("n2"), json!({})),
        ];
        self.folder.write("00-nodes.json", &nodes)
    }

    /// The network it is part of.
    #[must_use]
    pub fn network(&self) -> &'n Network {
        self.network
    }

    /// Its agent's API.
    #[must_use]
    pub fn api(&self) -> Api {
        self.agent.api()
    }

    /// Its folder on bpffs.
    #[must_use]
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The cgroup that its agent serves.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A folder for its files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The cgroup of an ordinary process of the host.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn host_cgroup(&self) -> Result<PathBuf> {
        self.make_cgroup(Path::new("system.slice/client.service"))
    }

    /// Makes a cgroup below the node's.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_cgroup(&self, below: &Path) -> Result<PathBuf> {
        let path = self.cgroup.join(below);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(path)
    }

    /// A client in a namespace that belongs to no pod.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn client(&mut self, netns: &str) -> Result<&mut Client> {
        self.client_as(netns, "")
    }

    /// As [`Self::client`]; one for each `tag`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn client_as(&mut self, netns: &str, tag: &str) -> Result<&mut Client> {
        let cgroup = self.host_cgroup()?;
        self.client_in(netns, cgroup, tag)
    }

    /// A client in a namespace that belongs to a pod.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn pod_client(&mut self, netns: &str, pod: &Pod) -> Result<&mut Client> {
        self.client_below(netns, &pod.cgroup())
    }

    /// A client in a namespace and a cgroup below the node's.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn client_below(&mut self, netns: &str, cgroup: &Path) -> Result<&mut Client> {
        let cgroup = self.make_cgroup(cgroup)?;
        self.client_in(netns, cgroup, "")
    }

    fn client_in(&mut self, netns: &str, cgroup: PathBuf, tag: &str) -> Result<&mut Client> {
        use std::collections::btree_map::Entry;
        match self.clients.entry((netns.to_owned(), cgroup, tag.to_owned())) {
            Entry::Occupied(client) => Ok(client.into_mut()),
            Entry::Vacant(place) => {
                let client = Client::start(&self.network.netns(netns), Some(&place.key().1))?;
                Ok(place.insert(client))
            }
        }
    }

    /// Writes or replaces a file of manifests and waits until it is in effect.
    ///
    /// # Errors
    /// It is not in effect in time.
    pub fn apply(&mut self, file: &str, objects: &[Value]) -> Result<()> {
        self.folder.write(file, objects)?;
        self.settle()
    }

    /// Removes a file of manifests and waits until that is in effect.
    ///
    /// # Errors
    /// It is not in effect in time.
    pub fn remove(&mut self, file: &str) -> Result<()> {
        self.folder.remove(file)?;
        self.settle()
    }

    /// Waits until everything written so far is in effect: changes apply in the order in which they were made, so a
    /// marker written now, a redirect of a port never used before, works only after them.
    ///
    /// # Errors
    /// The marker is not in effect in time.
    pub fn settle(&mut self) -> Result<()> {
        // Twice: the first may be in one batch with what was written, and be in effect before the rest of it.
        self.marker()?;
        self.marker()
    }

    /// The pod and the policy of the marker that was written last.
    #[must_use]
    pub fn marker_objects(&self) -> Vec<Value> {
        let labels = json!({"e2e": "marker"});
        let pod = Pod::new("marker", &[self.network.v4("mark")]).labels(labels.clone()).on(&self.name);
        let port = format!("{}/TCP", MARKER_PORT + self.markers);
        let policy = redirect("marker", Front::Address(MARKER_VIP), Some(&[&port]), &["8081/TCP"]);
        let policy = manifests::with(policy, "/spec/backend/endpointSelector/matchLabels", labels);
        vec![pod.object(), manifests::with(policy, "/spec/qos/redirectsPerSecond", json!(0))]
    }

    fn marker(&mut self) -> Result<()> {
        self.markers += 1;
        self.folder.write(MARKER_FILE, &self.marker_objects())?;
        let there = SocketAddr::new(self.network.v4("mark"), 8081);
        let to = SocketAddr::new(MARKER_VIP, MARKER_PORT + self.markers);
        let client = self.client_as("c2", "marker")?;
        let settled = wait::until(
            SETTLE,
            || format!("a redirect of {to} that was written to the folder"),
            || Ok((client.dial(tcp(to))?.at == Some(there)).then_some(())),
        );
        settled.with_context(|| self.agent.log_tail())
    }

    /// Every pin below its bpffs folder.
    #[must_use]
    pub fn pins(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.bpffs.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// The agent lives and has not panicked, and what is in the maps is what was compiled.
    ///
    /// # Errors
    /// One of these is not so.
    pub fn healthy(&mut self) -> Result<()> {
        self.agent.alive()?;
        self.agent.no_panic()?;
        let (programmed, desired) = (self.api().frontends("programmed")?, self.api().frontends("desired")?);
        ensure!(programmed.items == desired.items, "programmed: {programmed:#?}\ndesired: {desired:#?}");
        Ok(())
    }
}

impl Drop for TestNode<'_> {
    fn drop(&mut self) {
        self.clients.clear();
        if let Some(folder) = std::env::var_os("BALANCING_E2E_KEEP") {
            let name = self.scratch.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // A node whose agent was never started has no log.
            self.agent.save_log(&Path::new(&folder).join(name + ".log")).ok();
        }
        // The agent goes before its pins, else it could make new ones.
        self.agent.kill9().ok();
        run::remove_bpffs(&self.bpffs);
        run::remove_cgroup(&self.cgroup);
        if let Err(e) = fs::remove_dir_all(&self.scratch) {
            eprintln!("failed to remove {}: {e}", self.scratch.display());
        }
    }
}

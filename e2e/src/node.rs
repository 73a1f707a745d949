//! A node of a test: a cgroup, a bpffs folder and a folder of manifests of its own, an agent, and clients.

use std::{
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, Api, Options, Source},
    client::tcp,
    ground::Ground,
    manifests::{self, Folder, Front, Pod, redirect},
    network::Network,
    wait,
};

/// VIP of settling markers; nobody has it.
const MARKER_VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 254));
/// Markers take the ports after this one.
const MARKER_PORT: u16 = 20_000;
/// File of settling markers: the last in byte order.
const MARKER_FILE: &str = "zz-marker.json";
/// How long a change may take to be in effect before a test fails. The promise is 100 ms; what is measured is not here.
const SETTLE: Duration = Duration::from_secs(20);

/// A node. Everything of it is removed when it is dropped.
#[derive(Debug)]
pub struct TestNode<'n> {
    /// Its agent. Declared first, so that it ends before its places go.
    pub agent: Agent,
    /// Its folder of manifests.
    pub folder: Folder,
    ground: Ground<'n>,
    markers: u16,
}

impl<'n> Deref for TestNode<'n> {
    type Target = Ground<'n>;

    fn deref(&self) -> &Ground<'n> {
        &self.ground
    }
}

impl DerefMut for TestNode<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.ground
    }
}

impl<'n> TestNode<'n> {
    /// A node whose host is the namespace of that name; its agent is not started.
    ///
    /// # Errors
    /// Its folders cannot be made.
    pub fn new(network: &'n Network, name: &str) -> Result<Self> {
        let ground = Ground::new(network, name)?;
        let folder = Folder::create(ground.scratch().join("manifests"))?;
        let agent = Agent::new(ground.places(Source::Manifests(folder.path().to_owned())));
        Ok(Self { agent, folder, ground, markers: 0 })
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
        let addresses = |name| [self.network().v4(name), self.network().v6(name)];
        let nodes = [
            manifests::node("n1", &addresses("n1"), labels),
            manifests::node("n2", &addresses("n2"), json!({})),
        ];
        self.folder.write("00-nodes.json", &nodes)
    }

    /// Its agent's API.
    #[must_use]
    pub fn api(&self) -> Api {
        self.agent.api()
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
        let pod = Pod::new("marker", &[self.network().v4("mark")]).labels(labels.clone()).on(self.name());
        let port = format!("{}/TCP", MARKER_PORT + self.markers);
        let policy = redirect("marker", Front::Address(MARKER_VIP), Some(&[&port]), &["8081/TCP"]);
        let policy = manifests::with(policy, "/spec/backend/endpointSelector/matchLabels", labels);
        vec![pod.object(), manifests::with(policy, "/spec/qos/redirectsPerSecond", json!(0))]
    }

    fn marker(&mut self) -> Result<()> {
        self.markers += 1;
        self.folder.write(MARKER_FILE, &self.marker_objects())?;
        let there = SocketAddr::new(self.network().v4("mark"), 8081);
        let to = SocketAddr::new(MARKER_VIP, MARKER_PORT + self.markers);
        let client = self.client_as("c2", "marker")?;
        let settled = wait::until(
            SETTLE,
            || format!("a redirect of {to} that was written to the folder"),
            || Ok((client.dial(tcp(to))?.at == Some(there)).then_some(())),
        );
        settled.with_context(|| self.agent.log_tail())
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
        self.agent.keep_log();
    }
}

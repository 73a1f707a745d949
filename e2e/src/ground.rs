//! The ground of a node: a cgroup, a bpffs folder and a scratch folder of its own, and clients in its cgroup.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

use crate::{
    agent::{Places, Source},
    client::Client,
    manifests::Pod,
    network::Network,
    run,
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a node has on the machine. It is removed when it is dropped, which must come after the node's agent has ended:
/// else that could make new pins.
#[derive(Debug)]
pub struct Ground<'n> {
    network: &'n Network,
    clients: BTreeMap<(String, PathBuf, String), Client>,
    name: String,
    cgroup: PathBuf,
    bpffs: PathBuf,
    scratch: PathBuf,
}

impl<'n> Ground<'n> {
    /// The ground of a node whose host is the namespace of that name.
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
        Ok(Self { network, clients: BTreeMap::new(), name: name.to_owned(), cgroup, bpffs, scratch })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its agent works.
    #[must_use]
    pub fn places(&self, source: Source) -> Places {
        Places {
            node: self.name.clone(),
            netns: self.network.netns(&self.name),
            source,
            cgroup: self.cgroup.clone(),
            bpffs: self.bpffs.clone(),
            scratch: self.scratch.clone(),
        }
    }

    /// The network it is part of.
    #[must_use]
    pub fn network(&self) -> &'n Network {
        self.network
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
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        self.clients.clear();
        run::remove_bpffs(&self.bpffs);
        run::remove_cgroup(&self.cgroup);
        if let Err(e) = fs::remove_dir_all(&self.scratch) {
            eprintln!("failed to remove {}: {e}", self.scratch.display());
        }
    }
}

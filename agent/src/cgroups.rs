//! Which cgroups belong to which pod, found by the names of their folders and kept up to date.
//!
//! Only read access is needed. The id of a cgroup is the inode of its folder.

mod callers;
mod containers;
mod levels;
mod names;
mod tree;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

pub use callers::Callers;
pub use levels::{own_cgroup, root_level};
pub use names::{PodPath, identify, pod_uid};
pub use watch::{Watch, WatchError, watch};

/// A cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupAt {
    /// Its id: the inode of its folder.
    pub id: u64,
    /// How many levels it lies below `--cgroup-root`; a child has 1.
    pub level: u32,
}

/// The cgroups of pods, by the pod's `metadata.uid`.
pub type PodCgroups = BTreeMap<String, BTreeSet<CgroupAt>>;

/// Ids of containers that had processes and have none any more, by the `metadata.uid` of their pod.
pub type EndedContainers = BTreeMap<String, BTreeSet<String>>;

/// What changed since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// All cgroups of each pod that has got or lost one; an empty set: the pod has none any more.
    pub pods: PodCgroups,
    /// Pods in whose cgroups a process appeared (true), or the last one ended (false). A new pod has none at first, and
    /// is not named.
    pub alive: BTreeMap<String, bool>,
    /// All ended containers of each pod that has got or lost one, the latest ones of many; an empty set: none, as far as
    /// anybody can tell.
    pub ended: EndedContainers,
    /// All that could not be looked at; pods below are not found.
    pub problems: BTreeMap<PathBuf, String>,
}

impl Changes {
    /// Applies the changes.
    pub fn apply(&self, to: &mut PodCgroups) {
        for (uid, cgroups) in &self.pods {
            if cgroups.is_empty() {
                to.remove(uid);
            } else {
                to.insert(uid.clone(), cgroups.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! Which pod and container a process of an event belongs to.

use std::{
    collections::HashMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{PodPath, identify, levels::folder_of};
use crate::config::{Cgroup2Mount, cgroup2_mounts};

/// Cgroups that are remembered; more than a node has of living ones.
const REMEMBERED: usize = 4096;

/// Finds the pod of a cgroup by the path of a process in it, and remembers it.
#[derive(Debug)]
pub struct Callers {
    root: PathBuf,
    mounts: Vec<Cgroup2Mount>,
    known: Mutex<HashMap<u64, Option<Arc<PodPath>>>>,
}

impl Callers {
    /// For processes at and below `--cgroup-root`.
    ///
    /// # Errors
    /// The folder or `/proc/self/mountinfo` cannot be looked at.
    pub fn new(cgroup_root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: cgroup_root.canonicalize()?,
            mounts: cgroup2_mounts(&std::fs::read_to_string("/proc/self/mountinfo")?),
            known: Mutex::default(),
        })
    }

    /// The pod that the cgroup is of, `pid` being a process that was seen in it. `None`: it is no pod's, or the process
    /// has gone before its cgroup was known.
    #[must_use]
    pub fn pod(&self, cgroup: u64, pid: u32) -> Option<Arc<PodPath>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pod) = known.get(&cgroup) {
            return pod.clone();
        }
        let pod = self.look(cgroup, pid)?;
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(cgroup, pod.clone());
        pod
    }

    /// `None` where nothing can be told: the process has gone or moved, or its number is another's by now.
    fn look(&self, cgroup: u64, pid: u32) -> Option<Option<Arc<PodPath>>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let folder = folder_of(&text, &self.mounts, &self.root)?;
        if std::fs::metadata(&folder).ok()?.ino() != cgroup {
            return None;
        }
        let below = folder.strip_prefix(&self.root).ok()?;
        Some(identify(below.to_str()?).map(Arc::new))
    }
}

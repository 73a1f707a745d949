//! Which pod and container the process of an event belongs to.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{DirEntryExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{PodPath, identify, levels::folder_of};
use crate::config::{Cgroup2Mount, cgroup2_mounts};

/// Cgroups that are remembered; more than a node has of living ones.
const REMEMBERED: usize = 16_384;
/// Levels that are walked: containers and what they make themselves lie below their pods.
const MAX_LEVELS: u32 = 24;
/// Pause between two walks.
const WALK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Known {
    pods: HashMap<u64, Option<Arc<PodPath>>>,
    walked: Option<Instant>,
}

/// Finds the pod of a cgroup, and remembers it: by the path of a process in it, or by looking at all cgroups where the
/// process has gone by now, as short-lived clients have.
#[derive(Debug)]
pub struct Callers {
    root: PathBuf,
    mounts: Vec<Cgroup2Mount>,
    known: Mutex<Known>,
}

impl Callers {
    /// For processes at and below `--cgroup-root`.
    ///
    /// # Errors
    /// The folder or `/proc/self/mountinfo` cannot be looked at.
    pub fn new(cgroup_root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: cgroup_root.canonicalize()?,
            mounts: cgroup2_mounts(&fs::read_to_string("/proc/self/mountinfo")?),
            known: Mutex::default(),
        })
    }

    /// The pod that the cgroup is of, `pid` being a process that was seen in it. `None`: it is no pod's, or it had gone
    /// before it was known.
    #[must_use]
    pub fn pod(&self, cgroup: u64, pid: u32) -> Option<Arc<PodPath>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pod) = known.pods.get(&cgroup) {
            return pod.clone();
        }
        if known.pods.len() >= REMEMBERED {
            known.pods.clear();
        }
        if let Some(pod) = self.by_process(cgroup, pid) {
            known.pods.insert(cgroup, pod.clone());
            return pod;
        }
        if known.walked.is_none_or(|last| last.elapsed() >= WALK_EVERY) {
            self.walk(&self.root, 0, &mut known.pods);
            known.walked = Some(Instant::now());
        }
        known.pods.get(&cgroup).cloned().flatten()
    }

    /// `None` where nothing can be told: the process has gone or moved, or its number is another's by now.
    fn by_process(&self, cgroup: u64, pid: u32) -> Option<Option<Arc<PodPath>>> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let folder = folder_of(&text, &self.mounts, &self.root)?;
        (fs::metadata(&folder).ok()?.ino() == cgroup).then(|| self.pod_of(&folder))
    }

    fn pod_of(&self, folder: &Path) -> Option<Arc<PodPath>> {
        let below = folder.strip_prefix(&self.root).ok()?;
        identify(below.to_str()?).map(Arc::new)
    }

    /// Adds every cgroup below the folder. What cannot be read is left out.
    fn walk(&self, folder: &Path, level: u32, pods: &mut HashMap<u64, Option<Arc<PodPath>>>) {
        if level == MAX_LEVELS {
            return;
        }
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let path = entry.path();
                pods.insert(entry.ino(), self.pod_of(&path));
                self.walk(&path, level + 1, pods);
            }
        }
    }
}

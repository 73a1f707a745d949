//! Which containers of pods had processes and have none any more.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use super::EndedContainers;

/// Ended containers that are remembered of a pod, the latest: a container that ends over and over has a new id each time.
const REMEMBERED: usize = 32;

/// A container's folder.
#[derive(Debug)]
struct Container {
    /// `metadata.uid` of its pod.
    pod: String,
    id: String,
    /// Had it a process when it was last looked at?
    runs: bool,
}

/// What is known of the folders of containers.
#[derive(Debug, Default)]
pub(super) struct Containers {
    known: BTreeMap<PathBuf, Container>,
    /// By pod, the latest last.
    ended: BTreeMap<String, VecDeque<String>>,
    told: EndedContainers,
}

impl Containers {
    /// A folder is there; nothing is known of its processes yet, unless it was there before.
    pub(super) fn found(&mut self, path: &Path, pod: &str, id: String) {
        let new = || Container { pod: pod.to_owned(), id, runs: false };
        self.known.entry(path.to_owned()).or_insert_with(new);
    }

    /// The folders that were there.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.known.keys().cloned().collect()
    }

    /// A folder was looked at. One that never had a process has not ended: other runtimes keep processes elsewhere.
    pub(super) fn looked(&mut self, path: &Path, populated: bool) {
        let Some(container) = self.known.get_mut(path) else { return };
        let ended = container.runs && !populated;
        container.runs = populated;
        if ended {
            let all = self.ended.entry(container.pod.clone()).or_default();
            all.retain(|id| *id != container.id);
            if all.len() == REMEMBERED {
                all.pop_front();
            }
            all.push_back(container.id.clone());
        } else if populated && let Some(all) = self.ended.get_mut(&container.pod) {
            all.retain(|id| *id != container.id);
        }
    }

    /// A folder is gone, and all below it.
    pub(super) fn gone(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self.known.keys().filter(|p| p.starts_with(path)).cloned().collect();
        for path in below {
            self.looked(&path, false);
            self.known.remove(&path);
        }
    }

    /// What has changed since the last call: all ended containers of each pod that has got or lost one. Those of pods that
    /// have no folder any more are forgotten.
    pub(super) fn changes(&mut self, has_folder: impl Fn(&str) -> bool) -> EndedContainers {
        self.ended.retain(|pod, ids| has_folder(pod) && !ids.is_empty());
        let now: EndedContainers =
            self.ended.iter().map(|(pod, ids)| (pod.clone(), ids.iter().cloned().collect())).collect();
        let mut changed = EndedContainers::new();
        for pod in self.told.keys().chain(now.keys()) {
            if self.told.get(pod) != now.get(pod) {
                changed.insert(pod.clone(), now.get(pod).cloned().unwrap_or_default());
            }
        }
        self.told = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn told<const N: usize>(pod: &str, ids: [&str; N]) -> EndedContainers {
        EndedContainers::from([(pod.to_owned(), BTreeSet::from(ids.map(str::to_owned)))])
    }

    #[test]
    fn only_what_had_a_process_can_end() {
        let mut all = Containers::default();
        let (a, b) = (Path::new("/podx/a"), Path::new("/podx/b"));
        all.found(a, "x", "a".to_owned());
        all.found(b, "x", "b".to_owned());
        all.looked(a, false);
        all.gone(b);
        assert_eq!(all.changes(|_| true), EndedContainers::new(), "neither ever had one");
        all.looked(a, true);
        all.found(a, "x", "a".to_owned());
        assert_eq!(all.changes(|_| true), EndedContainers::new());
        all.looked(a, false);
        all.looked(a, false);
        assert_eq!(all.changes(|_| true), told("x", ["a"]));
        assert_eq!(all.changes(|_| true), EndedContainers::new(), "it is told once");
        all.looked(a, true);
        assert_eq!(all.changes(|_| true), told("x", []), "it runs again");
    }

    #[test]
    fn a_folder_that_goes_with_its_processes_has_ended_until_its_pod_is_gone() {
        let mut all = Containers::default();
        let a = Path::new("/podx/a");
        all.found(a, "x", "a".to_owned());
        all.looked(a, true);
        all.gone(Path::new("/pod"));
        assert_eq!(all.changes(|_| true), EndedContainers::new(), "another folder");
        all.gone(Path::new("/podx"));
        assert_eq!(all.changes(|_| true), told("x", ["a"]));
        assert_eq!(all.changes(|pod| pod != "x"), told("x", []));
        assert!(all.known.is_empty() && all.ended.is_empty() && all.told.is_empty());
    }

    #[test]
    fn a_container_that_ends_over_and_over_takes_no_more_memory_than_the_latest() {
        let mut all = Containers::default();
        for n in 0..100 {
            let path = PathBuf::from(format!("/podx/{n}"));
            all.found(&path, "x", n.to_string());
            all.looked(&path, true);
            all.gone(&path);
        }
        let ended = all.changes(|_| true).remove("x").unwrap();
        assert_eq!(ended, (100 - REMEMBERED..100).map(|n| n.to_string()).collect());
    }
}

//! The folders below `--cgroup-root`: walked, watched, and followed event by event.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use super::{
    CgroupAt, Changes, PodCgroups,
    containers::Containers,
    names::{container_folder, pod_uid},
};

/// Levels that are walked: as many as the kernel programs look at.
const MAX_LEVELS: u32 = balancing_datapath::MAX_LEVELS;

/// A pod's folder.
#[derive(Debug)]
struct Pod {
    uid: String,
    /// Are there containers below it, and no other pods?
    genuine: bool,
    cgroup: CgroupAt,
    /// Is there a process at or below it? `None`: that cannot be told.
    populated: Option<bool>,
}

/// What is known of the folders.
pub(super) struct Tree {
    root: PathBuf,
    inotify: Inotify,
    /// Watched folders.
    watched: HashMap<WatchDescriptor, PathBuf>,
    /// Watched files `cgroup.events`, by the pod's or container's folder.
    events: HashMap<WatchDescriptor, PathBuf>,
    pods: BTreeMap<PathBuf, Pod>,
    containers: Containers,
    problems: BTreeMap<PathBuf, String>,
    /// What the last [`Changes`] left.
    told: PodCgroups,
    told_alive: BTreeMap<String, bool>,
    told_problems: BTreeMap<PathBuf, String>,
}

impl Tree {
    /// Nothing is known yet: [`Tree::walk`] comes first.
    pub(super) fn new(root: PathBuf) -> io::Result<Self> {
        Ok(Self {
            root,
            inotify: Inotify::init()?,
            watched: HashMap::new(),
            events: HashMap::new(),
            pods: BTreeMap::new(),
            containers: Containers::default(),
            problems: BTreeMap::new(),
            told: PodCgroups::new(),
            told_alive: BTreeMap::new(),
            told_problems: BTreeMap::new(),
        })
    }

    /// Readable when there are events.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Could every folder be watched?
    pub(super) fn complete(&self) -> bool {
        self.problems.is_empty()
    }

    /// Looks at everything anew.
    pub(super) fn walk(&mut self) {
        self.pods.clear();
        self.problems.clear();
        // Adding a watch again gives the same one, so this forgets only those of folders that are gone.
        self.watched.clear();
        self.events.clear();
        let root = self.root.clone();
        self.folder(&root, 0);
        // Also those that are gone, which the walk did not find.
        for path in self.containers.paths() {
            self.look_at_container(&path);
        }
    }

    /// Watches a folder and looks at what is in it. The watch comes first: what is made later is an event, and what was
    /// made before is read, so nothing is made between the two.
    fn folder(&mut self, path: &Path, level: u32) {
        match self.inotify.watches().add(path, folder_mask()) {
            Ok(watch) => {
                self.watched.insert(watch, path.to_owned());
            }
            Err(error) if gone(&error) && level != 0 => return,
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                let message = "failed to watch: the limit fs.inotify.max_user_watches is reached; it is looked at \
                               now and then instead";
                self.problems.insert(path.to_owned(), message.to_owned());
            }
            Err(error) => {
                self.problems.insert(path.to_owned(), format!("failed to watch: {error}"));
            }
        }
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if gone(&error) && level != 0 => return,
            Err(error) => {
                self.problems.insert(path.to_owned(), format!("failed to read: {error}"));
                return;
            }
        };
        for entry in entries.flatten() {
            // A folder that cannot be looked at any more is gone.
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.found(&entry.path(), level + 1);
            }
        }
    }

    /// Watches a pod's folder for containers and looks at those in it. What cannot be watched is looked at with the next
    /// walk; what cannot be looked at counts as never seen: it hides no pod.
    fn folder_of_containers(&mut self, path: &Path, level: u32) {
        if let Ok(watch) = self.inotify.watches().add(path, folder_mask()) {
            self.watched.insert(watch, path.to_owned());
        }
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                self.found(&entry.path(), level + 1);
            }
        }
    }

    /// The container's folder is there, if it is one.
    fn found_container(&mut self, path: &Path, pod: &str) {
        let Some(id) = path.file_name().and_then(|n| n.to_str()).and_then(container_folder) else { return };
        self.containers.found(path, pod, id);
        self.watch_events(path);
        self.look_at_container(path);
    }

    fn look_at_container(&mut self, path: &Path) {
        match fs::read_to_string(path.join(EVENTS)) {
            Ok(text) => {
                if let Some(populated) = says_populated(&text) {
                    self.containers.looked(path, populated);
                }
            }
            Err(error) if gone(&error) => self.containers.gone(path),
            // It tells nothing of the container, as where there are too many open files.
            Err(_) => {}
        }
    }

    /// The watch comes before the first look: what happens later is an event, and what happened before is read.
    fn watch_events(&mut self, path: &Path) {
        if let Ok(watch) = self.inotify.watches().add(path.join(EVENTS), WatchMask::MODIFY) {
            self.events.insert(watch, path.to_owned());
        }
    }

    /// A folder is there: a pod's, one that may have pods below it, or one in a pod's.
    fn found(&mut self, path: &Path, level: u32) {
        if level > MAX_LEVELS {
            return;
        }
        if let Some(pod) = path.parent().and_then(|parent| self.pods.get(parent)) {
            let (uid, genuine) = (pod.uid.clone(), pod.genuine);
            self.found_container(path, &uid);
            if genuine {
                return;
            }
        }
        let pod = path.file_name().and_then(|n| n.to_str()).and_then(pod_uid);
        let genuine = pod.as_ref().is_some_and(|p| p.genuine);
        if let Some(pod) = pod
            && let Ok(metadata) = fs::symlink_metadata(path)
        {
            let cgroup = CgroupAt { id: metadata.ino(), level };
            self.watch_events(path);
            let pod = Pod { uid: pod.uid, genuine, cgroup, populated: populated(path) };
            self.pods.insert(path.to_owned(), pod);
        }
        if genuine {
            self.folder_of_containers(path, level);
        } else {
            self.folder(path, level);
        }
    }

    /// A folder is gone, and all below it.
    fn gone(&mut self, path: &Path) {
        self.pods.retain(|p, _| !p.starts_with(path));
        self.containers.gone(path);
        self.problems.retain(|p, _| !p.starts_with(path));
        self.events.retain(|_, p| !p.starts_with(path));
        let stale: Vec<WatchDescriptor> =
            self.watched.iter().filter(|(_, p)| p.starts_with(path)).map(|(w, _)| w.clone()).collect();
        for watch in stale {
            self.watched.remove(&watch);
            // The kernel has dropped it already, unless the folder was only moved away.
            let _ = self.inotify.watches().remove(watch);
        }
    }

    /// Takes the events that are waiting.
    ///
    /// # Errors
    /// Those of read(2) on the inotify descriptor.
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        loop {
            let events: Vec<(WatchDescriptor, EventMask, Option<PathBuf>)> =
                match self.inotify.read_events(&mut buffer) {
                    Ok(events) => events.map(|e| (e.wd, e.mask, e.name.map(PathBuf::from))).collect(),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
            for (watch, mask, name) in events {
                self.event(&watch, mask, name.as_deref());
            }
        }
    }

    fn event(&mut self, watch: &WatchDescriptor, mask: EventMask, name: Option<&Path>) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.walk();
            return;
        }
        if mask.contains(EventMask::IGNORED) {
            self.watched.remove(watch);
            self.events.remove(watch);
            return;
        }
        if let Some(path) = self.events.get(watch).cloned() {
            match self.pods.get_mut(&path) {
                Some(pod) => pod.populated = populated(&path),
                None => self.look_at_container(&path),
            }
            return;
        }
        let (Some(folder), Some(name)) = (self.watched.get(watch), name) else { return };
        if !mask.contains(EventMask::ISDIR) {
            return;
        }
        let path = folder.join(name);
        if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
            if let Some(level) = super::levels::depth(&self.root, &path) {
                self.found(&path, level);
            }
        } else {
            self.gone(&path);
        }
    }

    /// What has changed since the last call; `None`: nothing.
    pub(super) fn changes(&mut self) -> Option<Changes> {
        let mut now = PodCgroups::new();
        for pod in self.pods.values() {
            now.entry(pod.uid.clone()).or_default().insert(pod.cgroup);
        }
        let mut changed = PodCgroups::new();
        for uid in self.told.keys().chain(now.keys()) {
            if self.told.get(uid) != now.get(uid) {
                changed.insert(uid.clone(), now.get(uid).cloned().unwrap_or_default());
            }
        }
        let alive = self.alive_changes();
        let ended = self.containers.changes(|uid| now.contains_key(uid));
        if changed.is_empty() && alive.is_empty() && ended.is_empty() && self.problems == self.told_problems {
            return None;
        }
        self.told = now;
        self.told_problems.clone_from(&self.problems);
        Some(Changes { pods: changed, alive, ended, problems: self.problems.clone() })
    }

    /// In which pods processes appeared, and in which the last one ended, with or without its cgroup.
    fn alive_changes(&mut self) -> BTreeMap<String, bool> {
        let mut now: BTreeMap<String, bool> = BTreeMap::new();
        for pod in self.pods.values() {
            if let Some(populated) = pod.populated {
                *now.entry(pod.uid.clone()).or_default() |= populated;
            }
        }
        let lives = |all: &BTreeMap<String, bool>, uid: &str| all.get(uid) == Some(&true);
        let mut changed = BTreeMap::new();
        for uid in self.told_alive.keys().chain(now.keys()) {
            if lives(&self.told_alive, uid) != lives(&now, uid) {
                changed.insert(uid.clone(), lives(&now, uid));
            }
        }
        self.told_alive = now;
        changed
    }
}

/// Folders that come and go below one.
fn folder_mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::ONLYDIR
        | WatchMask::DONT_FOLLOW
}

/// The file of a cgroup that changes when its first process appears or its last one ends (cgroup-v2.rst).
const EVENTS: &str = "cgroup.events";

/// Is there a process at or below the cgroup?
fn populated(cgroup: &Path) -> Option<bool> {
    says_populated(&fs::read_to_string(cgroup.join(EVENTS)).ok()?)
}

fn says_populated(events: &str) -> Option<bool> {
    let value = events.lines().find_map(|line| line.strip_prefix("populated "))?;
    Some(value.trim() != "0")
}

/// Has the folder gone between being seen and being looked at? (A cgroup that is being removed answers `ENODEV`.)
fn gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    names::{PodUid, container_folder},
    tree::Tree,
    *,
};
use crate::config::cgroup2_mounts;

const UID: &str = "0f6d4d6e-8c1a-4c39-9d2b-7e1f0a5b6c7d";
const OTHER: &str = "1f6d4d6e-8c1a-4c39-9d2b-7e1f0a5b6c7d";
const STATIC: &str = "0123456789abcdef0123456789ABCDEF";
const CONTAINER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn names_of_pods() {
    let found = |name: &str| pod_uid(name).map(|PodUid { uid, genuine }| (uid, genuine));
    let genuine = |uid: &str| Some((uid.to_owned(), true));
    let slice = UID.replace('-', "_");
    assert_eq!(found(&format!("pod{UID}")), genuine(UID));
    assert_eq!(found(&format!("kubepods-burstable-pod{slice}.slice")), genuine(UID));
    assert_eq!(found(&format!("kubepods-pod{slice}.slice")), genuine(UID));
    assert_eq!(found(&format!("pod{slice}.slice")), genuine(UID));
    assert_eq!(found(&format!("pod{STATIC}")), genuine(STATIC));
    assert_eq!(found(&format!("kubelet-kubepods-besteffort-pod{STATIC}.slice")), genuine(STATIC));
    assert_eq!(found("podu1"), Some(("u1".to_owned(), false)), "a uid that a test made up");
    assert_eq!(found("podman"), Some(("man".to_owned(), false)));
    for name in [
        "kubepods",
        "kubepods.slice",
        "kubepods-burstable.slice",
        "pod",
        "pod.slice",
        "x-pod.slice",
        "burstable",
        "",
        "pod a",
        &format!("x-pod{slice}.scope"),
        &format!("nopod{UID}"),
    ] {
        assert_eq!(found(name), None, "{name}");
    }
}

#[test]
fn paths_of_processes() {
    let path = |text: &str| identify(text).map(|p| (p.uid, p.container));
    let with = |uid: &str| Some((uid.to_owned(), Some(CONTAINER.to_owned())));
    let slice = UID.replace('-', "_");
    assert_eq!(path(&format!("kubepods/burstable/pod{UID}/{CONTAINER}")), with(UID));
    assert_eq!(
        path(&format!("/kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-{CONTAINER}.scope/init")),
        with(UID)
    );
    assert_eq!(path(&format!("/x/pod{STATIC}/crio-{CONTAINER}.scope")), with(STATIC));
    assert_eq!(path(&format!("/kubepods/pod{UID}")), Some((UID.to_owned(), None)));
    assert_eq!(path(&format!("/kubepods/pod{UID}/crio-conmon-77.scope")), Some((UID.to_owned(), None)));
    assert_eq!(
        path(&format!("/kubepods/pod{UID}/{CONTAINER}/kubelet/pod{OTHER}/x")),
        with(UID),
        "a pod in a pod"
    );
    assert_eq!(path(&format!("/podman/pod{UID}/{CONTAINER}")), with(UID), "a genuine uid goes first");
    assert_eq!(path(&format!("/kubepods/podu1/{CONTAINER}")), with("u1"));
    assert_eq!(path(&format!("/system.slice/docker-{CONTAINER}.scope")), None);
    assert_eq!(path("/"), None);
    assert_eq!(path(""), None);
}

/// A folder of the test's own; it is gone with the value, with all below it and all processes in it.
struct Folder(PathBuf);

fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("balancing-test-{}-{name}{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

impl Folder {
    fn plain() -> Self {
        Self::new(std::env::temp_dir().canonicalize().unwrap().join(unique("folder")))
    }

    fn cgroup() -> Self {
        let mounts = cgroup2_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        let mount = mounts
            .into_iter()
            .find(|m| m.root == Path::new("/"))
            .expect("this test needs a mount of cgroup v2");
        Self::new(mount.point.join(unique("cgroup")))
    }

    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn make(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Makes the folder and tells what is to be found of it.
    fn pod(&self, path: &str) -> CgroupAt {
        let level = u32::try_from(path.split('/').count()).unwrap();
        CgroupAt { id: fs::metadata(self.make(path)).unwrap().ino(), level }
    }
}

fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path());
        }
    }
    // Files of a cgroup cannot be removed and need not be.
    let _ = fs::remove_dir(path);
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.0);
        if self.0.starts_with(std::env::temp_dir()) {
            // Files, too, of a test that failed.
            let _ = fs::remove_dir_all(&self.0);
        }
        assert!(!self.0.exists() || std::thread::panicking(), "{} is left", self.0.display());
    }
}

fn pods<const N: usize>(all: [(&str, CgroupAt); N]) -> PodCgroups {
    let mut pods = PodCgroups::new();
    for (uid, cgroup) in all {
        pods.entry(uid.to_owned()).or_default().insert(cgroup);
    }
    pods
}

/// A tree of the folder, walked, and what was found.
fn walked(folder: &Folder) -> (Tree, PodCgroups) {
    let mut tree = Tree::new(folder.0.clone()).unwrap();
    tree.walk();
    let mut found = PodCgroups::new();
    tree.changes().unwrap_or_default().apply(&mut found);
    (tree, found)
}

#[test]
fn pods_are_found_at_any_depth_in_both_layouts() {
    let folder = Folder::plain();
    let slice = UID.replace('-', "_");
    let one = folder.pod(&format!("kubepods/burstable/pod{UID}"));
    let two = folder.pod(&format!(
        "a.slice/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice"
    ));
    let made_up = folder.pod("kubepods/podu1");
    let below_made_up = folder.pod(&format!("kubepods/podu1/pod{OTHER}"));
    folder.make(&format!("kubepods/burstable/pod{UID}/{CONTAINER}/pod{STATIC}"));
    fs::write(folder.0.join(format!("pod{STATIC}")), "a file").unwrap();
    std::os::unix::fs::symlink(folder.0.join("kubepods"), folder.0.join("link")).unwrap();
    let (_, found) = walked(&folder);
    assert_eq!(found, pods([(UID, one), (UID, two), ("u1", made_up), (OTHER, below_made_up)]));
    assert_eq!((one.level, two.level), (3, 4));
    fs::remove_file(folder.0.join(format!("pod{STATIC}"))).unwrap();
    fs::remove_file(folder.0.join("link")).unwrap();
}

#[test]
fn changes_are_followed() {
    let folder = Folder::plain();
    let (mut tree, mut found) = walked(&folder);
    let mut follow = |found: &mut PodCgroups| {
        tree.follow().unwrap();
        let changes = tree.changes().unwrap_or_default();
        changes.apply(found);
        changes.pods.into_keys().collect::<Vec<_>>()
    };
    let one = folder.pod(&format!("kubepods/burstable/pod{UID}"));
    assert_eq!(follow(&mut found), [UID]);
    assert_eq!(found, pods([(UID, one)]));
    let two = folder.pod(&format!("kubepods/pod{UID}"));
    let other = folder.pod(&format!("kubepods/burstable/pod{OTHER}"));
    assert_eq!(follow(&mut found), [UID, OTHER]);
    assert_eq!(found, pods([(UID, one), (UID, two), (OTHER, other)]));
    fs::remove_dir(folder.0.join(format!("kubepods/pod{UID}"))).unwrap();
    assert_eq!(follow(&mut found), [UID]);
    assert_eq!(found, pods([(UID, one), (OTHER, other)]));
    remove(&folder.0.join("kubepods"));
    assert_eq!(follow(&mut found), [UID, OTHER]);
    assert_eq!(found, PodCgroups::new());
    let again = folder.pod(&format!("kubepods/burstable/pod{UID}"));
    assert_eq!(follow(&mut found), [UID]);
    assert_eq!(found, pods([(UID, again)]));
    assert_eq!(follow(&mut found), [""; 0], "nothing happened");
    folder.make("kubepods/burstable/other");
    assert_eq!(follow(&mut found), [""; 0], "nothing that matters");
}

#[test]
fn a_folder_that_is_made_anew_before_its_removal_was_read_is_the_new_one() {
    let folder = Folder::plain();
    let path = format!("kubepods/burstable/pod{UID}");
    folder.make(&path);
    let (mut tree, mut found) = walked(&folder);
    for _ in 0..3 {
        remove(&folder.0.join("kubepods"));
        // So that the inode is another.
        folder.make("x/y/z");
        folder.make(&path);
        remove(&folder.0.join("x"));
    }
    let now = folder.pod(&path);
    tree.follow().unwrap();
    tree.changes().unwrap_or_default().apply(&mut found);
    assert_eq!(found, pods([(UID, now)]));
    remove(&folder.0.join("kubepods"));
    tree.follow().unwrap();
    tree.changes().unwrap_or_default().apply(&mut found);
    assert_eq!(found, PodCgroups::new());
}

#[test]
fn more_events_than_the_kernel_keeps_are_made_good() {
    let folder = Folder::plain();
    let (mut tree, mut found) = walked(&folder);
    let limit: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    let stays = folder.pod(&format!("kubepods/pod{UID}"));
    let (here, there) = (folder.make("here"), folder.0.join("there"));
    for _ in 0..=limit / 4 {
        fs::rename(&here, &there).unwrap();
        fs::rename(&there, &here).unwrap();
    }
    // These events do not fit any more.
    let late = folder.pod(&format!("late/deep/pod{OTHER}"));
    tree.follow().unwrap();
    tree.changes().unwrap().apply(&mut found);
    assert_eq!(found, pods([(UID, stays), (OTHER, late)]));
    let next = folder.pod(&format!("late/deep/pod{STATIC}"));
    tree.follow().unwrap();
    tree.changes().unwrap().apply(&mut found);
    assert_eq!(found[STATIC].first(), Some(&next), "what was found by looking is watched, too");
}

#[test]
fn a_folder_that_cannot_be_read_is_named_and_hides_nothing_else() {
    let folder = Folder::plain();
    let closed = folder.make("closed");
    let one = folder.pod(&format!("kubepods/pod{UID}"));
    let two = folder.pod(&format!("closed/pod{OTHER}"));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let (mut tree, before, after) = std::thread::scope(|scope| {
        let as_an_ordinary_user = || {
            // Capabilities are a thread's own: no other test loses them.
            let mut sets = capabilities(None).unwrap();
            sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
            set_capabilities(None, sets).unwrap();
            let mut tree = Tree::new(folder.0.clone()).unwrap();
            tree.walk();
            let before = tree.changes().unwrap();
            fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
            tree.walk();
            let after = tree.changes().unwrap();
            (tree, before, after)
        };
        scope.spawn(as_an_ordinary_user).join().unwrap()
    });
    assert_eq!(before.pods, pods([(UID, one)]));
    let problems: Vec<_> = before.problems.iter().map(|(p, m)| (p.as_path(), m.as_str())).collect();
    assert_eq!(problems, [(closed.as_path(), "failed to read: Permission denied (os error 13)")]);
    assert_eq!(after, Changes { pods: pods([(OTHER, two)]), ..Changes::default() });
    tree.walk();
    assert_eq!(tree.changes(), None);
}

#[test]
fn folders_deeper_than_the_kernel_looks_are_left_out() {
    let folder = Folder::plain();
    let deepest = vec!["d"; 15].join("/");
    let last = folder.pod(&format!("{deepest}/pod{UID}"));
    folder.make(&format!("{deepest}/d/pod{OTHER}"));
    let (_, found) = walked(&folder);
    assert_eq!(found, pods([(UID, last)]));
    assert_eq!(last.level, balancing_datapath::MAX_LEVELS);
}

/// Takes messages until all of them together are as wanted.
async fn wait_for(receiver: &mut UnboundedReceiver<Changes>, found: &mut PodCgroups, wanted: &PodCgroups) {
    while found != wanted {
        let next = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await;
        next.unwrap_or_else(|_| panic!("{found:?} is not {wanted:?}")).unwrap().apply(found);
    }
}

#[tokio::test]
async fn real_cgroups_are_found_as_they_come_and_go() {
    let root = Folder::cgroup();
    let first = root.pod(&format!("kubepods/pod{UID}"));
    let (sender, mut receiver) = unbounded_channel();
    let watch = watch(&root.0, sender).unwrap();
    let initial = receiver.recv().await.unwrap();
    assert_eq!(initial, Changes { pods: pods([(UID, first)]), ..Changes::default() });
    let mut found = initial.pods;
    let slice = OTHER.replace('-', "_");
    let second =
        root.pod(&format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice"));
    root.make(&format!("kubepods/pod{UID}/{CONTAINER}"));
    wait_for(&mut receiver, &mut found, &pods([(UID, first), (OTHER, second)])).await;
    remove(&root.0.join("kubepods"));
    wait_for(&mut receiver, &mut found, &pods([(OTHER, second)])).await;
    remove(&root.0.join("kubepods.slice"));
    wait_for(&mut receiver, &mut found, &PodCgroups::new()).await;
    drop(watch);
    assert_eq!(receiver.recv().await, None, "the thread has ended");
}

#[tokio::test]
async fn the_first_message_comes_without_pods_too() {
    let root = Folder::plain();
    let (sender, mut receiver) = unbounded_channel();
    let _watch = watch(&root.0, sender).unwrap();
    assert_eq!(receiver.recv().await, Some(Changes::default()));
    let (sender, _) = unbounded_channel();
    let error = watch(Path::new("/no/such/cgroup"), sender).unwrap_err();
    assert_eq!(error.to_string(), "failed to watch the cgroups below /no/such/cgroup");
}

#[tokio::test]
async fn folders_made_faster_than_they_can_be_watched_are_found() {
    let root = Folder::cgroup();
    let (sender, mut receiver) = unbounded_channel();
    let _watch = watch(&root.0, sender).unwrap();
    let mut found = PodCgroups::new();
    for round in 0..20 {
        let mut wanted = PodCgroups::new();
        for number in 0..20 {
            let uid = format!("{round:08x}-0000-4000-8000-{number:012x}");
            let pod = root.pod(&format!("a{number}/b/c/d/pod{uid}"));
            wanted.entry(uid).or_default().insert(pod);
        }
        wait_for(&mut receiver, &mut found, &wanted).await;
        remove_below(&root.0);
        wait_for(&mut receiver, &mut found, &PodCgroups::new()).await;
    }
}

fn remove_below(path: &Path) {
    for entry in fs::read_dir(path).unwrap().flatten().filter(|e| e.path().is_dir()) {
        remove(&entry.path());
    }
}

#[test]
fn levels_of_real_cgroups() {
    let root = Folder::cgroup();
    let below = root.make("a/b");
    let mounts = cgroup2_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    let mount = mounts.iter().find(|m| m.root == Path::new("/")).unwrap();
    let real = !mount.point.join("cgroup.type").exists();
    assert_eq!(root_level(&mount.point).unwrap(), real.then_some(0));
    assert_eq!(root_level(&root.0).unwrap(), real.then_some(1));
    assert_eq!(root_level(&below).unwrap(), real.then_some(3));
    assert!(root_level(Path::new("/no/such/cgroup")).is_err());
    assert_eq!(own_cgroup(&below).unwrap(), None, "this process is not in there");
}

/// A process that waits in the cgroup until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start(cgroup: &Path) -> Self {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let sleeper = Self(child);
        fs::write(cgroup.join("cgroup.procs"), sleeper.0.id().to_string()).unwrap();
        sleeper
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_end_of_a_pods_last_process_is_told() {
    let root = Folder::cgroup();
    let (pod, container) =
        (format!("kubepods/pod{UID}"), root.make(&format!("kubepods/pod{UID}/{CONTAINER}")));
    root.pod(&format!("kubepods/pod{OTHER}"));
    let (sender, mut receiver) = unbounded_channel();
    let _watch = watch(&root.0, sender).unwrap();
    assert_eq!(receiver.recv().await.unwrap().alive, BTreeMap::new(), "no process yet, and none lost");
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await;
        next.expect("nothing is told").unwrap().alive
    };
    let told = |alive| BTreeMap::from([(UID.to_owned(), alive)]);
    let sleeper = Sleeper::start(&container);
    assert_eq!(next().await, told(true));
    drop(sleeper);
    assert_eq!(next().await, told(false));
    let again = Sleeper::start(&root.0.join(&pod));
    assert_eq!(next().await, told(true), "a static pod runs again in the same cgroup");
    drop(again);
    assert_eq!(next().await, told(false));
}

#[test]
fn folders_of_containers() {
    for name in ["", "cri-containerd-", "crio-", "docker-"] {
        assert_eq!(container_folder(&format!("{name}{CONTAINER}")).as_deref(), Some(CONTAINER));
        assert_eq!(container_folder(&format!("{name}{CONTAINER}.scope")).as_deref(), Some(CONTAINER));
    }
    for name in [&format!("crio-conmon-{CONTAINER}.scope"), &format!("x-{CONTAINER}"), "main", "crio-", ""] {
        assert_eq!(container_folder(name), None, "{name}");
    }
}

/// The sandbox lives on, and so does the pod.
#[tokio::test]
async fn the_end_of_a_container_is_told() {
    let container = |n: u32| format!("{n:064x}");
    let root = Folder::cgroup();
    let pod = format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_"));
    let sandbox = root.make(&format!("{pod}/cri-containerd-{}.scope", container(0)));
    let first = root.make(&format!("{pod}/cri-containerd-{}.scope", container(1)));
    let _sandbox = Sleeper::start(&sandbox);
    let one = Sleeper::start(&first);
    let (sender, mut receiver) = unbounded_channel();
    let _watch = watch(&root.0, sender).unwrap();
    let initial = receiver.recv().await.unwrap();
    assert_eq!((initial.alive.get(UID), initial.ended), (Some(&true), BTreeMap::new()));
    let mut next = async || {
        let next = tokio::time::timeout(Duration::from_secs(10), receiver.recv()).await;
        let next = next.expect("nothing is told").unwrap();
        assert_eq!(next.pods, BTreeMap::new());
        (next.alive, next.ended)
    };
    let told = |ids: &[u32]| {
        let ids = ids.iter().map(|n| container(*n)).collect();
        (BTreeMap::new(), BTreeMap::from([(UID.to_owned(), ids)]))
    };
    drop(one);
    assert_eq!(next().await, told(&[1]));
    let again = Sleeper::start(&first);
    assert_eq!(next().await, told(&[]), "it runs again");
    drop(again);
    assert_eq!(next().await, told(&[1]));
    // One that never has a process, and a helper of the runtime, end without a word.
    let never = root.make(&format!("{pod}/crio-{}.scope", container(9)));
    let helper = root.make(&format!("{pod}/crio-conmon-{}.scope", container(8)));
    drop(Sleeper::start(&helper));
    remove(&never);
    // The next one is made while it is watched. It may end before it was looked at, which nobody is told of.
    let second = root.make(&format!("{pod}/cri-containerd-{}.scope", container(2)));
    let mut tries = 0..100;
    let (alive, ended) = loop {
        tries.next().expect("nothing is told");
        drop(Sleeper::start(&second));
        if let Ok(next) = tokio::time::timeout(Duration::from_millis(100), next()).await {
            break next;
        }
    };
    assert_eq!((alive, ended), told(&[1, 2]));
}

#[test]
fn a_container_that_went_unseen_has_ended_with_the_next_walk() {
    let root = Folder::cgroup();
    let pod = format!("kubepods/pod{UID}");
    let folder = root.make(&format!("{pod}/{CONTAINER}"));
    let _sandbox = Sleeper::start(&root.make(&format!("{pod}/{}", "0".repeat(64))));
    let sleeper = Sleeper::start(&folder);
    let mut tree = Tree::new(root.0.clone()).unwrap();
    tree.walk();
    assert_eq!(tree.changes().unwrap().ended, BTreeMap::new());
    drop(sleeper);
    while fs::remove_dir(&folder).is_err() {
        std::thread::yield_now();
    }
    tree.walk();
    let ended = BTreeMap::from([(UID.to_owned(), BTreeSet::from([CONTAINER.to_owned()]))]);
    assert_eq!(tree.changes(), Some(Changes { ended, ..Changes::default() }));
    tree.walk();
    assert_eq!(tree.changes(), None);
}

#[test]
fn the_pod_of_a_process_is_found_and_remembered() {
    let root = Folder::cgroup();
    let cgroup = root.make(&format!("kubepods/pod{UID}/{CONTAINER}"));
    let host = root.make("system.slice/x.service");
    let id = |path: &Path| fs::metadata(path).unwrap().ino();
    let callers = Callers::new(&root.0).unwrap();
    let (in_pod, in_host) = (Sleeper::start(&cgroup), Sleeper::start(&host));
    let wanted = PodPath { uid: UID.to_owned(), container: Some(CONTAINER.to_owned()) };
    let told = |callers: &Callers, cgroup: &Path, pid| callers.pod(id(cgroup), pid).map(|p| (*p).clone());
    assert_eq!(told(&callers, &cgroup, in_pod.0.id()), Some(wanted.clone()));
    assert_eq!(told(&callers, &host, in_host.0.id()), None);
    let pid = in_pod.0.id();
    drop((in_pod, in_host));
    assert_eq!(told(&callers, &cgroup, pid), Some(wanted.clone()), "remembered");
    let late = Callers::new(&root.0).unwrap();
    assert_eq!(told(&late, &cgroup, pid), Some(wanted.clone()), "the process has gone, its cgroup has not");
    assert_eq!(told(&late, &host, pid), None);
    // A cgroup's number that a process of another one stands beside: its number is somebody else's by now.
    let another = Callers::new(&root.0).unwrap();
    assert_eq!(told(&another, &cgroup, std::process::id()), Some(wanted));
    assert_eq!(another.pod(u64::MAX, std::process::id()), None);
}

/// As a container of a DaemonSet sees it: its own part at one place, the node's whole hierarchy at another.
#[test]
fn in_a_cgroup_namespace_the_own_cgroup_is_found_by_its_inode() {
    let (node, elsewhere) = (Folder::plain(), Folder::plain());
    let own = node.make("kubepods/podx/container");
    node.make("kubepods/pody/container");
    let mounts = [
        crate::config::Cgroup2Mount { point: own.clone(), root: "/".into() },
        crate::config::Cgroup2Mount { point: node.0.clone(), root: "/../../..".into() },
    ];
    // By another path, as neither mount lies within the other.
    let root = elsewhere.0.join("host");
    std::os::unix::fs::symlink(&node.0, &root).unwrap();
    let found = levels::own_below("0::/\n", &mounts, &root).unwrap().unwrap();
    assert_eq!((found.id, found.level), (fs::metadata(&own).unwrap().ino(), 3));
    let other = root.join("kubepods/pody");
    assert!(levels::own_below("0::/\n", &mounts, &other).unwrap().is_none(), "it does not lie there");
}

//! Names of folders: which are a pod's, and which container's folder lies below (kubelet's cgroupfs and systemd drivers).

/// A pod's uid, as the name of its folder spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodUid {
    /// `metadata.uid`.
    pub uid: String,
    /// Does it look like one that Kubernetes gives: a UUID, or the 32 hexadecimal digits of a static pod?
    pub genuine: bool,
}

/// The uid in the name of a pod's folder: `pod<UID>`, or `*-pod<UID with _ for ->.slice`.
#[must_use]
pub fn pod_uid(name: &str) -> Option<PodUid> {
    let uid = match name.strip_suffix(".slice") {
        Some(unit) => {
            // `kubepods.slice` and `kubepods-burstable.slice` are no pods: in a unit's name a dash stands before `pod`.
            let at = unit.rfind("-pod").map(|at| at + 1).or_else(|| unit.starts_with("pod").then_some(0))?;
            unit[at..].strip_prefix("pod")?.replace('_', "-")
        }
        None => name.strip_prefix("pod")?.to_owned(),
    };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!uid.is_empty() && uid.chars().all(word)).then(|| PodUid { genuine: genuine(&uid), uid })
}

fn genuine(uid: &str) -> bool {
    let hex = |s: &str| s.bytes().all(|b| b.is_ascii_hexdigit());
    let groups: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|g| g.len()).collect();
    groups.into_iter().all(hex) && matches!(lengths.as_slice(), [32] | [8, 4, 4, 4, 12])
}

/// What the path of a process's cgroup says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPath {
    /// `metadata.uid` of the pod.
    pub uid: String,
    /// Id of the container, as `status.containerStatuses[].containerID` has it behind `://`.
    pub container: Option<String>,
}

/// The pod and container that a cgroup's path belongs to: the outermost pod, with a genuine uid if there is one.
#[must_use]
pub fn identify(path: &str) -> Option<PodPath> {
    let folders: Vec<&str> = path.split('/').collect();
    let pods = || folders.iter().enumerate().filter_map(|(at, name)| Some((at, pod_uid(name)?)));
    let (at, pod) = pods().find(|(_, pod)| pod.genuine).or_else(|| pods().next())?;
    let container = folders.get(at + 1..)?.iter().find_map(|name| container_id(name));
    Some(PodPath { uid: pod.uid, container })
}

/// The container that a folder directly below its pod's is of, as the runtimes name it. Not that of a helper, like CRI-O's
/// `crio-conmon-<id>.scope`, which holds other processes than the container's.
pub(super) fn container_folder(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let prefixes = ["cri-containerd-", "crio-", "docker-"];
    let id = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    is_container_id(id).then(|| id.to_owned())
}

/// `<id>`, `cri-containerd-<id>.scope`, `crio-<id>.scope`, ...
fn container_id(name: &str) -> Option<String> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let id = name.rsplit('-').next()?;
    is_container_id(id).then(|| id.to_owned())
}

fn is_container_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())
}

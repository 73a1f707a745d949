//! Where a cgroup lies in the whole hierarchy, as far as this process can tell.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use super::CgroupAt;
use crate::config::{Cgroup2Mount, cgroup_type_file, cgroup2_mounts};

/// How many folders `path` lies below `top`; `None` where it does not.
pub(super) fn depth(top: &Path, path: &Path) -> Option<u32> {
    let below = path.strip_prefix(top).ok()?;
    u32::try_from(below.components().count()).ok()
}

/// The mount that shows the folder: of those around it the innermost, and of two on one point the later.
fn mount_of<'m>(mounts: &'m [Cgroup2Mount], path: &Path) -> Option<&'m Cgroup2Mount> {
    let around = mounts.iter().filter(|m| path.starts_with(&m.point));
    around.max_by_key(|m| m.point.components().count())
}

/// Level of `--cgroup-root` in the hierarchy, the root of all having 0. `None`: what is mounted here is not the real
/// root, which has no `cgroup.type`, so the level cannot be told from here.
///
/// # Errors
/// The folder, its mount's root, or `/proc/self/mountinfo` cannot be looked at.
pub fn root_level(cgroup_root: &Path) -> io::Result<Option<u32>> {
    let root = cgroup_root.canonicalize()?;
    let mounts = cgroup2_mounts(&std::fs::read_to_string("/proc/self/mountinfo")?);
    match mount_of(&mounts, &root) {
        Some(mount) if !cgroup_type_file(&mount.point)? => Ok(depth(&mount.point, &root)),
        _ => Ok(None),
    }
}

/// The folder of the cgroup v2 that the text of a `/proc/PID/cgroup` names, through one of the mounts.
///
/// The paths there and the mounts' roots are both seen from this process's cgroup namespace (cgroup_namespaces(7)).
pub(super) fn folder_of(proc_cgroup: &str, mounts: &[Cgroup2Mount], below: &Path) -> Option<PathBuf> {
    let path = proc_cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = Path::new(path.strip_suffix(" (deleted)").unwrap_or(path));
    if path.components().any(|c| c == Component::ParentDir) {
        return None;
    }
    mounts.iter().find_map(|mount| {
        let folder = mount.point.join(path.strip_prefix(&mount.root).ok()?);
        folder.starts_with(below).then_some(folder)
    })
}

/// The cgroup of this process, if it lies strictly below `--cgroup-root`.
///
/// In a container with a cgroup namespace of its own, paths tell only what the container sees: there the folder is looked
/// for below `--cgroup-root` by its inode, which is the same through every mount.
///
/// # Errors
/// The folders or `/proc/self` cannot be looked at.
pub fn own_cgroup(cgroup_root: &Path) -> io::Result<Option<CgroupAt>> {
    let root = cgroup_root.canonicalize()?;
    let mounts = cgroup2_mounts(&std::fs::read_to_string("/proc/self/mountinfo")?);
    own_below(&std::fs::read_to_string("/proc/self/cgroup")?, &mounts, &root)
}

/// The same, of the process whose `/proc/PID/cgroup` and mounts these are.
pub(super) fn own_below(
    proc_cgroup: &str,
    mounts: &[Cgroup2Mount],
    root: &Path,
) -> io::Result<Option<CgroupAt>> {
    if let Some(folder) = folder_of(proc_cgroup, mounts, root) {
        return match depth(root, &folder) {
            None | Some(0) => Ok(None),
            Some(level) => Ok(Some(CgroupAt { id: std::fs::metadata(&folder)?.ino(), level })),
        };
    }
    let Some(seen) = folder_of(proc_cgroup, mounts, Path::new("/")) else { return Ok(None) };
    let own = std::fs::metadata(seen)?;
    let level = level_of(root, (own.dev(), own.ino()), 1)?;
    Ok(level.map(|level| CgroupAt { id: own.ino(), level }))
}

/// How deep below the folder, whose own folders are at `level`, the one with this device and inode lies.
fn level_of(folder: &Path, wanted: (u64, u64), level: u32) -> io::Result<Option<u32>> {
    let entries = match std::fs::read_dir(folder) {
        // Cgroups come and go.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.metadata().is_ok_and(|found| (found.dev(), found.ino()) == wanted) {
            return Ok(Some(level));
        }
        if let Some(found) = level_of(&entry.path(), wanted, level + 1)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(root: &str, point: &str) -> Cgroup2Mount {
        Cgroup2Mount { point: point.into(), root: root.into() }
    }

    #[test]
    fn the_innermost_and_latest_mount_shows_a_folder() {
        let mounts =
            [mount("/", "/sys/fs/cgroup"), mount("/a", "/sys/fs/cgroup/x"), mount("/b", "/sys/fs/cgroup/x")];
        let of = |path: &str| mount_of(&mounts, Path::new(path)).map(|m| m.root.to_str().unwrap().to_owned());
        assert_eq!(of("/sys/fs/cgroup/y").as_deref(), Some("/"));
        assert_eq!(of("/sys/fs/cgroup/x/y").as_deref(), Some("/b"));
        assert_eq!(of("/sys/fs/cgroupx"), None);
    }

    #[test]
    fn depth_counts_folders() {
        let depth = |top: &str, path: &str| depth(Path::new(top), Path::new(path));
        assert_eq!(depth("/a", "/a"), Some(0));
        assert_eq!(depth("/a/", "/a/b/c"), Some(2));
        assert_eq!(depth("/a", "/ab"), None);
    }

    #[test]
    fn the_folder_of_a_process() {
        let whole = [mount("/", "/sys/fs/cgroup")];
        let part = [mount("/kubepods", "/mnt"), mount("/", "/sys/fs/cgroup")];
        let of = |text: &str, mounts: &[Cgroup2Mount], below: &str| {
            folder_of(text, mounts, Path::new(below)).map(|f| f.to_str().unwrap().to_owned())
        };
        let hybrid = "4:memory:/elsewhere\n0::/kubepods/podx/c\n";
        assert_eq!(of(hybrid, &whole, "/sys/fs/cgroup").as_deref(), Some("/sys/fs/cgroup/kubepods/podx/c"));
        assert_eq!(of(hybrid, &part, "/mnt").as_deref(), Some("/mnt/podx/c"));
        assert_eq!(
            of(hybrid, &part, "/sys/fs/cgroup/kubepods").as_deref(),
            Some("/sys/fs/cgroup/kubepods/podx/c")
        );
        assert_eq!(of(hybrid, &whole, "/sys/fs/cgroup/system.slice"), None);
        assert_eq!(of("0::/a (deleted)\n", &whole, "/").as_deref(), Some("/sys/fs/cgroup/a"));
        assert_eq!(of("0::/../other\n", &whole, "/"), None, "outside this cgroup namespace");
        assert_eq!(of("0::/a..b\n", &whole, "/").as_deref(), Some("/sys/fs/cgroup/a..b"));
        assert_eq!(of("4:memory:/elsewhere\n", &whole, "/"), None, "no cgroup v2");
    }
}

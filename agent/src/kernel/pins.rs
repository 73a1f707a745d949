//! What is pinned below the bpffs folder: `balancing/links/<hook>` and `balancing/v<layout>/<map>`.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use balancing_datapath::HOOKS;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{
    layout::{Carry, MapDefinition},
    sys,
};

/// The folder of this product below a bpffs folder.
pub(super) fn home(bpffs: &Path) -> PathBuf {
    bpffs.join("balancing")
}

/// Where a hook's link is pinned.
pub(super) fn link(bpffs: &Path, hook: &str) -> PathBuf {
    home(bpffs).join("links").join(hook)
}

/// The bpffs folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another balancing-agent runs with --bpffs {0}: stop it, or give each its own folder")]
    Taken(PathBuf),
    /// It cannot be used.
    #[error("failed to open {path} (is a bpf file system mounted there?)")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Holds a bpffs folder for this process. The lock ends with the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _folder: OwnedFd,
}

/// Makes and locks the product's folder.
pub(super) fn lock(bpffs: &Path) -> Result<Lock, LockError> {
    let path = home(bpffs);
    let failed = |source: io::Error| LockError::Open { path: path.clone(), source };
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let folder = rustix::fs::open(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Lock { _folder: folder }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(LockError::Taken(bpffs.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

/// The maps' folders.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MapFolders {
    /// Where the maps are pinned now.
    pub(super) now: PathBuf,
    /// Where they will be pinned once the old ones are gone; equal to `now` where there is nothing to replace.
    pub(super) then: PathBuf,
    /// Folders of maps that are to be removed once the programs use the new ones.
    pub(super) old: Vec<PathBuf>,
    /// The maps hold nothing yet: they are to be filled before a program uses them.
    pub(super) fresh: bool,
}

/// Finds the folder of maps of this layout with these shapes, or prepares a new one: maps whose content outlives a change
/// are taken along.
pub(super) fn map_folders(
    bpffs: &Path,
    layout: u32,
    definitions: &[MapDefinition],
) -> io::Result<MapFolders> {
    let home = home(bpffs);
    for folder in ["links".as_ref(), Path::new("")] {
        match fs::create_dir(home.join(folder)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let then = home.join(format!("v{layout}"));
    // bpffs refuses names with a dot.
    let staging = home.join(format!("v{layout}-new"));
    if staging.exists() {
        // A replacement that did not come to its end.
        remove_folder(&staging)?;
    }
    let others: Vec<PathBuf> = fs::read_dir(&home)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v')) && *path != then
        })
        .collect();
    if then.exists() {
        if definitions.iter().all(|d| is_pinned(&then, d)) {
            return Ok(MapFolders { now: then.clone(), then, old: others, fresh: false });
        }
        fs::create_dir(&staging)?;
        carry(&then, &staging, definitions, Carry::Always)?;
        // Only together: limits and callers go by the index that the names give a policy.
        if definitions.iter().filter(|d| d.carry == Carry::SameLayout).all(|d| is_pinned(&then, d)) {
            carry(&then, &staging, definitions, Carry::SameLayout)?;
        }
        let old = others.into_iter().chain([then.clone()]).collect();
        return Ok(MapFolders { now: staging, then, old, fresh: true });
    }
    // Staged also where there are none yet: maps in `then` are filled ones, whenever an agent was killed.
    fs::create_dir(&staging)?;
    for other in &others {
        carry(other, &staging, definitions, Carry::Always)?;
    }
    Ok(MapFolders { now: staging, then, old: others, fresh: true })
}

/// Is the map pinned in this folder, in this shape?
fn is_pinned(folder: &Path, definition: &MapDefinition) -> bool {
    pinned(folder, definition).is_some()
}

fn pinned(folder: &Path, definition: &MapDefinition) -> Option<OwnedFd> {
    let map = sys::obj_get(&folder.join(definition.name)).ok()?;
    (sys::map_info(map.as_fd()).ok()? == definition.shape).then_some(map)
}

/// Pins in `to` the maps of one kind that are pinned in `from` in this shape: they go on being used.
fn carry(from: &Path, to: &Path, definitions: &[MapDefinition], which: Carry) -> io::Result<()> {
    for definition in definitions.iter().filter(|d| d.carry == which) {
        let target = to.join(definition.name);
        if let Some(map) = pinned(from, definition)
            && !target.exists()
        {
            sys::obj_pin(map.as_fd(), &target)?;
        }
    }
    Ok(())
}

impl MapFolders {
    /// The programs use the maps in `now`: removes the others and gives `now` its name.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        for old in std::mem::take(&mut self.old) {
            remove_folder(&old)?;
        }
        if self.now != self.then {
            fs::rename(&self.now, &self.then)?;
            self.now.clone_from(&self.then);
        }
        Ok(())
    }
}

fn remove_folder(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_folder(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(folder)
}

/// What an agent left could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The folder is in use.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A link could not be ended.
    #[error("failed to detach {hook}")]
    Detach {
        /// The hook.
        hook: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A pin could not be removed.
    #[error("failed to remove {path}")]
    Remove {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Detaches and unpins what an agent with this bpffs folder left, and nothing else. Returns how many programs were
/// attached.
pub fn cleanup(bpffs: &Path) -> Result<usize, CleanupError> {
    let home = home(bpffs);
    if !home.exists() {
        return Ok(0);
    }
    let lock = lock(bpffs)?;
    let mut detached = 0;
    for hook in HOOKS {
        let Ok(link) = sys::obj_get(&link(bpffs, hook)) else { continue };
        match sys::link_detach(link.as_fd()) {
            Ok(()) => detached += 1,
            // Its cgroup is gone already.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(CleanupError::Detach { hook, source }),
        }
    }
    remove_folder(&home).map_err(|source| CleanupError::Remove { path: home, source })?;
    drop(lock);
    Ok(detached)
}

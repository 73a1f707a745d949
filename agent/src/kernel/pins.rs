//! What is pinned below the bpffs folder: `balancing/links/<hook>` and `balancing/v<layout>/<map>`.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use balancing_datapath::HOOKS;
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::{
    layout::{self, Carry, MapDefinition, Sizes, definitions},
    sys::{self, MapShape},
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

// bpffs refuses names with a dot.
/// A folder beside that of a layout's maps.
fn beside(then: &Path, what: &str) -> PathBuf {
    let mut name = then.file_name().unwrap_or_default().to_owned();
    name.push(what);
    then.with_file_name(name)
}

/// Where larger maps are made and filled.
pub(super) fn growing(then: &Path) -> PathBuf {
    beside(then, "-grown")
}

/// Are maps of this layout pinned, in use or about to be?
pub(super) fn exist(bpffs: &Path, layout: u32) -> bool {
    let then = home(bpffs).join(format!("v{layout}"));
    then.exists() || outgrown(&then).exists()
}

/// Where maps are that larger ones have replaced: there only while the larger ones wait for their name.
fn outgrown(then: &Path) -> PathBuf {
    beside(then, "-outgrown")
}

/// Finds the folder of maps of this layout, whatever their sizes, or prepares a new one for maps of these sizes: maps
/// whose content outlives a change are taken along. Answers the sizes that the maps have or are to have.
pub(super) fn map_folders(bpffs: &Path, layout: u32, sizes: Sizes) -> io::Result<(MapFolders, Sizes)> {
    let home = home(bpffs);
    for folder in ["links".as_ref(), Path::new("")] {
        match fs::create_dir(home.join(folder)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    let then = home.join(format!("v{layout}"));
    finish_growing(&then)?;
    let staging = beside(&then, "-new");
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
        if let Some(sizes) = pinned_sizes(&then, sizes.stripes) {
            return Ok((MapFolders { now: then.clone(), then, old: others, fresh: false }, sizes));
        }
        let sizes = carried_sizes(sizes, std::slice::from_ref(&then));
        let all = all_definitions(&sizes);
        fs::create_dir(&staging)?;
        carry(&then, &staging, all.iter().filter(|d| d.carry == Carry::Always))?;
        // Only together: limits and callers go by the index that the names give a policy.
        let together = || all.iter().filter(|d| d.carry == Carry::SameLayout);
        if together().all(|d| is_pinned(&then, d)) {
            carry(&then, &staging, together())?;
        }
        let old = others.into_iter().chain([then.clone()]).collect();
        return Ok((MapFolders { now: staging, then, old, fresh: true }, sizes));
    }
    // Staged also where there are none yet: maps in `then` are filled ones, whenever an agent was killed.
    fs::create_dir(&staging)?;
    let sizes = carried_sizes(sizes, &others);
    for other in &others {
        carry(other, &staging, all_definitions(&sizes).iter().filter(|d| d.carry == Carry::Always))?;
    }
    Ok((MapFolders { now: staging, then, old: others, fresh: true }, sizes))
}

/// Larger maps were being made when an agent ended. They count from the moment when those that they replace have made
/// room for them: from then on they are filled, and programs use them.
fn finish_growing(then: &Path) -> io::Result<()> {
    let (grown, old) = (growing(then), outgrown(then));
    if old.exists() && grown.exists() && !then.exists() {
        fs::rename(&grown, then)?;
    }
    for folder in [grown, old] {
        if folder.exists() {
            remove_folder(&folder)?;
        }
    }
    Ok(())
}

fn all_definitions(sizes: &Sizes) -> Vec<MapDefinition> {
    let mut all = definitions(sizes);
    all.push(layout::policy_names(sizes));
    all
}

/// The sizes of the maps in a folder, if all are there and fit together.
fn pinned_sizes(folder: &Path, stripes: u32) -> Option<Sizes> {
    let entries = |name: &str| Some(shape(folder, name)?.entries);
    let sizes = Sizes {
        frontends: entries("frontends")?,
        slots: entries("slots")?,
        spares: entries("spares")?,
        backends: entries("backends")? / stripes,
        policies: entries("policies")?,
        callers: entries("callers")?,
        affinity: entries("affinity")?,
        udp_sockets: entries("udp_slots")?,
        tcp_sockets: entries("tcp_slots")?,
        events: entries("events")?,
        stripes,
    };
    all_definitions(&sizes).iter().all(|d| is_pinned(folder, d)).then_some(sizes)
}

/// These sizes, but for maps that outlive a change of layout: those keep the size they have.
fn carried_sizes(mut sizes: Sizes, folders: &[PathBuf]) -> Sizes {
    for definition in definitions(&sizes).iter().filter(|d| d.carry == Carry::Always) {
        let size = match definition.name {
            "affinity" => &mut sizes.affinity,
            "udp_slots" => &mut sizes.udp_sockets,
            "tcp_slots" => &mut sizes.tcp_sockets,
            _ => continue,
        };
        let found = folders.iter().filter_map(|folder| shape(folder, definition.name));
        let same =
            |found: &MapShape| MapShape { entries: definition.shape.entries, ..*found } == definition.shape;
        if let Some(found) = found.into_iter().find(same) {
            *size = found.entries;
        }
    }
    sizes
}

fn shape(folder: &Path, name: &str) -> Option<MapShape> {
    let map = sys::obj_get(&folder.join(name)).ok()?;
    sys::map_info(map.as_fd()).ok()
}

/// Makes a folder for maps of other sizes than those in `now`, with those in it whose size is the same.
pub(super) fn prepare_growing(now: &Path, then: &Path, sizes: &Sizes) -> io::Result<PathBuf> {
    let folder = growing(then);
    if folder.exists() {
        // An attempt before this one failed.
        remove_folder(&folder)?;
    }
    fs::create_dir(&folder)?;
    carry(now, &folder, all_definitions(sizes).iter())?;
    Ok(folder)
}

/// Is the map pinned in this folder, in this shape?
fn is_pinned(folder: &Path, definition: &MapDefinition) -> bool {
    pinned(folder, definition).is_some()
}

fn pinned(folder: &Path, definition: &MapDefinition) -> Option<OwnedFd> {
    let map = sys::obj_get(&folder.join(definition.name)).ok()?;
    (sys::map_info(map.as_fd()).ok()? == definition.shape).then_some(map)
}

/// Pins in `to` those of these maps that are pinned in `from` in this shape: they go on being used.
fn carry<'a>(from: &Path, to: &Path, definitions: impl Iterator<Item = &'a MapDefinition>) -> io::Result<()> {
    for definition in definitions {
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
    /// Puts the grown maps in the place of those in `now`. Whenever this is cut short, the next start finds one or the
    /// other, whole.
    pub(super) fn grow(&mut self) -> io::Result<()> {
        let grown = growing(&self.then);
        if self.now != self.then {
            // No program uses these.
            remove_folder(&self.now)?;
            return fs::rename(&grown, &self.now);
        }
        let old = outgrown(&self.then);
        fs::rename(&self.then, &old)?;
        if let Err(error) = fs::rename(&grown, &self.then) {
            fs::rename(&old, &self.then)?;
            return Err(error);
        }
        if let Err(error) = remove_folder(&old) {
            tracing::warn!(%error, folder = %old.display(), "failed to remove maps that have been replaced");
        }
        Ok(())
    }

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

/// How long datagrams already redirected may still be answered, before the programs that give answers the address that
/// was asked go too. A resolver's clients wait for 5 s, but nearly all answers come within one; a pod that ends has 30 s.
const ANSWERS_UNDER_WAY: Duration = Duration::from_secs(2);

/// Does the program redirect? The others translate back, or keep account of what was redirected.
fn redirects(hook: &str) -> bool {
    hook.starts_with("connect") || hook.starts_with("sendmsg")
}

/// Ends the links: first those that redirect; if there were any, after a pause the others. `detach` answers whether a
/// hook had a program. Answers how many had.
fn detach<E>(
    mut detach: impl FnMut(&'static str) -> Result<bool, E>,
    pause: impl FnOnce(),
) -> Result<usize, E> {
    let mut all = |redirecting: bool| {
        let hooks = HOOKS.into_iter().filter(|hook| redirects(hook) == redirecting);
        hooks.map(&mut detach).try_fold(0, |sum, was_there| Ok(sum + usize::from(was_there?)))
    };
    let redirecting = all(true)?;
    if redirecting > 0 {
        pause();
    }
    Ok(redirecting + all(false)?)
}

/// Detaches and unpins what an agent with this bpffs folder left, and nothing else. Returns how many programs were
/// attached.
pub fn cleanup(bpffs: &Path) -> Result<usize, CleanupError> {
    let home = home(bpffs);
    if !home.exists() {
        return Ok(0);
    }
    let lock = lock(bpffs)?;
    let detached = detach(
        |hook| {
            let Ok(link) = sys::obj_get(&link(bpffs, hook)) else { return Ok(false) };
            match sys::link_detach(link.as_fd()) {
                Ok(()) => Ok(true),
                // Its cgroup is gone already.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(source) => Err(CleanupError::Detach { hook, source }),
            }
        },
        || thread::sleep(ANSWERS_UNDER_WAY),
    )?;
    remove_folder(&home).map_err(|source| CleanupError::Remove { path: home, source })?;
    drop(lock);
    Ok(detached)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, convert::Infallible};

    use super::*;

    /// What is done, in its order, where these hooks have a program.
    fn steps(attached: fn(&str) -> bool) -> (usize, Vec<&'static str>) {
        let steps = RefCell::new(Vec::new());
        let Ok(detached) = detach(
            |hook| {
                let there = attached(hook);
                if there {
                    steps.borrow_mut().push(hook);
                }
                Ok::<_, Infallible>(there)
            },
            || steps.borrow_mut().push("pause"),
        );
        (detached, steps.into_inner())
    }

    #[test]
    fn what_redirects_goes_before_what_translates_back() {
        let (detached, order) = steps(|_| true);
        assert_eq!(detached, HOOKS.len());
        let (first, rest) = order.split_at(5);
        assert_eq!(first, ["connect4", "connect6", "sendmsg4", "sendmsg6", "pause"]);
        assert_eq!(rest, ["recvmsg4", "recvmsg6", "getpeername4", "getpeername6", "sock_release"]);
    }

    #[test]
    fn where_nothing_redirects_nothing_is_waited_for() {
        assert_eq!(steps(|_| false), (0, vec![]));
        assert_eq!(steps(|hook| hook == "recvmsg4"), (1, vec!["recvmsg4"]));
    }

    #[test]
    fn a_failure_ends_it() {
        let mut tried = Vec::new();
        let result = detach(
            |hook| {
                tried.push(hook);
                if hook == "connect6" { Err(hook) } else { Ok(true) }
            },
            || unreachable!("it failed before"),
        );
        assert_eq!((result, tried), (Err("connect6"), vec!["connect4", "connect6"]));
    }
}

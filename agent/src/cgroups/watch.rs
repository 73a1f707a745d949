//! The thread that keeps the cgroups of pods up to date.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc::UnboundedSender;

use super::{Changes, tree::Tree};

/// How often everything is looked at anew, should an event ever be missed.
const WALK_EVERY: Duration = Duration::from_secs(30);
/// The same where a folder could not be watched or read.
const WALK_EVERY_WITH_PROBLEMS: Duration = Duration::from_secs(2);

/// Why cgroups are not watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// A system call failed.
    #[error("failed to watch the cgroups below {}", path.display())]
    Io {
        /// `--cgroup-root`.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The watch; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread sees the other end close.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged when it happened.
            let _ = thread.join();
        }
    }
}

/// Watches the cgroups below `--cgroup-root` and sends what changes. The first message comes at once, also where there
/// is no pod: it tells that everything was looked at.
///
/// # Errors
/// The folder does not exist, or there are no resources for a watch.
pub fn watch(cgroup_root: &Path, sender: UnboundedSender<Changes>) -> Result<Watch, WatchError> {
    let start = || {
        let tree = Tree::new(cgroup_root.canonicalize()?)?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = thread::Builder::new()
            .name("cgroups".to_owned())
            .spawn(move || follow(tree, &stopped, |changes| sender.send(changes).is_ok()))?;
        Ok(Watch { stop: Some(stop), thread: Some(thread) })
    };
    start().map_err(|source| WatchError::Io { path: cgroup_root.to_owned(), source })
}

/// Runs until the other end of `stopped` is closed, or nobody wants the changes.
fn follow(mut tree: Tree, stopped: &UnixStream, mut send: impl FnMut(Changes) -> bool) {
    tree.walk();
    let mut next = Some(tree.changes().unwrap_or_default());
    let mut known = BTreeMap::new();
    loop {
        if let Some(changes) = next {
            for (path, problem) in changes.problems.iter().filter(|(path, _)| !known.contains_key(*path)) {
                tracing::warn!(path = %path.display(), problem, "pods below this cgroup may not be found");
            }
            known.clone_from(&changes.problems);
            if !send(changes) {
                return;
            }
        }
        let pause = if tree.complete() { WALK_EVERY } else { WALK_EVERY_WITH_PROBLEMS };
        match wait(&tree, stopped, pause) {
            Wake::Stop => return,
            Wake::Time => tree.walk(),
            Wake::Events => {
                if let Err(error) = tree.follow() {
                    tracing::warn!(%error, "failed to read what changed among the cgroups; looking at all of them");
                    tree.walk();
                }
            }
        }
        next = tree.changes();
    }
}

enum Wake {
    Events,
    Time,
    Stop,
}

fn wait(tree: &Tree, stopped: &UnixStream, pause: Duration) -> Wake {
    let events = tree.fd();
    let mut both = [PollFd::new(&events, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
    // A second is all that can be lost to a pause that cannot be spelled.
    let pause = Timespec::try_from(pause).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    match poll(&mut both, Some(&pause)) {
        Ok(0) => Wake::Time,
        Ok(_) if !both[1].revents().is_empty() => Wake::Stop,
        Ok(_) | Err(rustix::io::Errno::INTR) => Wake::Events,
        Err(_) => {
            // For want of memory alone: it would fail again at once.
            thread::sleep(Duration::from_secs(1));
            Wake::Time
        }
    }
}

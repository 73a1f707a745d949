//! The programming thread: the only one that changes the maps.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use super::{Message, RunError, Shared, core::Programs};
use crate::{
    kernel::{KernelStore, RuntimeChange, monotonic},
    snapshot::Dirty,
};

/// How often the lease is renewed, and the programs and maps are looked at.
const TICK: Duration = Duration::from_secs(1);

pub(super) struct Settings {
    /// `--policy-lease`.
    pub(super) lease: Option<Duration>,
    /// The maps are to be filled before the programs are attached.
    pub(super) fresh: bool,
}

/// Starts the thread.
pub(super) fn start(
    shared: Arc<Shared>,
    store: Arc<KernelStore>,
    messages: mpsc::Receiver<Message>,
    settings: Settings,
) -> Result<thread::JoinHandle<()>, RunError> {
    let worker = Worker { shared, store, lease: settings.lease, attached: false, read_back: false };
    thread::Builder::new()
        .name("programmer".to_owned())
        .spawn(move || worker.run(&messages, settings.fresh))
        .map_err(|source| RunError::Start { what: "the programming thread", source })
}

struct Worker {
    shared: Arc<Shared>,
    store: Arc<KernelStore>,
    lease: Option<Duration>,
    attached: bool,
    read_back: bool,
}

impl Worker {
    fn run(mut self, messages: &mpsc::Receiver<Message>, fresh: bool) {
        self.renew_lease();
        if !fresh {
            // The maps are in use: the programs of this agent take over at once.
            self.attach();
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            match messages.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(Message::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.handle(message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Batch(batch) => {
                self.shared.core().batch(batch);
                if !self.attached {
                    self.attach();
                }
                if !self.read_back {
                    self.read_back();
                }
                self.shared.core().update_conditions(self.shared.features.set_retval);
            }
            Message::Cgroups(changes) => self.cgroups(changes),
            Message::Grace => self.shared.core().grace_passed(),
            Message::End => {}
        }
    }

    fn cgroups(&self, changes: crate::cgroups::Changes) {
        // Before a caller is in the map: the programs have to look at its level.
        self.store.set_runtime(RuntimeChange::CallerLevels { first: changes.first_level, count: changes.levels });
        let mut core = self.shared.core();
        let mut dirty = Dirty::default();
        for (uid, cgroups) in changes.pods {
            core.context.set_pod_cgroups(uid.as_str().into(), cgroups, &mut dirty);
        }
        core.compile(&dirty);
    }

    fn attach(&mut self) {
        let result = self.shared.attachment().attach();
        self.shared.core().programs = match result {
            Ok(()) => {
                self.attached = true;
                tracing::info!(cgroup = %self.shared.places.cgroup_root.display(), "attached");
                Programs::Attached
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                tracing::error!(%error, cause, "failed to attach");
                Programs::Failed(format!("{error}{cause}"))
            }
        };
    }

    fn read_back(&mut self) {
        self.shared.core().read_back();
        self.read_back = true;
    }

    fn tick(&mut self) {
        self.renew_lease();
        if self.attached {
            let detached: Vec<String> =
                self.shared.programs().into_iter().filter(|p| !p.attached).map(|p| p.hook).collect();
            let programs = if detached.is_empty() { Programs::Attached } else { Programs::Detached(detached) };
            self.shared.core().programs = programs;
        }
        self.shared.core().update_conditions(self.shared.features.set_retval);
    }

    fn renew_lease(&self) {
        let until = match self.lease {
            Some(lease) => monotonic().saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX)),
            None => u64::MAX,
        };
        self.store.set_runtime(RuntimeChange::LeaseUntil(until));
    }
}

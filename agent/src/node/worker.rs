//! The programming thread: the only one that changes the maps.

use std::{
    collections::VecDeque,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use balancing_datapath::MAX_LEVELS;

use super::{Message, RunError, Shared, core::Programs};
use crate::{
    cgroups::Changes,
    kernel::{self, KernelStore, RuntimeChange, monotonic},
    snapshot::Dirty,
    source::Touch,
};

/// How often the lease is renewed once all has been heard of, and the programs and maps are looked at.
const TICK: Duration = Duration::from_secs(1);
/// The maps are read back and compared with the desired state every so many ticks.
const READ_BACK: u64 = 60;
/// Larger maps that could not be made are tried again every so many ticks.
const GROW_AGAIN: u64 = 10;

#[derive(Clone, Copy)]
pub(super) struct Settings {
    /// `--policy-lease`.
    pub(super) lease: Option<Duration>,
    /// The maps are to be filled before the programs are attached.
    pub(super) fresh: bool,
    /// Where exempt callers may be.
    pub(super) levels: Levels,
}

/// The levels of the cgroup hierarchy at which exempt callers may be. They only ever widen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Levels {
    /// Level of `--cgroup-root`; unknown inside a cgroup namespace.
    root: Option<u32>,
    below: Option<(u32, u32)>,
}

impl Levels {
    pub(super) fn new(root: Option<u32>) -> Self {
        Self { root, below: None }
    }

    /// Includes these levels below the root.
    pub(super) fn widen(&mut self, levels: impl IntoIterator<Item = u32>) {
        for level in levels {
            let (first, last) = self.below.unwrap_or((level, level));
            self.below = Some((first.min(level), last.max(level)));
        }
    }

    /// First absolute level and number of levels that the programs look at: all of them where the root's is unknown.
    fn absolute(self) -> (u32, u32) {
        match (self.root, self.below) {
            (_, None) => (0, 0),
            (Some(root), Some((first, last))) => (root + first, (last - first + 1).min(MAX_LEVELS)),
            (None, Some(_)) => (1, MAX_LEVELS),
        }
    }
}

/// Starts the thread.
pub(super) fn start(
    shared: Arc<Shared>,
    store: Arc<KernelStore>,
    (send, messages): (mpsc::Sender<Message>, mpsc::Receiver<Message>),
    first: Option<Message>,
    settings: Settings,
) -> Result<thread::JoinHandle<()>, RunError> {
    let Settings { lease, fresh, levels } = settings;
    let worker = Worker {
        shared,
        store,
        send,
        growing: false,
        trim: true,
        lease,
        levels,
        attached: false,
        synced: false,
        read_back: false,
        ticks: 0,
        seen: Seen::default(),
        queue: VecDeque::new(),
    };
    thread::Builder::new()
        .name("programmer".to_owned())
        .spawn(move || worker.run(&messages, first, fresh))
        .map_err(|source| RunError::Start { what: "the programming thread", source })
}

struct Worker {
    shared: Arc<Shared>,
    store: Arc<KernelStore>,
    /// To itself, from the thread that makes larger maps.
    send: mpsc::Sender<Message>,
    /// Larger maps are being made.
    growing: bool,
    /// So much was read or written that free memory is worth giving back, at a quiet moment.
    trim: bool,
    lease: Option<Duration>,
    levels: Levels,
    attached: bool,
    /// Everything has been heard of and written since the start.
    synced: bool,
    read_back: bool,
    ticks: u64,
    seen: Seen,
    queue: VecDeque<Message>,
}

/// What has been heard of at least once: new maps are not used before all of it.
#[derive(Default)]
struct Seen {
    objects: bool,
    cgroups: bool,
}

impl Worker {
    fn run(mut self, messages: &mpsc::Receiver<Message>, first: Option<Message>, fresh: bool) {
        if !fresh {
            // The maps are in use: the programs of this agent take over at once. They go on looking for callers where
            // the agent before found some, until the cgroups have been heard of.
            self.attach();
        }
        if let Some(first) = first {
            self.take(first);
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            match messages.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(Message::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.tick();
            }
        }
    }

    /// Handles a message, or keeps it until what came before it is written: changes apply in their order. A frontend
    /// that changes twice within a grace period waits for its end.
    fn take(&mut self, message: Message) {
        match message {
            Message::Grace | Message::Grown(_) => self.handle(message),
            // Before any object: a pod whose cgroup is not known yet would lose its exemption.
            Message::Cgroups(_) if !self.seen.cgroups => {
                self.seen.cgroups = true;
                self.queue.push_front(message);
            }
            _ => self.queue.push_back(message),
        }
        while self.seen.cgroups && !self.shared.core().is_waiting() {
            let Some(message) = self.queue.pop_front() else { break };
            self.handle(message);
        }
        self.grow_if_needed();
    }

    /// Makes larger maps where the node needs them, on a thread of its own: loading the programs takes its time, and other
    /// changes go on meanwhile.
    fn grow_if_needed(&mut self) {
        if self.growing {
            return;
        }
        let Some(sizes) = self.shared.core().wanted_sizes() else { return };
        let grower = self.shared.attachment().grower();
        let send = self.send.clone();
        self.growing = true;
        let spawned = thread::Builder::new().name("growing".to_owned()).spawn(move || {
            // The receiver is gone only when the agent ends.
            drop(send.send(Message::Grown(Box::new(grower.make(&sizes)))));
        });
        if let Err(source) = spawned {
            let error = kernel::LoadError::Thread(source);
            drop(self.send.send(Message::Grown(Box::new(Err(error)))));
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Batch(batch) => {
                self.seen.objects |= !matches!(batch.touch, Touch::Waiting(_));
                self.shared.core().batch(batch);
                self.first_sync();
                self.shared.core().update_conditions(self.shared.features.set_retval);
            }
            Message::Cgroups(changes) => {
                self.cgroups(changes);
                self.first_sync();
            }
            Message::Grace => {
                self.shared.core().grace_passed();
                self.first_sync();
            }
            Message::Grown(made) => {
                self.growing = false;
                self.trim = true;
                let mut core = self.shared.core();
                core.grown(&mut self.shared.attachment(), *made);
                core.update_conditions(self.shared.features.set_retval);
                drop(core);
                self.first_sync();
            }
            Message::End => {}
        }
        self.shared.changed.notify_one();
    }

    fn cgroups(&mut self, changes: Changes) {
        // Before a caller is in the map: the programs have to look at its level.
        self.levels.widen(changes.pods.values().flatten().map(|cgroup| cgroup.level));
        self.set_levels();
        let mut core = self.shared.core();
        let mut dirty = Dirty::default();
        for (uid, cgroups) in changes.pods {
            let ids = cgroups.iter().map(|cgroup| cgroup.id).collect();
            core.context.set_pod_cgroups(uid.as_str().into(), ids, &mut dirty);
        }
        if core.context.cluster {
            for (uid, alive) in changes.alive {
                core.context.set_lifeless(uid.as_str().into(), !alive, &mut dirty);
            }
            for (uid, ids) in changes.ended {
                let ids = ids.iter().map(|id| id.as_str().into()).collect();
                core.context.set_ended_containers(uid.as_str().into(), ids, &mut dirty);
            }
            core.forget_lifeless();
        }
        core.compile(&dirty);
    }

    fn set_levels(&self) {
        let (first, count) = self.levels.absolute();
        self.store.set_runtime(RuntimeChange::CallerLevels { first, count });
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

    /// Once everything has been heard of and written: the maps are filled, so attach, and read them back.
    fn first_sync(&mut self) {
        // After a takeover a part may wait for the readers of what was there.
        // Larger maps that are being made know where the others are pinned now.
        if !self.seen.objects || self.read_back || self.growing || self.shared.core().is_waiting() {
            return;
        }
        self.synced = true;
        // Before new maps are used, and before anyone finds the node ready.
        self.renew_lease();
        if !self.attached {
            self.attach();
        }
        self.read_back();
    }

    fn read_back(&mut self) {
        // In one: whoever finds the node ready also finds conditions that say so.
        let mut core = self.shared.core();
        core.read_back();
        core.update_conditions(self.shared.features.set_retval);
        drop(core);
        self.read_back = true;
    }

    fn tick(&mut self) {
        self.renew_lease();
        if self.attached {
            let detached: Vec<String> =
                self.shared.programs().into_iter().filter(|p| !p.attached).map(|p| p.hook).collect();
            let programs =
                if detached.is_empty() { Programs::Attached } else { Programs::Detached(detached) };
            self.shared.core().programs = programs;
        } else if self.read_back && !self.growing {
            // It failed before: what was in the way may be gone.
            self.attach();
        }
        self.ticks += 1;
        if self.trim && self.read_back && !self.growing && !self.shared.core().is_waiting() {
            self.trim = false;
            kernel::release_memory();
        }
        if self.ticks.is_multiple_of(GROW_AGAIN) {
            self.shared.core().try_growth_again();
            self.grow_if_needed();
        }
        if self.ticks.is_multiple_of(READ_BACK) && self.read_back && !self.shared.core().is_waiting() {
            self.read_back();
        }
        if self.shared.core().update_conditions(self.shared.features.set_retval) {
            self.shared.changed.notify_one();
        }
    }

    /// Not before all has been heard of: until then nobody's pods are followed, and the lease of the agent before goes on.
    fn renew_lease(&self) {
        if !self.synced {
            return;
        }
        let until = match self.lease {
            Some(lease) => monotonic().saturating_add(u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX)),
            None => u64::MAX,
        };
        self.store.set_runtime(RuntimeChange::LeaseUntil(until));
    }
}

//! Takes the events out of the ring and hands them to the listeners.

use std::{
    collections::HashMap,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use balancing_api::{net::Frontend, policy::PolicyRef};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{RunError, Shared};
use crate::{
    events::{self, Resolve, WallClock},
    kernel::{KernelStore, RuntimeChange},
};

/// With nobody listening: failures and a thin sample, for the last events that `/v1/events` shows.
const QUIET: Mode = Mode { sample_below: u32::MAX / 64, per_second: 100, poll: Duration::from_millis(200) };
/// With a listener: all there is, up to what the ring holds between two looks at it.
const LISTENING: Mode = Mode { sample_below: u32::MAX, per_second: 100_000, poll: Duration::from_millis(5) };

#[derive(Clone, Copy, PartialEq, Eq)]
struct Mode {
    sample_below: u32,
    per_second: u32,
    poll: Duration,
}

/// Starts the thread. The programs never wake it: it looks at the ring in intervals.
pub(super) fn start(
    shared: Arc<Shared>,
    store: Arc<KernelStore>,
    ring: RingBuf<MapData>,
    shutdown: CancellationToken,
) -> Result<thread::JoinHandle<()>, RunError> {
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || run(&shared, &store, ring, &shutdown))
        .map_err(|source| RunError::Start { what: "the thread of events", source })
}

fn run(shared: &Shared, store: &KernelStore, mut ring: RingBuf<MapData>, shutdown: &CancellationToken) {
    let mut mode = None;
    let mut lost = store.runtime().events_lost;
    while !shutdown.is_cancelled() {
        let wanted = if shared.hub.listeners() > 0 { LISTENING } else { QUIET };
        if mode != Some(wanted) {
            store.set_runtime(RuntimeChange::Events {
                sample_below: wanted.sample_below,
                per_second: wanted.per_second,
            });
            mode = Some(wanted);
        }
        drain(shared, store, &mut ring);
        let now_lost = store.runtime().events_lost;
        shared.hub.publish_lost(now_lost.saturating_sub(lost));
        lost = now_lost;
        wait(shared, wanted, shutdown);
    }
}

/// Waits for the next look; less long where a listener comes.
fn wait(shared: &Shared, mode: Mode, shutdown: &CancellationToken) {
    let until = Instant::now() + mode.poll;
    while Instant::now() < until && !shutdown.is_cancelled() {
        thread::sleep(LISTENING.poll.min(mode.poll));
        if mode == QUIET && shared.hub.listeners() > 0 {
            return;
        }
    }
}

fn drain(shared: &Shared, store: &KernelStore, ring: &mut RingBuf<MapData>) {
    let mut names = None;
    let mut received = 0;
    while let Some(item) = ring.next() {
        received += 1;
        let names = names.get_or_insert_with(|| Names::now(shared));
        match events::decode(&item, names) {
            Ok(event) => shared.hub.publish(event),
            Err(error) => tracing::warn!(%error, "an event in the ring is none"),
        }
    }
    if received > 0 {
        store.set_runtime(RuntimeChange::EventsReceived(received));
    }
}

/// What the numbers of events stand for, as of one look at the ring.
struct Names<'a> {
    shared: &'a Shared,
    policies: HashMap<u32, PolicyRef>,
    clock: WallClock,
}

impl<'a> Names<'a> {
    fn now(shared: &'a Shared) -> Self {
        let policies = shared.view.policies().unwrap_or_default();
        Self { shared, policies, clock: WallClock::now() }
    }
}

impl Resolve for Names<'_> {
    fn policy(&self, index: u32) -> Option<PolicyRef> {
        self.policies.get(&index).cloned()
    }

    fn caller(&self, cgroup: u64, pid: u32) -> (Option<String>, Option<String>) {
        let Some(path) = self.shared.callers.pod(cgroup, pid) else { return (None, None) };
        let core = self.shared.core();
        let pod = core.snapshot.pod_of_uid(&path.uid).map(|pod| pod.name.to_string());
        (pod, path.container.clone())
    }

    fn service(&self, frontend: &Frontend) -> Option<String> {
        let core = self.shared.core();
        let service = &core.compiler.desired().get(frontend)?.service.as_ref()?.service;
        Some(format!("{}/{}", service.namespace, service.name))
    }

    fn time(&self, monotonic: u64) -> Timestamp {
        self.clock.at(monotonic)
    }
}

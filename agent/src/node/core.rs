//! The state of a node, and how it follows what the sources say.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use balancing_api::{
    agent::{Condition, PolicyState, PolicyStatus, SourceError},
    names::{condition, reason},
    net::Frontend,
    policy::{PolicyKind, PolicyRef},
};
use jiff::Timestamp;

use crate::{
    compile::{Compiler, NodeContext},
    desired::{Changes, Ladder},
    kernel::{
        Attachment, Failure, Grace, Grown, KernelStore, LoadError, ProgrammedFrontend, Programmer, Residue,
        Room, Sizes, Unread, View,
    },
    metrics::Metrics,
    snapshot::{Dirty, Snapshot},
    source::{Batch, Touch, manifests::FOLDER},
};

/// Pods without processes that are remembered before those without an object are forgotten.
const MAX_LIFELESS: usize = 1000;

/// What became of writing the desired state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Programs {
    /// Not attached yet.
    #[default]
    Pending,
    /// All attached.
    Attached,
    /// They could not be attached.
    Failed(String),
    /// These hooks were attached and are so no more.
    Detached(Vec<String>),
}

/// The node: what is known, what is wanted, what is written.
pub(super) struct Core {
    pub(super) snapshot: Snapshot,
    pub(super) context: NodeContext,
    pub(super) compiler: Compiler,
    programmer: Programmer<Arc<KernelStore>, Arc<Grace>>,
    store: Arc<KernelStore>,
    grace: Arc<Grace>,
    /// What the maps may grow to.
    most: Room,
    /// Maps that were replaced by larger ones, and the grace period after which no program is at them.
    residues: Vec<(u64, Residue)>,
    view: View,
    metrics: Metrics,
    pub(super) errors: Vec<SourceError>,
    pub(super) unread: Vec<String>,
    touch: Touch,
    notes: Vec<String>,
    pub(super) last_progress: Option<Timestamp>,
    settled: bool,
    pub(super) programs: Programs,
    /// Frontends that the maps do not hold as desired, found by reading back; `None`: not read back yet.
    differing: Option<Vec<Frontend>>,
    pub(super) conditions: Vec<Condition>,
}

impl Core {
    pub(super) fn new(
        context: NodeContext,
        programmer: Programmer<Arc<KernelStore>, Arc<Grace>>,
        store: Arc<KernelStore>,
        grace: Arc<Grace>,
        most: Room,
        metrics: Metrics,
    ) -> Self {
        Self {
            snapshot: Snapshot::default(),
            context,
            compiler: Compiler::default(),
            programmer,
            view: View::new(Arc::clone(&store)),
            store,
            grace,
            most,
            residues: Vec::new(),
            metrics,
            errors: Vec::new(),
            unread: Vec::new(),
            touch: Touch::Live,
            notes: Vec::new(),
            last_progress: None,
            settled: false,
            programs: Programs::Pending,
            differing: None,
            conditions: Vec::new(),
        }
    }

    /// A source has something to tell.
    pub(super) fn batch(&mut self, batch: Batch) {
        self.errors = batch.errors;
        self.unread = batch.unread;
        (self.touch, self.notes) = (batch.touch, batch.notes);
        if matches!(self.touch, Touch::Waiting(_)) {
            return;
        }
        self.last_progress = Some(Timestamp::now());
        let changed = !batch.changes.is_empty();
        let dirty = self.snapshot.apply(batch.changes);
        self.compile(&dirty);
        if self.all_read() && !self.settled {
            self.settle();
        }
        if changed {
            self.metrics.programming_latency.observe(batch.seen.elapsed().as_secs_f64());
        }
    }

    /// Forgets pods that had processes once and are no objects any more: over the months there are many.
    pub(super) fn forget_lifeless(&mut self) {
        if self.context.lifeless.len() > MAX_LIFELESS {
            let snapshot = &self.snapshot;
            self.context.lifeless.retain(|uid| snapshot.pod_of_uid(uid).is_some());
        }
    }

    /// Brings the maps up to date with what `dirty` names.
    pub(super) fn compile(&mut self, dirty: &Dirty) {
        let changes = self.compiler.compile(&self.snapshot, &self.context, dirty);
        self.write(changes);
    }

    fn write(&mut self, changes: Changes) {
        if self.all_read() || self.settled {
            if !changes.is_empty() {
                let _changing = self.store.changing();
                self.programmer.apply(changes, None);
            }
        } else {
            let _changing = self.store.changing();
            let (known, pods) = (known_addresses(&self.snapshot), pod_addresses(&self.snapshot));
            let unread = Unread {
                policy: &|policy| self.snapshot.policy(policy).is_some_and(|p| p.spec.is_ok()),
                address: &|address| known.contains(&address),
                gone: &|policy, address| match pods.get(&address) {
                    Some(serves) => !serves,
                    // Its pod may stand in a file that could not be read; a BalancingPolicy may name any address.
                    None => self.unread.is_empty() && policy.kind == PolicyKind::LocalRedirectPolicy,
                },
            };
            self.programmer.apply(changes, Some(&unread));
        }
        self.after_writing();
    }

    /// Was everything read once?
    pub(super) fn synced_once(&self) -> bool {
        self.last_progress.is_some()
    }

    /// Is the source followed, and was everything in it read?
    pub(super) fn synced(&self) -> bool {
        self.last_progress.is_some() && self.unread.is_empty() && self.touch == Touch::Live
    }

    /// Has everything been read and understood? A policy that breaks a rule may have been a valid one before the start.
    fn all_read(&self) -> bool {
        self.unread.is_empty() && self.snapshot.policies().all(|policy| policy.spec.is_ok())
    }

    /// Everything has been read at least once: what an earlier agent left and nobody claims goes.
    fn settle(&mut self) {
        {
            let _changing = self.store.changing();
            let (compiler, programmer) = (&self.compiler, &mut self.programmer);
            programmer.settle(&|frontend| compiler.desired().contains_key(frontend), &|policy| {
                compiler.settings().contains_key(policy)
            });
        }
        self.settled = true;
        self.after_writing();
    }

    /// A grace period is over.
    pub(super) fn grace_passed(&mut self) {
        {
            let _changing = self.store.changing();
            // First: what was counted in smaller maps is part of what ranges that become free now have counted.
            let completed = self.grace.completed();
            let (over, pending): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.residues).into_iter().partition(|(epoch, _)| *epoch <= completed);
            self.residues = pending;
            over.iter().for_each(|(_, residue)| self.store.settle(residue));
            self.programmer.grace_passed();
        }
        self.after_writing();
    }

    /// The sizes of larger maps, if it is time to make some; [`Self::grown`] is to follow.
    pub(super) fn wanted_sizes(&mut self) -> Option<Sizes> {
        let room = self.programmer.wanted_room()?;
        self.programmer.growing();
        Some(self.store.sizes().grown(room, self.most))
    }

    /// Larger maps were made, or could not be: puts them in the place of those in use.
    pub(super) fn grown(&mut self, attachment: &mut Attachment, made: Result<Grown, LoadError>) {
        let (before, began) = (self.store.sizes().room(), Instant::now());
        {
            let _changing = self.store.changing();
            match made.and_then(|grown| attachment.switch(grown, &self.store)) {
                Ok(residue) => {
                    self.residues.push((self.grace.next(), residue));
                    self.programmer.grown();
                }
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                    tracing::error!(%error, cause, "failed to make larger maps; those in use stay");
                    self.programmer.growth_failed(format!("{error}{cause}"));
                }
            }
        }
        if !self.programmer.has_failed_to_grow() {
            let Room { frontends, backends } = self.store.sizes().room();
            let milliseconds = began.elapsed().as_millis();
            tracing::info!(
                "the maps have grown: room for frontends {} -> {frontends}, for backends {} -> {backends}; \
                 changes waited {milliseconds} ms",
                before.frontends,
                before.backends
            );
        }
        self.after_writing();
    }

    /// What was in the way of larger maps may be gone.
    pub(super) fn try_growth_again(&mut self) {
        if self.programmer.has_failed_to_grow() {
            {
                let _changing = self.store.changing();
                self.programmer.try_growth_again();
            }
            self.after_writing();
        }
    }

    fn after_writing(&mut self) {
        for ((map, operation), count) in self.programmer.take_written().writes {
            self.metrics.count_writes(map, operation, count);
        }
        let residues = self.residues.iter().map(|(epoch, _)| *epoch);
        if let Some(epoch) = residues.chain(self.programmer.wanted_epoch()).max() {
            self.grace.request(epoch);
        }
    }

    /// Is a part of the last changes not written yet?
    pub(super) fn is_waiting(&self) -> bool {
        !self.programmer.is_settled()
    }

    /// Reads the maps back and compares them with the desired state.
    pub(super) fn read_back(&mut self) {
        let failed: HashSet<Frontend> = self.programmer.failures().map(|(frontend, _)| *frontend).collect();
        let programmed = match self.view.frontends() {
            Ok(programmed) => programmed,
            Err(error) => {
                tracing::error!(%error, "failed to read the maps back");
                return;
            }
        };
        let programmed: BTreeMap<Frontend, ProgrammedFrontend> =
            programmed.into_iter().map(|f| (f.frontend, f)).collect();
        let differs = |(frontend, ladder): &(&Frontend, &Ladder)| {
            !failed.contains(frontend)
                && !programmed.get(frontend).is_some_and(|found| found.agrees_with(ladder))
        };
        let differing: Vec<Frontend> =
            self.compiler.desired().iter().filter(differs).map(|(frontend, _)| *frontend).collect();
        if self.programmer.is_settled() {
            for frontend in &differing {
                tracing::error!(%frontend, "the maps do not hold what they should");
            }
        }
        self.differing = Some(differing);
    }

    /// What is missing for the node to be ready, in words.
    pub(super) fn missing(&self) -> Result<(), String> {
        if self.last_progress.is_none() {
            return Err(match &self.touch {
                Touch::Waiting(why) | Touch::Lost(why) => why.clone(),
                Touch::Live => "the sources have not been read yet".to_owned(),
            });
        }
        match &self.programs {
            Programs::Attached => {}
            Programs::Pending => return Err("the programs are not attached yet".to_owned()),
            Programs::Failed(error) => return Err(error.clone()),
            Programs::Detached(hooks) => {
                return Err(format!("programs are not attached: {}", hooks.join(", ")));
            }
        }
        if !self.settled && self.unread.iter().any(|file| file == FOLDER) {
            return Err("the folder of manifests has not been read since the start".to_owned());
        }
        match &self.differing {
            None => Err("the maps have not been read back yet".to_owned()),
            Some(differing) if differing.is_empty() || self.settled => Ok(()),
            // Until all is understood, what an earlier agent programmed may stand in for what is desired.
            Some(_) if !self.all_read() => Ok(()),
            Some(differing) => Err(format!("{} frontends are not written yet", differing.len())),
        }
    }

    /// Fill of the maps.
    pub(super) fn fill(&self) -> Vec<(&'static str, u64, u64)> {
        self.programmer.fill()
    }

    /// Every policy with its state here, as the maps bear it out.
    pub(super) fn policies(&self) -> Vec<PolicyStatus> {
        let failures: BTreeMap<&Frontend, &Failure> = self.programmer.failures().collect();
        let policy_failures: BTreeMap<&PolicyRef, &Failure> = self.programmer.policy_failures().collect();
        let names = self.view.policies().unwrap_or_default();
        self.compiler
            .reports(&self.snapshot, &self.context)
            .into_iter()
            .map(|mut report| {
                let failure = policy_failures
                    .get(&report.policy)
                    .or_else(|| report.frontends.iter().find_map(|frontend| failures.get(frontend)));
                if let Some(failure) = failure {
                    report.state = PolicyState::Failed;
                    report.reason = failure_reason(failure);
                    report.message = failure.to_string();
                }
                if let Some(edit) = self.edit_not_applied(&report.policy, report.state) {
                    let before = if report.message.is_empty() { "" } else { "; " };
                    report.message.push_str(&format!("{before}{edit}"));
                }
                let programmed = self.programmed_backends(&report.policy, &report.frontends, &names);
                report.into_status(programmed)
            })
            .collect()
    }

    /// What a source says of a policy that cannot be understood, while what it said before is in force.
    fn edit_not_applied(&self, policy: &PolicyRef, state: PolicyState) -> Option<String> {
        let object = policy.to_string();
        let error = self.errors.iter().find(|error| error.object == object)?;
        let place = if error.line == 0 { String::new() } else { format!("{}:{}: ", error.file, error.line) };
        (state != PolicyState::Invalid)
            .then(|| format!("its last edit is not applied: {place}{}", error.message))
    }

    /// Distinct backends that the maps hold for a policy.
    fn programmed_backends(
        &self,
        policy: &PolicyRef,
        frontends: &[Frontend],
        names: &HashMap<u32, PolicyRef>,
    ) -> u32 {
        let of_policy =
            |found: &ProgrammedFrontend| found.policy.as_ref().is_some_and(|(owner, _)| owner == policy);
        let backends: HashSet<(IpAddr, u16)> = frontends
            .iter()
            .filter_map(|frontend| self.view.frontend(frontend, names).ok().flatten())
            .filter(of_policy)
            .filter_map(|found| found.policy_rung)
            .flat_map(|rung| rung.backends)
            .collect();
        u32::try_from(backends.len()).unwrap_or(u32::MAX)
    }

    /// Brings the conditions up to date; a condition that keeps its status keeps its time. Answers whether one changed.
    pub(super) fn update_conditions(&mut self, set_retval: bool) -> bool {
        let now = Timestamp::now();
        let mut conditions = self.current_conditions(set_retval);
        for condition in &mut conditions {
            let before = self.conditions.iter().find(|old| old.type_ == condition.type_);
            condition.last_transition_time = match before {
                Some(old) if old.status == condition.status => old.last_transition_time,
                _ => now,
            };
            if before.is_none_or(|old| (&old.status, &old.reason) != (&condition.status, &condition.reason)) {
                let Condition { type_, status, reason, message, .. } = &condition;
                // `Ready` repeats another condition, and each error of a source was logged where it was found.
                let told = type_ == condition::READY || reason == reason::SOURCE_ERRORS;
                let (colon, message) = if told || message.is_empty() { ("", "") } else { (": ", &**message) };
                tracing::info!("{type_} is {status}, {reason}{colon}{message}");
            }
        }
        let changed = self.conditions != conditions;
        self.conditions = conditions;
        changed
    }

    fn current_conditions(&self, set_retval: bool) -> Vec<Condition> {
        let attached = match &self.programs {
            Programs::Attached => met(condition::PROGRAMS_ATTACHED, reason::ATTACHED),
            Programs::Pending => unmet(
                condition::PROGRAMS_ATTACHED,
                reason::DETACHED,
                "not attached yet: waiting for the sources",
            ),
            Programs::Failed(error) => unmet(condition::PROGRAMS_ATTACHED, reason::ATTACH_FAILED, error),
            Programs::Detached(hooks) => {
                let message = format!(
                    "no longer attached: {}; the links or their cgroup were removed. Restart the agent to attach again",
                    hooks.join(", ")
                );
                unmet(condition::PROGRAMS_ATTACHED, reason::DETACHED, &message)
            }
        };
        let synced = if self.last_progress.is_none() {
            let why = match &self.touch {
                Touch::Waiting(why) | Touch::Lost(why) => why,
                Touch::Live => "reading for the first time",
            };
            unmet(condition::SOURCES_SYNCED, reason::SYNCING, why)
        } else if let Touch::Lost(why) | Touch::Waiting(why) = &self.touch {
            let message = format!("{why}: the last good state is in force");
            unmet(condition::SOURCES_SYNCED, reason::DISCONNECTED, &message)
        } else if let Some(first) = self.errors.first() {
            let message = match self.errors.len() {
                1 => first.to_string(),
                count => format!("{count} errors; first: {first}"),
            };
            unmet(condition::SOURCES_SYNCED, reason::SOURCE_ERRORS, &message)
        } else {
            let message = self.notes.join("; ");
            Condition { message, ..met(condition::SOURCES_SYNCED, reason::SYNCED) }
        };
        let failures = self.programmer.failures().map(|(_, failure)| failure);
        let all = failures.chain(self.programmer.policy_failures().map(|(_, failure)| failure));
        let differing = self.differing.as_ref().is_some_and(|d| !d.is_empty() && self.settled);
        let programmed = match all.min_by_key(|failure| !matches!(failure, Failure::MapFull { .. })) {
            Some(failure) => {
                let count = self.programmer.failures().count() + self.programmer.policy_failures().count();
                let message = format!("{count} entries are not in the maps; first: {failure}");
                unmet(condition::POLICIES_PROGRAMMED, failure_reason(failure), &message)
            }
            None if differing => unmet(
                condition::POLICIES_PROGRAMMED,
                reason::WRITE_FAILED,
                "the maps do not hold what they should",
            ),
            None => met(condition::POLICIES_PROGRAMMED, reason::PROGRAMMED),
        };
        let fidelity = if set_retval {
            met(condition::ERRNO_FIDELITY, reason::NATIVE)
        } else {
            let message =
                "this kernel has no bpf_set_retval for these hooks (6.1 has): refused clients get EPERM";
            unmet(condition::ERRNO_FIDELITY, reason::KERNEL_UNSUPPORTED, message)
        };
        let first_unmet = [&attached, &synced, &programmed].into_iter().find(|c| c.status != "True").cloned();
        let ready = match first_unmet {
            Some(cause) => unmet(condition::READY, &cause.reason, &cause.message),
            None => met(condition::READY, reason::READY),
        };
        vec![ready, attached, synced, programmed, fidelity]
    }
}

fn failure_reason(failure: &Failure) -> &'static str {
    match failure {
        Failure::MapFull { .. } => reason::MAP_FULL,
        Failure::Write(_) => reason::WRITE_FAILED,
    }
}

fn met(type_: &str, reason: &str) -> Condition {
    new_condition(type_, "True", reason, "")
}

fn unmet(type_: &str, reason: &str, message: &str) -> Condition {
    new_condition(type_, "False", reason, message)
}

fn new_condition(type_: &str, status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: Timestamp::UNIX_EPOCH,
    }
}

/// The addresses of the pods, and whether one that serves has it.
fn pod_addresses(snapshot: &Snapshot) -> HashMap<IpAddr, bool> {
    let mut addresses = HashMap::new();
    for pod in snapshot.pods() {
        for address in &pod.addresses {
            *addresses.entry(*address).or_default() |= pod.usable();
        }
    }
    addresses
}

/// Every address that an object that was read speaks of, usable or not.
fn known_addresses(snapshot: &Snapshot) -> HashSet<IpAddr> {
    let pods = snapshot.pods().flat_map(|pod| pod.addresses.iter().copied());
    let endpoints = snapshot
        .services()
        .flat_map(|service| snapshot.slices_of(&service.name))
        .flat_map(|slice| slice.endpoints.iter().map(|endpoint| endpoint.address));
    pods.chain(endpoints).collect()
}

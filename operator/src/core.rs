//! What is to be written, and when. Pure: changes and times in, writes out; who executes them tells how that went.
//!
//! A change concerns somebody ([`World`]); that one is looked at a moment later, so that changes which come together are
//! one; what differs from what is stored is written. At rest nothing is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use balancing_api::{
    policy::{PolicyObjectStatus, PolicyRef},
    published::Published,
    records::Text,
};
use jiff::Timestamp;

use crate::{
    admission::{self, Question},
    objects::Change,
    publish::{SliceWrite, plan},
    reconcile::{build, dereference, validate},
    world::{Agents, Dirty, World},
};

/// Changes that come together within this time are one.
const GATHER: Duration = Duration::from_millis(100);
/// A policy is looked at again after this time at the earliest, however many nodes report.
const LOOK: Duration = Duration::from_secs(1);
/// A status with another condition is written again after this time at the earliest.
const TRANSITION: Duration = Duration::from_secs(1);
/// The wait after a write that was overtaken, and the first after one that failed; that doubles.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a write that failed.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A status that was written and that no watch has brought back by then is not relied on any longer.
const UNCONFIRMED: Duration = Duration::from_secs(30);

/// Something that is looked at as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Task {
    /// Numbers of policies.
    PolicyIds,
    /// Numbers of nodes.
    NodeIds,
    /// Published addresses of nodes.
    Nodes,
    /// Published backends of a policy.
    Backends(PolicyRef),
    /// Status of a policy.
    Status(PolicyRef),
}

impl Task {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PolicyIds => "policyIds",
            Self::NodeIds => "nodeIds",
            Self::Nodes => "nodes",
            Self::Backends(_) => "backends",
            Self::Status(_) => "status",
        }
    }
}

/// A write to the API server.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A policy gets its number.
    PolicyId {
        /// The policy.
        policy: PolicyRef,
        /// Only if it is still this one,
        uid: String,
        /// and as it was seen.
        version: String,
        /// The number.
        id: u32,
    },
    /// A node gets its number.
    NodeId {
        /// Name of the node.
        node: String,
        /// Only if it is still this one,
        uid: String,
        /// and as it was seen.
        version: String,
        /// The number.
        id: u32,
    },
    /// Slices change, in this order.
    Slices(Published, Vec<SliceWrite>),
    /// A policy's status changes.
    Status(Box<StatusWrite>),
}

/// A change of a policy's status.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusWrite {
    /// The policy.
    pub policy: PolicyRef,
    /// Only if it is still this one.
    pub uid: String,
    /// The status as it was.
    pub old: PolicyObjectStatus,
    /// As it is to be.
    pub new: PolicyObjectStatus,
}

/// How a write went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was made; the object has this resourceVersion now, where that matters.
    Made(String),
    /// The object is gone, or changed meanwhile: it is looked at anew.
    Overtaken,
    /// It failed and is to be tried again.
    Failed,
}

#[derive(Debug, Default)]
struct Memory {
    uid: String,
    looked: Option<Instant>,
    /// When its status was written last, and where no watch has brought that back yet, what was written.
    wrote: Option<Instant>,
    unconfirmed: Option<(PolicyObjectStatus, String)>,
}

/// How often in a row writes of a task were not made.
#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    /// Are those of the last look counted? However many of its writes fail, that is one failure.
    counted: bool,
}

/// What is to be written, and when.
#[derive(Debug)]
pub struct Core {
    world: World,
    interval: Duration,
    due: BTreeMap<Task, Instant>,
    busy: BTreeSet<Task>,
    failures: HashMap<Task, Failures>,
    memory: HashMap<PolicyRef, Memory>,
    /// Numbers that were given and that no watch has brought back: the version that was seen.
    numbered: HashMap<String, String>,
    numbering: (usize, usize),
}

impl Core {
    /// Nothing known yet. `interval` lies between two writes of a policy's status, unless a condition changes.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self {
            world: World::default(),
            interval,
            due: BTreeMap::new(),
            busy: BTreeSet::new(),
            failures: HashMap::new(),
            memory: HashMap::new(),
            numbered: HashMap::new(),
            numbering: (0, 0),
        }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: Change, now: Instant) {
        if let Change::Policy(reference, policy) = &change
            && let Some(memory) = self.memory.get_mut(reference)
        {
            let confirms = |(status, version): &(PolicyObjectStatus, String)| {
                policy.as_ref().is_none_or(|p| {
                    p.uid != memory.uid || p.version == *version || build::same(&p.status, status)
                })
            };
            if memory.unconfirmed.as_ref().is_some_and(confirms) {
                memory.unconfirmed = None;
            }
        }
        match &change {
            Change::Policy(reference, None) => drop(self.numbered.remove(&reference.to_string())),
            Change::Node(name, None) => drop(self.numbered.remove(&**name)),
            _ => {}
        }
        let mut dirty = Dirty::default();
        self.world.apply(change, &mut dirty);
        self.schedule(dirty, now);
    }

    /// Looks at everything anew: where writing begins.
    pub fn look_at_everything(&mut self, now: Instant) {
        let everybody = self.world.everybody();
        self.schedule(everybody, now);
    }

    fn schedule(&mut self, dirty: Dirty, now: Instant) {
        let soon = now + GATHER;
        for policy in dirty.policies {
            let looked = self.memory.get(&policy).and_then(|m| m.looked);
            let at = looked.map_or(soon, |looked| soon.max(looked + LOOK));
            self.at(Task::Status(policy), at);
        }
        for policy in dirty.backends {
            self.at(Task::Backends(policy), soon);
        }
        let single = [
            (dirty.nodes, Task::Nodes),
            (dirty.policy_ids, Task::PolicyIds),
            (dirty.node_ids, Task::NodeIds),
        ];
        for (_, task) in single.into_iter().filter(|(dirty, _)| *dirty) {
            self.at(task, soon);
        }
    }

    fn at(&mut self, task: Task, at: Instant) {
        let due = self.due.entry(task).or_insert(at);
        *due = at.min(*due);
    }

    /// When there is something to look at next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.due.iter().filter(|(task, _)| !self.busy.contains(*task)).map(|(_, at)| *at).min()
    }

    /// Looks at what is due; the writes that follow, each with its task. A task whose writes are being made waits for
    /// [`Core::done`].
    pub fn look(&mut self, now: Instant, clock: Timestamp) -> Vec<(Task, Write)> {
        let ready =
            |(task, at): (&Task, &Instant)| (*at <= now && !self.busy.contains(task)).then(|| task.clone());
        let tasks: Vec<Task> = self.due.iter().filter_map(ready).collect();
        let mut writes = Vec::new();
        for task in tasks {
            self.due.remove(&task);
            if let Some(failures) = self.failures.get_mut(&task) {
                failures.counted = false;
            }
            let follows = match &task {
                Task::PolicyIds => self.policy_ids(),
                Task::NodeIds => self.node_ids(),
                Task::Nodes => self.nodes(),
                Task::Backends(policy) => self.backends(policy),
                Task::Status(policy) => self.status(policy, now, clock),
            };
            if follows.is_empty() {
                self.forget_failures(&task);
            } else {
                self.busy.insert(task.clone());
            }
            match task {
                Task::PolicyIds => self.numbering.0 = follows.len(),
                Task::NodeIds => self.numbering.1 = follows.len(),
                _ => {}
            }
            writes.extend(follows.into_iter().map(|write| (task.clone(), write)));
        }
        writes
    }

    /// Of a policy that is gone nothing is left to fail.
    fn forget_failures(&mut self, task: &Task) {
        if let Task::Status(policy) | Task::Backends(policy) = task
            && self.world.policy(policy).is_none()
        {
            self.failures.remove(task);
        }
    }

    fn policy_ids(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for (policy, id) in self.world.unnumbered_policies() {
            let Some(object) = self.world.policy(&policy) else { continue };
            let key = policy.to_string();
            if self.numbered.get(&key) == Some(&object.version) {
                continue;
            }
            self.numbered.insert(key, object.version.clone());
            let (uid, version) = (object.uid.clone(), object.version.clone());
            writes.push(Write::PolicyId { policy, uid, version, id });
        }
        writes
    }

    fn node_ids(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        for (node, id) in self.world.unnumbered_nodes() {
            let name = node.node.name.to_string();
            let seen = format!("{} {:?}", node.uid, node.id);
            if self.numbered.get(&name) == Some(&seen) {
                continue;
            }
            self.numbered.insert(name.clone(), seen);
            writes.push(Write::NodeId {
                node: name,
                uid: node.uid.clone(),
                version: node.version.0.clone(),
                id,
            });
        }
        writes
    }

    fn nodes(&self) -> Vec<Write> {
        let there = self.world.slices(|held| *held == Published::Nodes);
        slices(Published::Nodes, plan(&Published::Nodes, &there, &self.world.node_addresses(), &[]))
    }

    fn backends(&self, policy: &PolicyRef) -> Vec<Write> {
        let ours = |held: &Published| matches!(held, Published::Backends { policy: of, .. } if of == policy);
        let there = self.world.slices(ours);
        let (published, endpoints, ports) = self.world.backends(policy).unwrap_or_else(|| {
            (Published::Backends { policy: policy.clone(), uid: String::new() }, Vec::new(), Vec::new())
        });
        let writes = plan(&published, &there, &endpoints, &ports);
        slices(published, writes)
    }

    fn status(&mut self, reference: &PolicyRef, now: Instant, clock: Timestamp) -> Vec<Write> {
        let Some(policy) = self.world.policy(reference) else {
            self.memory.remove(reference);
            return Vec::new();
        };
        let memory = self.memory.entry(reference.clone()).or_default();
        if memory.uid != policy.uid {
            *memory = Memory { uid: policy.uid.clone(), ..Memory::default() };
        }
        memory.looked = Some(now);
        if memory.wrote.is_some_and(|wrote| now >= wrote + UNCONFIRMED) {
            memory.unconfirmed = None;
        }
        if memory.unconfirmed.is_some()
            && let Some(wrote) = memory.wrote
        {
            // Somebody else may have written in between, and no watch may ever bring what was written here.
            let due = self.due.entry(Task::Status(reference.clone())).or_insert(wrote + UNCONFIRMED);
            *due = (wrote + UNCONFIRMED).min(*due);
        }
        let old = memory.unconfirmed.as_ref().map_or(&policy.status, |(status, _)| status);
        if old.observed_generation.is_some_and(|seen| seen > policy.generation) {
            // What is known here is older than what somebody has judged: the watch will bring it.
            return Vec::new();
        }
        let rank = dereference::rank_of(policy);
        let Some(of) = dereference::dereference(&self.world, reference, &rank) else { return Vec::new() };
        let judged = validate::validate(&of);
        let new = build::build(&of, &judged, old, clock);
        if build::same(old, &new) {
            return Vec::new();
        }
        let urgent =
            old.observed_generation != new.observed_generation || !build::transitions(old, &new).is_empty();
        let wait = if urgent { TRANSITION } else { self.interval };
        if let Some(at) = memory.wrote.map(|wrote| wrote + wait).filter(|at| *at > now) {
            self.at(Task::Status(reference.clone()), at);
            return Vec::new();
        }
        memory.wrote = Some(now);
        let (policy, uid, old) = (reference.clone(), policy.uid.clone(), old.clone());
        vec![Write::Status(Box::new(StatusWrite { policy, uid, old, new }))]
    }

    /// Takes in how a write went; how often in a row writes of this task were not made.
    pub fn done(&mut self, task: &Task, write: &Write, outcome: Outcome, now: Instant) -> u32 {
        let left = match task {
            Task::PolicyIds => &mut self.numbering.0,
            Task::NodeIds => &mut self.numbering.1,
            _ => &mut 1,
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.busy.remove(task);
        }
        match outcome {
            Outcome::Made(version) => {
                self.failures.remove(task);
                self.made(write, version, now);
                return 0;
            }
            Outcome::Overtaken | Outcome::Failed => self.forget(write),
        }
        let failures = self.failures.entry(task.clone()).or_default();
        if !failures.counted {
            *failures = Failures { in_a_row: failures.in_a_row.saturating_add(1), counted: true };
        }
        let in_a_row = failures.in_a_row;
        let wait = RETRY.saturating_mul(1 << (in_a_row - 1).min(6)).min(LONGEST_RETRY);
        // Not sooner, whatever else concerns it meanwhile; what overtook it the watch has told by then.
        self.due.insert(task.clone(), now + wait);
        in_a_row
    }

    fn made(&mut self, write: &Write, version: String, now: Instant) {
        match write {
            Write::Status(write) => {
                if let Some(memory) = self.memory.get_mut(&write.policy).filter(|m| m.uid == write.uid) {
                    let brought = self.world.policy(&write.policy).is_some_and(|p| p.version == version);
                    memory.unconfirmed = (!brought).then(|| (write.new.clone(), version));
                    if !brought {
                        self.at(Task::Status(write.policy.clone()), now + UNCONFIRMED);
                    }
                }
            }
            Write::Slices(_, writes) => {
                for write in writes {
                    let change = match write {
                        SliceWrite::Apply(slice) => Some(Box::new(slice.clone())),
                        SliceWrite::Delete(_) => None,
                    };
                    self.apply(Change::Slice(write.name().to_owned(), change), now);
                }
            }
            Write::PolicyId { .. } | Write::NodeId { .. } => {}
        }
    }

    /// What a failed write is not to stand in the way of.
    fn forget(&mut self, write: &Write) {
        match write {
            Write::PolicyId { policy, .. } => drop(self.numbered.remove(&policy.to_string())),
            Write::NodeId { node, .. } => drop(self.numbered.remove(node)),
            Write::Slices(..) | Write::Status(_) => {}
        }
    }

    /// Answers a question of the webhook. `synced`: is everything there is known?
    pub fn answer(&mut self, question: Question, synced: bool) {
        admission::answer(question, &mut self.world, synced);
    }

    /// The names of all Nodes, sorted.
    #[must_use]
    pub fn node_names(&self) -> Vec<Text> {
        let mut all: Vec<_> = self.world.nodes().cloned().collect();
        all.sort();
        all
    }

    /// Does any policy have pods of the cluster behind it?
    #[must_use]
    pub fn needs_pods(&self) -> bool {
        self.world.needs_pods()
    }

    /// How the agents are.
    #[must_use]
    pub fn agents(&self) -> Agents {
        self.world.agents()
    }

    /// Policies by the status of their condition Ready, as stored.
    #[must_use]
    pub fn policies_ready(&self) -> (u32, u32) {
        let ready = |p: &&crate::objects::Policy| {
            p.status
                .conditions
                .iter()
                .any(|c| c.type_ == balancing_api::names::condition::READY && c.status == "True")
        };
        let (mut yes, mut all) = (0, 0);
        for policy in self.world.policies() {
            yes += u32::from(ready(&policy));
            all += 1;
        }
        (yes, all - yes)
    }
}

fn slices(published: Published, writes: Vec<SliceWrite>) -> Vec<Write> {
    if writes.is_empty() { Vec::new() } else { vec![Write::Slices(published, writes)] }
}

#[cfg(test)]
mod tests;

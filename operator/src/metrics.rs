//! The page of `/metrics`. No label holds an address, a pod or an error text.

use std::sync::atomic::AtomicU64;

use balancing_api::names::metric;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use crate::{core::Task, watch::Source};

/// Upper bounds of the time that looking at what is due takes, in seconds.
const LOOK_BOUNDS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds of the time that a write takes, in seconds.
const WRITE_BOUNDS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 10.0];

/// How a write went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `made`, `overtaken`, `failed`, `timeout`.
    pub result: &'static str,
}

/// What was written, and how that went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WriteLabels {
    /// `status`, `backends`, `nodes`, `policyIds`, `nodeIds`.
    pub task: &'static str,
    /// `made`, `overtaken`, `failed`, `timeout`.
    pub result: &'static str,
}

/// A state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// The state.
    pub state: &'static str,
}

/// A watch.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// The resource.
    pub source: &'static str,
}

/// A question of the API server about a policy, and the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AdmissionLabels {
    /// `validate`, `mutate`.
    pub path: &'static str,
    /// `allowed`, `warned`, `refused`, `failed`.
    pub result: &'static str,
}

/// What the operator counts. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Writes of policies' statuses.
    pub status_writes: Family<ResultLabel, Counter>,
    /// All writes.
    pub writes: Family<WriteLabels, Counter>,
    /// How long a write takes.
    pub write_seconds: Histogram,
    /// How long looking at what is due takes.
    pub look_seconds: Histogram,
    /// Changes that watches brought.
    pub changes: Counter,
    /// Is this replica the one that writes?
    pub leader: Gauge,
    /// Nodes by the state of their agent; beside these, agents that hold a connection to this replica.
    pub agents: Family<StateLabel, Gauge>,
    /// Questions of the API server about policies.
    pub admissions: Family<AdmissionLabels, Counter>,
    /// Who watches the live stream.
    pub viewers: Gauge,
    /// Policies by whether they are Ready.
    pub policies: Family<StateLabel, Gauge>,
    /// Watches that have told everything there is.
    pub synced: Family<SourceLabel, Gauge>,
    /// Troubles of watches.
    pub watch_errors: Family<SourceLabel, Counter<u64, AtomicU64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            status_writes: Family::default(),
            writes: Family::default(),
            write_seconds: Histogram::new(WRITE_BOUNDS),
            look_seconds: Histogram::new(LOOK_BOUNDS),
            changes: Counter::default(),
            leader: Gauge::default(),
            agents: Family::default(),
            admissions: Family::default(),
            viewers: Gauge::default(),
            policies: Family::default(),
            synced: Family::default(),
            watch_errors: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a write.
    pub fn wrote(&self, task: &Task, result: &'static str, seconds: f64) {
        self.writes.get_or_create(&WriteLabels { task: task.name(), result }).inc();
        if matches!(task, Task::Status(_)) {
            self.status_writes.get_or_create(&ResultLabel { result }).inc();
        }
        self.write_seconds.observe(seconds);
    }

    /// Notes how many agents and policies are in which state.
    pub fn note(&self, agents: crate::world::Agents, (ready, unready): (u32, u32)) {
        for (state, count) in
            [("ready", agents.ready), ("notReady", agents.not_ready), ("silent", agents.silent)]
        {
            self.agents.get_or_create(&StateLabel { state }).set(i64::from(count));
        }
        for (state, count) in [("ready", ready), ("notReady", unready)] {
            self.policies.get_or_create(&StateLabel { state }).set(i64::from(count));
        }
    }

    /// Notes whether a watch has told everything.
    pub fn note_synced(&self, source: Source, synced: bool) {
        self.synced.get_or_create(&SourceLabel { source: source.name() }).set(i64::from(synced));
    }

    /// All of them, for the page.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let build = metric::BUILD_INFO.strip_suffix("_info").unwrap_or(metric::BUILD_INFO);
        registry.register(
            build,
            "The operator's build",
            Info::new([
                ("version", env!("CARGO_PKG_VERSION")),
                ("revision", option_env!("BALANCING_REVISION").unwrap_or("unknown")),
            ]),
        );
        registry.register(metric::STATUS_WRITES, "Writes of policies' statuses", self.status_writes.clone());
        registry.register(metric::RECONCILE_WRITES, "Writes of all kinds", self.writes.clone());
        registry.register_with_unit(
            metric::RECONCILE_WRITE,
            "How long a write takes",
            Unit::Seconds,
            self.write_seconds.clone(),
        );
        registry.register_with_unit(
            metric::RECONCILE_LOOK,
            "How long looking at what is due takes",
            Unit::Seconds,
            self.look_seconds.clone(),
        );
        registry.register(metric::RECONCILE_CHANGES, "Changes that watches brought", self.changes.clone());
        registry.register(metric::RECONCILE_LEADER, "1 on the replica that writes", self.leader.clone());
        registry.register(metric::AGENTS, "Nodes by the state of their agent", self.agents.clone());
        registry.register(metric::VIEWERS, "Who watches the live view", self.viewers.clone());
        registry.register(
            metric::ADMISSIONS,
            "Questions of the API server about policies",
            self.admissions.clone(),
        );
        registry.register(
            metric::RECONCILE_POLICIES,
            "Policies by whether they are Ready",
            self.policies.clone(),
        );
        registry.register(
            metric::RECONCILE_SYNCED,
            "1 where a watch has told everything there is",
            self.synced.clone(),
        );
        registry.register(metric::RECONCILE_WATCH_ERRORS, "Troubles of watches", self.watch_errors.clone());
        registry
    }
}

/// The page, in OpenMetrics text.
#[must_use]
pub fn page(registry: &Registry) -> String {
    let mut page = String::new();
    // Writing to memory does not fail.
    let _ = encode(&mut page, registry);
    page
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::{PolicyKind, PolicyRef};

    use super::*;
    use crate::world::Agents;

    /// Every family with a sample: one without any is not on the page.
    #[test]
    fn the_page() {
        let metrics = Metrics::default();
        metrics.wrote(&Task::Status(PolicyRef::new(PolicyKind::BalancingPolicy, "web")), "made", 0.02);
        metrics.note(Agents { ready: 3, not_ready: 2, silent: 1 }, (4, 5));
        metrics.agents.get_or_create(&StateLabel { state: "connected" }).set(3);
        metrics.note_synced(Source::Nodes, true);
        metrics.look_seconds.observe(0.002);
        metrics.changes.inc_by(7);
        metrics.leader.set(1);
        metrics.viewers.set(2);
        metrics.admissions.get_or_create(&AdmissionLabels { path: "validate", result: "warned" }).inc();
        metrics.watch_errors.get_or_create(&SourceLabel { source: Source::Pods.name() }).inc();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.add_filter(&format!("\"{}\"", env!("CARGO_PKG_VERSION").replace('.', "\\.")), "VERSION");
        settings.add_filter("revision=\"[^\"]*\"", "revision=REVISION");
        let page = page(&metrics.registry());
        // Samples of a family come in any order.
        let mut lines: Vec<_> = page.lines().collect();
        let family = |line: &str| line.split(['{', ' ']).next().map(str::to_owned);
        lines
            .chunk_by_mut(|a, b| family(a) == family(b) && !a.contains("le="))
            .for_each(<[_]>::sort_unstable);
        settings.bind(|| insta::assert_snapshot!("operator-metrics", lines.join("\n")));
    }
}

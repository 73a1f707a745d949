//! The page of `/metrics`: what the kernel counted, read at the moment it is asked for, and what the agent itself counts.
//!
//! No label holds an address, a pod or an error text: labels are names from objects and words of the product.

use std::{collections::BTreeMap, fmt};

use balancing_api::{
    agent::{MapInfo, PolicyCounters, PolicyState},
    names::metric,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

/// Upper bounds of the latency of programming, in seconds: a change is to take effect within 0.1.
const LATENCY_BOUNDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// States of a policy that always have a line, so that one that vanishes is seen to be 0.
const STATES: [PolicyState; 6] = [
    PolicyState::Programmed,
    PolicyState::Fallback,
    PolicyState::NotSelected,
    PolicyState::Conflicted,
    PolicyState::Invalid,
    PolicyState::Failed,
];

/// What is read at the moment the page is asked for.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Per policy, as `/v1/counters` has it.
    pub policies: Vec<PolicyCounters>,
    /// Connections sent to a Service's endpoints, by namespace and name.
    pub resolved: BTreeMap<(String, String), u64>,
    /// Events that reached the agent.
    pub events_received: u64,
    /// Events that found no room.
    pub events_lost: u64,
    /// Fill of the maps.
    pub maps: Vec<MapInfo>,
    /// Hooks with this agent's program attached.
    pub programs_attached: u64,
    /// Was every source read completely?
    pub sources_synced: bool,
    /// What could not be read, as many as `/v1/status` has source errors.
    pub source_errors: u64,
    /// Policies by state.
    pub policy_states: BTreeMap<PolicyState, u64>,
}

/// Labels of [`Metrics::map_writes`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct MapWrite {
    /// Name of the map.
    pub map: &'static str,
    /// `insert`, `update` or `remove`.
    pub op: &'static str,
}

/// What the agent counts itself. Clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// From a change seen to its maps written, in seconds.
    pub programming_latency: Histogram,
    /// Writes to the maps.
    pub map_writes: Family<MapWrite, Counter>,
    revision: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new("unknown")
    }
}

impl Metrics {
    /// Nothing counted yet. `revision` is that of the sources, where the build knows it.
    #[must_use]
    pub fn new(revision: &'static str) -> Self {
        Self { programming_latency: Histogram::new(LATENCY_BOUNDS), map_writes: Family::default(), revision }
    }

    /// Counts `count` writes to a map.
    pub fn count_writes(&self, map: &'static str, op: &'static str, count: u64) {
        self.map_writes.get_or_create(&MapWrite { map, op }).inc_by(count);
    }

    /// The page, in OpenMetrics text.
    ///
    /// # Errors
    /// Writing to memory does not fail; a metric that cannot be spelled would.
    pub fn page(&self, reading: Reading) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register(
            without(metric::BUILD_INFO, "_info"),
            "The agent's build",
            Info::new([("version", env!("CARGO_PKG_VERSION")), ("revision", self.revision)]),
        );
        registry.register_with_unit(
            without(metric::PROGRAMMING_LATENCY, "_seconds"),
            "From a change seen to its maps written",
            Unit::Seconds,
            self.programming_latency.clone(),
        );
        registry.register(metric::MAP_WRITES, "Writes to the maps by this process", self.map_writes.clone());
        registry.register_collector(Box::new(reading));
        let mut page = String::new();
        encode(&mut page, &registry)?;
        Ok(page)
    }
}

/// The name without what the encoder appends by itself.
fn without(name: &'static str, suffix: &str) -> &'static str {
    name.strip_suffix(suffix).unwrap_or(name)
}

/// One sample: its labels and value.
type Sample<'s> = (Vec<(&'static str, &'s str)>, u64);

fn policy_labels(counters: &PolicyCounters) -> Vec<(&'static str, &str)> {
    vec![("kind", counters.policy.kind.as_str()), ("policy", &counters.policy.name)]
}

impl Reading {
    /// One sample a policy.
    fn by_policy(&self, count: impl Fn(&PolicyCounters) -> u64) -> Vec<Sample<'_>> {
        self.policies.iter().map(|p| (policy_labels(p), count(p))).collect()
    }

    fn by_map(&self, count: impl Fn(&MapInfo) -> u64) -> Vec<Sample<'_>> {
        self.maps.iter().map(|m| (vec![("map", &*m.name)], count(m))).collect()
    }
}

/// Writes families of samples.
struct Families<'e>(DescriptorEncoder<'e>);

impl Families<'_> {
    fn write(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: &[Sample<'_>],
        one: impl Fn(u64, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                one(*value, family.encode_family::<[(&str, &str); 0]>(&[])?)?;
            } else {
                one(*value, family.encode_family(&labels.as_slice())?)?;
            }
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) -> fmt::Result {
        self.write(name, help, MetricType::Counter, samples, |v, e| ConstCounter::new(v).encode(e))
    }

    fn gauges(&mut self, name: &str, help: &str, samples: &[Sample<'_>]) -> fmt::Result {
        // Gauges are signed here; what does not fit is a number no map and no folder reaches.
        let value = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        self.write(name, help, MetricType::Gauge, samples, |v, e| ConstGauge::new(value(v)).encode(e))
    }
}

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Families(encoder);
        let redirects = self.by_policy(|p| p.redirects);
        out.counters(
            metric::REDIRECTS,
            "Connections that a LocalRedirectPolicy sent to a local pod",
            &redirects,
        )?;
        let balanced = self.by_policy(|p| p.balanced);
        out.counters(metric::BALANCED, "Connections that a BalancingPolicy sent to its backends", &balanced)?;
        let drops = self.by_policy(|p| p.qos_drops);
        let help = "Redirects not made because the limit was reached; the connection went on down the ladder";
        out.counters(metric::QOS_DROPS, help, &drops)?;
        let mut fallbacks: Vec<Sample<'_>> = Vec::new();
        for policy in &self.policies {
            for (reason, count) in &policy.fallbacks {
                let mut labels = policy_labels(policy);
                labels.push(("reason", reason));
                fallbacks.push((labels, *count));
            }
        }
        let help = "Connections that went on down the ladder for another reason than the limit";
        out.counters(metric::FALLBACKS, help, &fallbacks)?;
        let refusals = self.by_policy(|p| p.refusals);
        out.counters(metric::REFUSALS, "Connections refused because the policy says so", &refusals)?;
        let resolved: Vec<Sample<'_>> = self
            .resolved
            .iter()
            .map(|((namespace, name), n)| (vec![("namespace", &**namespace), ("service", &**name)], *n))
            .collect();
        out.counters(metric::RESOLVED, "Connections sent to an endpoint of the Service", &resolved)?;
        let events =
            [(vec![("result", "sent")], self.events_received), (vec![("result", "lost")], self.events_lost)];
        out.counters(metric::EVENTS, "Events of the data path", &events)?;

        let entries = self.by_map(|m| m.entries);
        out.gauges(metric::MAP_ENTRIES, "Entries in use", &entries)?;
        let capacity = self.by_map(|m| m.capacity);
        out.gauges(metric::MAP_CAPACITY, "Entries that the map can hold", &capacity)?;
        let attached = [(Vec::new(), self.programs_attached)];
        out.gauges(metric::PROGRAMS_ATTACHED, "Hooks with this agent's program attached", &attached)?;
        let synced = [(Vec::new(), u64::from(self.sources_synced))];
        out.gauges(metric::SOURCES_SYNCED, "1 where every source was read completely", &synced)?;
        let errors = [(Vec::new(), self.source_errors)];
        out.gauges(metric::SOURCE_ERRORS, "What could not be read, and keeps its last good state", &errors)?;
        let states: Vec<Sample<'_>> = STATES
            .iter()
            .map(|s| (vec![("state", state_name(*s))], self.policy_states.get(s).copied().unwrap_or(0)))
            .collect();
        out.gauges(metric::POLICIES, "Policies by their state on this node", &states)
    }
}

/// The state, as documents spell it.
fn state_name(state: PolicyState) -> &'static str {
    match state {
        PolicyState::Programmed => "Programmed",
        PolicyState::Fallback => "Fallback",
        PolicyState::NotSelected => "NotSelected",
        PolicyState::Conflicted => "Conflicted",
        PolicyState::Invalid => "Invalid",
        PolicyState::Failed => "Failed",
        PolicyState::Unknown => "Unknown",
    }
}

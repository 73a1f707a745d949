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
    /// Translations of a UDP socket that had to make room for others of the same socket.
    pub records_evicted: u64,
    /// Translations for which the kernel had no memory: the client sees the backend's address.
    pub records_failed: u64,
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
    /// Writes a family; a sample without labels is its only one.
    fn write(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: &[Sample<'_>],
        one: impl Fn(u64, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, &format!("{help}."), None, kind)?;
        if let [(labels, value)] = samples
            && labels.is_empty()
        {
            return one(*value, family);
        }
        samples.iter().try_for_each(|(labels, value)| one(*value, family.encode_family(&labels.as_slice())?))
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

        let evicted = [(Vec::new(), self.records_evicted)];
        let help = "Translations of a UDP socket that had to make room for others of the same socket";
        out.counters(metric::RECORDS_EVICTED, help, &evicted)?;
        let failed = [(Vec::new(), self.records_failed)];
        let help = "Translations for which there was no memory: the client sees the address of the backend";
        out.counters(metric::RECORDS_FAILED, help, &failed)?;

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
        PolicyState::Other(_) => "Other",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use balancing_api::policy::{PolicyKind, PolicyRef};

    use super::*;

    fn counters(
        kind: PolicyKind,
        name: &str,
        numbers: [u64; 4],
        fallbacks: &[(&str, u64)],
    ) -> PolicyCounters {
        let [redirects, balanced, qos_drops, refusals] = numbers;
        PolicyCounters {
            policy: PolicyRef::new(kind, name),
            redirects,
            balanced,
            qos_drops,
            fallbacks: fallbacks.iter().map(|(r, n)| ((*r).to_owned(), *n)).collect(),
            refusals,
        }
    }

    fn reading() -> Reading {
        let map = |name: &str, entries, capacity| MapInfo { name: name.to_owned(), entries, capacity };
        Reading {
            records_evicted: 2,
            records_failed: 1,
            policies: vec![
                counters(
                    PolicyKind::LocalRedirectPolicy,
                    "node-local-dns",
                    [5, 0, 2, 0],
                    &[("AgentStale", 3), ("ExemptCaller", 1)],
                ),
                counters(PolicyKind::BalancingPolicy, "web", [0, u64::MAX, 0, 4], &[]),
            ],
            resolved: BTreeMap::from([
                (("kube-system".to_owned(), "kube-dns".to_owned()), 7),
                (("we\"ird\n".to_owned(), "back\\slash".to_owned()), 8),
            ]),
            events_received: 14,
            events_lost: 1,
            maps: vec![map("frontends", 3, 65536), map("backends", 9, 262_144)],
            programs_attached: 9,
            sources_synced: true,
            source_errors: 2,
            policy_states: BTreeMap::from([(PolicyState::Programmed, 1), (PolicyState::Conflicted, 1)]),
        }
    }

    fn page() -> String {
        let metrics = Metrics::new("abc1234");
        metrics.programming_latency.observe(0.003);
        metrics.programming_latency.observe(0.3);
        metrics.clone().count_writes("frontends", "insert", 3);
        metrics.page(reading()).unwrap()
    }

    #[test]
    fn the_page() {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.add_filter(&regex_escape(env!("CARGO_PKG_VERSION")), "VERSION");
        settings.bind(|| insta::assert_snapshot!("agent-metrics", page()));
    }

    fn regex_escape(text: &str) -> String {
        format!("\"{}\"", text.replace('.', "\\."))
    }

    /// Name, labels as written, and value of a sample line.
    fn sample(line: &str) -> (&str, Vec<(String, String)>, &str) {
        let name_end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(name_end);
        let mut labels = Vec::new();
        let mut chars = rest.char_indices().peekable();
        let mut end = 0;
        if rest.starts_with('{') {
            chars.next();
            loop {
                let mut label = String::new();
                let mut value = String::new();
                for (_, c) in chars.by_ref().take_while(|(_, c)| *c != '=') {
                    label.push(c);
                }
                assert_eq!(chars.next().unwrap().1, '"', "{line}");
                while let Some((_, c)) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next().unwrap().1 {
                            'n' => value.push('\n'),
                            c @ ('"' | '\\') => value.push(c),
                            c => panic!("escape \\{c} in {line}"),
                        },
                        c => value.push(c),
                    }
                }
                assert!(label.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "label {label:?}");
                labels.push((label, value));
                match chars.next().unwrap() {
                    (_, ',') => {}
                    (at, '}') => {
                        end = at + 1;
                        break;
                    }
                    other => panic!("{other:?} in {line}"),
                }
            }
        }
        (name, labels, rest[end..].strip_prefix(' ').unwrap())
    }

    /// Checks the page against the OpenMetrics 1.0 text format, and gives its families: name and type.
    fn families(page: &str) -> BTreeMap<String, String> {
        let body = page.strip_suffix("# EOF\n").expect("the page ends with # EOF");
        let mut families: BTreeMap<String, String> = BTreeMap::new();
        let mut samples = BTreeSet::new();
        let mut current = (String::new(), String::new());
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (what, name, text) =
                    (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
                match what {
                    "TYPE" => {
                        let again = families.insert(name.to_owned(), text.to_owned());
                        assert_eq!(again, None, "family {name} twice");
                        assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}");
                        current = (name.to_owned(), text.to_owned());
                    }
                    "UNIT" => assert!(name == current.0 && name.ends_with(&format!("_{text}")), "{line}"),
                    "HELP" => assert!(!text.is_empty() && !name.is_empty(), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (name, labels, value) = sample(line);
            let suffixes: &[&str] = match current.1.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                other => panic!("type {other}"),
            };
            let own = suffixes.iter().any(|s| name == format!("{}{s}", current.0));
            assert!(own, "{name} below family {current:?}");
            value.parse::<f64>().unwrap_or_else(|_| panic!("value of {line}"));
            assert!(samples.insert((name.to_owned(), labels)), "twice: {line}");
        }
        families
    }

    #[test]
    fn the_page_is_openmetrics() {
        let page = page();
        let families = families(&page);
        let of = |kind: &str| {
            families.iter().filter(|(_, t)| *t == kind).map(|(n, _)| n.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(
            of("counter"),
            [
                "balancing_balanced",
                "balancing_events",
                "balancing_fallbacks",
                "balancing_map_writes",
                "balancing_qos_drops",
                "balancing_records_evicted",
                "balancing_records_failed",
                "balancing_redirects",
                "balancing_refusals",
                "balancing_resolved",
            ]
        );
        assert_eq!(
            of("gauge"),
            [
                "balancing_map_capacity",
                "balancing_map_entries",
                "balancing_policies",
                "balancing_programs_attached",
                "balancing_source_errors",
                "balancing_sources_synced",
            ]
        );
        assert_eq!(of("histogram"), ["balancing_programming_latency_seconds"]);
        assert_eq!(of("info"), ["balancing_build"]);
        assert_eq!(page.matches("# EOF").count(), 1);
    }

    #[test]
    fn values_are_absolute_and_labels_escaped() {
        let page = page();
        for line in [
            "balancing_redirects_total{kind=\"LocalRedirectPolicy\",policy=\"node-local-dns\"} 5",
            "balancing_balanced_total{kind=\"BalancingPolicy\",policy=\"web\"} 18446744073709551615",
            "balancing_fallbacks_total{kind=\"LocalRedirectPolicy\",policy=\"node-local-dns\",reason=\"AgentStale\"} 3",
            "balancing_resolved_total{namespace=\"we\\\"ird\\n\",service=\"back\\\\slash\"} 8",
            "balancing_map_writes_total{map=\"frontends\",op=\"insert\"} 3",
            "balancing_source_errors 2",
            "balancing_policies{state=\"Failed\"} 0",
            "balancing_programming_latency_seconds_bucket{le=\"0.005\"} 1",
            "balancing_programming_latency_seconds_count 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_node_without_anything_has_a_valid_page() {
        let page = Metrics::default().page(Reading::default()).unwrap();
        families(&page);
        assert!(page.contains("\nbalancing_sources_synced 0\n"), "{page}");
    }
}

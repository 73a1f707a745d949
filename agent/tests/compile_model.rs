//! Random states and flows: what compile and the data path's decision make of them is what a naive model says, and a
//! state reached change by change is the state reached at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use balancing_agent::{
    compile::{Compiler, NodeContext, ServiceResolution},
    desired::{Changes, Ladder, PolicySettings},
    snapshot::{Converter, Dirty, Object, ObjectChange, ObjectKey, Snapshot, Text},
    source::manifests,
    testing::{Caller, Flow, NAMESPACE, Random, Rules, World, expected, flows, objects, verdict},
};
use balancing_api::{net::Frontend, policy::PolicyRef};
use proptest::prelude::*;
use serde_json::Value;

const MODES: [(ServiceResolution, &str); 3] = [
    (ServiceResolution::All, "all"),
    (ServiceResolution::Policies, "policies"),
    (ServiceResolution::Off, "off"),
];

fn records(objects: &[Value]) -> Vec<Object> {
    let text: Vec<String> = objects.iter().map(ToString::to_string).collect();
    let (records, problems) = manifests::objects(&text.join("\n---\n"), &mut Converter::default());
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(records.len(), objects.len());
    records
}

/// Each pod has one cgroup, told by its name.
fn cgroup(pod: &str) -> u64 {
    pod.bytes().fold(1, |id, b| id * 257 + u64::from(b))
}

fn context(world: &World, resolution: ServiceResolution) -> NodeContext {
    let pods = world.local.iter().chain(&world.remote);
    NodeContext {
        node: world.node.as_str().into(),
        namespace: NAMESPACE.into(),
        resolution,
        default_limit: 0,
        own_cgroups: BTreeSet::from([7]),
        pod_cgroups: pods.map(|(name, ..)| (Text::from(format!("uid-{name}")), vec![cgroup(name)])).collect(),
        ..NodeContext::default()
    }
}

/// What the compiled state makes of a flow.
fn compiled(compiler: &Compiler, flow: &Flow) -> balancing_agent::testing::Expected {
    let ladder = compiler.desired().get(&flow.to);
    let callers = ladder.and_then(|l| l.policy.as_ref()).and_then(|r| compiler.settings().get(&r.policy));
    let exempt = match &flow.from {
        Caller::Host => false,
        Caller::Pod(pod) => callers.is_some_and(|s| s.callers.contains(&cgroup(pod))),
    };
    verdict(ladder, exempt)
}

/// The first flow on which compile and the model differ.
fn difference(world: &World, state: &[Value], flows: &[Flow]) -> Option<String> {
    let mut snapshot = Snapshot::default();
    snapshot.apply(records(state).into_iter().map(ObjectChange::set));
    for (resolution, name) in MODES {
        let mut compiler = Compiler::default();
        compiler.compile(&snapshot, &context(world, resolution), &Dirty::everything());
        let rules = Rules { node: world.node.clone(), resolution: name.to_owned() };
        for flow in flows {
            let (is, should) = (compiled(&compiler, flow), expected(state, &rules, flow));
            if is != should {
                return Some(format!(
                    "{name}: {} by {:?}: {is:?}, the model says {should:?}",
                    flow.to, flow.from
                ));
            }
        }
    }
    None
}

/// Leaves out of a state what the difference does not need.
fn smallest(world: &World, mut state: Vec<Value>, flows: &[Flow]) -> String {
    let mut i = 0;
    while i < state.len() {
        let mut fewer = state.clone();
        fewer.remove(i);
        if difference(world, &fewer, flows).is_some() {
            state = fewer;
        } else {
            i += 1;
        }
    }
    let mut text = difference(world, &state, flows).unwrap_or_default();
    for o in &state {
        let _ = write!(text, "\n{o}");
    }
    text
}

/// Every frontend of the world, from the host and each of its pods.
fn all_flows(world: &World) -> Vec<Flow> {
    let cluster = world.cluster.iter().flat_map(|(v4, v6)| [*v4, *v6]);
    let callers = world.local.iter().map(|(name, ..)| Caller::Pod(name.clone())).chain([Caller::Host]);
    let callers: Vec<Caller> = callers.collect();
    let mut flows = Vec::new();
    for address in world.vips.iter().copied().chain(cluster) {
        for port in world.frontend_ports.iter().copied().chain([9153]) {
            for protocol in [balancing_api::net::Protocol::Tcp, balancing_api::net::Protocol::Udp] {
                let to = Frontend::new(address, port, protocol);
                flows.extend(callers.iter().map(|from| Flow { from: from.clone(), to }));
            }
        }
    }
    flows
}

#[test]
fn random_states_agree_with_the_model() {
    let world = World::default();
    let all = all_flows(&world);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..100 {
        let state = objects(&mut Random::new(seed), &world);
        if difference(&world, &state, &all).is_some() {
            panic!("seed {seed}: {}", smallest(&world, state, &all));
        }
        let rules = Rules { node: world.node.clone(), resolution: "all".to_owned() };
        for flow in &all {
            let end = format!("{:?}", expected(&state, &rules, flow));
            *seen.entry(end.split('(').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    // The states are not all alike: each end comes, and none is rare.
    for end in ["Redirect", "Balance", "Service", "Untouched", "Refuse"] {
        assert!(seen.get(end).is_some_and(|n| *n > 150), "{seen:?}");
    }
}

#[test]
fn random_flows_reach_what_objects_speak_of() {
    let world = World::default();
    let mut rng = Random::new(1);
    let state = objects(&mut rng, &world);
    let rules = Rules { node: world.node.clone(), resolution: "all".to_owned() };
    let touched = flows(&mut rng, &world, 200)
        .iter()
        .filter(|f| expected(&state, &rules, f) != balancing_agent::testing::Expected::Untouched)
        .count();
    assert!(touched > 10, "{touched} of 200");
}

/// The desired state, as kept by one who only hears of changes.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    frontends: BTreeMap<Frontend, Ladder>,
    policies: BTreeMap<PolicyRef, PolicySettings>,
}

impl Kept {
    fn hear(&mut self, changes: Changes) {
        for (frontend, ladder) in changes.frontends {
            let old = match ladder.clone() {
                Some(ladder) => self.frontends.insert(frontend, ladder),
                None => self.frontends.remove(&frontend),
            };
            assert_ne!(old, ladder, "{frontend} did not change");
        }
        for (policy, settings) in changes.policies {
            let old = match settings.clone() {
                Some(settings) => self.policies.insert(policy.clone(), settings),
                None => self.policies.remove(&policy),
            };
            assert_ne!(old, settings, "{policy} did not change");
        }
    }

    fn all(
        snapshot: &Snapshot,
        context: &NodeContext,
    ) -> (Self, Vec<balancing_agent::compile::PolicyReport>) {
        let mut compiler = Compiler::default();
        let mut kept = Self::default();
        kept.hear(compiler.compile(snapshot, context, &Dirty::everything()));
        (kept, compiler.reports(snapshot, context))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn change_by_change_is_all_at_once(seed: u64, mode in 0..3_usize, steps in 2..6_usize) {
        let world = World::default();
        let mut rng = Random::new(seed);
        let mut context = context(&world, MODES[mode].0);
        let mut snapshot = Snapshot::default();
        let mut compiler = Compiler::default();
        let mut kept = Kept::default();
        let mut present: BTreeSet<ObjectKey> = BTreeSet::new();
        kept.hear(compiler.compile(&snapshot, &context, &Dirty::everything()));
        for _ in 0..steps {
            // Towards another state, object by object, in groups, with cgroups that come and go.
            let target = records(&objects(&mut rng, &world));
            let wanted: BTreeSet<ObjectKey> = target.iter().map(Object::key).collect();
            let gone = present.difference(&wanted).cloned().map(ObjectChange::removed);
            let changes: Vec<_> = target.into_iter().map(ObjectChange::set).chain(gone).collect();
            present = wanted;
            let n = changes.len();
            let mut changes = rng.sample(&changes, n).into_iter().peekable();
            while changes.peek().is_some() {
                let group = rng.between(1, 4);
                let mut dirty = snapshot.apply(changes.by_ref().take(group));
                if rng.chance(30) {
                    let name = rng.pick(&world.local).0.clone();
                    let ids = if rng.chance(50) { vec![] } else { vec![cgroup(&name)] };
                    context.set_pod_cgroups(format!("uid-{name}").into(), ids, &mut dirty);
                }
                kept.hear(compiler.compile(&snapshot, &context, &dirty));
                let (fresh, reports) = Kept::all(&snapshot, &context);
                prop_assert_eq!(&kept, &fresh);
                prop_assert_eq!(compiler.reports(&snapshot, &context), reports);
                prop_assert_eq!(compiler.desired(), &kept.frontends);
                prop_assert_eq!(compiler.settings(), &kept.policies);
            }
        }
    }
}

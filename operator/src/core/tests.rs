//! Objects in, writes out.

use std::collections::BTreeMap;

use balancing_api::policy::PolicyRef;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    objects::Slice,
    testing::{
        balance, bl, lr, on_pool, policy_at, redirect, service_matcher, set_agents, set_cut_state, set_node,
        set_pod, set_policy, set_service, set_service_spec, set_state, set_windows_node,
    },
};

/// A core with an API server that takes every write and brings it back as a watch does.
struct Cluster {
    core: Core,
    began: Instant,
    now: Instant,
    policies: BTreeMap<PolicyRef, crate::objects::Policy>,
    slices: BTreeMap<String, Slice>,
    statuses: u32,
    /// Does the watch come through?
    watching: bool,
}

impl Cluster {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            core: Core::new(Duration::from_secs(10)),
            began: now,
            now,
            policies: BTreeMap::new(),
            slices: BTreeMap::new(),
            statuses: 0,
            watching: true,
        }
    }

    /// An object changes. What the operator wrote into a policy stays, as it would at an API server.
    fn apply(&mut self, mut change: Change) {
        match &mut change {
            Change::Policy(reference, Some(policy)) => {
                if let Some(old) = self.policies.get(reference).filter(|old| old.uid == policy.uid) {
                    policy.status = old.status.clone();
                    policy.id = policy.id.take().or_else(|| old.id.clone());
                    policy.version = format!("{}e", old.version);
                }
                self.policies.insert(reference.clone(), (**policy).clone());
            }
            Change::Policy(reference, None) => drop(self.policies.remove(reference)),
            _ => {}
        }
        self.core.apply(change, self.now);
    }

    fn clock(&self) -> Timestamp {
        let passed = jiff::SignedDuration::try_from(self.now - self.began).unwrap();
        "2026-01-01T01:00:00Z".parse::<Timestamp>().unwrap() + passed
    }

    /// Lets time pass; makes the writes that come due. Answers them.
    fn pass(&mut self, time: Duration) -> Vec<Write> {
        let end = self.now + time;
        let mut made = Vec::new();
        while let Some(next) = self.core.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            for (task, write) in self.core.look(self.now, self.clock()) {
                self.make(&task, &write);
                made.push(write);
            }
        }
        self.now = end;
        made
    }

    fn make(&mut self, task: &Task, write: &Write) {
        match write {
            Write::Status(write) => {
                self.statuses += 1;
                let policy = self.policies.get_mut(&write.policy).unwrap();
                assert_eq!(policy.uid, write.uid);
                policy.status = write.new.clone();
                policy.version = format!("s{}", self.statuses);
            }
            Write::PolicyId { policy, id, .. } => {
                let policy = self.policies.get_mut(policy).unwrap();
                policy.id = Some(id.to_string());
                policy.version += "i";
            }
            Write::Slices(_, writes) => {
                for write in writes {
                    match write {
                        SliceWrite::Apply(slice) => {
                            drop(self.slices.insert(slice.name.clone(), slice.clone()))
                        }
                        SliceWrite::Delete(name) => drop(self.slices.remove(name)),
                    }
                }
            }
            Write::NodeId { .. } => {}
        }
        let version = match write {
            Write::Status(write) => self.policies[&write.policy].version.clone(),
            _ => String::new(),
        };
        self.core.done(task, write, Outcome::Made(version), self.now);
        if self.watching {
            self.bring(write);
        }
    }

    fn bring(&mut self, write: &Write) {
        let policy = match write {
            Write::Status(write) => &write.policy,
            Write::PolicyId { policy, .. } => policy,
            _ => return,
        };
        let policy = self.policies[policy].clone();
        self.core.apply(set_policy(policy), self.now);
    }

    fn settle(&mut self) {
        self.pass(Duration::from_secs(120));
    }

    /// `Type=Status Reason` of each condition.
    fn conditions(&self, policy: &PolicyRef) -> Vec<String> {
        let all = &self.policies[policy].status.conditions;
        all.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
    }

    fn message(&self, policy: &PolicyRef, type_: &str) -> String {
        let all = &self.policies[policy].status.conditions;
        all.iter().find(|c| c.type_ == type_).map(|c| c.message.clone()).unwrap_or_default()
    }
}

fn three_nodes(cluster: &mut Cluster) {
    for (name, pool, address) in
        [("n1", "a", "192.0.2.1"), ("n2", "a", "192.0.2.2"), ("n3", "b", "192.0.2.3")]
    {
        cluster.apply(set_node(name, pool, address));
    }
}

#[test]
fn no_policy_waits_for_a_node_that_no_agent_can_be_on() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_windows_node("w1", "192.0.2.9"));
    c.apply(set_service("dns", "10.96.0.10"));
    let dns = lr("dns");
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    for node in ["n1", "n2", "n3"] {
        c.apply(set_state(node, &[(&dns, "Programmed", "Programmed", 1, 1)]));
    }
    c.settle();
    assert_eq!(c.conditions(&dns).last().unwrap(), "Ready=True Ready");
    assert_eq!(c.message(&dns, "Programmed"), "3 of 3 nodes have it");
    assert_eq!(c.core.agents().silent, 0);
    assert_eq!(c.core.node_names().len(), 3);
    // Its address is one of the cluster's all the same.
    let addresses = c.slices.values().flat_map(|s| &s.endpoints).map(|e| e.address.to_string());
    assert!(addresses.collect::<Vec<_>>().contains(&"192.0.2.9".to_owned()));
}

#[test]
fn no_policy_waits_for_a_node_that_the_daemonset_leaves_out() {
    let mut c = Cluster::new();
    c.apply(set_agents(&json!({"pool": "a"})));
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let (dns, elsewhere) = (lr("dns"), lr("elsewhere"));
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    c.apply(set_policy(policy_at(&elsewhere, 2, &on_pool(redirect(&service_matcher("dns")), "b"))));
    let says = |node: &str| set_state(node, &[(&dns, "Programmed", "Programmed", 1, 1)]);
    c.apply(says("n1"));
    c.apply(says("n2"));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 2 nodes have it");
    assert_eq!(c.conditions(&dns).last().unwrap(), "Ready=True Ready");
    assert_eq!((c.core.agents().silent, c.core.node_names().len()), (0, 2));
    assert!(c.conditions(&elsewhere).contains(&"Programmed=False NoNodeSelected".to_owned()));

    // An agent that runs there all the same counts, and counts no more once it has left.
    c.apply(set_state("n3", &[]));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 3 nodes have it; nothing yet from n3");
    c.apply(Change::State("n3".into(), None));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 2 nodes have it");

    c.apply(set_node("n3", "a", "192.0.2.3"));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 3 nodes have it; nothing yet from n3");
    c.apply(set_agents(&json!({"pool": "c"})));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 2 nodes have it", "they are still there");
    // Without it, as where agents are started by other means, any node may have one.
    c.apply(Change::Agents(None));
    c.settle();
    assert_eq!(c.message(&dns, "Programmed"), "2 of 3 nodes have it; nothing yet from n3");
}

#[test]
fn a_policy_from_its_creation_to_a_failing_node() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let dns = lr("dns");
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    c.settle();
    assert_eq!(
        c.conditions(&dns),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=False NodesPending",
            "Effective=False NoLocalBackend",
            "Ready=False NodesPending"
        ]
    );
    assert_eq!(c.message(&dns, "Programmed"), "0 of 3 nodes have it; nothing yet from n1, n2, n3");

    for (node, state, reason, backends) in [
        ("n1", "Programmed", "Programmed", 1),
        ("n2", "Programmed", "Programmed", 1),
        ("n3", "Fallback", "NoLocalBackend", 0),
    ] {
        c.apply(set_state(node, &[(&dns, state, reason, backends, 1)]));
    }
    c.settle();
    assert_eq!(
        c.conditions(&dns),
        [
            "Accepted=True Accepted",
            "ResolvedRefs=True ResolvedRefs",
            "Programmed=True AllNodesProgrammed",
            "Effective=True Redirecting",
            "Ready=True Ready"
        ]
    );
    let status = &c.policies[&dns].status;
    assert_eq!((status.programmed.as_str(), status.effective.as_str()), ("3/3", "2/3"));
    assert_eq!((status.nodes.degraded, status.nodes.pending, status.nodes.failed), (1, 0, 0));
    assert_eq!(
        (status.problem_nodes[0].node.as_str(), status.problem_nodes[0].reason.as_str()),
        ("n3", "NoLocalBackend")
    );

    c.apply(set_state("n2", &[(&dns, "Fallback", "NoLocalBackend", 0, 1)]));
    c.apply(set_state("n3", &[(&dns, "Failed", "MapFull", 0, 1)]));
    c.settle();
    let status = &c.policies[&dns].status;
    let problems: Vec<_> =
        status.problem_nodes.iter().map(|p| format!("{} {} {}", p.node, p.state, p.reason)).collect();
    assert_eq!(problems, ["n3 Failed MapFull", "n2 Fallback NoLocalBackend"]);
    assert!(
        c.message(&dns, "Programmed").contains("n3 does not (MapFull"),
        "{}",
        c.message(&dns, "Programmed")
    );
    assert_eq!(c.conditions(&dns)[4], "Ready=False SomeNodesFailed");

    for node in ["n1", "n2", "n3"] {
        c.apply(set_state(node, &[(&dns, "Fallback", "NoLocalBackend", 0, 1)]));
    }
    c.settle();
    assert_eq!(
        c.conditions(&dns)[4],
        "Ready=False NoLocalBackend",
        "a policy without a backend anywhere is not Ready"
    );
    assert_eq!(c.conditions(&dns)[2], "Programmed=True AllNodesProgrammed");
}

#[test]
fn an_edited_spec_is_pending_until_the_nodes_have_it() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let dns = lr("dns");
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    for node in ["n1", "n2", "n3"] {
        c.apply(set_state(node, &[(&dns, "Programmed", "Programmed", 1, 1)]));
    }
    c.settle();
    assert_eq!(c.policies[&dns].status.programmed, "3/3");
    let mut edited = c.policies[&dns].clone();
    edited.generation = 2;
    edited.spec = policy_at(&dns, 1, &on_pool(redirect(&service_matcher("dns")), "a")).spec;
    c.apply(set_policy(edited));
    c.apply(set_state("n1", &[(&dns, "Programmed", "Programmed", 1, 2)]));
    c.settle();
    let status = &c.policies[&dns].status;
    assert_eq!(
        (status.programmed.as_str(), status.nodes.pending, status.observed_generation),
        ("1/2", 1, Some(2))
    );

    // Another incarnation of the same name starts from nothing.
    let mut again = policy_at(&dns, 9, &redirect(&service_matcher("dns")));
    again.uid = "another".to_owned();
    c.apply(Change::Policy(dns.clone(), None));
    c.apply(set_policy(again));
    c.settle();
    assert_eq!(c.policies[&dns].status.programmed, "0/3");
}

#[test]
fn references_that_do_not_hold() {
    let vip = json!({"addressMatcher": {"ip": "10.0.0.1", "toPorts": [{"port": 53, "protocol": "UDP"}]}});
    let mut two_ports = service_matcher("dns");
    two_ports["serviceMatcher"]["toPorts"] =
        json!([{"port": 53, "protocol": "UDP", "name": "a"}, {"port": 54, "protocol": "UDP", "name": "b"}]);
    let mut partly = redirect(&two_ports);
    partly["backend"]["toPorts"] =
        json!([{"port": 53, "protocol": "UDP", "name": "a"}, {"port": 54, "protocol": "UDP", "name": "b"}]);
    let fixed = json!({
        "frontend": service_matcher("six"),
        "backend": {"addressEndpoint": {"addresses": ["192.0.2.9"], "toPorts": [{"port": 53, "protocol": "UDP"}]}},
    });
    let mut wrong_port = service_matcher("dns");
    wrong_port["serviceMatcher"]["toPorts"] = json!([{"port": 80, "protocol": "UDP"}]);
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    c.apply(set_service("six", "fd00::10"));
    c.apply(set_service_spec("headless", &json!({"clusterIP": "None"})));
    let cases = [
        (lr("vip"), redirect(&vip), "ResolvedRefs=True ResolvedRefs"),
        (lr("missing"), redirect(&service_matcher("missing")), "ResolvedRefs=False ServiceNotFound"),
        (lr("headless"), redirect(&service_matcher("headless")), "ResolvedRefs=False ServiceNotSupported"),
        (lr("port"), redirect(&wrong_port), "ResolvedRefs=False PortNotFound"),
        (lr("partly"), partly, "ResolvedRefs=False PortNotFound"),
        (bl("family"), fixed, "ResolvedRefs=False AddressFamilyMismatch"),
    ];
    for (second, (policy, spec, _)) in (1u32..).zip(&cases) {
        c.apply(set_policy(policy_at(policy, second, spec)));
    }
    c.settle();
    for (policy, _, expected) in &cases {
        assert!(c.conditions(policy).iter().any(|c| c == expected), "{policy}: {:?}", c.conditions(policy));
        assert_eq!(c.conditions(policy)[0].split(' ').next(), Some("Accepted=True"), "{policy}");
    }
    // The Service comes: at once it is there.
    c.apply(set_service("missing", "10.96.0.77"));
    c.pass(Duration::from_secs(2));
    assert_eq!(c.conditions(&lr("missing"))[1], "ResolvedRefs=True ResolvedRefs");
    // A spec that breaks a rule.
    let invalid = json!({"frontend": {}, "backend": {"endpointSelector": {}, "toPorts": []}});
    c.apply(set_policy(policy_at(&lr("invalid"), 30, &invalid)));
    c.settle();
    assert_eq!(
        c.conditions(&lr("invalid"))[..2],
        ["Accepted=False InvalidSpec", "ResolvedRefs=Unknown ResolvedRefs"]
    );
    assert!(
        c.message(&lr("invalid"), "Accepted").contains("(BAL"),
        "{}",
        c.message(&lr("invalid"), "Accepted")
    );
    assert_eq!(c.conditions(&lr("invalid")).last().map(String::as_str), Some("Ready=False InvalidSpec"));
}

#[test]
fn conflicts_across_kinds_and_who_takes_over() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let vip = json!({"addressMatcher": {"ip": "10.96.0.10", "toPorts": [{"port": 53, "protocol": "UDP"}]}});
    let (old, young, part) = (bl("old"), lr("young"), lr("part"));
    c.apply(set_policy(policy_at(&young, 2, &redirect(&service_matcher("dns")))));
    c.apply(set_policy(policy_at(&part, 3, &on_pool(redirect(&service_matcher("other")), "a"))));
    c.apply(set_policy(policy_at(&old, 1, &balance(&vip, "podEndpoint"))));
    c.settle();
    assert_eq!(c.conditions(&young)[0], "Accepted=False FrontendConflict");
    assert_eq!(
        c.message(&young, "Accepted"),
        "10.96.0.10:53/UDP is held by BalancingPolicy/old: it is older"
    );
    assert_eq!(c.conditions(&young).last().map(String::as_str), Some("Ready=False FrontendConflict"));
    assert_eq!(c.conditions(&old)[0], "Accepted=True Accepted");

    // Older, but on two of the three nodes: it takes those.
    c.apply(set_policy(policy_at(&part, 0, &on_pool(redirect(&service_matcher("dns")), "a"))));
    c.settle();
    assert_eq!(c.conditions(&old)[..2], ["Accepted=True Accepted", "Conflicted=True ConflictOnSomeNodes"]);
    assert_eq!(
        c.message(&old, "Conflicted"),
        "on 2 of 3 nodes 10.96.0.10:53/UDP is held by LocalRedirectPolicy/part: it is older"
    );
    let problems: Vec<_> =
        c.policies[&old].status.problem_nodes.iter().map(|p| format!("{} {}", p.node, p.state)).collect();
    assert_eq!(problems, ["n1 Conflicted", "n2 Conflicted", "n3 Pending"]);
    assert_eq!(c.conditions(&young)[0], "Accepted=False FrontendConflict");

    // Both go: the youngest is accepted within two seconds.
    c.apply(Change::Policy(old.clone(), None));
    c.apply(Change::Policy(part.clone(), None));
    c.pass(Duration::from_secs(2));
    assert_eq!(c.conditions(&young)[0], "Accepted=True Accepted");
}

#[test]
fn of_the_same_age_the_kind_decides_then_the_name() {
    let mut c = Cluster::new();
    c.apply(set_service("dns", "10.96.0.10"));
    let all = [lr("b"), lr("c"), bl("a")];
    for policy in &all {
        let spec = match policy.kind {
            balancing_api::policy::PolicyKind::BalancingPolicy => {
                balance(&service_matcher("dns"), "podEndpoint")
            }
            _ => redirect(&service_matcher("dns")),
        };
        c.apply(set_policy(policy_at(policy, 1, &spec)));
    }
    c.settle();
    // Also without any node yet.
    let accepted: Vec<_> = all.iter().map(|p| c.conditions(p)[0].clone()).collect();
    assert_eq!(
        accepted,
        ["Accepted=True Accepted", "Accepted=False FrontendConflict", "Accepted=False FrontendConflict"]
    );
    assert!(c.message(&lr("c"), "Accepted").contains("LocalRedirectPolicy/b: of the same age, and its name"));
    assert!(
        c.message(&bl("a"), "Accepted")
            .contains("LocalRedirectPolicy/b: of the same age, and a LocalRedirect")
    );
}

#[test]
fn the_end_of_a_conflict_is_seen_before_the_node_says_so() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let (old, young) = (lr("old"), lr("young"));
    c.apply(set_policy(policy_at(&old, 1, &redirect(&service_matcher("dns")))));
    c.apply(set_policy(policy_at(&young, 2, &redirect(&service_matcher("dns")))));
    for node in ["n1", "n2", "n3"] {
        c.apply(set_state(
            node,
            &[(&old, "Programmed", "Programmed", 1, 1), (&young, "Conflicted", "FrontendConflict", 0, 1)],
        ));
    }
    c.settle();
    assert_eq!(c.conditions(&young)[2], "Programmed=False NoNodeSelected");
    c.apply(Change::Policy(old.clone(), None));
    c.settle();
    assert_eq!(c.conditions(&young)[2], "Programmed=False NodesPending");
    c.apply(set_state("n1", &[(&young, "Programmed", "Programmed", 1, 1)]));
    c.settle();
    assert_eq!(c.policies[&young].status.effective, "1/3");
}

#[test]
fn at_rest_nothing_is_written() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    c.apply(set_policy(policy_at(&lr("dns"), 1, &redirect(&service_matcher("dns")))));
    c.apply(set_policy(policy_at(&bl("web"), 2, &balance(&service_matcher("web"), "hostPort"))));
    c.apply(set_pod("p", "dns", "n1", "10.1.0.1", true));
    c.settle();
    c.core.look_at_everything(c.now);
    let writes = c.pass(Duration::from_secs(600));
    // Numbers of nodes are written into objects that this test does not bring back.
    assert_eq!(writes, []);
}

#[test]
fn a_rollout_is_few_writes() {
    let mut c = Cluster::new();
    let dns = lr("dns");
    c.apply(set_service("dns", "10.96.0.10"));
    for n in 0..200 {
        c.apply(set_node(&format!("n{n}"), "a", &format!("10.9.{}.{}", n / 250, n % 250 + 1)));
    }
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    c.settle();
    let before = c.statuses;
    // A report every 100 ms.
    for n in 0..200 {
        c.apply(set_state(&format!("n{n}"), &[(&dns, "Programmed", "Programmed", 1, 1)]));
        c.pass(Duration::from_millis(100));
    }
    c.settle();
    assert_eq!(c.policies[&dns].status.programmed, "200/200");
    let writes = c.statuses - before;
    assert!(writes <= 5, "{writes} writes in 20 s");
}

#[test]
fn a_late_watch_makes_no_second_write() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let dns = lr("dns");
    c.watching = false;
    let policy = policy_at(&dns, 1, &redirect(&service_matcher("dns")));
    c.apply(set_policy(policy.clone()));
    let writes = |made: Vec<Write>| made.into_iter().filter(|w| matches!(w, Write::Status(_))).count();
    let made = c.pass(Duration::from_secs(5));
    assert_eq!(writes(made), 1);
    // The watch brings the object as it was before the write.
    c.core.apply(set_policy(policy), c.now);
    let made = c.pass(Duration::from_secs(20));
    assert_eq!(writes(made), 0);
    // Somebody else overwrites what was written.
    let written = c.policies[&dns].clone();
    c.core.apply(set_policy(written.clone()), c.now);
    let mut foreign = written;
    foreign.status.programmed = "9/9".to_owned();
    foreign.version = "foreign".to_owned();
    c.core.apply(set_policy(foreign), c.now);
    let made = c.pass(Duration::from_secs(30));
    assert_eq!(writes(made), 1);
    assert_eq!(c.policies[&dns].status.programmed, "0/3");
}

#[test]
fn what_another_wrote_over_it_is_written_anew_though_no_watch_brought_its_own_write() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    c.apply(set_service("dns", "10.96.0.10"));
    let dns = lr("dns");
    c.watching = false;
    c.apply(set_policy(policy_at(&dns, 1, &redirect(&service_matcher("dns")))));
    c.pass(Duration::from_secs(5));
    assert_eq!(c.policies[&dns].status.programmed, "0/3");
    // Another leader's write comes right behind it, and the watch begins anew with that.
    let mut foreign = c.policies[&dns].clone();
    foreign.status.programmed = "9/9".to_owned();
    foreign.version = "foreign".to_owned();
    c.core.apply(set_policy(foreign), c.now);
    c.pass(Duration::from_secs(5));
    // A report comes meanwhile that changes nothing: it is not what the second look waits for.
    c.apply(set_state("n1", &[(&dns, "Conflicted", "FrontendConflict", 0, 1)]));
    c.watching = true;
    let made = c.pass(Duration::from_secs(60));
    let writes = made.iter().filter(|w| matches!(w, Write::Status(_))).count();
    assert_eq!(writes, 1, "{made:?}");
}

#[test]
fn of_policies_that_are_gone_nothing_is_kept() {
    let mut core = Core::new(Duration::from_secs(10));
    let mut now = Instant::now();
    for n in 0..100 {
        let (redirects, balances) = (lr(&format!("p{n}")), bl(&format!("p{n}")));
        core.apply(set_pod("pod", "dns", "n1", "10.1.0.1", true), now);
        core.apply(set_policy(policy_at(&redirects, 1, &redirect(&service_matcher("dns")))), now);
        core.apply(
            set_policy(policy_at(&balances, 1, &balance(&service_matcher("dns"), "podEndpoint"))),
            now,
        );
        now += Duration::from_secs(2);
        let writes = core.look(now, Timestamp::UNIX_EPOCH);
        assert!(writes.len() >= 5, "{writes:?}");
        // They go while they are written.
        for policy in [redirects, balances] {
            core.apply(Change::Policy(policy, None), now);
        }
        for (task, write) in writes {
            core.done(&task, &write, Outcome::Overtaken, now);
        }
        now += Duration::from_secs(120);
        core.look(now, Timestamp::UNIX_EPOCH);
    }
    assert_eq!((core.memory.len(), core.numbered.len(), core.due.len()), (0, 0, 0));
    let left: Vec<_> =
        core.failures.keys().filter(|t| matches!(t, Task::Status(_) | Task::Backends(_))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_node_gets_its_number_only_as_it_was_seen() {
    let mut core = Core::new(Duration::from_secs(10));
    let mut now = Instant::now();
    let seen = |version: &str| {
        let Change::Node(name, Some(node)) = set_node("n1", "a", "192.0.2.1") else { panic!("no node") };
        let mut node = crate::objects::ClusterNode::clone(&node);
        node.version.0 = version.to_owned();
        Change::Node(name, Some(node.into()))
    };
    let numbered = |core: &mut Core, now| {
        let writes = core.look(now, Timestamp::UNIX_EPOCH).into_iter();
        writes.filter(|(_, write)| matches!(write, Write::NodeId { .. })).collect::<Vec<_>>()
    };
    core.apply(seen("1"), now);
    // A heartbeat: nothing that concerns anybody, but it is another version.
    core.apply(seen("2"), now);
    now += Duration::from_secs(1);
    let [(task, write)] = &numbered(&mut core, now)[..] else { panic!("no number") };
    assert!(matches!(write, Write::NodeId { version, .. } if version == "2"), "{write:?}");
    // Somebody wrote to it meanwhile.
    core.done(task, write, Outcome::Overtaken, now);
    core.apply(seen("3"), now);
    now += Duration::from_secs(5);
    let [(_, again)] = &numbered(&mut core, now)[..] else { panic!("not tried again") };
    assert!(matches!(again, Write::NodeId { version, .. } if version == "3"), "{again:?}");
}

#[test]
fn a_newer_judgement_is_left_alone() {
    let mut c = Cluster::new();
    let mut policy = policy_at(&lr("dns"), 1, &redirect(&service_matcher("dns")));
    policy.status.observed_generation = Some(7);
    c.apply(set_policy(policy));
    let made = c.pass(Duration::from_secs(60));
    assert!(made.iter().all(|w| !matches!(w, Write::Status(_))), "{made:?}");
}

#[test]
fn a_failed_write_is_tried_again_later_and_later() {
    let mut core = Core::new(Duration::from_secs(10));
    let began = Instant::now();
    core.apply(set_policy(policy_at(&lr("dns"), 1, &redirect(&service_matcher("dns")))), began);
    let mut tries = Vec::new();
    let mut now = began;
    while now < began + Duration::from_secs(120) {
        now = core.next().unwrap();
        for (task, write) in core.look(now, Timestamp::UNIX_EPOCH) {
            if matches!(write, Write::Status(_)) {
                tries.push((now - began).as_secs());
            }
            core.done(&task, &write, Outcome::Failed, now);
        }
    }
    let waits: Vec<_> = tries.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(waits.len() >= 4 && waits.is_sorted() && waits.iter().all(|w| (1..=60).contains(w)), "{waits:?}");
}

#[test]
fn a_write_that_was_overtaken_is_looked_at_anew() {
    let mut core = Core::new(Duration::from_secs(10));
    let mut now = Instant::now();
    let policy = policy_at(&lr("dns"), 1, &redirect(&service_matcher("dns")));
    core.apply(set_policy(policy.clone()), now);
    let mut versions = Vec::new();
    for version in ["1", "2"] {
        // Somebody else wrote it before the number came.
        core.apply(set_policy(crate::objects::Policy { version: version.to_owned(), ..policy.clone() }), now);
        now += Duration::from_secs(2);
        for (task, write) in core.look(now, Timestamp::UNIX_EPOCH) {
            if let Write::PolicyId { version, .. } = &write {
                versions.push(version.clone());
            }
            core.done(&task, &write, Outcome::Overtaken, now);
        }
    }
    assert_eq!(versions, ["1", "2"]);
    // It is gone: there is nothing to look at any more.
    core.apply(Change::Policy(lr("dns"), None), now);
    now += Duration::from_secs(2);
    assert_eq!(core.look(now, Timestamp::UNIX_EPOCH), []);
    assert_eq!(core.next(), None);
}

#[test]
fn numbers_of_many_policies_that_are_overtaken_come_soon_after() {
    let mut core = Core::new(Duration::from_secs(10));
    let began = Instant::now();
    let policies: Vec<_> =
        (0..30).map(|i| policy_at(&lr(&format!("p{i}")), 1, &redirect(&service_matcher("dns")))).collect();
    let mut tries = Vec::new();
    for version in 0..3 {
        for policy in &policies {
            let version = version.to_string();
            core.apply(set_policy(crate::objects::Policy { version, ..policy.clone() }), began);
        }
        loop {
            let now = core.next().unwrap();
            let writes = core.look(now, Timestamp::UNIX_EPOCH);
            let numbers = writes.iter().filter(|(task, _)| *task == Task::PolicyIds).count();
            for (i, (task, write)) in writes.iter().enumerate() {
                // One of them is made in between.
                let outcome = if i == 7 { Outcome::Made("x".to_owned()) } else { Outcome::Overtaken };
                core.done(task, write, outcome, now);
            }
            if numbers > 0 {
                assert!(numbers >= 29, "{numbers}");
                tries.push(now - began);
                break;
            }
        }
    }
    // However many were overtaken at once, that is one failure more.
    let waits: Vec<_> = tries.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    assert!(waits.iter().all(|w| (1..=2).contains(w)), "{waits:?}");
}

#[test]
fn numbers_are_kept_where_valid_and_unique() {
    let mut c = Cluster::new();
    let with = |reference: &PolicyRef, second, id: &str| {
        let mut policy = policy_at(reference, second, &redirect(&service_matcher("dns")));
        policy.id = Some(id.to_owned());
        policy
    };
    c.apply(set_policy(with(&lr("younger"), 5, "10091")));
    c.apply(set_policy(with(&bl("older"), 1, "10091")));
    c.apply(set_policy(with(&lr("wrong"), 2, "seven")));
    c.apply(set_policy(with(&lr("own"), 3, "20003")));
    c.apply(set_policy(policy_at(&lr("none"), 4, &redirect(&service_matcher("dns")))));
    c.settle();
    let id = |p: &PolicyRef| c.policies[p].id.clone().unwrap();
    assert_eq!((id(&bl("older")).as_str(), id(&lr("own")).as_str()), ("10091", "20003"));
    let all: std::collections::BTreeSet<_> = c.policies.keys().map(id).collect();
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|id| crate::ids::parse(id).is_some()), "{all:?}");
}

#[test]
fn backends_are_published_and_go_with_the_policy() {
    let mut c = Cluster::new();
    three_nodes(&mut c);
    let web = bl("web");
    c.apply(set_policy(policy_at(&web, 1, &balance(&service_matcher("dns"), "podEndpoint"))));
    c.apply(set_pod("p1", "dns", "n1", "10.1.0.1", true));
    c.apply(set_pod("p2", "dns", "n2", "10.1.0.2", false));
    c.apply(set_pod("p3", "other", "n2", "10.1.0.3", true));
    c.settle();
    let held = |c: &Cluster| -> Vec<String> {
        let ours = c.slices.values().filter(|s| matches!(s.published, Some(Published::Backends { .. })));
        ours.flat_map(|s| &s.endpoints).map(|e| format!("{} {}", e.address, e.ready)).collect()
    };
    assert_eq!(held(&c), ["10.1.0.1 true", "10.1.0.2 false"]);
    let slice = c.slices.values().find(|s| s.published != Some(Published::Nodes)).unwrap();
    assert_eq!(
        slice.ports,
        [crate::objects::Port { number: 53, protocol: balancing_api::net::Protocol::Udp }]
    );
    c.apply(set_pod("p2", "dns", "n2", "10.1.0.2", true));
    let made = c.pass(Duration::from_secs(2));
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(held(&c), ["10.1.0.1 true", "10.1.0.2 true"]);

    let mut edited = c.policies[&web].clone();
    edited.generation = 2;
    edited.spec = policy_at(&web, 1, &balance(&service_matcher("dns"), "hostPort")).spec;
    c.apply(set_policy(edited));
    c.settle();
    assert_eq!(held(&c), ["192.0.2.1 true", "192.0.2.2 true"]);
    c.apply(set_node("n2", "a", "192.0.2.22"));
    c.settle();
    assert_eq!(held(&c), ["192.0.2.1 true", "192.0.2.22 true"]);
    let nodes = c.slices.values().find(|s| s.published == Some(Published::Nodes)).unwrap();
    let nodes: Vec<_> = nodes.endpoints.iter().map(|e| e.address.to_string()).collect();
    assert_eq!(nodes, ["192.0.2.1", "192.0.2.3", "192.0.2.22"]);

    // Somebody takes a slice away: it comes back.
    let name = c.slices.values().find(|s| s.published != Some(Published::Nodes)).unwrap().name.clone();
    c.slices.remove(&name);
    c.apply(Change::Slice(name, None));
    c.settle();
    assert_eq!(held(&c).len(), 2);
    c.apply(Change::Policy(web, None));
    c.settle();
    assert_eq!(held(&c), Vec::<String>::new());
}

#[test]
fn a_list_that_is_cut_short_names_what_is_wrong_first() {
    let mut c = Cluster::new();
    c.apply(set_node("n1", "a", "192.0.2.1"));
    let (bad, listed, cut, early) = (lr("m"), lr("b"), lr("z"), lr("a"));
    for (second, policy) in (1u32..).zip([&bad, &listed, &cut, &early]) {
        let vip = json!({"addressMatcher": {"ip": format!("10.0.0.{second}"), "toPorts": [{"port": 53, "protocol": "UDP"}]}});
        c.apply(set_policy(policy_at(policy, second, &redirect(&vip))));
    }
    let said = [(&bad, "Failed", "MapFull", 0, 1), (&listed, "Programmed", "Programmed", 1, 1)];
    c.apply(set_cut_state("n1", &said, 1));
    c.settle();
    let programmed = |p: &PolicyRef| c.policies[p].status.programmed.clone();
    assert_eq!([&bad, &listed, &cut, &early].map(programmed), ["0/1", "1/1", "1/1", "0/1"]);
}

fn any_change() -> impl Strategy<Value = Change> {
    let policy = (0u32..4, 0u32..3, 0usize..3, prop::bool::ANY, prop::bool::ANY).prop_map(
        |(n, second, service, redirects, pool)| {
            let matcher = service_matcher(["dns", "web", "none"][service]);
            let reference = if n % 2 == 0 { lr(&format!("p{n}")) } else { bl(&format!("p{n}")) };
            let spec = if n % 2 == 0 {
                redirect(&matcher)
            } else {
                balance(&matcher, if redirects { "hostPort" } else { "podEndpoint" })
            };
            let spec = if pool { on_pool(spec, "a") } else { spec };
            set_policy(policy_at(&reference, second, &spec))
        },
    );
    let node = (1u32..4, prop::bool::ANY)
        .prop_map(|(n, a)| set_node(&format!("n{n}"), if a { "a" } else { "b" }, &format!("192.0.2.{n}")));
    let state = (1u32..4, 0u32..4, 0usize..4).prop_map(|(node, n, state)| {
        let reference = if n % 2 == 0 { lr(&format!("p{n}")) } else { bl(&format!("p{n}")) };
        let (state, reason, backends) = [
            ("Programmed", "Programmed", 1),
            ("Fallback", "NoLocalBackend", 0),
            ("Failed", "MapFull", 0),
            ("Conflicted", "FrontendConflict", 0),
        ][state];
        set_state(&format!("n{node}"), &[(&reference, state, reason, backends, 1)])
    });
    let pod = (0u32..4, prop::bool::ANY, prop::bool::ANY).prop_map(|(n, app, ready)| {
        set_pod(
            &format!("pod{n}"),
            if app { "dns" } else { "x" },
            &format!("n{}", n % 3 + 1),
            &format!("10.1.0.{}", n + 1),
            ready,
        )
    });
    let service =
        (0usize..2, 1u32..3).prop_map(|(n, ip)| set_service(["dns", "web"][n], &format!("10.96.0.{ip}")));
    let gone = (0u32..10).prop_map(|n| match n {
        0..4 => Change::Policy(if n % 2 == 0 { lr(&format!("p{n}")) } else { bl(&format!("p{n}")) }, None),
        4..7 => Change::Node(format!("n{}", n - 3).into(), None),
        7 => Change::State("n1".into(), None),
        8 => Change::Pod(balancing_api::records::Name::new("ns", "pod1"), None),
        _ => Change::Service(balancing_api::records::Name::new("ns", "dns"), None),
    });
    let agents = (0usize..3).prop_map(|n| match n {
        0 => Change::Agents(None),
        1 => set_agents(&json!({"pool": "a"})),
        _ => set_agents(&json!({"pool": "b"})),
    });
    prop_oneof![3 => policy, 2 => node, 3 => state, 2 => pod, 1 => service, 1 => agents, 1 => gone]
}

/// What an object is, so that of several changes of one the last counts.
fn identity(change: &Change) -> String {
    match change {
        Change::Policy(reference, _) => reference.to_string(),
        Change::Service(name, _) => format!("Service {name}"),
        Change::Node(name, _) => format!("Node {name}"),
        Change::Pod(name, _) => format!("Pod {name}"),
        Change::State(name, _) => format!("State {name}"),
        Change::Slice(name, _) => format!("Slice {name}"),
        Change::Agents(_) => "DaemonSet".to_owned(),
    }
}

/// What all policies and slices say in the end, without times.
fn outcome(cluster: &Cluster) -> Vec<String> {
    let epoch = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
    let statuses = cluster.policies.values().map(|policy| {
        let mut status = policy.status.clone();
        for condition in &mut status.conditions {
            condition.last_transition_time = epoch.clone();
        }
        format!("{} {status:?}", policy.reference)
    });
    let mut endpoints: Vec<_> = cluster
        .slices
        .values()
        .flat_map(|s| s.endpoints.iter().map(move |e| format!("{:?} {e:?} {:?}", s.published, s.ports)))
        .collect();
    endpoints.sort();
    statuses.chain(endpoints).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_order_of_changes_makes_no_difference(
        changes in prop::collection::vec((any_change(), 0u64..3000), 1..40),
        seed in any::<u64>(),
    ) {
        // Bit by bit, with everything that follows being written in between.
        let mut stepwise = Cluster::new();
        for (change, wait) in &changes {
            stepwise.apply(change.clone());
            stepwise.pass(Duration::from_millis(*wait));
        }
        stepwise.settle();
        // The last state of each object, at once, in another order.
        let last: BTreeMap<String, Change> = changes.iter().map(|(c, _)| (identity(c), c.clone())).collect();
        let mut last: Vec<Change> = last.into_values().collect();
        let length = last.len();
        for i in 0..length {
            last.swap(i, (seed.rotate_left(u32::try_from(i % 64).unwrap()) % length as u64) as usize);
        }
        let mut at_once = Cluster::new();
        for change in last {
            at_once.apply(change);
        }
        at_once.settle();
        prop_assert_eq!(outcome(&stepwise), outcome(&at_once));
        // And at rest nothing is written.
        stepwise.core.look_at_everything(stepwise.now);
        prop_assert_eq!(stepwise.pass(Duration::from_secs(600)), vec![]);
    }
}

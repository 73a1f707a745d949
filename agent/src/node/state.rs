//! What the node says of itself in the cluster, out of the same document that the agent API shows. Pure.

use std::collections::HashSet;

use balancing_api::{
    agent::{Condition, NodeStatus, PolicyState, PolicyStatus},
    node_state::{MAX_MESSAGE, MAX_POLICIES, NodeBalancingStateStatus, NodePolicyCounts, NodePolicyState},
    policy::{PolicyKind, PolicyRef},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as MetaCondition, Time};

/// How soon a state is to be written, given the one that stands in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// It is the same.
    Never,
    /// Numbers of backends differ, and nothing else: with a rollout they change on every node, again and again.
    Later,
    /// Something of it differs that nobody waits for: what it says of a problem, or that a policy is no more.
    Soon,
    /// Something is new that somebody may be waiting for: a policy or an edit of it, another state of one, another status of
    /// a condition.
    Now,
}

/// The state that a status says, `before` being the one in the cluster: what did not change keeps its times. `uid` is the
/// uid of a policy, empty where it is not known.
pub(super) fn state(
    status: &NodeStatus,
    uid: impl Fn(&PolicyRef) -> String,
    before: Option<&NodeBalancingStateStatus>,
    now: Timestamp,
) -> NodeBalancingStateStatus {
    let selecting = || status.policies.iter().filter(|p| p.state != PolicyState::NotSelected);
    let mut policies: Vec<NodePolicyState> = selecting()
        .map(|policy| {
            let uid = uid(&PolicyRef::new(policy.kind, policy.name.as_str()));
            policy_state(policy, uid, before, now)
        })
        .collect();
    policies
        .sort_by(|a, b| (severity(&a.state), a.kind, &a.name).cmp(&(severity(&b.state), b.kind, &b.name)));
    let all = policies.len();
    policies.truncate(MAX_POLICIES);
    NodeBalancingStateStatus {
        agent_version: status.agent.version.clone(),
        kernel_release: status.kernel.release.clone(),
        layout_version: status.datapath.layout_version,
        conditions: status.conditions.iter().map(|c| condition(c, before)).collect(),
        counts: counts(selecting()),
        truncated: number(all - policies.len()),
        policies,
        source_errors: number(status.source_errors.len()),
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Problems come first.
fn severity(state: &PolicyState) -> u8 {
    match state {
        PolicyState::Failed => 0,
        PolicyState::Invalid => 1,
        PolicyState::Conflicted => 2,
        PolicyState::Fallback => 3,
        PolicyState::Programmed => 5,
        _ => 4,
    }
}

fn counts<'a>(policies: impl Iterator<Item = &'a PolicyStatus>) -> NodePolicyCounts {
    let mut counts = NodePolicyCounts::default();
    for policy in policies {
        counts.selected += 1;
        match policy.state {
            PolicyState::Programmed => counts.programmed += 1,
            PolicyState::Fallback => counts.degraded += 1,
            PolicyState::Failed => counts.failed += 1,
            PolicyState::Conflicted => counts.conflicted += 1,
            PolicyState::Invalid => counts.invalid += 1,
            _ => {}
        }
    }
    counts
}

fn policy_state(
    policy: &PolicyStatus,
    uid: String,
    before: Option<&NodeBalancingStateStatus>,
    now: Timestamp,
) -> NodePolicyState {
    let same = |old: &&NodePolicyState| {
        (old.kind, &old.name, &old.uid, &old.state) == (policy.kind, &policy.name, &uid, &policy.state)
    };
    let old = before.and_then(|before| before.policies.iter().find(same));
    let quiet = policy.state == PolicyState::Programmed;
    NodePolicyState {
        kind: policy.kind,
        name: policy.name.clone(),
        uid,
        observed_generation: policy.generation,
        state: policy.state,
        reason: policy.reason.clone(),
        message: if quiet { String::new() } else { cut(&policy.message) },
        backends: policy.backends,
        last_transition_time: old.map_or_else(|| time(now), |old| old.last_transition_time.clone()),
    }
}

fn condition(condition: &Condition, before: Option<&NodeBalancingStateStatus>) -> MetaCondition {
    let same = |old: &&MetaCondition| (&old.type_, &old.status) == (&condition.type_, &condition.status);
    let old = before.and_then(|before| before.conditions.iter().find(same));
    MetaCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: cut(&condition.message),
        observed_generation: None,
        last_transition_time: old
            .map_or_else(|| time(condition.last_transition_time), |old| old.last_transition_time.clone()),
    }
}

/// The API server keeps whole seconds.
fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// The beginning of a message that is too long.
fn cut(message: &str) -> String {
    if message.len() <= MAX_MESSAGE {
        return message.to_owned();
    }
    let mark = "...";
    let mut end = MAX_MESSAGE - mark.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned() + mark
}

/// How soon `new` is to be written where `old` stands.
pub(super) fn urgency(old: Option<&NodeBalancingStateStatus>, new: &NodeBalancingStateStatus) -> Urgency {
    let Some(old) = old else { return Urgency::Now };
    if old == new {
        return Urgency::Never;
    }
    if says_something_new(old, new) {
        return Urgency::Now;
    }
    let mut counted = old.clone();
    for policy in &mut counted.policies {
        let same =
            |n: &&NodePolicyState| (n.kind, &n.name, &n.uid) == (policy.kind, &policy.name, &policy.uid);
        if let Some(new) = new.policies.iter().find(same) {
            policy.backends = new.backends;
        }
    }
    if counted == *new { Urgency::Later } else { Urgency::Soon }
}

/// A policy in this edition and state, or a condition with this status, that the old state does not have.
fn says_something_new(old: &NodeBalancingStateStatus, new: &NodeBalancingStateStatus) -> bool {
    let policies: HashSet<_> = old.policies.iter().map(edition).collect();
    let said = |new: &MetaCondition| {
        old.conditions.iter().any(|old| (&old.type_, &old.status) == (&new.type_, &new.status))
    };
    !new.policies.iter().map(edition).all(|new| policies.contains(&new)) || !new.conditions.iter().all(said)
}

fn edition(policy: &NodePolicyState) -> (PolicyKind, &str, &str, i64, PolicyState) {
    (policy.kind, &policy.name, &policy.uid, policy.observed_generation, policy.state)
}

#[cfg(test)]
mod tests {
    use balancing_api::agent::{
        AgentInfo, BackendCount, DatapathInfo, KernelFeatures, KernelInfo, NodeInfo, SourceError,
    };

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn policy(name: &str, state: PolicyState, message: &str) -> PolicyStatus {
        PolicyStatus {
            kind: PolicyKind::LocalRedirectPolicy,
            name: name.to_owned(),
            id: 1,
            generation: 3,
            created: None,
            state,
            reason: "Why".to_owned(),
            message: message.to_owned(),
            frontends: Vec::new(),
            backends: BackendCount { wanted: 2, programmed: 2 },
            redirects_per_second: 0,
            exempt_callers: Default::default(),
            wanted: Default::default(),
        }
    }

    fn status(policies: Vec<PolicyStatus>, ready: &str, since: i64) -> NodeStatus {
        NodeStatus {
            node: NodeInfo { name: "n1".to_owned(), addresses: Vec::new(), source: "kubernetes".to_owned() },
            agent: AgentInfo {
                version: "0.1.0".to_owned(),
                started_at: at(0),
                default_redirects_per_second: 0,
                exempt_pods: Vec::new(),
            },
            kernel: KernelInfo { release: "6.1".to_owned(), features: KernelFeatures::default() },
            datapath: DatapathInfo {
                cgroup_root: String::new(),
                bpffs: String::new(),
                layout_version: 4,
                programs: Vec::new(),
                maps: Vec::new(),
            },
            conditions: vec![Condition {
                type_: "Ready".to_owned(),
                status: ready.to_owned(),
                reason: "Ready".to_owned(),
                message: String::new(),
                last_transition_time: at(since),
            }],
            policies,
            source_errors: Vec::<SourceError>::new(),
            sources: Vec::new(),
        }
    }

    fn made(
        status: &NodeStatus,
        before: Option<&NodeBalancingStateStatus>,
        now: i64,
    ) -> NodeBalancingStateStatus {
        state(status, |policy| format!("uid-{}", policy.name), before, at(now))
    }

    #[test]
    fn problems_come_first_and_only_they_have_words() {
        let all = vec![
            policy("fine", PolicyState::Programmed, "a remark"),
            policy("elsewhere", PolicyState::NotSelected, ""),
            policy("b", PolicyState::Fallback, "no pod"),
            policy("a", PolicyState::Fallback, &"é".repeat(200)),
            policy("z", PolicyState::Failed, "full"),
        ];
        let state = made(&status(all, "False", 5), None, 9);
        let listed: Vec<_> = state.policies.iter().map(|p| (&*p.name, p.message.len())).collect();
        assert_eq!(listed, [("z", 4), ("a", 255), ("b", 6), ("fine", 0)]);
        assert!(state.policies[1].message.ends_with("é..."));
        let counts = state.counts;
        assert_eq!((counts.selected, counts.programmed, counts.degraded, counts.failed), (4, 1, 2, 1));
        assert_eq!((state.policies[0].uid.as_str(), state.policies[0].observed_generation), ("uid-z", 3));
        assert_eq!((state.truncated, state.layout_version), (0, 4));

        let many = (0..300).map(|n| policy(&format!("p{n:03}"), PolicyState::Programmed, "")).collect();
        let state = made(&status(many, "True", 5), None, 9);
        assert_eq!((state.policies.len(), state.truncated, state.counts.selected), (256, 44, 300));
    }

    #[test]
    fn what_did_not_change_keeps_its_time_over_a_restart() {
        let first = made(&status(vec![policy("a", PolicyState::Programmed, "")], "True", 5), None, 9);
        let again =
            made(&status(vec![policy("a", PolicyState::Programmed, "")], "True", 700), Some(&first), 800);
        assert_eq!(first, again);
        assert_eq!(urgency(Some(&first), &again), Urgency::Never);

        let fell =
            made(&status(vec![policy("a", PolicyState::Fallback, "x")], "True", 700), Some(&first), 800);
        assert_eq!(fell.policies[0].last_transition_time.0, at(800));
        assert_eq!(fell.conditions, first.conditions);
        assert_eq!(urgency(Some(&first), &fell), Urgency::Now);
        // Made anew under its name it is another one.
        let other = state(
            &status(vec![policy("a", PolicyState::Programmed, "")], "True", 5),
            |_| "another".to_owned(),
            Some(&first),
            at(800),
        );
        assert_eq!(other.policies[0].last_transition_time.0, at(800));
    }

    #[test]
    fn numbers_of_backends_are_no_hurry() {
        let one = status(vec![policy("a", PolicyState::Programmed, "")], "True", 5);
        let mut more = one.clone();
        more.policies[0].backends = BackendCount { wanted: 3, programmed: 3 };
        let before = made(&one, None, 9);
        let after = made(&more, Some(&before), 10);
        assert_eq!(urgency(Some(&before), &after), Urgency::Later);
        more.policies[0].generation = 4;
        assert_eq!(urgency(Some(&before), &made(&more, Some(&before), 10)), Urgency::Now);
        assert_eq!(urgency(None, &before), Urgency::Now);
    }

    #[test]
    fn what_is_new_is_urgent_and_what_is_gone_or_put_otherwise_is_less_so() {
        let policies =
            || vec![policy("a", PolicyState::Programmed, ""), policy("b", PolicyState::Fallback, "no pod")];
        let first = made(&status(policies(), "True", 5), None, 9);
        let after = |change: fn(&mut Vec<PolicyStatus>), ready: &str| {
            let mut policies = policies();
            change(&mut policies);
            urgency(Some(&first), &made(&status(policies, ready, 5), Some(&first), 20))
        };
        assert_eq!(after(|_| (), "True"), Urgency::Never);
        assert_eq!(after(|all| all.push(policy("c", PolicyState::Fallback, "x")), "True"), Urgency::Now);
        assert_eq!(after(|all| all[1].state = PolicyState::Programmed, "True"), Urgency::Now);
        assert_eq!(after(|_| (), "False"), Urgency::Now);
        assert_eq!(after(|all| drop(all.pop()), "True"), Urgency::Soon);
        assert_eq!(after(|all| all[1].message = "another pod".to_owned(), "True"), Urgency::Soon);
        // Made anew under its name.
        let uid = |_: &PolicyRef| "another".to_owned();
        let anew = state(&status(policies(), "True", 5), uid, Some(&first), at(20));
        assert_eq!(urgency(Some(&first), &anew), Urgency::Now);
    }
}

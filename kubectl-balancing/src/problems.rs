//! What is wrong, in words, with what to do next: the rows of `top problems`. Pure.

use std::collections::{BTreeMap, HashMap};

use balancing_api::{
    agent::{NodeStatus, PolicyState, PolicyStatus, RungKind},
    cli::{NodeState, NodeTopItem, ProblemItem, Severity},
    names::{condition, reason, rung_reason},
    net::Frontend,
    policy::PolicyRef,
};

use crate::{
    cluster::{facts::PolicyFact, read::gap_cause},
    nodes::unmet,
    sample::{Board, NodeSample},
    text::{list, plural, scaled},
    unread,
};

/// Problems that are listed at the most: nobody reads more.
const MOST: usize = 1000;
/// What a problem concerns that is one of this view, not of the cluster.
const VIEW: &str = "view";
/// A map fuller than this is told of before it is full.
pub(crate) const FULL: f64 = 0.8;

/// Every problem of a board, the worst first; one that several nodes have is one row.
pub(crate) fn problem_rows(board: &Board) -> Vec<ProblemItem> {
    let mut found = Folded::default();
    let facts = board.sample.cluster.as_deref();
    for gap in facts.iter().flat_map(|f| &f.gaps) {
        let message = format!("no {}: {}", gap.missing, gap_cause(gap));
        found.add(Severity::Warning, &gap.reason, VIEW, "", &message, gap.next.clone());
    }
    for node in &board.nodes {
        absent(node, &mut found);
    }
    for fact in facts.iter().flat_map(|f| f.policies()) {
        unheard(fact, board, &mut found);
    }
    for node in &board.sample.nodes {
        whole_node(node, &mut found);
        for policy in &node.status.policies {
            not_effective(&node.status, policy, &mut found);
            exemption(&node.status, policy, &mut found);
        }
        shadowed_services(node, &mut found);
    }
    skipped(board, &mut found);
    refusals(board, &mut found);
    skew(board, &mut found);
    let left_out = found.left_out;
    let mut rows: Vec<ProblemItem> = found.rows.into_values().collect();
    rows.sort_by(|a, b| {
        (a.severity, !is_whole_node(a), &a.reason, &a.object).cmp(&(
            b.severity,
            !is_whole_node(b),
            &b.reason,
            &b.object,
        ))
    });
    if left_out > 0 {
        rows.push(ProblemItem {
            severity: Severity::Warning,
            reason: "More".to_owned(),
            object: VIEW.to_owned(),
            message: format!("and {left_out} more problems, which are not listed"),
            next: "mend some of these first, or look at one node or policy".to_owned(),
            nodes: Vec::new(),
        });
    }
    rows
}

/// Does it concern a node as a whole, rather than one policy or frontend?
#[must_use]
pub fn is_whole_node(problem: &ProblemItem) -> bool {
    !problem.object.contains("Policy/") && !problem.object.starts_with("frontend ")
        || problem.object.starts_with("file ")
}

/// Problems by what they have in common.
#[derive(Default)]
struct Folded {
    rows: BTreeMap<(String, String, String), ProblemItem>,
    /// How many found no room.
    left_out: usize,
}

impl Folded {
    fn add(
        &mut self,
        severity: Severity,
        reason: &str,
        object: &str,
        node: &str,
        message: &str,
        next: String,
    ) {
        let of_policy = object.contains("Policy/") && !object.starts_with("file ");
        let key = (
            reason.to_owned(),
            object.to_owned(),
            if of_policy { String::new() } else { message.to_owned() },
        );
        if self.rows.len() >= MOST && !self.rows.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let row = self.rows.entry(key).or_insert_with(|| ProblemItem {
            severity,
            reason: reason.to_owned(),
            object: object.to_owned(),
            message: message.to_owned(),
            next,
            nodes: Vec::new(),
        });
        if row.nodes.len() == 1 {
            // What is said of all of them does not name the first.
            row.message = row.message.replace(&format!(" on node {}", row.nodes[0]), " on these nodes");
        }
        if !node.is_empty() {
            row.nodes.push(node.to_owned());
        }
    }
}

/// A policy that its status says is not Ready, while no node says anything of it.
fn unheard(fact: &PolicyFact, board: &Board, found: &mut Folded) {
    let said = board.sample.nodes.iter().flat_map(|n| &n.status.policies);
    let Some(ready) = fact.condition(condition::READY).filter(|c| c.status != "True") else { return };
    if said.into_iter().any(|p| p.kind == fact.policy.kind && p.name == fact.policy.name) {
        return;
    }
    let next =
        format!("kubectl balancing explain policy {}/{}", fact.policy.kind.short_name(), fact.policy.name);
    found.add(Severity::Warning, &ready.reason, &fact.policy.to_string(), "", &ready.message, next);
}

fn absent(node: &NodeTopItem, found: &mut Folded) {
    let next = "kubectl get pods -A -o wide -l app.kubernetes.io/component=agent: does the agent run there? see its log"
        .to_owned();
    match node.state {
        NodeState::Stale | NodeState::Missing => {
            found.add(Severity::Error, &node.reason, "node", &node.name, &node.message, next);
        }
        NodeState::Degraded | NodeState::Ready => {}
    }
}

fn whole_node(node: &NodeSample, found: &mut Folded) {
    let status = &node.status;
    let name = &status.node.name;
    for c in unmet(status) {
        // What cannot be read follows one by one.
        if c.type_ == condition::SOURCES_SYNCED && !status.source_errors.is_empty() {
            continue;
        }
        // The cause first: a narrow screen shows the first words.
        let message = match c.message.as_str() {
            "" => format!("{} is {} ({})", c.type_, c.status, c.reason),
            message => format!("{message} ({} is {}: {})", c.type_, c.status, c.reason),
        };
        found.add(Severity::Error, &c.reason, "node", name, &message, next_of(&c.reason, &c.message));
    }
    for e in &status.source_errors {
        let next = unread::next(status, e);
        found.add(Severity::Error, "SourceError", &format!("file {}", e.file), name, &e.to_string(), next);
    }
    for map in &status.datapath.maps {
        let fill = if map.capacity == 0 { 0.0 } else { map.entries as f64 / map.capacity as f64 };
        let object = format!("map {}", map.name);
        let next = || enlarge(&map.name);
        if fill >= 1.0 {
            let message =
                format!("the map is full, all {} entries are in use: what is new is left out", map.capacity);
            found.add(Severity::Error, reason::MAP_FULL, &object, name, &message, next());
        } else if fill >= FULL {
            let message = format!(
                "the map is {:.0}% full, {} of {} entries: when it is full, what is new is left out",
                fill * 100.0,
                map.entries,
                map.capacity
            );
            found.add(Severity::Warning, "MapFilling", &object, name, &message, next());
        }
    }
    for program in status.datapath.programs.iter().filter(|p| p.others > 0) {
        let message = format!(
            "{} of somebody else on the same hook of the same cgroup: it may rewrite what these programs decided",
            plural(program.others as usize, "program", "programs")
        );
        let next =
            "bpftool cgroup show CGROUP names it; another service proxy's socket load balancing?".to_owned();
        found.add(
            Severity::Warning,
            "OtherPrograms",
            &format!("hook {}", program.hook),
            name,
            &message,
            next,
        );
    }
}

/// What to do about a map that is full or nearly so.
fn enlarge(map: &str) -> String {
    match map {
        "frontends" | "backends" => {
            format!("restart the agent with a larger --max-{map}; what is in the map stays")
        }
        _ => "its size is fixed: remove policies that are not needed".to_owned(),
    }
}

/// The map that a message of the agent says is full.
fn full_map(message: &str) -> Option<&str> {
    message.split_once("map ")?.1.split_once(" is full").map(|(map, _)| map)
}

/// What to do about a reason, of which a message says more.
fn next_of(reason: &str, message: &str) -> String {
    match full_map(message).filter(|_| reason == reason::MAP_FULL) {
        Some(map) => enlarge(map),
        None => condition_next(reason).to_owned(),
    }
}

fn condition_next(reason: &str) -> &'static str {
    match reason {
        reason::DETACHED => {
            "restart the agent: it attaches its programs anew; find who detached them (another agent, bpftool)"
        }
        reason::ATTACH_FAILED => {
            "see the agent's log for the kernel's error; does it run with BPF, NET_ADMIN and PERFMON?"
        }
        reason::KERNEL_UNSUPPORTED => "use a kernel of 5.15 or later",
        reason::MAP_FULL => {
            "restart the agent with a larger --max-frontends or --max-backends; what is in the maps stays"
        }
        reason::WRITE_FAILED => "see the agent's log for the kernel's error",
        reason::SYNCING => "wait for the first complete read; if it lasts, see the agent's log",
        reason::DISCONNECTED => "can the node reach the API server? the last good state stays in force",
        _ => "see the agent's log and its /v1/status",
    }
}

/// A policy that should be in force on a node and is not.
fn not_effective(status: &NodeStatus, policy: &PolicyStatus, found: &mut Folded) {
    let severity = match policy.state {
        PolicyState::Programmed | PolicyState::NotSelected => return,
        PolicyState::Fallback
            if [reason::NO_LOCAL_BACKEND, reason::NO_BACKEND].contains(&policy.reason.as_str()) =>
        {
            Severity::Warning
        }
        PolicyState::Other(_) => Severity::Warning,
        _ => Severity::Error,
    };
    let object = PolicyRef::new(policy.kind, policy.name.clone()).to_string();
    let message = match (policy.message.as_str(), policy.state) {
        ("", state) => format!("its state is {state}"),
        (message, _) => message.to_owned(),
    };
    let (message, next) = match unread::service(policy, status) {
        Some(e) if policy.reason == reason::SERVICE_NOT_FOUND => {
            (format!("its Service cannot be read: {e}"), unread::next(status, e))
        }
        _ => (message, policy_next(policy)),
    };
    found.add(severity, &policy.reason, &object, &status.node.name, &message, next);
}

fn policy_next(policy: &PolicyStatus) -> String {
    let wanted = &policy.wanted;
    let service = wanted.service.as_deref().and_then(|s| s.split_once('/'));
    let get_service = |more: &str| match service {
        Some((namespace, name)) => format!("kubectl get service -n {namespace} {name}{more}"),
        None => "kubectl get services -A".to_owned(),
    };
    match policy.reason.as_str() {
        reason::NO_LOCAL_BACKEND | reason::NO_BACKEND => match wanted.pods.iter().find(|p| !p.usable) {
            Some(pod) => match pod.pod.split_once('/') {
                Some((namespace, name)) => {
                    format!("pod {} is {}: kubectl describe pod -n {namespace} {name}", pod.pod, pod.reason)
                }
                None => format!("pod {} is {}", pod.pod, pod.reason),
            },
            None => format!(
                "kubectl get pods -A -o wide -l '{}': is the selector right, and does such a pod run on this node?",
                wanted.selector
            ),
        },
        reason::SERVICE_NOT_FOUND => {
            format!("{}: create the Service, or correct spec.frontend.serviceMatcher", get_service(""))
        }
        reason::SERVICE_NOT_SUPPORTED => {
            format!("{}: only Services with a ClusterIP can be matched", get_service(" -o yaml"))
        }
        reason::PORT_NOT_FOUND => {
            format!("{}: correct toPorts of the policy, or the Service's ports", get_service(" -o yaml"))
        }
        reason::PORT_MISMATCH => {
            "give the frontend's and the backend's toPorts the same name and protocol".to_owned()
        }
        reason::FRONTEND_CONFLICT => {
            "remove one of the two policies, or what they share; the older one holds it".to_owned()
        }
        reason::INVALID_SPEC => {
            "correct the spec: kubectl balancing validate -f FILE names the line".to_owned()
        }
        reason::MAP_FULL | reason::WRITE_FAILED => next_of(&policy.reason, &policy.message),
        _ => format!("kubectl balancing explain policy {}/{}", policy.kind.short_name(), policy.name),
    }
}

fn exemption(status: &NodeStatus, policy: &PolicyStatus, found: &mut Folded) {
    let exempt = policy.exempt_callers;
    if exempt.active < exempt.pods {
        let object = PolicyRef::new(policy.kind, policy.name.clone()).to_string();
        let message = format!(
            "no cgroup was found for {} of its {}: their own calls to the frontend are redirected to themselves",
            exempt.pods - exempt.active,
            plural(exempt.pods as usize, "backend pod", "backend pods")
        );
        let next = "is --cgroup-root the root of the hierarchy that the pods are in?".to_owned();
        found.add(Severity::Warning, "ExemptionInactive", &object, &status.node.name, &message, next);
    }
}

/// A policy whose VIP is the address of a Service: it takes the Service's connections.
fn shadowed_services(node: &NodeSample, found: &mut Folded) {
    let vips: BTreeMap<String, &PolicyStatus> = (node.status.policies.iter())
        .filter(|p| p.wanted.service.is_none() && p.wanted.address.is_some())
        .map(|p| (PolicyRef::new(p.kind, p.name.clone()).to_string(), p))
        .collect();
    for info in &node.frontends.items {
        let policy = info.rungs.iter().find_map(|r| r.policy.as_ref()).map(ToString::to_string);
        let service =
            info.rungs.iter().find(|r| r.rung == RungKind::Service).and_then(|r| r.service.as_deref());
        let (Some(policy), Some(service)) = (policy, service) else { continue };
        if vips.contains_key(&policy) {
            let message = format!(
                "its VIP {} is an address of Service {service}: the Service is shadowed, the policy takes its connections",
                info.frontend
            );
            let next = "use serviceMatcher if that is meant, else another address".to_owned();
            found.add(Severity::Warning, "ShadowsService", &policy, &node.status.node.name, &message, next);
        }
    }
}

/// Redirects that were not made, of policies that are in force.
fn skipped(board: &Board, found: &mut Folded) {
    let mut dropping: HashMap<&PolicyRef, Vec<&str>> = HashMap::new();
    for node in &board.sample.nodes {
        for c in node.counters.policies.iter().filter(|c| c.qos_drops > 0) {
            dropping.entry(&c.policy).or_default().push(&node.status.node.name);
        }
    }
    for row in &board.policies {
        let Some(rates) = &row.rates else { continue };
        let object = row.policy.to_string();
        if rates.qos_drops > 0.0 {
            let message = format!(
                "QoS saturated: the limit of {}/s is reached, {}/s were not redirected and went on down the ladder",
                row.redirects_per_second,
                scaled(rates.qos_drops)
            );
            let next = "raise spec.qos.redirectsPerSecond (0: no limit), if the backend can bear it";
            for node in dropping.get(&row.policy).into_iter().flatten() {
                found.add(
                    Severity::Warning,
                    rung_reason::QOS_LIMIT,
                    &object,
                    node,
                    &message,
                    next.to_owned(),
                );
            }
        }
        if rates.fallbacks.get(rung_reason::AGENT_STALE).is_some_and(|r| *r > 0.0) {
            let message = "the agent does not renew its lease: the policy's rung is skipped";
            for node in &board.sample.nodes {
                let next = "see the agent's log: it is stuck or starved".to_owned();
                let name = &node.status.node.name;
                found.add(Severity::Error, rung_reason::AGENT_STALE, &object, name, message, next);
            }
        }
    }
}

fn refusals(board: &Board, found: &mut Folded) {
    let mut refusing: HashMap<Frontend, Vec<&str>> = HashMap::new();
    for node in &board.sample.nodes {
        for c in node.counters.frontends.iter().filter(|c| c.refusals > 0) {
            refusing.entry(c.frontend).or_default().push(&node.status.node.name);
        }
    }
    for row in &board.frontends {
        let Some(rate) = row.rates.map(|r| r.refusals).filter(|r| *r > 0.0) else { continue };
        let who = row.service.as_ref().map(|s| format!(" (Service {s})")).unwrap_or_default();
        let message = format!("nothing serves it{who}: {}/s of its clients are refused", scaled(rate));
        let next = match row.service.as_deref().and_then(|s| s.split_once('/')) {
            Some((namespace, name)) => {
                format!("kubectl get endpointslices -n {namespace} -l kubernetes.io/service-name={name}")
            }
            None => "which Service is it, and why has it no endpoints?".to_owned(),
        };
        for node in refusing.get(&row.frontend).into_iter().flatten() {
            let object = format!("frontend {}", row.frontend);
            found.add(Severity::Warning, "Refused", &object, node, &message, next.clone());
        }
    }
}

/// Agents of several versions.
fn skew(board: &Board, found: &mut Folded) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for node in &board.sample.nodes {
        versions.entry(&node.status.agent.version).or_default().push(&node.status.node.name);
    }
    let most = versions.iter().max_by_key(|(_, nodes)| nodes.len()).map(|(v, _)| *v);
    for (version, nodes) in versions.iter().filter(|(v, _)| Some(**v) != most) {
        let message = format!("the agent is of version {version}, most are of {}", most.unwrap_or_default());
        for node in nodes {
            let next = "a rollout under way? one minor version of difference is supported".to_owned();
            found.add(Severity::Warning, "VersionSkew", "agent", node, &message, next);
        }
    }
}

/// The nodes of a problem in a few words.
#[must_use]
pub fn places(problem: &ProblemItem) -> String {
    match problem.nodes.len() {
        0..=3 => list(&problem.nodes, 3),
        n => format!("{n} nodes: {}", list(&problem.nodes, 3)),
    }
}

/// What a problem concerns and where: `node n1`, `lr/x on n1, n2`.
#[must_use]
pub fn concerned(problem: &ProblemItem) -> String {
    match (short_object(problem), places(problem)) {
        (object, places) if places.is_empty() => object,
        (_, places) if problem.object == "node" => match problem.nodes.len() {
            1 => format!("node {places}"),
            _ => places,
        },
        (object, places) => format!("{object} on {places}"),
    }
}

/// What a problem concerns, policies by the short names of their kinds.
#[must_use]
pub fn short_object(problem: &ProblemItem) -> String {
    problem.object.replace("LocalRedirectPolicy/", "lr/").replace("BalancingPolicy/", "bl/")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::Demo;

    fn board(nodes: u32, seconds: u64) -> Board {
        let mut demo = Demo::new(1, nodes);
        let before = demo.next(Duration::from_secs(seconds));
        Board::new(demo.next(Duration::from_secs(1)), Some(&before))
    }

    #[test]
    fn what_many_nodes_have_is_one_row() {
        let board = board(100, 1);
        let row = board.problems.iter().find(|p| p.object == "LocalRedirectPolicy/metrics-gateway").unwrap();
        assert_eq!((row.nodes.len(), row.severity), (99, Severity::Warning));
        // What is said of all of them names none.
        assert!(
            row.message.contains("matches no pod on these nodes") && !row.message.contains("demo-"),
            "{}",
            row.message
        );
        assert!(board.problems.is_sorted_by_key(|p| p.severity));
    }

    #[test]
    fn each_kind_of_trouble_of_the_synthetic_cluster_is_found() {
        let found = |board: &Board, reason: &str, object: &str| {
            board.problems.iter().any(|p| p.reason == reason && p.object == object && !p.next.is_empty())
        };
        let first = board(12, 1);
        for (reason, object) in [
            ("Detached", "node"),
            ("Missing", "node"),
            ("MapFilling", "map backends"),
            ("VersionSkew", "agent"),
            ("FrontendConflict", "LocalRedirectPolicy/shadow-dns"),
            ("ServiceNotFound", "BalancingPolicy/legacy-db"),
            ("NoLocalBackend", "LocalRedirectPolicy/apiserver-cache"),
        ] {
            assert!(found(&first, reason, object), "{reason} {object}: {:?}", first.problems);
        }
        assert!(found(&first, "QosLimit", "LocalRedirectPolicy/node-local-dns"));
        assert!(!found(&board(12, 22), "QosLimit", "LocalRedirectPolicy/node-local-dns"));
        assert!(found(&board(12, 100), "NoLocalBackend", "LocalRedirectPolicy/log-cache"));
    }

    #[test]
    fn nobody_reads_ten_thousand_problems() {
        let mut board = board(3, 1);
        let mut folded = Folded::default();
        for i in 0..MOST + 5 {
            folded.add(Severity::Error, "X", &format!("LocalRedirectPolicy/p{i}"), "n1", "", String::new());
        }
        assert_eq!((folded.rows.len(), folded.left_out), (MOST, 5));
        let policy =
            board.sample.nodes[0].status.policies.iter().find(|p| p.name == "shadow-dns").unwrap().clone();
        for i in 0..MOST {
            let name = format!("p{i}");
            board.sample.nodes[0].status.policies.push(PolicyStatus { name, ..policy.clone() });
        }
        let rows = problem_rows(&board);
        assert_eq!(rows.len(), MOST + 1);
        assert!(rows.last().unwrap().message.starts_with("and "));
    }
}

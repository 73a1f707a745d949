//! The rules of precedence one by one, and what is said of each policy.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fmt::Write as _};

use balancing_agent::{
    compile::{Compiler, NodeContext, ServiceResolution},
    desired::{Ladder, Otherwise},
    snapshot::{Converter, Dirty, Name, ObjectChange, ObjectKey, Snapshot},
    source::manifests,
};
use balancing_api::{
    agent::PolicyState,
    net::{Frontend, Protocol},
    policy::{PolicyKind, PolicyRef},
};

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {region: edge}}
status: {addresses: [{type: InternalIP, address: 10.1.0.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2, annotations: {balancing.elf.io/nodeProxyIpv4: 10.9.0.2}}
status: {addresses: [{type: InternalIP, address: 10.1.0.2}]}
";

/// Service default/web with ports web 80/TCP and dns 53/UDP, both at port 8000 and 8053 of 10.3.0.1.
const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  ports:
  - {name: web, port: 80}
  - {name: dns, port: 53, protocol: UDP}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.3.0.1], nodeName: n2, targetRef: {kind: Pod, name: web-0}}
ports:
- {name: web, port: 8000}
- {name: dns, port: 8053, protocol: UDP}
";

fn pod(name: &str, ip: &str, node: &str, ready: bool) -> String {
    let status = if ready { "True" } else { "False" };
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: default, uid: uid-{name}, labels: {{app: cache}}}}
spec: {{nodeName: {node}, containers: []}}
status: {{phase: Running, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: '{status}'}}]}}
"
    )
}

/// A LocalRedirectPolicy; `frontend` and `more` are YAML in flow style.
fn lrp(name: &str, created: u32, frontend: &str, to: &str, more: &str) -> String {
    format!(
        "
apiVersion: balancing.elf.io/v1beta1
kind: LocalRedirectPolicy
metadata: {{name: {name}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'}}
spec:
  frontend: {frontend}
  backend: {{endpointSelector: {{matchLabels: {{app: cache}}}}, toPorts: {to}}}
{more}
"
    )
}

const MATCH_WEB: &str = "{serviceMatcher: {serviceName: web, namespace: default}}";
const TO_BOTH: &str = "[{name: web, port: 81, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}]";
const VIP: &str = "{addressMatcher: {ip: 169.254.0.90, toPorts: [{port: 80, protocol: TCP}]}}";
const TO_81: &str = "[{port: 81, protocol: TCP}]";

struct Bed {
    snapshot: Snapshot,
    compiler: Compiler,
    context: NodeContext,
}

impl Bed {
    fn new(objects: &[&str]) -> Self {
        Self::with(NodeContext { node: "n1".into(), ..NodeContext::default() }, objects)
    }

    fn with(context: NodeContext, objects: &[&str]) -> Self {
        let mut bed = Self { snapshot: Snapshot::default(), compiler: Compiler::default(), context };
        bed.compiler.compile(&bed.snapshot, &bed.context, &Dirty::everything());
        bed.add(objects);
        bed
    }

    fn add(&mut self, objects: &[&str]) {
        let operator = self.context.cluster.then(|| "elf".into());
        let mut converter =
            Converter { operator, container_ids: self.context.cluster, ..Converter::default() };
        let (records, _) = manifests::objects(&objects.join("\n---\n"), &mut converter);
        let dirty = self.snapshot.apply(records.into_iter().map(ObjectChange::set));
        self.compiler.compile(&self.snapshot, &self.context, &dirty);
    }

    fn remove(&mut self, key: ObjectKey) {
        let dirty = self.snapshot.apply([ObjectChange::removed(key)]);
        self.compiler.compile(&self.snapshot, &self.context, &dirty);
    }

    fn ladder(&self, address: &str, port: u16, protocol: Protocol) -> Option<&Ladder> {
        self.compiler.desired().get(&Frontend::new(address.parse().unwrap(), port, protocol))
    }

    /// `policy>10.0.0.1:80 | service>10.0.0.2:80 | Refuse`
    fn tcp(&self, address: &str, port: u16) -> String {
        self.ladder(address, port, Protocol::Tcp).map_or("no frontend".to_owned(), show)
    }

    fn udp(&self, address: &str, port: u16) -> String {
        self.ladder(address, port, Protocol::Udp).map_or("no frontend".to_owned(), show)
    }

    /// State, reason and message of a LocalRedirectPolicy.
    fn state(&self, name: &str) -> (PolicyState, &'static str, String) {
        self.state_of(PolicyKind::LocalRedirectPolicy, name)
    }

    fn state_of(&self, kind: PolicyKind, name: &str) -> (PolicyState, &'static str, String) {
        let policy = PolicyRef::new(kind, name);
        let report = self.compiler.report(&policy, &self.snapshot, &self.context).unwrap();
        (report.state, report.reason, report.message)
    }
}

fn show(ladder: &Ladder) -> String {
    let mut text = String::new();
    let backends = |all: &[balancing_agent::desired::Backend]| {
        all.iter().map(|b| format!("{}:{}", b.address, b.port)).collect::<Vec<_>>().join(",")
    };
    if let Some(rung) = &ladder.policy {
        let _ = write!(text, "{}>{} | ", rung.policy.name, backends(&rung.backends));
    }
    if let Some(rung) = &ladder.service {
        let _ = write!(text, "{}>{} | ", rung.service.name, backends(&rung.backends));
    }
    text + if ladder.otherwise == Otherwise::Refuse { "Refuse" } else { "Untouched" }
}

#[test]
fn policy_above_service() {
    let mut bed =
        Bed::new(&[NODE, WEB, &pod("c1", "10.2.0.1", "n1", true), &lrp("p", 0, MATCH_WEB, TO_BOTH, "")]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "p>10.2.0.1:81 | web>10.3.0.1:8000 | Refuse");
    assert_eq!(bed.udp("10.96.0.1", 53), "p>10.2.0.1:5353 | web>10.3.0.1:8053 | Refuse");
    // Families are separate: the pod and the endpoint have IPv4 alone.
    assert_eq!(bed.tcp("fd00:96::1", 80), "p> | web> | Refuse");
    bed.add(&[&pod("c1", "10.2.0.1", "n1", false)]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "p> | web>10.3.0.1:8000 | Refuse");
}

const BALANCE: &str = "
apiVersion: balancing.elf.io/v1beta1
kind: BalancingPolicy
metadata: {name: b}
spec:
  frontend: {addressMatcher: {ip: 169.254.0.91, toPorts: [{port: 80, protocol: TCP}]}}
  backend: {serviceEndpoint: {endpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: 82, protocol: TCP}]}}
";

/// Backends of that policy, as the operator publishes them in its namespace.
fn published(namespace: &str, endpoints: &str) -> String {
    format!(
        "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: b-1
  namespace: {namespace}
  labels: {{balancing.elf.io/policy-kind: BalancingPolicy, balancing.elf.io/policy-name: b}}
  ownerReferences: [{{apiVersion: balancing.elf.io/v1beta1, kind: BalancingPolicy, name: b, uid: u1}}]
addressType: IPv4
endpoints: [{endpoints}]
ports: [{{name: tcp-82, port: 82}}]
"
    )
}

fn in_cluster(objects: &[&str]) -> Bed {
    Bed::with(NodeContext { node: "n1".into(), cluster: true, ..NodeContext::default() }, objects)
}

#[test]
fn in_a_cluster_backends_that_span_nodes_are_the_operators() {
    // The pod alone says nothing: agents do not see those of other nodes.
    let mut bed = in_cluster(&[NODE, &pod("c1", "10.2.0.1", "n1", true), BALANCE]);
    assert_eq!(bed.tcp("169.254.0.91", 80), "b> | Untouched");
    let (state, reason, message) = bed.state_of(PolicyKind::BalancingPolicy, "b");
    assert_eq!((state, reason), (PolicyState::Fallback, "NoBackend"));
    assert!(message.starts_with("the operator has published no backend"), "{message}");

    let endpoints = "{addresses: [10.2.0.9], conditions: {ready: true}, nodeName: n2}, \
                     {addresses: [10.2.0.8], conditions: {ready: false}, nodeName: n2}";
    bed.add(&[&published("team", endpoints)]);
    assert_eq!(bed.tcp("169.254.0.91", 80), "b> | Untouched", "anybody may write slices in some namespace");
    bed.add(&[&published("elf", endpoints)]);
    assert_eq!(bed.tcp("169.254.0.91", 80), "b>10.2.0.9:82 | Untouched");
    assert_eq!(bed.state_of(PolicyKind::BalancingPolicy, "b").0, PolicyState::Programmed);
    bed.add(&[&published("elf", "{addresses: [10.2.0.8], conditions: {ready: false}}")]);
    assert_eq!(bed.tcp("169.254.0.91", 80), "b> | Untouched");
    let message = bed.state_of(PolicyKind::BalancingPolicy, "b").2;
    assert_eq!(message, "no published backend can serve: 10.2.0.8 is NotReady: normal resolution");

    let folder = Bed::new(&[NODE, &pod("c1", "10.2.0.1", "n1", true), BALANCE, &published("elf", endpoints)]);
    assert_eq!(folder.tcp("169.254.0.91", 80), "b>10.2.0.1:82 | Untouched", "a folder has no operator");
}

#[test]
fn a_pod_whose_processes_have_gone_serves_nothing_whatever_the_api_says() {
    let local = WEB.replace(
        "10.3.0.1], nodeName: n2, targetRef: {kind: Pod, name: web-0",
        "10.2.0.1], nodeName: n1, targetRef: {kind: Pod, name: c1",
    );
    let slice = published(
        "elf",
        "{addresses: [10.2.0.1], nodeName: n1, targetRef: {kind: Pod, namespace: default, name: c1}}",
    );
    let objects = [
        NODE,
        &local,
        &pod("c1", "10.2.0.1", "n1", true),
        &lrp("p", 0, MATCH_WEB, TO_BOTH, ""),
        BALANCE,
        &slice,
    ];
    let shown = |bed: &Bed| (bed.tcp("10.96.0.1", 80), bed.tcp("169.254.0.91", 80));
    let alive =
        ("p>10.2.0.1:81 | web>10.2.0.1:8000 | Refuse".to_owned(), "b>10.2.0.1:82 | Untouched".to_owned());
    // A Service's only endpoint is better than none.
    let dead = ("p> | web>10.2.0.1:8000 | Refuse".to_owned(), "b> | Untouched".to_owned());
    let mut bed = in_cluster(&objects);
    assert_eq!(shown(&bed), alive);
    for (lifeless, wanted) in [(true, &dead), (false, &alive), (true, &dead)] {
        let mut dirty = Dirty::default();
        bed.context.set_lifeless("uid-c1".into(), lifeless, &mut dirty);
        bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
        assert_eq!(shown(&bed), *wanted);
        // What follows step by step is what all at once comes to.
        let whole = Bed::with(bed.context.clone(), &objects);
        assert_eq!(bed.compiler.desired(), whole.compiler.desired());
    }
    let message = bed.state("p").2;
    assert!(message.contains("default/c1 is NoProcess"), "{message}");
    let other = WEB.replace("name: web-1,", "name: web-2,").replace("10.3.0.1", "10.3.0.2");
    bed.add(&[&other]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "p> | web>10.3.0.2:8000 | Refuse");
}

#[test]
fn a_pod_is_no_backend_while_a_container_that_its_object_calls_running_has_ended() {
    let running = |state: &str, id: &str| {
        let container = format!(
            "{{name: c, containerID: 'containerd://{id}', ready: true, image: '', imageID: '', restartCount: 0, state: {{{state}: {{}}}}}}"
        );
        pod("c1", "10.2.0.1", "n1", true)
            .replace("phase: Running,", &format!("phase: Running, containerStatuses: [{container}],"))
    };
    let local = WEB.replace(
        "10.3.0.1], nodeName: n2, targetRef: {kind: Pod, name: web-0",
        "10.2.0.1], nodeName: n1, targetRef: {kind: Pod, name: c1",
    );
    let slice = published(
        "elf",
        "{addresses: [10.2.0.1], nodeName: n1, targetRef: {kind: Pod, namespace: default, name: c1}}",
    );
    let other = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-other, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: web, port: 8000, protocol: TCP}]
endpoints: [{addresses: [10.3.0.2], nodeName: n2, targetRef: {kind: Pod, name: web-2}}]
";
    let policy = lrp("p", 0, MATCH_WEB, TO_BOTH, "");
    let objects = |pod: &str| [NODE, &local, other, pod, &policy, BALANCE, &slice].map(str::to_owned);
    let mut bed = in_cluster(&objects(&running("running", "a")).each_ref().map(String::as_str));
    let alive = (
        "p>10.2.0.1:81 | web>10.2.0.1:8000,10.3.0.2:8000 | Refuse".to_owned(),
        "b>10.2.0.1:82 | Untouched".to_owned(),
    );
    let dead = ("p> | web>10.3.0.2:8000 | Refuse".to_owned(), "b> | Untouched".to_owned());
    let is = |bed: &Bed, pod: &str, wanted: &(String, String)| {
        assert_eq!((bed.tcp("10.96.0.1", 80), bed.tcp("169.254.0.91", 80)), *wanted);
        // What follows step by step is what all at once comes to.
        let whole = Bed::with(bed.context.clone(), &objects(pod).each_ref().map(String::as_str));
        assert_eq!(bed.compiler.desired(), whole.compiler.desired());
    };
    let end = |bed: &mut Bed, ids: &[&str]| {
        let mut dirty = Dirty::default();
        let ids = ids.iter().map(|id| (*id).into()).collect();
        bed.context.set_ended_containers("uid-c1".into(), ids, &mut dirty);
        bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
    };
    let mut now = running("running", "a");
    is(&bed, &now, &alive);
    end(&mut bed, &["init"]);
    is(&bed, &now, &alive);
    end(&mut bed, &["init", "a"]);
    is(&bed, &now, &dead);
    let message = bed.state("p").2;
    assert!(message.contains("default/c1 is NoProcess"), "{message}");
    // The next one runs, as the object says now.
    now = running("running", "b");
    bed.add(&[&now]);
    is(&bed, &now, &alive);
    end(&mut bed, &["init", "a", "b"]);
    is(&bed, &now, &dead);
    // The object says that it has ended: the rest of it decides again.
    now = running("terminated", "b");
    bed.add(&[&now]);
    is(&bed, &now, &alive);
    now = running("running", "b");
    bed.add(&[&now]);
    is(&bed, &now, &dead);
    end(&mut bed, &[]);
    is(&bed, &now, &alive);
}

#[test]
fn on_no_backend() {
    let refuse = "  config: {onNoBackend: Refuse}";
    let ready = pod("c1", "10.2.0.1", "n1", true);
    let policies =
        [&*lrp("s", 0, MATCH_WEB, TO_BOTH, refuse), &lrp("v", 0, VIP, TO_81, refuse)].join("---\n");
    let mut bed = Bed::new(&[NODE, WEB, &policies]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "s> | Refuse");
    assert_eq!(bed.tcp("169.254.0.90", 80), "v> | Refuse");
    // With a backend the ladder goes on beneath: over the limit, and for exempt callers, nobody is refused.
    bed.add(&[&ready]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "s>10.2.0.1:81 | web>10.3.0.1:8000 | Refuse");
    assert_eq!(bed.tcp("169.254.0.90", 80), "v>10.2.0.1:81 | Untouched");
    bed.add(&[&lrp("v", 0, VIP, TO_81, ""), &pod("c1", "10.2.0.1", "n1", false)]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "v> | Untouched");
}

#[test]
fn nobody_is_refused_at_the_api_server() {
    let api = "apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec: {clusterIP: 10.96.0.9, ports: [{name: https, port: 443, protocol: TCP}]}
";
    let refuse = "  config: {onNoBackend: Refuse}";
    let by_name = "{serviceMatcher: {serviceName: kubernetes, namespace: default}}";
    let by_address =
        |ip: &str| format!("{{addressMatcher: {{ip: {ip}, toPorts: [{{port: 443, protocol: TCP}}]}}}}");
    for resolution in [ServiceResolution::All, ServiceResolution::Policies] {
        for frontend in [by_name.to_owned(), by_address("10.96.0.9")] {
            let context = NodeContext { node: "n1".into(), resolution, ..NodeContext::default() };
            let mut bed = Bed::with(context, &[NODE, &lrp("p", 0, &frontend, TO_81, refuse)]);
            let beneath = if resolution == ServiceResolution::All {
                "p> | kubernetes> | Refuse"
            } else {
                "p> | Untouched"
            };
            // It comes after the policy, and goes before it.
            bed.add(&[api]);
            assert_eq!(bed.tcp("10.96.0.9", 443), beneath, "{frontend}");
            let (_, _, said) = bed.state("p");
            assert!(
                said.ends_with("normal resolution (at the API server onNoBackend: Refuse has no effect)"),
                "{said}"
            );
            bed.remove(ObjectKey::Service(Name::new("default", "kubernetes")));
            let alone = if frontend == by_name { "no frontend" } else { "p> | Refuse" };
            assert_eq!(bed.tcp("10.96.0.9", 443), alone, "{frontend}");
        }
    }
    // Another port of that address is none of its frontends.
    let mut bed = Bed::new(&[NODE, api]);
    let other = "{addressMatcher: {ip: 10.96.0.9, toPorts: [{port: 80, protocol: TCP}]}}";
    bed.add(&[&lrp("q", 0, other, TO_81, refuse)]);
    assert_eq!(bed.tcp("10.96.0.9", 80), "q> | Refuse");
}

#[test]
fn modes_of_service_resolution() {
    let objects = [
        NODE,
        WEB,
        &pod("c1", "10.2.0.1", "n1", true),
        &lrp("s", 0, MATCH_WEB, TO_BOTH, ""),
        &lrp("v", 0, VIP, TO_81, ""),
    ];
    let bed = |resolution| {
        Bed::with(NodeContext { node: "n1".into(), resolution, ..NodeContext::default() }, &objects)
    };
    let policies = bed(ServiceResolution::Policies);
    assert_eq!(policies.tcp("10.96.0.1", 80), "s>10.2.0.1:81 | Untouched");
    assert_eq!(policies.tcp("fd00:96::1", 80), "s> | Untouched");
    let off = bed(ServiceResolution::Off);
    assert_eq!(off.tcp("10.96.0.1", 80), "no frontend");
    assert_eq!(off.tcp("169.254.0.90", 80), "v>10.2.0.1:81 | Untouched");
    let (state, reason, message) = off.state("s");
    assert_eq!((state, reason), (PolicyState::Fallback, "ServiceNotSupported"));
    assert!(message.contains("--service-resolution off"), "{message}");
}

#[test]
fn the_older_policy_wins() {
    let young = lrp("a", 9, VIP, TO_81, "");
    let old = lrp("z", 1, VIP, "[{port: 82, protocol: TCP}]", "");
    let mut bed = Bed::new(&[NODE, &pod("c1", "10.2.0.1", "n1", true), &young]);
    bed.add(&[&old]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "z>10.2.0.1:82 | Untouched");
    let (state, reason, message) = bed.state("a");
    assert_eq!((state, reason), (PolicyState::Conflicted, "FrontendConflict"));
    assert_eq!(message, "169.254.0.90:80/TCP is held by LocalRedirectPolicy/z: it is older");
    // No time at all is older still; of one age a LocalRedirectPolicy comes first, then the name.
    bed.add(&[&lrp("a", 9, VIP, TO_81, "").replace(", creationTimestamp: '2026-01-01T00:00:09Z'", "")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "a>10.2.0.1:81 | Untouched");
    bed.add(&[&lrp("a", 1, VIP, TO_81, "")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "a>10.2.0.1:81 | Untouched");
    let balancing = lrp("0a", 1, VIP, TO_81, "").replace("LocalRedirectPolicy", "BalancingPolicy").replace(
        "{endpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: 81, protocol: TCP}]}",
        "{addressEndpoint: {addresses: [10.7.0.1], toPorts: [{port: 81, protocol: TCP}]}}",
    );
    bed.add(&[&balancing]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "a>10.2.0.1:81 | Untouched");
    bed.add(&[&balancing.replace(":01Z", ":00Z")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "0a>10.7.0.1:81 | Untouched");
}

#[test]
fn a_winner_without_backends_wins() {
    let other = lrp("b", 5, VIP, TO_81, "").replace("app: cache", "app: other");
    let bed = Bed::new(&[NODE, &pod("c1", "10.2.0.1", "n1", true), &other, &lrp("c", 9, VIP, TO_81, "")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "b> | Untouched");
    assert_eq!(bed.state("c").0, PolicyState::Conflicted);
    assert_eq!(bed.state("b").0, PolicyState::Fallback);
}

#[test]
fn the_older_service_has_the_address() {
    let second = WEB
        .replace(
            "{name: web, namespace: default}",
            "{name: web, namespace: team, creationTimestamp: '2026-01-01T00:00:00Z'}",
        )
        .replace("web-1, namespace: default", "web-1, namespace: team")
        .replace("10.3.0.1", "10.3.0.9");
    let first = WEB.replace(
        "{name: web, namespace: default}",
        "{name: web, namespace: default, creationTimestamp: '2026-01-01T00:00:01Z'}",
    );
    let mut bed = Bed::new(&[NODE, &second, &first]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "web>10.3.0.9:8000 | Refuse");
    // No time is oldest.
    bed.add(&[WEB]);
    assert_eq!(bed.tcp("10.96.0.1", 80), "web>10.3.0.1:8000 | Refuse");
}

/// Service team/lb at these external addresses, without endpoints; its ports are those of `web`, 443 and 6443.
fn outside(external: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: lb, namespace: team}}
spec:
  clusterIP: 10.96.0.77
  externalIPs: [{external}]
  ports: [{{name: a, port: 80}}, {{name: b, port: 443}}, {{name: c, port: 6443}}]
"
    )
}

#[test]
fn a_services_own_frontend_is_taken_by_no_other_that_names_it_as_external() {
    let younger = WEB.replace(
        "{name: web, namespace: default}",
        "{name: web, namespace: default, creationTimestamp: '2026-01-01T00:00:01Z'}",
    );
    let mut bed = Bed::new(&[NODE, &outside("10.96.0.1, 203.0.113.9"), &younger]);
    assert_eq!(bed.tcp("203.0.113.9", 80), "lb> | Refuse");
    assert_eq!(bed.tcp("10.96.0.1", 80), "web>10.3.0.1:8000 | Refuse");
    bed.add(&[&outside("203.0.113.10")]);
    assert_eq!(bed.tcp("203.0.113.9", 80), "no frontend");
    assert_eq!(bed.tcp("203.0.113.10", 80), "lb> | Refuse");
}

#[test]
fn no_service_takes_the_place_of_the_api_server() {
    let endpoints = |ip: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: kubernetes, namespace: default, labels: {{kubernetes.io/service-name: kubernetes}}}}
addressType: IPv4
endpoints: [{{addresses: [{ip}]}}]
ports: [{{name: https, port: 6443}}]
"
        )
    };
    let context = NodeContext {
        node: "n1".into(),
        api_server: Some(("10.0.0.3".parse().unwrap(), 443)),
        ..NodeContext::default()
    };
    let mut bed = Bed::with(context, &[NODE, &outside("10.0.0.1, 10.0.0.2, 10.0.0.3")]);
    assert_eq!(bed.tcp("10.0.0.1", 6443), "lb> | Refuse", "nobody knows better yet");
    assert_eq!(
        (bed.tcp("10.0.0.3", 443), bed.tcp("10.0.0.3", 80)),
        ("no frontend".into(), "lb> | Refuse".into())
    );
    bed.add(&[&endpoints("10.0.0.1")]);
    assert_eq!(bed.tcp("10.0.0.1", 6443), "no frontend");
    assert_eq!(bed.tcp("10.0.0.1", 443), "lb> | Refuse", "another port");
    bed.add(&[&endpoints("10.0.0.2")]);
    assert_eq!(
        (bed.tcp("10.0.0.1", 6443), bed.tcp("10.0.0.2", 6443)),
        ("lb> | Refuse".into(), "no frontend".into())
    );
    // Nor does a policy refuse anybody there.
    let at = |ip: &str, port: u16| {
        format!("{{addressMatcher: {{ip: {ip}, toPorts: [{{port: {port}, protocol: TCP}}]}}}}")
    };
    let refuse = "  config: {onNoBackend: Refuse}";
    bed.add(&[
        &lrp("p", 0, &at("10.0.0.2", 6443), TO_81, refuse),
        &lrp("q", 0, &at("10.0.0.3", 443), TO_81, refuse),
    ]);
    assert_eq!(
        (bed.tcp("10.0.0.2", 6443), bed.tcp("10.0.0.3", 443)),
        ("p> | Untouched".into(), "q> | Untouched".into())
    );
    let (_, _, said) = bed.state("p");
    assert!(said.ends_with("(at the API server onNoBackend: Refuse has no effect)"), "{said}");
    bed.add(&[&endpoints("10.0.0.1")]);
    assert_eq!(bed.tcp("10.0.0.2", 6443), "p> | Refuse");
}

#[test]
fn affinity_is_inherited_from_the_service_alone() {
    let sticky = WEB.replace("spec:\n", "spec:\n  sessionAffinity: ClientIP\n");
    let on_ip = VIP.replace("169.254.0.90", "10.96.0.1");
    let seconds = |bed: &Bed| {
        let ladder = bed.ladder("10.96.0.1", 80, Protocol::Tcp).unwrap();
        (ladder.policy.as_ref().unwrap().affinity_seconds, ladder.service.as_ref().unwrap().affinity_seconds)
    };
    let bed = Bed::new(&[NODE, &sticky, &lrp("p", 0, MATCH_WEB, TO_BOTH, "")]);
    assert_eq!(seconds(&bed), (Some(10_800), Some(10_800)));
    let bed = Bed::new(&[NODE, &sticky, &lrp("p", 0, &on_ip, TO_81, "")]);
    assert_eq!(seconds(&bed), (None, Some(10_800)));
}

#[test]
fn settings_of_a_policy() {
    let limited = lrp("l", 0, VIP, TO_81, "  qos: {redirectsPerSecond: 5}");
    let free = lrp("f", 0, MATCH_WEB, TO_BOTH, "  qos: {redirectsPerSecond: 0}");
    let default = lrp("d", 0, &VIP.replace("90", "91"), TO_81, "")
        .replace("app: cache}}", "app: cache}}, skipRedirectFromBackend: false");
    let mut bed = Bed::with(
        NodeContext {
            node: "n1".into(),
            default_limit: 100,
            own_cgroups: BTreeSet::from([7]),
            ..NodeContext::default()
        },
        &[
            NODE,
            WEB,
            &pod("c1", "10.2.0.1", "n1", false),
            &pod("r1", "10.3.0.2", "n2", true),
            &limited,
            &free,
            &default,
        ],
    );
    let mut dirty = Dirty::default();
    bed.context.set_pod_cgroups("uid-c1".into(), vec![11, 12], &mut dirty);
    bed.context.set_pod_cgroups("uid-r1".into(), vec![13], &mut dirty);
    let changes = bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
    assert_eq!((changes.frontends.len(), changes.policies.len()), (0, 2), "only who has the pod as backend");
    let settings = |bed: &Bed, name: &str| {
        let s = &bed.compiler.settings()[&PolicyRef::new(PolicyKind::LocalRedirectPolicy, name)];
        (s.redirects_per_second, s.callers.iter().copied().collect::<Vec<_>>())
    };
    // NotReady or not, its backends are exempt; pods of other nodes are none of its.
    assert_eq!(settings(&bed, "l"), (5, vec![7, 11, 12]));
    assert_eq!(settings(&bed, "f"), (0, vec![7, 11, 12]));
    assert_eq!(settings(&bed, "d"), (100, vec![7]));
    let report = bed.compiler.report(
        &PolicyRef::new(PolicyKind::LocalRedirectPolicy, "l"),
        &bed.snapshot,
        &bed.context,
    );
    let exempt = report.unwrap().exempt_callers;
    assert_eq!((exempt.pods, exempt.active), (1, 1));
    bed.add(&[&pod("c1", "10.2.0.1", "n1", false).replace("Running", "Failed")]);
    assert_eq!(settings(&bed, "l"), (5, vec![7]));
}

/// Also of those that select no pods, and of those that do not exempt their backends.
#[test]
fn the_operator_is_exempt_from_every_policy() {
    let operator = |node: &str| {
        pod("o1", "10.2.0.9", node, false)
            .replace("namespace: default", "namespace: elf")
            .replace("app: cache", "app.kubernetes.io/name: balancing, app.kubernetes.io/component: operator")
            .replace("containers: []", "containers: [], serviceAccountName: balancing-operator")
    };
    let plain = lrp("l", 0, MATCH_WEB, TO_BOTH, "")
        .replace("app: cache}}", "app: cache}}, skipRedirectFromBackend: false");
    let balancing = lrp("b", 0, VIP, TO_81, "").replace("LocalRedirectPolicy", "BalancingPolicy").replace(
        "endpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: 81, protocol: TCP}]",
        "addressEndpoint: {addresses: [10.7.0.1], toPorts: [{port: 81, protocol: TCP}]}",
    );
    let context = NodeContext {
        node: "n1".into(),
        namespace: "elf".into(),
        own_cgroups: BTreeSet::from([7]),
        ..NodeContext::default()
    };
    let mut bed = Bed::with(context, &[NODE, WEB, &plain, &balancing]);
    let callers = |bed: &Bed| {
        let all: BTreeSet<_> = bed.compiler.settings().values().map(|s| s.callers.clone()).collect();
        assert_eq!((bed.compiler.settings().len(), all.len()), (2, 1), "{all:?}");
        all.first().unwrap().iter().copied().collect::<Vec<_>>()
    };
    assert_eq!(callers(&bed), [7]);
    // The cgroup is there before the object, or after it.
    let set = |bed: &mut Bed, cgroups: Vec<u64>| {
        let mut dirty = Dirty::default();
        bed.context.set_pod_cgroups("uid-o1".into(), cgroups, &mut dirty);
        bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
    };
    set(&mut bed, vec![11]);
    assert_eq!(callers(&bed), [7]);
    bed.add(&[&operator("n1")]);
    assert_eq!(callers(&bed), [7, 11]);
    assert_eq!(bed.compiler.operator_pods(&bed.snapshot, &bed.context), ["elf/o1"]);
    set(&mut bed, vec![12, 13]);
    assert_eq!(callers(&bed), [7, 12, 13]);
    // A policy that comes later, and one that is edited.
    bed.add(&[&plain.replace("name: l,", "name: l, generation: 2,")]);
    assert_eq!(callers(&bed), [7, 12, 13]);
    bed.add(&[
        &operator("n1").replace("serviceAccountName: balancing-operator", "serviceAccountName: default")
    ]);
    assert_eq!(callers(&bed), [7]);
    bed.add(&[&operator("n2")]);
    assert_eq!(callers(&bed), [7]);
    bed.add(&[&operator("n1")]);
    assert_eq!(callers(&bed), [7, 12, 13]);
    bed.add(&[&operator("n1").replace("Running", "Failed")]);
    assert_eq!(callers(&bed), [7]);
}

/// No cluster has them; a folder with a copied file has.
#[test]
fn two_pods_of_one_uid_are_both_exempt() {
    let copy = pod("c1", "10.2.0.1", "n1", true);
    let moved = copy.replace("namespace: default", "namespace: team");
    let mut bed = Bed::new(&[NODE, &copy, &moved, &lrp("p", 0, VIP, TO_81, "")]);
    let callers = |bed: &Bed| bed.compiler.settings().values().next().unwrap().callers.clone();
    let removed = balancing_agent::snapshot::Name::new("team", "c1");
    let dirty =
        bed.snapshot.apply([ObjectChange::removed(balancing_agent::snapshot::ObjectKey::Pod(removed))]);
    bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
    for cgroups in [vec![11], vec![], vec![12]] {
        let mut dirty = Dirty::default();
        bed.context.set_pod_cgroups("uid-c1".into(), cgroups.clone(), &mut dirty);
        bed.compiler.compile(&bed.snapshot, &bed.context, &dirty);
        assert_eq!(callers(&bed), cgroups.into_iter().collect());
    }
}

#[test]
fn balancing_modes() {
    let policy = |mode: &str| {
        lrp("b", 0, VIP, TO_81, "").replace("LocalRedirectPolicy", "BalancingPolicy").replace(
            "{endpointSelector: {matchLabels: {app: cache}}, toPorts: [{port: 81, protocol: TCP}]}",
            &format!("{{serviceEndpoint: {{endpointSelector: {{matchLabels: {{app: cache}}}}, redirectMode: {mode}, toPorts: [{{port: 81, protocol: TCP}}]}}}}"),
        )
    };
    let pods = [
        pod("c1", "10.2.0.1", "n1", true),
        pod("r1", "10.3.0.1", "n2", true),
        pod("r2", "10.3.0.2", "n2", true),
    ];
    let mut bed = Bed::new(&[NODE, &pods.join("---"), &policy("podEndpoint")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "b>10.2.0.1:81,10.3.0.1:81,10.3.0.2:81 | Untouched");
    bed.add(&[&policy("hostPort")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "b>10.1.0.1:81,10.1.0.2:81 | Untouched");
    bed.add(&[&policy("nodeProxy")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "b>10.9.0.2:81 | Untouched");
    bed.add(&[&NODE.replace("10.9.0.2", "10.9.0.3")]);
    assert_eq!(bed.tcp("169.254.0.90", 80), "b>10.9.0.3:81 | Untouched");
}

/// Every state with its words, as a newcomer reads them.
#[test]
fn what_is_said_of_policies() {
    let listed = "{serviceMatcher: {serviceName: web, namespace: default, toPorts: \
                  [{name: a, port: 80, protocol: TCP}, {name: b, port: 9153, protocol: TCP}, {name: c, port: 53, protocol: UDP}]}}";
    let unlisted =
        "{serviceMatcher: {serviceName: web, namespace: default, toPorts: [{port: 9153, protocol: TCP}]}}";
    let missing = "{serviceMatcher: {serviceName: nobody, namespace: team}}";
    let headless = "{serviceMatcher: {serviceName: head, namespace: default}}";
    let vip = |last: u8| VIP.replace("90", &last.to_string());
    let v6 = "{addressMatcher: {ip: 'fd00::90', toPorts: [{port: 80, protocol: TCP}]}}";
    let with = |policy: String, app: &str| policy.replace("app: cache", &format!("app: {app}"));
    let not_ready: Vec<String> = (1..=7)
        .map(|i| {
            pod(&format!("s{i}"), &format!("10.2.1.{i}"), "n1", false).replace("app: cache", "app: slow")
        })
        .collect();
    let edge = "  config: {nodeLabelSelector: {matchExpressions: [{key: region, operator: NotIn, values: [edge, lab]}]}}";
    let objects = [
        NODE.to_owned(),
        WEB.to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: head, namespace: default}\nspec: {clusterIP: None, ports: [{port: 80}]}\n".to_owned(),
        pod("c1", "10.2.0.1", "n1", true),
        not_ready.join("---"),
        lrp("01-good", 0, &vip(1), TO_81, ""),
        lrp("02-loses-all", 9, &vip(1), TO_81, ""),
        lrp("03-some-ports", 0, listed, "[{name: a, port: 81, protocol: TCP}, {name: b, port: 82, protocol: TCP}]", ""),
        lrp("04-no-such-port", 0, unlisted, TO_81, ""),
        lrp("05-no-service", 0, missing, TO_81, ""),
        lrp("06-headless", 0, headless, TO_81, ""),
        lrp("07-no-pair", 0, MATCH_WEB, TO_81, ""),
        with(lrp("08-no-pod", 0, &vip(8), TO_81, ""), "nobody").replace("toPorts: [{port: 81", "namespaces: [team, lab], toPorts: [{port: 81"),
        with(lrp("09-not-ready", 0, &vip(9), TO_81, "  config: {onNoBackend: Refuse}"), "slow"),
        lrp("10-other-family", 0, v6, TO_81, ""),
        lrp("11-other-nodes", 0, &vip(11), TO_81, edge),
        lrp("12-invalid", 0, &vip(12), "[{port: 65536, protocol: TCP}]", ""),
        lrp("13-loses-some", 9, "{addressMatcher: {ip: 169.254.0.1, toPorts: [{name: a, port: 80, protocol: TCP}, {name: b, port: 81, protocol: TCP}]}}",
            "[{name: a, port: 81, protocol: TCP}, {name: b, port: 81, protocol: TCP}]", ""),
        lrp("14-dual-stack", 9, &MATCH_WEB.replace("}}", ", toPorts: [{port: 53, protocol: UDP}]}}"), "[{port: 5353, protocol: UDP}]", ""),
    ];
    let objects: Vec<&str> = objects.iter().map(String::as_str).collect();
    let bed = Bed::new(&objects);
    let mut text = String::new();
    for r in bed.compiler.reports(&bed.snapshot, &bed.context) {
        let frontends: Vec<String> = r.frontends.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "{}: {:?}, {}\n    holds [{}], {} backends\n    {}",
            r.policy,
            r.state,
            r.reason,
            frontends.join(", "),
            r.wanted_backends,
            r.message
        );
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("agent-policy-states", text));
}

#[test]
fn without_a_node_object_enable_out_cluster_decides() {
    let no = "  config: {enableOutCluster: false, nodeLabelSelector: {matchLabels: {region: edge}}}";
    let yes = "  config: {enableOutCluster: true, nodeLabelSelector: {matchLabels: {region: core}}}";
    let objects = [
        &*pod("c1", "10.2.0.1", "n1", true),
        &lrp("no", 0, VIP, TO_81, no),
        &lrp("yes", 0, &VIP.replace("90", "91"), TO_81, yes),
    ]
    .join("---");
    let mut bed = Bed::new(&[&objects]);
    assert_eq!(
        (bed.tcp("169.254.0.90", 80), bed.tcp("169.254.0.91", 80)),
        ("no frontend".to_owned(), "yes>10.2.0.1:81 | Untouched".to_owned())
    );
    let (state, _, message) = bed.state("no");
    assert_eq!(state, PolicyState::NotSelected);
    assert_eq!(message, "there is no Node object n1, and enableOutCluster is false");
    // With a Node object the labels decide alone.
    bed.add(&[NODE]);
    assert_eq!(
        (bed.tcp("169.254.0.90", 80), bed.tcp("169.254.0.91", 80)),
        ("no>10.2.0.1:81 | Untouched".to_owned(), "no frontend".to_owned())
    );
}

//! K1 to K3, with a real control plane: how long a change at the API server is on its way into the data path, and what
//! many nodes cost the API server and the operator.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::ControlFlow,
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use balancing_agent::kernel::monotonic;
use balancing_e2e::{
    agent::Options,
    cluster::{
        self, ClusterNode, ControlPlane, ControlPlaneOptions, Kube, Operator, WatchEvent,
        fleet::{self, Fleet},
        helm, objects,
        pods::running,
    },
    manifests::{Front, Pod, redirect, with},
    network::Network,
    wait,
};
use serde_json::{Value, json};

use crate::{
    asked,
    loader::CAPABILITIES,
    plan::{PORT, VIP_PORT, backend},
    process,
    report::Metric,
    stats::percentile,
    sys,
    worker::{Batch, CPU, Operation, Worker},
};

/// How long something may take to come to pass before the bench gives up.
const SOON: Duration = Duration::from_secs(60);
/// ClusterIPs of the Service whose slice is edited and of the one that a policy takes.
const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 96, 1, 1), Ipv4Addr::new(10, 96, 1, 2)];
/// Simulated nodes that write at the same time.
const WRITERS: usize = 8;

/// Measures those that are asked for.
pub fn run(quick: bool, ids: &[String], notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    if let Some(why) = cluster::missing() {
        notes.push(format!("no K1, K2, K3: {why}"));
        return Ok(Vec::new());
    }
    eprintln!("bench: a control plane");
    // A thread of its own moves into the control plane's network, and what it starts ends with it.
    let measured = thread::scope(|scope| scope.spawn(|| measure(quick, ids, notes)).join());
    let Ok(measured) = measured else { bail!("the thread of the control plane has panicked") };
    measured.context("with a control plane")
}

fn measure(quick: bool, ids: &[String], notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let network = cluster::network()?;
    cluster::enter(&network)?;
    let plane = ControlPlane::start(&network, "ctl", ControlPlaneOptions::default())?;
    helm::install(&plane, &[])?;
    let kube = plane.admin()?;
    for definition in balancing_api::crd::all() {
        let path = objects::place(&definition)?.path();
        kube.wait_for(&path, SOON, "an established definition", |d| is_true(d, "Established"))?;
    }
    let operator = Operator::start(&network, &plane, "op1", &[])?;
    let mut all = Vec::new();
    if asked(ids, &["K1", "K2"]) {
        let times = if quick { 100 } else { 1000 };
        all.extend(changes(&network, &plane, ids, times)?);
    }
    if asked(ids, &["K3"]) {
        let scale = if quick {
            Scale { nodes: 100, policies: 10, rest: Duration::from_secs(6) }
        } else {
            Scale { nodes: 1000, policies: 50, rest: Duration::from_secs(20) }
        };
        all.extend(many_nodes(&plane, &operator, &scale, notes).with_context(|| operator.log_tail())?);
    }
    operator.stop()?;
    Ok(all)
}

fn is_true(object: &Value, condition: &str) -> Option<()> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().any(|c| c["type"] == condition && c["status"] == "True").then_some(())
}

// ---------------------------------------------------------------- K1, K2

/// What is edited, and where to see it.
struct Edited {
    /// The Service whose client follows.
    vip: Ipv4Addr,
    /// Path of the object, its status included where that is what is edited.
    path: String,
    /// What a plain client watches.
    watched: String,
    /// The edit after which backend 0 or 1 is in force.
    edit: fn(u32) -> Value,
}

/// Moments of each change in ms since it was sent.
#[derive(Debug, Default)]
struct Moments {
    /// A plain watch has it.
    seen: Vec<f64>,
    /// A connect that follows it is over.
    followed: Vec<f64>,
}

fn changes(network: &Network, plane: &ControlPlane, ids: &[String], times: u32) -> Result<Vec<Metric>> {
    let kube = plane.admin()?;
    let mut node = ClusterNode::join(network, plane, "n1")?;
    let edited = scene(&kube)?;
    let capabilities = CAPABILITIES.iter().map(ToString::to_string).collect();
    node.start(&Options { capabilities, ..Options::default() })?;
    sys::detach(&node.bpffs().join("balancing/links/getpeername4"))
        .context("failed to detach getpeername4")?;
    let mut worker = Worker::start(&node.host_cgroup()?, "", CPU)?;
    let mut all = Vec::new();
    for (id, name, edited) in [
        ("K1", "an EndpointSlice is edited at the API server → first connect that follows", &edited[0]),
        ("K2", "a backend pod turns Ready or not Ready → first connect that follows", &edited[1]),
    ] {
        if asked(ids, &[id]) {
            eprintln!("bench: {id}, {times} changes");
            let moments = follow(plane, &kube, &mut worker, edited, times)
                .with_context(|| format!("{id}\n{}", node.agent.log_tail()))?;
            all.extend(rows(id, name, &moments));
        }
    }
    drop(worker);
    node.agent.sigterm()?;
    // What is said of it when its node has gone is none of K3's writes.
    kube.delete(&objects::path("LocalRedirectPolicy", "", "bench")?)?;
    Ok(all)
}

/// Two Services: one with a slice that is edited, one with a policy that leads to a pod of the node while that is Ready.
fn scene(kube: &Kube) -> Result<[Edited; 2]> {
    for (name, vip) in [("edited", VIPS[0]), ("redirected", VIPS[1])] {
        kube.create(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "clusterIP": vip,
                "ports": [{"name": "x", "port": VIP_PORT, "protocol": "UDP", "targetPort": PORT}],
            },
        }))?;
        kube.create(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "bench"},
            },
            "ports": [{"name": "x", "port": PORT, "protocol": "UDP"}], "endpoints": endpoints(0),
        }))?;
    }
    let labels = json!({"app": "bench"});
    kube.create(&Pod::new("backend", &[backend(0, 1).into()]).labels(labels.clone()).ready(false).object())?;
    let ports = format!("x:{PORT}/UDP");
    let policy = redirect(
        "bench",
        Front::Service("default/redirected"),
        Some(&[&format!("x:{VIP_PORT}/UDP")]),
        &[&ports],
    );
    kube.apply(&objects::written(with(policy, "/spec/backend/endpointSelector/matchLabels", labels)))?;
    let slices = objects::collection("EndpointSlice", "default")?;
    let pods = objects::collection("Pod", "default")?;
    Ok([
        Edited {
            vip: VIPS[0],
            path: format!("{slices}/edited"),
            watched: format!("{slices}?fieldSelector=metadata.name%3Dedited"),
            edit: |index| json!({"endpoints": endpoints(index)}),
        },
        Edited {
            vip: VIPS[1],
            path: format!("{pods}/backend/status"),
            watched: format!("{pods}?fieldSelector=metadata.name%3Dbackend"),
            edit: |index| json!({"status": running(&[backend(0, 1).into()], index == 1)}),
        },
    ])
}

fn endpoints(index: u32) -> Value {
    json!([{"addresses": [IpAddr::V4(backend(0, index))], "conditions": {"ready": true}}])
}

/// A plain client's watch, in a thread of its own: moment and edition of each event.
fn watch(plane: &ControlPlane, path: &str) -> Result<Receiver<(u64, String)>> {
    let (kube, path) = (plane.admin()?, path.to_owned());
    let (send, events) = mpsc::channel();
    thread::spawn(move || {
        // It ends with the API server, or as soon as nobody listens.
        let _ended = kube.watch(&path, |event| {
            let at = monotonic();
            let edition = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
                }
                _ => String::new(),
            };
            if send.send((at, edition)).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    });
    Ok(events)
}

/// When the watch has that edition.
fn seen(events: &Receiver<(u64, String)>, edition: &str) -> Result<u64> {
    let began = Instant::now();
    while began.elapsed() < SOON {
        let (at, known) = events.recv_timeout(SOON).context("the plain watch tells of nothing")?;
        if known == edition {
            return Ok(at);
        }
    }
    bail!("the plain watch does not tell of edition {edition}")
}

fn follow(
    plane: &ControlPlane,
    kube: &Kube,
    worker: &mut Worker,
    edited: &Edited,
    times: u32,
) -> Result<Moments> {
    let to = SocketAddr::from((edited.vip, VIP_PORT));
    let batch = |index| Batch { operation: Operation::Attend(index), to, count: 1, for_ms: 0 };
    worker.run(&batch(0)).context("before the first change")?;
    let events = watch(plane, &edited.watched)?;
    events.recv_timeout(SOON).context("the plain watch does not begin")?;
    let mut moments = Moments::default();
    for change in 1..=times {
        let index = change % 2;
        worker.begin(&batch(index))?;
        // At moments that have nothing to do with any timer.
        thread::sleep(Duration::from_micros(5_000 + u64::from(change * 7919 % 5000)));
        let began = monotonic();
        let since = |at: u64| at.saturating_sub(began) as f64 / 1e6;
        let made = kube.patch(&edited.path, &(edited.edit)(index))?;
        let edition = made["metadata"]["resourceVersion"].as_str().context("an object without edition")?;
        moments.seen.push(since(seen(&events, edition)?));
        moments.followed.push(since(worker.finish()?.at));
    }
    Ok(moments)
}

fn rows(id: &str, name: &str, moments: &Moments) -> Vec<Metric> {
    let beyond: Vec<f64> = moments.followed.iter().zip(&moments.seen).map(|(f, s)| f - s).collect();
    let beside = |id: &str, name: &str, share: f64| {
        let mut row = Metric::new(id, name, percentile(&moments.followed, share), "ms");
        row.against = Some("plain watch".to_owned());
        row.baseline = Some(percentile(&moments.seen, share));
        row
    };
    vec![
        beside(id, &format!("{name}, p50"), 0.5),
        beside(&format!("{id}-p99"), "the same, p99", 0.99),
        Metric::new(
            &format!("{id}-beyond"),
            "of the same change: later than a plain watch has it, p50",
            percentile(&beyond, 0.5),
            "ms",
        ),
        Metric::new(&format!("{id}-beyond-p99"), "the same, p99", percentile(&beyond, 0.99), "ms"),
    ]
}

// ---------------------------------------------------------------- K3

/// How much of everything.
struct Scale {
    nodes: usize,
    policies: usize,
    rest: Duration,
}

/// Requests to the API server that write, since it started: by verb and resource.
#[derive(Clone, Debug, Default, PartialEq)]
struct Writes(BTreeMap<String, f64>);

impl Writes {
    /// What was written since then.
    fn since(mut self, before: &Self) -> Self {
        for (what, count) in &mut self.0 {
            *count -= before.0.get(what).copied().unwrap_or_default();
        }
        self.0.retain(|_, count| *count > 0.0);
        self
    }

    fn sum(&self, counts: impl Fn(&str) -> bool) -> f64 {
        // Not `sum`, which is -0.0 where there is nothing.
        self.0.iter().filter(|(what, _)| counts(what)).fold(0.0, |sum, (_, count)| sum + count)
    }

    /// All but renewals of leases.
    fn all(&self) -> f64 {
        self.sum(|what| !what.ends_with(LEASES))
    }

    /// Renewals of leases.
    fn leases(&self) -> f64 {
        self.sum(|what| what.ends_with(LEASES))
    }

    /// States of nodes.
    fn states(&self) -> f64 {
        self.sum(|what| what.ends_with(STATES))
    }

    fn listed(&self) -> String {
        let items: Vec<_> = self.0.iter().map(|(what, count)| format!("{count} {what}")).collect();
        if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
    }
}

const LEASES: &str = " leases";
const STATES: &str = " nodebalancingstates/status";

/// What the API server's metrics say of writes. Of reviews nothing is kept.
fn writes_in(metrics: &str) -> Writes {
    let mut writes = Writes::default();
    for line in metrics.lines() {
        let Some(series) = line.strip_prefix("apiserver_request_total{") else { continue };
        let Some((labels, value)) = series.rsplit_once("} ") else { continue };
        let label = |name: &str| {
            let value =
                labels.split(',').find_map(|l| l.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
            value.unwrap_or_default()
        };
        let (verb, resource, part) = (label("verb"), label("resource"), label("subresource"));
        let written = matches!(verb, "POST" | "PUT" | "PATCH" | "APPLY" | "DELETE" | "DELETECOLLECTION");
        let (Ok(count), true) = (value.parse::<f64>(), written && !resource.ends_with("reviews")) else {
            continue;
        };
        let slash = if part.is_empty() { "" } else { "/" };
        *writes.0.entry(format!("{verb} {resource}{slash}{part}")).or_default() += count;
    }
    writes
}

fn writes(kube: &Kube) -> Result<Writes> {
    Ok(writes_in(&kube.get("/metrics")?.text))
}

/// Waits until nothing was written for longer than the 10 s that a status may be kept back, as far as that comes to pass.
fn settle(kube: &Kube) -> Result<()> {
    const QUIET: Duration = Duration::from_secs(12);
    let began = Instant::now();
    let (mut last, mut since) = (writes(kube)?.all(), Instant::now());
    while since.elapsed() < QUIET && began.elapsed() < SOON {
        thread::sleep(Duration::from_millis(200));
        let now = writes(kube)?.all();
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn many_nodes(
    plane: &ControlPlane,
    operator: &Operator,
    scale: &Scale,
    notes: &mut Vec<String>,
) -> Result<Vec<Metric>> {
    let Scale { nodes, policies, rest } = scale;
    let kube = plane.admin()?;
    let pid = operator.pid().context("the operator has ended")?;
    eprintln!("bench: K3, {nodes} nodes");
    let mut fleet = Fleet::new(plane, *nodes, WRITERS)?;
    fleet.join()?;
    for index in 0..*policies {
        kube.apply(&fleet::policy(index, 8080))?;
        fleet.read(&fleet::policy_name(index))?;
    }
    let all_programmed = fleet.all_programmed();
    let began = Instant::now();
    fleet.say_all()?;
    let said = began.elapsed();
    wait::until(
        SOON,
        || "every policy is programmed everywhere".to_owned(),
        || Ok(fleet.statuses()?.values().all(|(_, n)| *n == all_programmed).then_some(())),
    )?;
    let joined = began.elapsed();

    eprintln!("bench: K3, at rest");
    settle(&kube)?;
    let (before, used, began) = (writes(&kube)?, process::processor(pid)?, Instant::now());
    thread::sleep(*rest);
    let took = began.elapsed().as_secs_f64();
    let (at_rest, idle) = (writes(&kube)?.since(&before), process::processor(pid)? - used);
    let resident = process::memory(pid, "VmRSS")?;

    eprintln!("bench: K3, a rollout");
    let changed = fleet::policy_name(7);
    let path = objects::path("LocalRedirectPolicy", "", &changed)?;
    let (before, used, began) = (writes(&kube)?, process::processor(pid)?, Instant::now());
    kube.apply(&fleet::policy(7, 8081))?;
    fleet.read(&changed)?;
    fleet.say_all()?;
    let told = began.elapsed();
    kube.wait_for(&path, SOON, "the edit is programmed everywhere", |p| {
        (p["status"]["observedGeneration"] == 2 && p["status"]["nodes"] == all_programmed).then_some(())
    })?;
    let right = began.elapsed();
    settle(&kube)?;
    let cost = writes(&kube)?.since(&before);
    let busy = process::processor(pid)? - used;
    // The edit itself is not the product's.
    let total = cost.all() - 1.0;
    ensure!(cost.states() >= *nodes as f64, "{} states were written by {nodes} agents", cost.states());
    notes.push(format!("K3, written at rest: {}", at_rest.listed()));
    notes.push(format!("K3, written in the rollout: {}", cost.listed()));
    let s = |d: Duration| d.as_secs_f64();
    let late = |whole: Duration, last: Duration| s(whole.saturating_sub(last));
    Ok(vec![
        Metric::new(
            "K3",
            &format!(
                "{nodes} nodes, {policies} policies, at rest for {} s: writes to the API server, leases apart",
                rest.as_secs()
            ),
            at_rest.all(),
            "writes",
        )
        .at_most(0.0),
        Metric::new("K3-leases", "renewals of leases at rest", at_rest.leases() / took, "writes/s"),
        Metric::new("K3-join", "all agents' first states → all policies' statuses right", s(joined), "s"),
        Metric::new("K3-join-after", "the same, after the last agent's write", late(joined, said), "s"),
        Metric::new("K3-rollout", "one policy edited → its status right on all nodes", s(right), "s"),
        Metric::new("K3-rollout-after", "the same, after the last agent's write", late(right, told), "s"),
        Metric::new("K3-writes", "writes of that rollout: one of each agent, and the operator's", total, "writes"),
        Metric::new("K3-writes-operator", "of them the operator's", total - cost.states(), "writes"),
        Metric::new("K3-writes-rate", "writes of that rollout until the status was right", total / s(right), "writes/s"),
        Metric::new("K3-memory", "resident memory of the operator (VmRSS) at rest", resident, "MB"),
        Metric::new("K3-memory-peak", "its peak (VmHWM)", process::memory(pid, "VmHWM")?, "MB"),
        Metric::new("K3-cpu", "processor time of the operator at rest", idle / took, "ms/s"),
        Metric::new("K3-cpu-rollout", "processor time of the operator for the rollout", busy, "ms"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_from_reads_reviews_and_leases() {
        let page = "\
# TYPE apiserver_request_total counter
apiserver_request_total{code=\"200\",component=\"apiserver\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"status\",verb=\"PATCH\"} 3
apiserver_request_total{code=\"201\",group=\"\",resource=\"events\",verb=\"POST\"} 2
apiserver_request_total{code=\"200\",group=\"balancing.elf.io\",resource=\"nodebalancingstates\",subresource=\"status\",verb=\"APPLY\"} 40
apiserver_request_total{code=\"200\",group=\"coordination.k8s.io\",resource=\"leases\",verb=\"PUT\"} 500
apiserver_request_total{code=\"201\",group=\"authentication.k8s.io\",resource=\"tokenreviews\",verb=\"POST\"} 6000
apiserver_request_total{code=\"200\",group=\"\",resource=\"pods\",verb=\"WATCH\"} 70000
apiserver_request_duration_seconds_count{resource=\"pods\",verb=\"POST\"} 800000
";
        let writes = writes_in(page);
        assert_eq!((writes.all(), writes.states(), writes.leases()), (45.0, 40.0, 500.0));
        assert_eq!(
            writes.listed(),
            "40 APPLY nodebalancingstates/status, 3 PATCH pods/status, 2 POST events, 500 PUT leases"
        );
        let none = writes.clone().since(&writes);
        assert_eq!(none.listed(), "nothing");
        assert_eq!((&none, none.all().is_sign_positive()), (&Writes::default(), true));
    }

    #[test]
    fn a_change_is_compared_with_the_same_change_in_the_plain_watch() {
        let moments = Moments { seen: vec![1.0, 9.0, 5.0], followed: vec![2.0, 9.5, 8.0] };
        let rows = rows("K1", "x", &moments);
        assert_eq!((rows[0].value, rows[0].baseline), (8.0, Some(5.0)));
        assert_eq!((rows[2].id.as_str(), rows[2].value), ("K1-beyond", 1.0));
    }
}

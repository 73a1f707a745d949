//! The data path: M1 to M8, M16 and what each feature costs.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::{
    asked,
    loader::{CAPABILITIES, Loader, Request, Verified},
    peers,
    plan::{self, Plan},
    report::Metric,
    stats::{Random, estimate, paired},
    subject::{Kind, Subject},
    worker::{Batch, Operation},
};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds in one load.
    pub rounds: usize,
    /// Loads of everything.
    pub loads: usize,
}

/// Services in the cases with many.
pub const MANY: u32 = 10_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Service,
    Service6,
    Other,
}

/// What is done, and which hooks' time is its cost.
struct Case {
    name: &'static str,
    /// The figures that it is for.
    ids: &'static [&'static str],
    operation: Operation,
    target: Target,
    count: u32,
    /// Empty: the time of the whole operation, with statistics off.
    hooks: &'static [&'static str],
    subjects: &'static [&'static str],
}

const BASE: &[&str] = &["empty", "ideal", "product"];

const CASES: &[Case] = &[
    Case {
        name: "reconnect",
        ids: &["M1", "M6", "M8", "F"],
        operation: Operation::Reconnect,
        target: Target::Service,
        count: 200,
        hooks: &["connect4"],
        subjects: &[
            "empty",
            "ideal",
            "product",
            "sampled",
            "all-events",
            "policy",
            "qos",
            "exempt",
            "lease",
            "affinity",
            "unchecked",
            "many",
        ],
    },
    Case {
        name: "tcp",
        ids: &["M2"],
        operation: Operation::Tcp,
        target: Target::Service,
        count: 20,
        hooks: &["connect4"],
        subjects: BASE,
    },
    Case {
        name: "udp",
        ids: &["M3"],
        operation: Operation::NewUdp,
        target: Target::Service,
        count: 50,
        hooks: &["connect4", "sock_release"],
        subjects: BASE,
    },
    Case {
        name: "first datagram",
        ids: &["M3"],
        operation: Operation::NewSend,
        target: Target::Service,
        count: 30,
        hooks: &["sendmsg4", "sock_release"],
        subjects: BASE,
    },
    Case {
        name: "sendmsg",
        ids: &["M4"],
        operation: Operation::Send,
        target: Target::Service,
        count: 50,
        hooks: &["sendmsg4"],
        subjects: BASE,
    },
    Case {
        name: "recvmsg",
        ids: &["M4"],
        operation: Operation::Send,
        target: Target::Service,
        count: 50,
        hooks: &["recvmsg4"],
        subjects: BASE,
    },
    Case {
        name: "recv connected",
        ids: &["M4"],
        operation: Operation::Echo,
        target: Target::Service,
        count: 50,
        hooks: &["recvmsg4"],
        subjects: BASE,
    },
    Case {
        name: "peer tcp",
        ids: &["M4"],
        operation: Operation::PeerTcp,
        target: Target::Service,
        count: 200,
        hooks: &["getpeername4"],
        subjects: BASE,
    },
    Case {
        name: "peer udp",
        ids: &["M4"],
        operation: Operation::PeerUdp,
        target: Target::Service,
        count: 200,
        hooks: &["getpeername4"],
        subjects: BASE,
    },
    Case {
        name: "miss",
        ids: &["M5"],
        operation: Operation::Reconnect,
        target: Target::Other,
        count: 200,
        hooks: &["connect4"],
        subjects: &["empty", "ideal", "product", "many"],
    },
    Case {
        name: "random",
        ids: &["M6"],
        operation: Operation::ReconnectRandom(MANY),
        target: Target::Service,
        count: 200,
        hooks: &["connect4"],
        subjects: &["ideal-many", "many"],
    },
    Case {
        name: "six",
        ids: &["F"],
        operation: Operation::Reconnect,
        target: Target::Service6,
        count: 200,
        hooks: &["connect6"],
        subjects: &["empty", "ideal", "six"],
    },
    Case {
        name: "e2e tcp",
        ids: &["M7"],
        operation: Operation::Tcp,
        target: Target::Service,
        count: 20,
        hooks: &[],
        subjects: &["none", "empty", "ideal", "product", "sampled", "nftables", "iptables"],
    },
    Case {
        name: "e2e udp",
        ids: &["M7"],
        operation: Operation::NewUdp,
        target: Target::Service,
        count: 50,
        hooks: &[],
        subjects: &["none", "empty", "ideal", "product", "sampled"],
    },
];

/// What the agent does while nobody listens to events.
pub const DEFAULT_SAMPLING: (u32, u32) = (u32::MAX / 64, 100);

fn product(plan: Plan) -> Kind {
    Kind::Product(plan)
}

/// The subjects of these cases, set up. Rules of kube-proxy only where their programs are.
fn subjects(cases: &[&Case], notes: &mut Vec<String>) -> Result<Vec<Subject>> {
    let service = Plan::default();
    let policy = Plan { policy: true, service: false, ..Plan::default() };
    let many = Plan { services: MANY, both: false, ..Plan::default() };
    let all = [
        ("none", Kind::None),
        ("empty", Kind::Empty),
        ("ideal", Kind::Ideal(1)),
        ("product", product(service.clone())),
        ("sampled", product(service.clone())),
        ("all-events", product(service.clone())),
        ("policy", product(policy.clone())),
        ("qos", product(Plan { limit: u32::MAX, ..policy.clone() })),
        ("exempt", product(Plan { exempt: true, ..policy.clone() })),
        ("lease", product(Plan { service: true, ..policy })),
        ("affinity", product(Plan { affinity: true, ..service.clone() })),
        ("unchecked", Kind::Unchecked(service.clone())),
        ("six", product(Plan { six: true, ..service })),
        ("ideal-many", Kind::Ideal(MANY)),
        ("many", product(many)),
        ("nftables", Kind::Rules(peers::Kind::Nftables, 1)),
        ("iptables", Kind::Rules(peers::Kind::Iptables, 1)),
    ];
    let mut subjects = Vec::new();
    for (name, kind) in all {
        if !cases.iter().any(|case| case.subjects.contains(&name)) {
            continue;
        }
        if let Kind::Rules(rules, _) = &kind
            && !rules.is_installed()
        {
            note(notes, format!("no peer {name}: {} is not installed", rules.program()));
            continue;
        }
        let rules = matches!(kind, Kind::Rules(..));
        match Subject::start(name, kind) {
            Ok(subject) => subjects.push(subject),
            // A kernel without these modules is no reason not to measure the rest.
            Err(e) if rules => note(notes, format!("no peer {name}: {e:#}")),
            Err(e) => return Err(e),
        }
    }
    for subject in &mut subjects {
        let (sample_below, per_second) = match subject.name {
            "sampled" => DEFAULT_SAMPLING,
            "all-events" => (u32::MAX, u32::MAX),
            _ => continue,
        };
        subject.loader()?.ask::<()>(&Request::Events { sample_below, per_second })?;
        subject.loader()?.ask::<()>(&Request::Consume(true))?;
    }
    Ok(subjects)
}

fn note(notes: &mut Vec<String>, text: String) {
    if !notes.contains(&text) {
        eprintln!("bench: {text}");
        notes.push(text);
    }
}

/// Nanoseconds an operation, by case and subject: rounds in loads.
#[derive(Default)]
struct Samples(BTreeMap<(&'static str, &'static str), Vec<Vec<f64>>>);

impl Samples {
    fn get(&self, case: &'static str, subject: &'static str) -> Option<&Vec<Vec<f64>>> {
        self.0.get(&(case, subject))
    }

    /// Was anybody measured in this case?
    fn has(&self, case: &'static str) -> bool {
        self.0.keys().any(|(name, _)| *name == case)
    }

    fn of(&self, case: &'static str, subject: &'static str) -> Result<&Vec<Vec<f64>>> {
        self.get(case, subject).with_context(|| format!("{subject} was not measured in {case}"))
    }

    fn middle(&self, case: &'static str, subject: &'static str) -> Result<f64> {
        Ok(estimate(self.of(case, subject)?).value)
    }

    /// The ratio of two subjects.
    fn metric(
        &self,
        id: &str,
        name: &str,
        case: &'static str,
        subject: &'static str,
        to: &'static str,
    ) -> Result<Metric> {
        let ratio = estimate(&paired(self.of(case, subject)?, self.of(case, to)?, |a, b| a / b));
        Ok(Metric::new(id, name, self.middle(case, subject)?, "ns").against(
            to,
            self.middle(case, to)?,
            ratio,
        ))
    }

    /// The difference of two subjects, in ns.
    fn difference(
        &self,
        id: &str,
        name: &str,
        case: &'static str,
        subject: &'static str,
        to: &'static str,
    ) -> Result<Metric> {
        let difference = estimate(&paired(self.of(case, subject)?, self.of(case, to)?, |a, b| a - b));
        Ok(Metric::new(id, name, difference.value, "ns").within(difference))
    }
}

fn once(subject: &mut Subject, case: &Case) -> Result<f64> {
    let to = match case.target {
        Target::Service => subject.service(),
        Target::Service6 if subject.name == "empty" => (plan::backend6(0), plan::PORT).into(),
        Target::Service6 => plan::service6(),
        Target::Other => plan::other(),
    };
    let batch = Batch { operation: case.operation, to, count: case.count, for_ms: 0 };
    let before = subject.spent(case.hooks)?;
    let done = subject
        .worker
        .run(&batch)
        .with_context(|| format!("subject {}, case {}", subject.name, case.name))?;
    let spent = subject.spent(case.hooks)? - before;
    let nanoseconds = if case.hooks.is_empty() { done.nanoseconds } else { spent };
    Ok(nanoseconds as f64 / done.count as f64)
}

fn rounds(
    cases: &[&Case],
    subjects: &mut [Subject],
    rounds: usize,
    whole: bool,
    samples: &mut Samples,
    random: &mut Random,
) -> Result<()> {
    // The first round makes the sockets that stay; it does not count.
    for round in 0..=rounds {
        for case in cases.iter().filter(|case| case.hooks.is_empty() == whole) {
            let mut order: Vec<usize> =
                (0..subjects.len()).filter(|i| case.subjects.contains(&subjects[*i].name)).collect();
            random.shuffle(&mut order);
            for i in order {
                let value = once(&mut subjects[i], case)?;
                if round > 0 {
                    let loads = samples.0.entry((case.name, subjects[i].name)).or_default();
                    if let Some(load) = loads.last_mut() {
                        load.push(value);
                    }
                }
            }
        }
    }
    Ok(())
}

/// M16: sizes of the programs with the capabilities that the chart gives the agent, and without CAP_PERFMON, with which the
/// verifier adds no code against speculation.
fn sizes() -> Result<Vec<Metric>> {
    let verified =
        |capabilities: &[&str]| Loader::start(capabilities)?.ask::<Vec<Verified>>(&Request::Verify);
    let (with, without) = (verified(CAPABILITIES)?, verified(&["bpf", "net_admin"])?);
    let mut all = Vec::new();
    for (with, without) in with.iter().zip(&without) {
        let hook = &with.hook;
        let size = with.size.as_ref().map_err(|e| anyhow::anyhow!("{hook} is refused: {e}"))?;
        let name = format!("instructions of {hook} after the verifier; {} bytes of machine code", size.jited);
        let mut m = Metric::new(&format!("M16-{hook}"), &name, size.translated as f64, "insns");
        (m.against, m.baseline) = match &without.size {
            Ok(size) => {
                (Some(format!("without CAP_PERFMON ({} bytes)", size.jited)), Some(size.translated as f64))
            }
            Err(_) => (Some("without CAP_PERFMON refused".to_owned()), None),
        };
        all.push(m);
    }
    let loaded = without.iter().filter(|v| v.size.is_ok()).count();
    let reason = without.iter().find_map(|v| Some(format!("; {}: {}", v.hook, v.size.as_ref().err()?)));
    let name = format!("programs that load without CAP_PERFMON{}", reason.unwrap_or_default());
    all.push(Metric::new("M16-plain", &name, loaded as f64, &format!("of {}", without.len())));
    Ok(all)
}

/// Was a reader of the ring woken while events came?
fn woken(subjects: &mut [Subject]) -> Result<bool> {
    let subject = subjects.iter_mut().find(|s| s.name == "all-events").context("no subject with events")?;
    let batch = Batch { operation: Operation::Paced(5_000), to: subject.service(), count: 500, for_ms: 0 };
    subject.loader()?.ask::<()>(&Request::Consume(false))?;
    subject.loader()?.begin(&Request::AwaitWakeup(300))?;
    // The reader has to be asleep before the first event comes: a ring with something in it is no wait at all.
    std::thread::sleep(std::time::Duration::from_millis(50));
    subject.worker.run(&batch)?;
    let woken = subject.loader()?.finish::<bool>()?;
    subject.loader()?.ask::<()>(&Request::Consume(true))?;
    Ok(woken)
}

/// Measures what these ids need (none: everything), and gives the figures.
pub fn run(effort: Effort, ids: &[String], notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let mut samples = Samples::default();
    let mut random = Random::new(3);
    let mut was_woken = None;
    let cases: Vec<&Case> = CASES.iter().filter(|case| asked(ids, case.ids)).collect();
    for load in 1..=effort.loads {
        if cases.is_empty() {
            break;
        }
        eprintln!("bench: data path, load {load} of {}", effort.loads);
        let mut subjects = subjects(&cases, notes)?;
        for case in &cases {
            for subject in subjects.iter().filter(|s| case.subjects.contains(&s.name)) {
                samples.0.entry((case.name, subject.name)).or_default().push(Vec::new());
            }
        }
        {
            let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
            rounds(&cases, &mut subjects, effort.rounds, false, &mut samples, &mut random)?;
        }
        rounds(&cases, &mut subjects, effort.rounds, true, &mut samples, &mut random)?;
        if asked(ids, &["M8"]) {
            was_woken = Some(was_woken.unwrap_or(false) | woken(&mut subjects)?);
        }
    }
    let mut all = metrics(&samples, was_woken)?;
    if asked(ids, &["M16"]) {
        all.extend(sizes()?);
    }
    Ok(all)
}

/// A ratio of two subjects: id, what, case, subject, what it is compared with, and the target.
type Row = (&'static str, &'static str, &'static str, &'static str, &'static str, Option<f64>);

const RATIOS: &[Row] = &[
    ("M1", "connect4, one UDP socket again and again", "reconnect", "product", "ideal", Some(2.0)),
    ("M2", "connect4, new TCP sockets", "tcp", "product", "ideal", Some(2.2)),
    ("M3", "connect4 and sock_release, new connected UDP sockets", "udp", "product", "ideal", Some(3.5)),
    (
        "M3-first",
        "sendmsg4 and sock_release, first datagram of a new socket",
        "first datagram",
        "product",
        "ideal",
        None,
    ),
    ("M4-sendmsg", "sendmsg4, unconnected UDP", "sendmsg", "product", "ideal", Some(1.7)),
    ("M4-recvmsg", "recvmsg4, unconnected UDP", "recvmsg", "product", "ideal", Some(1.6)),
    ("M4-recvmsg-connected", "recvmsg4, connected UDP", "recv connected", "product", "ideal", None),
    ("M4-getpeername", "getpeername4, TCP", "peer tcp", "product", "ideal", Some(1.4)),
    ("M4-getpeername-udp", "getpeername4, connected UDP", "peer udp", "product", "ideal", None),
    ("M5", "connect4, not a Service", "miss", "product", "ideal", Some(1.25)),
    ("M5-many", "connect4, not a Service, 10,000 Services", "miss", "many", "ideal", None),
    (
        "M6-hot",
        "connect4, one of 10,000 Services again and again",
        "reconnect",
        "many",
        "product",
        Some(1.08),
    ),
    ("M6-random", "connect4, random ones of 10,000 Services", "random", "many", "ideal-many", Some(1.8)),
    ("M7", "TCP connect to close, events on", "e2e tcp", "sampled", "none", Some(1.05)),
    ("M7-empty", "TCP connect to close, empty", "e2e tcp", "empty", "none", None),
    ("M7-ideal", "TCP connect to close, ideal", "e2e tcp", "ideal", "none", None),
    ("M7-nftables", "TCP connect to close, nftables", "e2e tcp", "nftables", "none", None),
    ("M7-iptables", "TCP connect to close, iptables", "e2e tcp", "iptables", "none", None),
    ("M7-udp", "UDP connect to close, events on", "e2e udp", "sampled", "none", None),
    ("F-ipv6", "connect6, one UDP socket again and again", "six", "six", "ideal", None),
];

/// What a feature adds to connect4: id, what, the subject with it and the one without.
const FEATURES: &[(&str, &str, &str, &str)] = &[
    ("F-policy", "a policy's rung instead of a Service's", "policy", "product"),
    ("F-qos", "QoS limit", "qos", "policy"),
    ("F-exempt", "exempt callers, one level", "exempt", "policy"),
    ("F-lease", "lease, a Service beneath", "lease", "policy"),
    ("F-affinity", "session affinity", "affinity", "product"),
    ("F-tag", "comparing the slot's key with the one asked for (tag check)", "product", "unchecked"),
];

fn metrics(s: &Samples, woken: Option<bool>) -> Result<Vec<Metric>> {
    let mut all = Vec::new();
    // Peers are not everywhere.
    let optional = ["nftables", "iptables"];
    for &(id, name, case, subject, to, target) in RATIOS {
        if s.has(case) && (s.get(case, subject).is_some() || !optional.contains(&subject)) {
            let metric = s.metric(id, name, case, subject, to)?;
            all.push(match target {
                Some(limit) => metric.ratio_at_most(limit),
                None => metric,
            });
        }
    }
    if s.has("reconnect") {
        all.push(
            s.difference("M8", "event, averaged at the default sampling", "reconnect", "sampled", "product")?
                .at_most(130.0),
        );
        all.push(s.difference("M8-one", "one event", "reconnect", "all-events", "product")?.at_most(250.0));
        for (id, name, subject, to) in FEATURES {
            all.push(s.difference(id, &format!("{name}: net cost"), "reconnect", subject, to)?);
        }
        let net =
            s.difference("M1-net", "connect4 less the empty program", "reconnect", "product", "empty")?;
        let floor = s.difference("", "", "reconnect", "ideal", "empty")?.value;
        all.push(Metric { against: Some("ideal".to_owned()), baseline: Some(floor), ..net });
    }
    if let Some(woken) = woken {
        let name = "a reader that waits on the ring is woken";
        all.push(Metric::new("M8-wakeups", name, f64::from(u8::from(woken)), "").at_most(0.0));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSection};

    /// M16: a ceiling, so that the programs' size does not creep. The time they take is what has targets.
    #[test]
    fn programs_stay_below_their_ceilings() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf/balancing.bpf.o");
        let data = std::fs::read(path).unwrap();
        let object = object::File::parse(&*data).unwrap();
        for hook in balancing_datapath::HOOKS {
            let section = format!("cgroup/{hook}");
            let section = object.section_by_name(&section).unwrap_or_else(|| panic!("no section {section}"));
            let ceiling = match hook {
                "connect4" | "connect6" => 1700,
                "sendmsg4" | "sendmsg6" => 1850,
                _ => 260,
            };
            let instructions = section.size() / 8;
            assert!(
                instructions <= ceiling,
                "{hook} has {instructions} instructions, at most {ceiling} are wanted"
            );
        }
    }
}

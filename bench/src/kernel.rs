//! The data path: M1 to M8, M16 and what each feature costs.

use std::{collections::BTreeMap, os::fd::AsFd};

use anyhow::{Context, Result};

use crate::{
    peers,
    plan::{self, Plan},
    report::Metric,
    stats::{Random, estimate, median, paired},
    subject::{Kind, Subject},
    sys,
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
            "many",
        ],
    },
    Case {
        name: "tcp",
        operation: Operation::Tcp,
        target: Target::Service,
        count: 20,
        hooks: &["connect4"],
        subjects: BASE,
    },
    Case {
        name: "udp",
        operation: Operation::NewUdp,
        target: Target::Service,
        count: 50,
        hooks: &["connect4", "sock_release"],
        subjects: BASE,
    },
    Case {
        name: "first datagram",
        operation: Operation::NewSend,
        target: Target::Service,
        count: 30,
        hooks: &["sendmsg4", "sock_release"],
        subjects: BASE,
    },
    Case {
        name: "sendmsg",
        operation: Operation::Send,
        target: Target::Service,
        count: 50,
        hooks: &["sendmsg4"],
        subjects: BASE,
    },
    Case {
        name: "recvmsg",
        operation: Operation::Send,
        target: Target::Service,
        count: 50,
        hooks: &["recvmsg4"],
        subjects: BASE,
    },
    Case {
        name: "recv connected",
        operation: Operation::Echo,
        target: Target::Service,
        count: 50,
        hooks: &["recvmsg4"],
        subjects: BASE,
    },
    Case {
        name: "peer tcp",
        operation: Operation::PeerTcp,
        target: Target::Service,
        count: 200,
        hooks: &["getpeername4"],
        subjects: BASE,
    },
    Case {
        name: "peer udp",
        operation: Operation::PeerUdp,
        target: Target::Service,
        count: 200,
        hooks: &["getpeername4"],
        subjects: BASE,
    },
    Case {
        name: "miss",
        operation: Operation::Reconnect,
        target: Target::Other,
        count: 200,
        hooks: &["connect4"],
        subjects: &["empty", "ideal", "product", "many"],
    },
    Case {
        name: "random",
        operation: Operation::ReconnectRandom(MANY),
        target: Target::Service,
        count: 200,
        hooks: &["connect4"],
        subjects: &["ideal-many", "many"],
    },
    Case {
        name: "six",
        operation: Operation::Reconnect,
        target: Target::Service6,
        count: 200,
        hooks: &["connect6"],
        subjects: &["empty", "ideal", "six"],
    },
    Case {
        name: "e2e tcp",
        operation: Operation::Tcp,
        target: Target::Service,
        count: 20,
        hooks: &[],
        subjects: &["none", "empty", "ideal", "product", "sampled", "nftables", "iptables"],
    },
    Case {
        name: "e2e udp",
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

/// All subjects, set up. Rules of kube-proxy only where their programs are.
fn subjects(notes: &mut Vec<String>) -> Result<Vec<Subject>> {
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
        ("six", product(Plan { six: true, ..service })),
        ("ideal-many", Kind::Ideal(MANY)),
        ("many", product(many)),
        ("nftables", Kind::Rules(peers::Kind::Nftables, 1)),
        ("iptables", Kind::Rules(peers::Kind::Iptables, 1)),
    ];
    let mut subjects = Vec::new();
    for (name, kind) in all {
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
        use crate::loader::Request;
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
        self.metric_of(id, name, (case, subject), (case, to))
    }

    fn metric_of(
        &self,
        id: &str,
        name: &str,
        what: (&'static str, &'static str),
        to: (&'static str, &'static str),
    ) -> Result<Metric> {
        let ratio = estimate(&paired(self.of(what.0, what.1)?, self.of(to.0, to.1)?, |a, b| a / b));
        Ok(Metric::new(id, name, self.middle(what.0, what.1)?, "ns").against(
            to.1,
            self.middle(to.0, to.1)?,
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
    subjects: &mut [Subject],
    effort: Effort,
    whole: bool,
    samples: &mut Samples,
    random: &mut Random,
) -> Result<()> {
    let cases: Vec<&Case> = CASES.iter().filter(|case| case.hooks.is_empty() == whole).collect();
    // The first round makes the sockets that stay; it does not count.
    for round in 0..=effort.rounds {
        for case in &cases {
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

/// Sizes of the programs of a subject.
fn sizes(subjects: &[Subject], hook: &str) -> Result<sys::Size> {
    let subject = subjects.iter().find(|s| s.name == "product").context("no product")?;
    Ok(sys::size(subject.program(hook).context("no program")?.as_fd())?)
}

/// Does the product load without CAP_PERFMON too? What the kernel says, in a line.
fn without_perfmon() -> Result<String> {
    use crate::loader::{DEFAULT_SIZES, Loader, Request};
    let subject = Subject::start("plain", Kind::Agent)?;
    std::fs::create_dir_all(&subject.bpffs)?;
    let mut loader = Loader::start(&["bpf", "net_admin"])?;
    let open = Request::Open {
        bpffs: subject.bpffs.clone(),
        cgroup: subject.cgroup().to_owned(),
        sizes: DEFAULT_SIZES,
        cpus: 0,
    };
    Ok(match loader.ask::<()>(&open) {
        Ok(()) => {
            let link = subject.bpffs.join("balancing/links/connect4");
            let size = sys::size(sys::program_of_link(&link)?.as_fd())?;
            format!(
                "without CAP_PERFMON the programs load too; connect4 has {} instructions then",
                size.translated
            )
        }
        Err(e) => {
            let said = format!("{e:#}");
            let said = said.lines().next().unwrap_or_default();
            format!("loaded with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; without CAP_PERFMON: {said}")
        }
    })
}

/// Was a reader of the ring woken while events came?
fn woken(subjects: &mut [Subject]) -> Result<bool> {
    use crate::loader::Request;
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

/// Measures, and gives the figures.
pub fn run(effort: Effort, notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let mut samples = Samples::default();
    let mut random = Random::new(3);
    let mut program_sizes = Vec::new();
    let mut was_woken = false;
    for load in 1..=effort.loads {
        eprintln!("bench: data path, load {load} of {}", effort.loads);
        let mut subjects = subjects(notes)?;
        for case in CASES {
            for subject in subjects.iter().filter(|s| case.subjects.contains(&s.name)) {
                samples.0.entry((case.name, subject.name)).or_default().push(Vec::new());
            }
        }
        {
            let _statistics = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
            rounds(&mut subjects, effort, false, &mut samples, &mut random)?;
        }
        rounds(&mut subjects, effort, true, &mut samples, &mut random)?;
        was_woken |= woken(&mut subjects)?;
        if load == 1 {
            for hook in balancing_datapath::HOOKS {
                program_sizes.push((hook, sizes(&subjects, hook)?));
            }
        }
    }
    let capabilities = without_perfmon()?;
    note(notes, capabilities);
    metrics(&samples, was_woken, &program_sizes)
}

fn metrics(s: &Samples, woken: bool, sizes: &[(&'static str, sys::Size)]) -> Result<Vec<Metric>> {
    let mut all = vec![
        s.metric("M1", "connect4, one UDP socket again and again", "reconnect", "product", "ideal")?
            .ratio_at_most(2.0),
        s.metric("M2", "connect4, new TCP sockets", "tcp", "product", "ideal")?.ratio_at_most(2.2),
        s.metric("M3", "connect4 and sock_release, new connected UDP sockets", "udp", "product", "ideal")?
            .ratio_at_most(3.5),
        s.metric(
            "M3-first",
            "sendmsg4 and sock_release, first datagram of a new socket",
            "first datagram",
            "product",
            "ideal",
        )?,
        s.metric("M4-sendmsg", "sendmsg4, unconnected UDP", "sendmsg", "product", "ideal")?
            .ratio_at_most(1.7),
        s.metric("M4-recvmsg", "recvmsg4, unconnected UDP", "recvmsg", "product", "ideal")?
            .ratio_at_most(1.6),
        s.metric("M4-recvmsg-connected", "recvmsg4, connected UDP", "recv connected", "product", "ideal")?,
        s.metric("M4-getpeername", "getpeername4, TCP", "peer tcp", "product", "ideal")?.ratio_at_most(1.4),
        s.metric("M4-getpeername-udp", "getpeername4, connected UDP", "peer udp", "product", "ideal")?,
        s.metric("M5", "connect4, not a Service", "miss", "product", "ideal")?.ratio_at_most(1.25),
        s.metric("M5-many", "connect4, not a Service, 10,000 Services", "miss", "many", "ideal")?,
        s.metric(
            "M6-hot",
            "connect4, one of 10,000 Services again and again",
            "reconnect",
            "many",
            "product",
        )?
        .ratio_at_most(1.08),
        s.metric("M6-random", "connect4, random ones of 10,000 Services", "random", "many", "ideal-many")?
            .ratio_at_most(1.8),
        s.metric("M7", "TCP connect to close, events on", "e2e tcp", "sampled", "none")?.ratio_at_most(1.05),
    ];
    for (id, subject) in [
        ("M7-empty", "empty"),
        ("M7-ideal", "ideal"),
        ("M7-nftables", "nftables"),
        ("M7-iptables", "iptables"),
    ] {
        if s.get("e2e tcp", subject).is_some() {
            all.push(s.metric(
                id,
                &format!("TCP connect to close, {subject}"),
                "e2e tcp",
                subject,
                "none",
            )?);
        }
    }
    all.push(s.metric("M7-udp", "UDP connect to close, events on", "e2e udp", "sampled", "none")?);
    all.push(
        s.difference("M8", "event, averaged at the default sampling", "reconnect", "sampled", "product")?
            .at_most(130.0),
    );
    all.push(s.difference("M8-one", "one event", "reconnect", "all-events", "product")?.at_most(250.0));
    all.push(
        Metric::new("M8-wakeups", "a reader that waits on the ring is woken", f64::from(u8::from(woken)), "")
            .at_most(0.0),
    );
    for (id, name, subject, to) in [
        ("F-policy", "a policy's rung instead of a Service's", "policy", "product"),
        ("F-qos", "QoS limit", "qos", "policy"),
        ("F-exempt", "exempt callers, one level", "exempt", "policy"),
        ("F-lease", "lease, a Service beneath", "lease", "policy"),
        ("F-affinity", "session affinity", "affinity", "product"),
    ] {
        all.push(s.difference(id, &format!("{name}: net cost"), "reconnect", subject, to)?);
    }
    all.push(s.metric("F-ipv6", "connect6, one UDP socket again and again", "six", "six", "ideal")?);
    let net = estimate(&paired(s.of("reconnect", "product")?, s.of("reconnect", "empty")?, |a, b| a - b));
    let floor = median(&s.of("reconnect", "ideal")?.concat()) - median(&s.of("reconnect", "empty")?.concat());
    let mut m = Metric::new("M1-net", "connect4 less the empty program", net.value, "ns").within(net);
    m.against = Some("ideal".to_owned());
    m.baseline = Some(floor);
    all.push(m);
    for (hook, size) in sizes {
        all.push(Metric::new(
            &format!("M16-{hook}"),
            &format!("instructions of {hook} after the verifier"),
            size.translated as f64,
            "insns",
        ));
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

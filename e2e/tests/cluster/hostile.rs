//! Ports that everybody in the cluster can reach, fed with what no client sends.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, Kube, Operator},
    run,
    tls::{self, Trust},
    wait,
};

use crate::{
    Cluster, Test,
    bed::{DNS, SOON, Scene, redirecting, udp},
    live, webhook,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("ports_of_the_operator_stay_up", ports_of_the_operator_stay_up),
    ("ports_of_an_agent_stay_up", ports_of_an_agent_stay_up),
    ("honest_clients_are_served_beside_hostile_ones", honest_clients_are_served_beside_hostile_ones),
    ("an_agent_that_never_stops_talking_harms_nobody", an_agent_that_never_stops_talking_harms_nobody),
];

/// How long a call of one of these clients may take.
const HONEST: Duration = Duration::from_secs(5);
/// Clients that begin a request and never end it.
const SLOW: usize = 300;

fn ports_of_the_operator_stay_up(cluster: &Cluster) -> Result<()> {
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let address = cluster.network.v4("op1");
    let healthy = || -> Result<()> {
        for path in ["/livez", "/readyz", "/metrics"] {
            let status = answered(address, 5820, path)?;
            ensure!(status == 200, "{path} answers {status}: {}", operator.log_tail());
        }
        Ok(())
    };
    healthy()?;
    // Those of them that are served: health, observe, webhook.
    let open: Vec<u16> =
        (5820..=5822).filter(|port| connect(SocketAddr::new(address, *port)).is_ok()).collect();
    ensure!(open.contains(&5820), "{open:?}");
    for port in open {
        let slow = torment(address, port).with_context(|| format!("port {port}"))?;
        healthy().with_context(|| format!("while {} slow clients hold port {port}", slow.len()))?;
        drop(slow);
        connect(SocketAddr::new(address, port)).with_context(|| format!("port {port} afterwards"))?;
    }
    healthy()
}

fn ports_of_an_agent_stay_up(cluster: &Cluster) -> Result<()> {
    let mut node = ClusterNode::join(&cluster.network, &cluster.plane, "n1")?;
    let flags = vec!["--api=tcp:0.0.0.0:5810".to_owned()];
    node.start(&Options { flags, ..Options::default() })?;
    let address = cluster.network.v4("n1");
    let slow = torment(address, 5810)?;
    for (path, status) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/status", 404), ("/v1/events", 404)]
    {
        // What is not for everybody is not there.
        let answer = Kube::plain(address, 5810)?.get(path)?;
        ensure!(
            answer.status == status,
            "{path} answers {} beside {} slow clients",
            answer.status,
            slow.len()
        );
    }
    node.healthy()
}

/// What an honest client gets. Slow clients may hold all there is for the moment, and are thrown out soon.
fn answered(address: IpAddr, port: u16, path: &str) -> Result<u16> {
    wait::until(
        SOON,
        || format!("an answer to {path} at port {port}"),
        || Ok(Kube::plain(address, port)?.get(path).ok().map(|answer| answer.status)),
    )
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, HONEST).with_context(|| format!("connect to {to}"))?;
    stream.set_write_timeout(Some(HONEST))?;
    stream.set_read_timeout(Some(HONEST))?;
    Ok(stream)
}

/// Sends what no client sends; gives the clients that still hold their connection.
fn torment(address: IpAddr, port: u16) -> Result<Vec<TcpStream>> {
    let to = SocketAddr::new(address, port);
    let noise: Vec<u8> = (0..65_536_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let huge_header =
        [b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Huge: ".as_slice(), &vec![b'a'; 4 << 20]].concat();
    let long_line = [b"GET /".as_slice(), &vec![b'a'; 4 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    let lying = b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nhello".to_vec();
    let chunked = [
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .as_slice(),
        &vec![b'z'; 2 << 20],
    ]
    .concat();
    let cases = [
        noise,
        vec![0; 1 << 20],
        huge_header,
        long_line,
        lying,
        chunked,
        b"\r\n\r\n\r\n".to_vec(),
        Vec::new(),
    ];
    for bytes in cases {
        let mut stream = connect(to)?;
        // The other side may hang up at any moment, which is right.
        let _ = stream.write_all(&bytes);
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = [0; 256];
        let _ = stream.read(&mut answer);
    }
    let mut slow = Vec::new();
    for _ in 0..SLOW {
        // The queue may be full.
        let Ok(mut stream) = connect(to) else { break };
        stream.write_all(b"GET /livez HTTP/1.1\r\nX-Slow: ").ok();
        slow.push(stream);
    }
    Ok(slow)
}

/// Where hostile clients are: more addresses than one may fill a port from, none of them that of an honest one.
const HOSTILE: [&str; 9] = ["ext", "a2", "b2", "c2", "a3", "b3", "c3", "n2", "n3"];
/// How long they are at it, on each port.
const SIEGE: Duration = Duration::from_secs(15);
/// Connections that each of them wants to hold at once: together more than any port has room for.
const HELD: usize = 150;
/// What both ports answer to at once.
const NO_QUESTION: &str =
    "POST /validate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
/// Memory that the operator may have at the end, in KiB. Its container's limit in the chart is above that.
const MEMORY: u64 = 256 << 10;

fn honest_clients_are_served_beside_hostile_ones(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let mut node = redirecting(cluster, &scene)?;
    webhook::wait_for_warnings(cluster)?;
    live::seen(cluster, "the node", |l| l["coverage"]["fresh"] == 1)?;
    let trust = Trust::of_leader(&scene.kube)?;
    for port in [5821, 5822] {
        let at = SocketAddr::new(cluster.network.v4("op1"), port);
        let (over, opened) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for space in HOSTILE {
                let (netns, trust, over, opened) = (cluster.network.netns(space), &trust, &over, &opened);
                scope.spawn(move || {
                    run::join_netns(&netns)?;
                    besiege(at, trust, over, opened);
                    anyhow::Ok(())
                });
            }
            let beside = beside(cluster, &operator, &mut node, (&trust, at), &opened);
            over.store(true, Ordering::Relaxed);
            beside
        })
        .with_context(|| format!("port {port} under siege; {}", operator.log_tail()))?;
    }
    // Once they are gone everything is as before.
    webhook::wait_for_warnings(cluster)?;
    live::seen(cluster, "the node", |l| l["coverage"]["fresh"] == 1)?;
    ensure!(answered(cluster.network.v4("op1"), 5820, "/readyz")? == 200, "{}", operator.log_tail());
    node.healthy()
}

/// What honest clients see while the siege lasts.
fn beside(
    cluster: &Cluster,
    operator: &Operator,
    node: &mut ClusterNode<'_>,
    (trust, at): (&Trust, SocketAddr),
    opened: &AtomicU64,
) -> Result<()> {
    let pid = operator.pid().context("it has ended")?;
    let mut end = Instant::now() + SIEGE;
    wait::until(
        SOON,
        || "hostile clients at work".to_owned(),
        || Ok((opened.load(Ordering::Relaxed) > 1500).then_some(())),
    )?;
    end = end.max(Instant::now() + SIEGE / 3);
    let mut rounds = 0;
    while Instant::now() < end {
        // A connection is to be had at once, not when a hostile one has ended.
        for _ in 0..10 {
            let begun = Instant::now();
            let (status, answer) = trust.exchange(at, NO_QUESTION)?;
            ensure!((400..500).contains(&status), "an honest client gets {answer}");
            ensure!(begun.elapsed() < HONEST, "answered after {:?}", begun.elapsed());
        }
        // Who makes a policy is told, in the time that the API server gives to the webhook.
        let (_, warned) = webhook::create(cluster, &webhook::named("second"))?;
        ensure!(warned.contains("FrontendConflict"), "round {rounds}: the webhook was not heard: {warned:?}");
        // The node's agent keeps its connection, and a viewer sees through the API server's proxy what happens on it.
        let (stream, line) = live::seen(cluster, "the node", |l| l["coverage"]["fresh"] == 1)?;
        let before = live::redirects(&line, "n1", "dns").unwrap_or(0);
        node.client("c1")?.dial_all(vec![udp(DNS, 53)], 10)?;
        stream.until("what has just happened", |l| {
            live::redirects(l, "n1", "dns").is_some_and(|now| now >= before + 10)
        })?;
        if at.port() == 5821 {
            // An agent that dials now gets in.
            node.agent.kill9()?;
            node.start(&Options::default())?;
        }
        rounds += 1;
    }
    ensure!(operator.pid() == Some(pid), "it was started anew");
    let memory = memory_of(pid)?;
    ensure!(
        memory < MEMORY,
        "it has {memory} KiB after {} hostile connections",
        opened.load(Ordering::Relaxed)
    );
    ensure!(rounds > 0, "nothing was tried");
    Ok(())
}

/// Resident memory of a process, in KiB.
fn memory_of(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("it has ended")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}

/// What a hostile client does: it opens connections and holds them until the other side closes them.
fn besiege(at: SocketAddr, trust: &Trust, over: &AtomicBool, opened: &AtomicU64) {
    let mut held: Vec<Box<dyn Write>> = Vec::new();
    for round in 0_usize.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        if held.len() >= HELD {
            // A byte now and then, as who is slow sends it; who was thrown out is seen by it.
            held.retain_mut(|stream| stream.write_all(b"x").and_then(|()| stream.flush()).is_ok());
            thread::sleep(Duration::from_millis(100));
            continue;
        }
        // Each of them may be refused, cut off, or left without an answer, which is right.
        if let Ok(stream) = attack(at, trust, round) {
            held.push(stream);
        }
        opened.fetch_add(1, Ordering::Relaxed);
    }
}

fn attack(at: SocketAddr, trust: &Trust, round: usize) -> Result<Box<dyn Write>> {
    /// The first bytes of a handshake that says it is 512 bytes long.
    const HALF: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let bytes: Vec<u8> = match round % 12 {
        // Without TLS: nothing, garbage, half a handshake, HTTP.
        0 => Vec::new(),
        1 => (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect(),
        2 => HALF.to_vec(),
        3 => b"GET /v1/observe HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        // With it: nothing, heads and bodies that are slow, huge, false.
        4 => Vec::new(),
        5 => b"POST /validate HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_vec(),
        6 => [b"GET /v1/observe HTTP/1.1\r\nX-Huge: ".as_slice(), &vec![b'a'; 1 << 20]].concat(),
        7 => b"POST /validate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{".to_vec(),
        8 => [
            b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n".as_slice(),
            &vec![b' '; 100_000],
        ]
        .concat(),
        // Requests one behind the other whose answers nobody reads, upgrades with garbage, viewers that do not read.
        9 => b"GET /v1/observe?interval=1s&limit=nonsense HTTP/1.1\r\nHost: x\r\n\r\n".repeat(200),
        10 => [
            b"GET /v1/agent HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: balancing-agent/1\r\n"
                .as_slice(),
            b"Authorization: Bearer garbage\r\n\r\n{\"kind\":\"Hello\",\"version\":\"9\"}\n\0\0\0\n",
        ]
        .concat(),
        _ => b"GET /v1/observe?interval=1s HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    };
    let mut stream: Box<dyn Write> =
        if round % 12 < 4 { Box::new(tls::plain(at)?) } else { Box::new(trust.dial(at)?) };
    stream.write_all(&bytes)?;
    stream.flush()?;
    Ok(stream)
}

fn an_agent_that_never_stops_talking_harms_nobody(cluster: &Cluster) -> Result<()> {
    let scene = Scene::new(&cluster.plane)?;
    let operator = Operator::start(&cluster.network, &cluster.plane, "op1", &[])?;
    let talker = ClusterNode::join(&cluster.network, &cluster.plane, "n2")?;
    let mut node = redirecting(cluster, &scene)?;
    live::seen(cluster, "the node", |l| l["coverage"]["fresh"] == 1)?;
    let pid = operator.pid().context("it has ended")?;
    let token =
        fs::read_to_string(talker.pod.projected_token(&cluster.plane, balancing_api::stream::AUDIENCE)?)?;
    let trust = Trust::of_leader(&scene.kube)?;
    let at = SocketAddr::new(cluster.network.v4("op1"), 5821);
    let (over, said) = (AtomicBool::new(false), AtomicU64::new(0));
    let netns = cluster.network.netns("n2");
    thread::scope(|scope| {
        scope.spawn(|| {
            run::join_netns(&netns)?;
            while !over.load(Ordering::Relaxed) {
                // It is cut off, or read as slowly as it deserves; it dials again.
                let _ = talk(&trust, at, &token, &over, &said);
            }
            anyhow::Ok(())
        });
        let beside = (0..5).try_for_each(|_| {
            let (stream, line) =
                live::seen(cluster, "the good node", |l| live::redirects(l, "n1", "dns").is_some())?;
            let before = live::redirects(&line, "n1", "dns").unwrap_or(0);
            node.client("c1")?.dial_all(vec![udp(DNS, 53)], 10)?;
            stream.until("what has just happened", |l| {
                live::redirects(l, "n1", "dns").is_some_and(|now| now >= before + 10)
            })?;
            anyhow::Ok(())
        });
        over.store(true, Ordering::Relaxed);
        beside
    })
    .with_context(|| operator.log_tail())?;
    ensure!(said.load(Ordering::Relaxed) > 16 << 20, "it said only {} bytes", said.load(Ordering::Relaxed));
    let memory = memory_of(pid)?;
    ensure!(memory < MEMORY, "it has {memory} KiB after {} bytes", said.load(Ordering::Relaxed));
    node.healthy()
}

/// Says a line of each kind over and over, rows that are new each time among them, and in the end one that has no end.
fn talk(trust: &Trust, at: SocketAddr, token: &str, over: &AtomicBool, said: &AtomicU64) -> Result<()> {
    let mut stream = trust.dial(at)?;
    stream.write_all(
        format!(
            "GET /v1/agent HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: balancing-agent/1\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let counters = |round: usize| {
        let rows: Vec<_> = (0..1000)
            .map(|row| {
                format!(
                    "{{\"address\":\"10.0.0.1\",\"port\":1,\"protocol\":\"TCP\",\"owner\":\"{round}-{row}-{}\",\
                     \"selected\":1}}",
                    "x".repeat(500)
                )
            })
            .collect();
        format!(
            "{{\"since\":\"2026-01-01T00:00:00Z\",\"takenAt\":\"2026-01-01T00:00:00Z\",\"policies\":[],\"frontends\":[],\
             \"backends\":[{}],\"events\":{{\"produced\":0,\"lost\":0}}}}",
            rows.join(",")
        )
    };
    let status = crate::access::status_of("n2");
    let frontends = "{\"view\":\"programmed\",\"items\":[]}";
    let full = format!(
        "{{\"kind\":\"Report\",\"full\":true,\"status\":{status},\"frontends\":{frontends},\"counters\":{}}}\n",
        counters(0)
    );
    let mut say = |text: &str| {
        stream.write_all(text.as_bytes())?;
        said.fetch_add(text.len() as u64, Ordering::Relaxed);
        std::io::Result::Ok(())
    };
    say(&full)?;
    let later = format!("{{\"kind\":\"Later\",\"x\":\"{}\"}}\n", "x".repeat(500_000));
    for round in 1..40 {
        if over.load(Ordering::Relaxed) {
            return Ok(());
        }
        say(&format!("{{\"kind\":\"Report\",\"full\":false,\"counters\":{}}}\n", counters(round)))?;
        say(&later)?;
        say(&"{\"kind\":\"Part\",\"id\":7,\"data\":\"\"}\n{\"kind\":\"Alive\"}\n".repeat(1000))?;
    }
    while !over.load(Ordering::Relaxed) {
        say(&"x".repeat(1 << 20))?;
    }
    Ok(())
}

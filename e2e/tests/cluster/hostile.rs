//! Ports that everybody in the cluster can reach, fed with what no client sends.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use balancing_e2e::{
    agent::Options,
    cluster::{ClusterNode, Kube, Operator},
    wait,
};

use crate::{Cluster, Test, bed::SOON};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("ports_of_the_operator_stay_up", ports_of_the_operator_stay_up),
    ("ports_of_an_agent_stay_up", ports_of_an_agent_stay_up),
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

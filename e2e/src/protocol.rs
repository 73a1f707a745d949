//! What a fixture and its worker processes say to one another: one JSON document a line, and raw records of a load.

use std::{
    io::{self, BufRead, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// `connect()` of a TCP socket.
    Tcp,
    /// `sendto()` of an unconnected UDP socket.
    Udp,
    /// `connect()` and `send()` of a UDP socket.
    ConnectedUdp,
}

/// One flow to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// How.
    pub mode: Mode,
    /// Where.
    pub to: SocketAddr,
    /// Dial an IPv4 address as `::ffff:a.b.c.d` from an IPv6 socket.
    pub mapped: bool,
}

/// Where a dial ended, and what the kernel showed of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The address and port at which the server says it was reached.
    pub at: Option<SocketAddr>,
    /// Name of the errno, where it failed.
    pub error: Option<String>,
    /// `getpeername()` of a connected socket.
    pub peer: Option<SocketAddr>,
    /// Source in `recvfrom()` of a UDP socket.
    pub source: Option<SocketAddr>,
}

/// A load: several threads dial as fast as they can, or at a pace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadSpec {
    /// How.
    pub mode: Mode,
    /// Where; each operation takes the next one.
    pub to: Vec<SocketAddr>,
    /// Dial IPv4 addresses as mapped ones.
    #[serde(default)]
    pub mapped: bool,
    /// Threads.
    pub threads: u16,
    /// When it ends by itself.
    pub until: Until,
    /// Pause of a thread between two operations, microseconds.
    pub pace_us: u64,
    /// A new unconnected UDP socket for each datagram instead of one a thread.
    pub fresh: bool,
}

/// When a load ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Until {
    /// Its records cover that many full seconds of the kernel programs' clock: it begins shortly before one.
    FullSeconds(u32),
    /// After that many operations of all threads together.
    Count(u64),
    /// When it is told to, at the latest after that many seconds.
    Told(u32),
}

/// What a server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeSpec {
    /// Ports of TCP listeners, on every address of the namespace.
    pub tcp: Vec<u16>,
    /// Addresses of UDP sockets: a reply leaves from the address that was asked.
    pub udp: Vec<SocketAddr>,
    /// Kernel settings of the namespace, `net/ipv4/...` and their values.
    pub sysctls: Vec<(String, String)>,
}

/// How often a server was reached at an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Address and port at which it was reached.
    pub at: SocketAddr,
    /// By UDP instead of TCP?
    pub udp: bool,
    /// Connections accepted, or datagrams answered.
    pub served: u64,
}

/// What steady traffic asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficKind {
    /// A DNS query for a text, by UDP.
    Dns,
    /// `GET /`.
    Http,
}

/// A stream of steady traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steady {
    /// What it asks.
    pub kind: TrafficKind,
    /// Whom.
    pub to: SocketAddr,
    /// How often; each time on a new socket.
    pub per_second: u32,
}

/// Who answered how often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// Who was asked.
    pub to: SocketAddr,
    /// The name of the server that answered, or `error: ...`.
    pub who: String,
    /// How often.
    pub times: u64,
}

/// A request to a client process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Dial flows, one after another, each that many times → `Outcomes`.
    Dial(Vec<Flow>, u32),
    /// Dial one flow and keep its socket under a name → `Outcomes` with one.
    Keep(String, Flow),
    /// Open and bind an unconnected UDP socket (IPv6 or not) and keep it → `Done`.
    OpenUdp(String, bool),
    /// A datagram and its answer on a kept unconnected socket → `Outcomes` with one.
    SendTo(String, SocketAddr),
    /// Datagrams to several addresses on a kept unconnected socket, all sent before the first answer is read →
    /// `Outcomes`, in the order of the answers.
    SendToAll(String, Vec<SocketAddr>),
    /// Bytes and their echo on a kept connected socket → `Outcomes` with one; `at` is its peer for TCP.
    Echo(String),
    /// End the connection of a kept UDP socket, which stays open → `Done`.
    Disconnect(String),
    /// Close a kept socket → `Done`.
    Close(String),
    /// Begin a load → `Done`.
    StartLoad(LoadSpec),
    /// Wait for the end of the load, or end it → `Records`, then the records.
    FinishLoad {
        /// End it now.
        now: bool,
    },
    /// Open that many UDP sockets bound to the given addresses in turn, every other one connected; each sends one
    /// datagram → `Many`.
    ManySend {
        /// Where.
        to: SocketAddr,
        /// How many sockets.
        sockets: u32,
        /// Their addresses.
        from: Vec<IpAddr>,
    },
    /// Each of them reads its answer → `Many`.
    ManyReceive,
    /// Ask once → `Answered` with one.
    Ask(TrafficKind, SocketAddr),
    /// Begin steady traffic → `Done`.
    StartTraffic(Vec<Steady>),
    /// Who answered so far → `Answered`.
    Traffic,
    /// End it → `Answered`.
    StopTraffic,
    /// Tell the counts → `Counts` (servers only).
    Counts,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// Where dials ended.
    Outcomes(Vec<Outcome>),
    /// That many records follow.
    Records(u64),
    /// Of many sockets.
    Many(Many),
    /// Of a server.
    Counts(Vec<Count>),
    /// Of traffic.
    Answered(Vec<Answered>),
    /// The request made no sense or the machine refused.
    Failed(String),
}

/// What many sockets saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Many {
    /// Datagrams sent.
    pub sent: u32,
    /// Answers that show the address that was asked.
    pub right: u32,
    /// Answers that show another one.
    pub wrong: u32,
    /// No answer, or an error.
    pub lost: u32,
}

/// One operation of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Before and after the call that decides (`connect` or `sendto`), nanoseconds of CLOCK_MONOTONIC.
    pub span: (u64, u64),
    /// The same moments by CLOCK_MONOTONIC_COARSE, up to a tick behind: the clock by which the kernel programs tell seconds.
    pub coarse: (u64, u64),
    /// Where it ended; unspecified if it failed.
    pub at: SocketAddr,
    /// The errno, or 0.
    pub errno: u16,
    /// Index of its target in [`LoadSpec::to`].
    pub target: u16,
    /// Did `getpeername` or `recvfrom` show the address that was dialled?
    pub true_name: bool,
}

impl Record {
    /// Bytes of a record on the wire.
    const SIZE: usize = 56;

    /// Its bytes, little endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        let ip = match self.at.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        out[..8].copy_from_slice(&self.span.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.span.1.to_le_bytes());
        out[16..32].copy_from_slice(&ip.octets());
        out[32..34].copy_from_slice(&self.at.port().to_le_bytes());
        out[34..36].copy_from_slice(&self.errno.to_le_bytes());
        out[36..38].copy_from_slice(&self.target.to_le_bytes());
        out[38] = self.true_name.into();
        out[40..48].copy_from_slice(&self.coarse.0.to_le_bytes());
        out[48..].copy_from_slice(&self.coarse.1.to_le_bytes());
        out
    }

    /// The record of these bytes.
    #[must_use]
    pub fn from_bytes(b: &[u8; Self::SIZE]) -> Self {
        let u64_at = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| b[i + k]));
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        let ip = Ipv6Addr::from(<[u8; 16]>::try_from(&b[16..32]).unwrap_or_default());
        Self {
            span: (u64_at(0), u64_at(8)),
            coarse: (u64_at(40), u64_at(48)),
            at: SocketAddr::new(IpAddr::V6(ip).to_canonical(), u16_at(32)),
            errno: u16_at(34),
            target: u16_at(36),
            true_name: b[38] != 0,
        }
    }

    /// Reads that many records.
    ///
    /// # Errors
    /// The stream ends too early.
    pub fn read_all(from: &mut impl Read, count: u64) -> io::Result<Vec<Self>> {
        let mut bytes = [0; Self::SIZE];
        (0..count).map(|_| from.read_exact(&mut bytes).map(|()| Self::from_bytes(&bytes))).collect()
    }
}

/// Writes a document as one line.
///
/// # Errors
/// The other side is gone.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads a document from one line; nothing at the end of the stream.
///
/// # Errors
/// The line is no such document.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_wire() {
        for at in ["10.0.0.1:80", "[fd00::1]:53", "0.0.0.0:0"] {
            let at = at.parse().unwrap();
            let (span, coarse) = ((1, u64::MAX - 7), (2, u64::MAX - 9));
            let record = Record { span, coarse, at, errno: 111, target: 999, true_name: true };
            let mut wire: &[u8] = &record.to_bytes();
            assert_eq!(Record::read_all(&mut wire, 1).unwrap(), [record]);
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let request = Request::Keep(
            "a\nb".to_owned(),
            Flow { mode: Mode::Tcp, to: "[fd00::1]:80".parse().unwrap(), mapped: false },
        );
        let mut wire = Vec::new();
        send(&mut wire, &request).unwrap();
        assert_eq!(receive(&mut wire.as_slice()).unwrap(), Some(request));
        assert_eq!(receive::<Request>(&mut &b""[..]).unwrap(), None);
    }
}

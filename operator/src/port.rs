//! A TLS port that anybody may reach: bounded in time, size and number, whatever is sent to it.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Bytes that are read of a request before it has to be understood.
const BUFFER: usize = 32 << 10;
/// How long a connection to the leader may take to open.
const DIAL: Duration = Duration::from_secs(3);
/// How long the other end may take nothing of what is written to it.
const STALL: Duration = Duration::from_secs(30);
/// How long nothing may be heard before it is asked whether the other end is still there.
const SILENCE: Duration = Duration::from_secs(30);

/// How much a port takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. For one more the oldest of the address that has the most is closed.
    pub connections: usize,
    /// Connections from one address; more are closed. Where they are passed on, all come from this replica's address to
    /// the leader: then a quarter of it, so that one client is not in the way of all others.
    pub of_one: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take, the wait for it included.
    pub head: Duration,
}

/// Where a request comes from. Handlers take it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer(pub IpAddr);

/// Who is connected.
#[derive(Debug, Default)]
struct Peers(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// The connections of each address, the oldest first, and what ends them.
    all: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
    total: usize,
    counted: u64,
}

/// A connection that is counted while this is held.
struct Counted {
    peers: Arc<Peers>,
    address: IpAddr,
    number: u64,
    /// Another needs its place.
    cut: CancellationToken,
}

impl Peers {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection; nothing where its address has too many. Where there is no room, whoever has the most makes some.
    fn enter(self: &Arc<Self>, address: IpAddr, room: usize, of_one: usize) -> Option<Counted> {
        let mut held = self.held();
        let there = held.all.get(&address).map_or(0, VecDeque::len);
        if there >= of_one || (held.total >= room && !held.make_room(there)) {
            return None;
        }
        held.counted += 1;
        held.total += 1;
        let (number, cut) = (held.counted, CancellationToken::new());
        held.all.entry(address).or_default().push_back((number, cut.clone()));
        Some(Counted { peers: Arc::clone(self), address, number, cut })
    }
}

impl Held {
    /// Ends the oldest connection of the address that has the most, if those are more than `than`.
    fn make_room(&mut self, than: usize) -> bool {
        let Some(busiest) = self.all.values_mut().max_by_key(|all| all.len()).filter(|all| all.len() > than)
        else {
            return false;
        };
        if let Some((_, cut)) = busiest.pop_front() {
            cut.cancel();
            self.total -= 1;
        }
        true
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut held = self.peers.held();
        let Some(all) = held.all.get_mut(&self.address) else { return };
        let place = all.iter().position(|(number, _)| *number == self.number);
        let there = place.and_then(|place| all.remove(place)).is_some();
        if all.is_empty() {
            held.all.remove(&self.address);
        }
        held.total -= usize::from(there);
    }
}

/// Serves the router until `end`. Where `elsewhere` names an address, the bytes of a connection go there as they are:
/// all replicas have the same certificate, so whoever dialled notices nothing.
pub async fn serve(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    elsewhere: impl Fn() -> Option<SocketAddr> + Send,
    end: CancellationToken,
) {
    let peers = Arc::new(Peers::default());
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip().to_canonical()),
            Err(error) => {
                tracing::debug!(%error, "failed to accept a connection");
                // Out of descriptors, perhaps: some connection has to end first.
                peers.held().make_room(0);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let leader = elsewhere();
        let most = leader.map_or(limits.of_one, |_| limits.of_one.div_ceil(4));
        let Some(counted) = peers.enter(address, limits.connections, most) else {
            tracing::debug!(%address, "too many connections of one address");
            continue;
        };
        // A connection that ends by itself sooner than this is told to the kernel alone.
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "failed to set up a connection");
        }
        let (acceptor, router, end) = (acceptor.clone(), router.clone(), end.clone());
        tokio::spawn(async move {
            let serving = async {
                match leader {
                    Some(leader) => pass_on(stream, leader, &end).await,
                    None => {
                        connection(stream, acceptor, router.layer(Extension(Peer(address))), limits, &end)
                            .await
                    }
                }
            };
            // What goes wrong on a connection is the client's affair.
            let ended = tokio::select! {
                ended = serving => ended,
                () = counted.cut.cancelled() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}

/// The kernel ends a connection whose other end is gone or takes nothing.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(STALL.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    limits: Limits,
    end: &CancellationToken,
) -> io::Result<()> {
    let stream = timeout(limits.handshake, acceptor.accept(stream)).await??;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    tokio::select! {
        ended = connection => ended.map_err(io::Error::other),
        () = end.cancelled() => Ok(()),
    }
}

async fn pass_on(mut from: TcpStream, to: SocketAddr, end: &CancellationToken) -> io::Result<()> {
    let mut to = timeout(DIAL, TcpStream::connect(to)).await??;
    prepare(&to)?;
    tokio::select! {
        ended = tokio::io::copy_bidirectional(&mut from, &mut to) => ended.map(drop),
        () = end.cancelled() => Ok(()),
    }
}

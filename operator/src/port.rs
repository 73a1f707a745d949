//! A TLS port that anybody may reach: bounded in time, size and number, whatever is sent to it.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
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
    /// Connections at once; more wait.
    pub connections: usize,
    /// Connections from one address; more are closed.
    pub of_one: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take, the wait for it included.
    pub head: Duration,
}

/// How many connections each address has.
#[derive(Debug, Default)]
struct Peers(Mutex<HashMap<IpAddr, usize>>);

/// A connection that is counted while this is held.
struct Counted {
    peers: Arc<Peers>,
    address: IpAddr,
}

impl Peers {
    fn enter(self: &Arc<Self>, address: IpAddr, most: usize) -> Option<Counted> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Counted { peers: Arc::clone(self), address })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
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
    let room = Arc::new(Semaphore::new(limits.connections));
    let peers = Arc::new(Peers::default());
    loop {
        let accepted = tokio::select! {
            () = end.cancelled() => return,
            accepted = accept(&listener, &room) => accepted,
        };
        let Some((stream, address, place)) = accepted else { continue };
        let Some(counted) = peers.enter(address, limits.of_one) else {
            tracing::debug!(%address, "too many connections of one address");
            continue;
        };
        // A connection that ends by itself sooner than this is told to the kernel alone.
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "failed to set up a connection");
        }
        let (acceptor, router, end, leader) = (acceptor.clone(), router.clone(), end.clone(), elsewhere());
        tokio::spawn(async move {
            let _held = (place, counted);
            // What goes wrong on a connection is the client's affair.
            let ended = match leader {
                Some(leader) => pass_on(stream, leader, &end).await,
                None => connection(stream, acceptor, router, limits, &end).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        });
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, IpAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address.ip().to_canonical(), place)),
        Err(error) => {
            tracing::debug!(%error, "failed to accept a connection");
            // Out of descriptors, perhaps: some connection has to end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
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

//! The identity server: it tells everybody who reaches it at which address and port that was, and keeps count.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufWriter},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    buffer::spare_capacity,
    event::epoll,
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, getsockname, listen, recvfrom,
        send, sendto,
        sockopt::{
            set_socket_recv_buffer_size_force, set_socket_reuseaddr, set_socket_send_buffer_size_force,
        },
    },
};

use super::{allow_many_files, socket};
use crate::protocol::{self, Count, Reply, Request, ServeSpec};

/// Receive and send buffers of UDP sockets, bytes: bursts of thousands of clients must not be lost here.
const UDP_BUFFER: usize = 16 << 20;
/// Connections and datagrams taken from one socket before the next one has its turn.
const BURST: usize = 64;

/// Address and port, and UDP or not → how often.
type Counts = Mutex<HashMap<(SocketAddr, bool), u64>>;

/// What is watched.
enum Watched {
    Listener(OwnedFd),
    Udp(OwnedFd, SocketAddr),
    Connection(OwnedFd),
}

/// Reads what to serve from stdin, answers `Done`, serves, and answers for counts until stdin ends.
pub(super) fn run() -> Result<()> {
    allow_many_files()?;
    let (mut input, mut output) = (io::stdin().lock(), BufWriter::new(io::stdout().lock()));
    let Some(spec) = protocol::receive::<ServeSpec>(&mut input)? else { return Ok(()) };
    for (name, value) in &spec.sysctls {
        fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("failed to set {name}"))?;
    }
    let watched = open(&spec)?;
    let counts: &'static Counts = Box::leak(Box::default());
    thread::spawn(move || {
        if let Err(e) = serve(watched, counts) {
            eprintln!("balancing-e2e-worker: failed to serve: {e}");
            std::process::exit(1);
        }
    });
    protocol::send(&mut output, &Reply::Done)?;
    while protocol::receive::<Request>(&mut input)?.is_some() {
        let told =
            lock(counts).iter().map(|(&(at, udp), &served)| Count { at, udp, served }).collect::<Vec<_>>();
        protocol::send(&mut output, &Reply::Counts(told))?;
    }
    Ok(())
}

fn lock(counts: &Counts) -> MutexGuard<'_, HashMap<(SocketAddr, bool), u64>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(spec: &ServeSpec) -> Result<Vec<Watched>> {
    let mut watched = Vec::new();
    for port in &spec.tcp {
        for v6 in [false, true] {
            let listener =
                tcp(socket::any(v6, *port)).with_context(|| format!("failed to listen on port {port}"))?;
            watched.push(Watched::Listener(listener));
        }
    }
    for at in &spec.udp {
        watched.push(Watched::Udp(udp(*at).with_context(|| format!("failed to bind {at}/UDP"))?, *at));
    }
    Ok(watched)
}

fn tcp(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let s = socket::server(at, SocketType::STREAM)?;
    set_socket_reuseaddr(&s, true)?;
    bind(&s, &at)?;
    listen(&s, 4096)?;
    Ok(s)
}

fn udp(at: SocketAddr) -> Result<OwnedFd, Errno> {
    let s = socket::server(at, SocketType::DGRAM)?;
    set_socket_recv_buffer_size_force(&s, UDP_BUFFER)?;
    set_socket_send_buffer_size_force(&s, UDP_BUFFER)?;
    bind(&s, &at)?;
    Ok(s)
}

fn serve(watched: Vec<Watched>, counts: &Counts) -> Result<(), Errno> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut places = Vec::new();
    let mut free = Vec::new();
    for item in watched {
        watch(&epoll, item, &mut places, &mut free)?;
    }
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        for event in events.drain(..) {
            let index = event.data.u64() as usize;
            match places.get(index).and_then(Option::as_ref) {
                Some(Watched::Listener(s)) => {
                    for connection in accept(s, counts) {
                        watch(&epoll, Watched::Connection(connection), &mut places, &mut free)?;
                    }
                }
                Some(Watched::Udp(s, at)) => answer(s, *at, counts),
                Some(Watched::Connection(s)) if !echo(s) => {
                    // Closing takes it out of epoll.
                    places[index] = None;
                    free.push(index);
                }
                Some(Watched::Connection(_)) | None => {}
            }
        }
    }
}

/// Watches an item at a free place of `places`, which is what epoll tells it by.
fn watch(
    epoll: &OwnedFd,
    item: Watched,
    places: &mut Vec<Option<Watched>>,
    free: &mut Vec<usize>,
) -> Result<(), Errno> {
    let index = free.pop().unwrap_or(places.len());
    if index == places.len() {
        places.push(None);
    }
    let (Watched::Listener(s) | Watched::Udp(s, _) | Watched::Connection(s)) = &item;
    epoll::add(epoll, s, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
    places[index] = Some(item);
    Ok(())
}

/// Takes connections and tells each where it arrived.
fn accept(listener: &OwnedFd, counts: &Counts) -> Vec<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut connections = Vec::new();
    for _ in 0..BURST {
        let Ok(s) = accept_with(listener, flags) else { break };
        let Some(at) = socket::plain(getsockname(&s).ok()) else { continue };
        *lock(counts).entry((at, false)).or_default() += 1;
        if send(&s, format!("{at}\n").as_bytes(), SendFlags::NOSIGNAL).is_ok() {
            connections.push(s);
        }
    }
    connections
}

/// Answers datagrams; the answer leaves from the address that was asked.
fn answer(s: impl AsFd, at: SocketAddr, counts: &Counts) {
    let mut buffer = [0; 2048];
    for _ in 0..BURST {
        let Ok((length, _, Some(from))) = recvfrom(&s, &mut buffer, RecvFlags::empty()) else { return };
        *lock(counts).entry((at, true)).or_default() += 1;
        let mut out = format!("{at}\n").into_bytes();
        out.extend_from_slice(&buffer[..length]);
        // The client may be gone.
        sendto(&s, &out, SendFlags::NOSIGNAL, &from).ok();
    }
}

/// Sends back what came; false where the connection has ended.
fn echo(s: &OwnedFd) -> bool {
    let mut buffer = [0; 2048];
    match recvfrom(s, &mut buffer, RecvFlags::empty()) {
        Ok((0, ..)) => false,
        Ok((length, ..)) => send(s, &buffer[..length], SendFlags::NOSIGNAL).is_ok(),
        Err(e) => e == Errno::AGAIN,
    }
}

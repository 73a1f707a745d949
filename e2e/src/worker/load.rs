//! The load client: threads that dial again and again and note where each dial ended.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, anyhow};
use rustix::{
    io::Errno,
    net::{
        RecvFlags, SendFlags, SocketType, connect, getpeername, recvfrom, send, sendto,
        sockopt::set_socket_linger,
    },
    time::{ClockId, clock_gettime},
};

use super::{dial::identity, socket};
use crate::{
    judge::SECOND,
    protocol::{LoadSpec, Mode, Record, Until},
};

/// A load in full seconds begins that long before the first.
const MARGIN: Duration = Duration::from_millis(30);

/// A running load.
pub(super) struct Load {
    threads: Vec<JoinHandle<Vec<Record>>>,
    stop: Arc<AtomicBool>,
}

/// What the threads of a load share.
struct Shared {
    spec: LoadSpec,
    targets: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    /// When to begin, and when to end at the latest, nanoseconds of CLOCK_MONOTONIC.
    span: (u64, u64),
    /// When the first operation began, nanoseconds of the kernel programs' clock.
    first: AtomicU64,
    left: AtomicI64,
    turn: AtomicUsize,
    gate: Barrier,
}

impl Load {
    /// Starts the threads.
    pub(super) fn start(spec: LoadSpec) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let targets =
            spec.to.iter().map(|to| if spec.mapped { socket::mapped(*to) } else { *to }).collect::<Vec<_>>();
        let shared = Arc::new(Shared {
            targets,
            stop: stop.clone(),
            span: span(spec.until, now()),
            first: AtomicU64::new(u64::MAX),
            left: AtomicI64::new(if let Until::Count(n) = spec.until { n.cast_signed() } else { i64::MAX }),
            turn: AtomicUsize::new(0),
            gate: Barrier::new(usize::from(spec.threads)),
            spec,
        });
        let threads = (0..shared.spec.threads)
            .map(|_| {
                let shared = shared.clone();
                thread::spawn(move || work(&shared))
            })
            .collect();
        Self { threads, stop }
    }

    /// Waits for the end, or ends it, and gives the records sorted by time.
    pub(super) fn finish(self, now: bool) -> Result<Vec<Record>> {
        self.stop.fetch_or(now, Ordering::Relaxed);
        let mut records = Vec::new();
        for thread in self.threads {
            records.extend(thread.join().map_err(|_| anyhow!("a thread of the load panicked"))?);
        }
        records.sort_by_key(|r| r.span.0);
        Ok(records)
    }
}

/// When a load that is started now begins, and when it ends at the latest.
fn span(until: Until, now: u64) -> (u64, u64) {
    let margin = MARGIN.as_nanos() as u64;
    match until {
        Until::FullSeconds(_) => ((now + margin).div_ceil(SECOND) * SECOND - margin, u64::MAX),
        Until::Count(_) => (now, u64::MAX),
        Until::Told(most) => (now, now + u64::from(most) * SECOND),
    }
}

/// Does a load that begins and ends at these moments cover what it was told to?
fn covers(until: Until, first: u64, last: u64) -> bool {
    matches!(until, Until::FullSeconds(n) if last / SECOND >= first.div_ceil(SECOND) + u64::from(n))
}

/// CLOCK_MONOTONIC in nanoseconds.
fn now() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// The kernel programs' clock in nanoseconds.
fn coarse() -> u64 {
    nanoseconds(ClockId::MonotonicCoarse)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let t = clock_gettime(clock);
    t.tv_sec.cast_unsigned() * SECOND + t.tv_nsec.cast_unsigned()
}

fn work(shared: &Shared) -> Vec<Record> {
    let mut records = Vec::with_capacity(4096);
    let mut kept = Kept::default();
    thread::sleep(Duration::from_nanos(shared.span.0.saturating_sub(now())));
    shared.gate.wait();
    while !shared.stop.load(Ordering::Relaxed) && now() < shared.span.1 {
        if shared.left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            break;
        }
        let target = shared.turn.fetch_add(1, Ordering::Relaxed) % shared.targets.len();
        let record = operation(&shared.spec, shared.targets[target], target as u16, &mut kept);
        records.push(record);
        shared.first.fetch_min(record.coarse.0, Ordering::Relaxed);
        if covers(shared.spec.until, shared.first.load(Ordering::Relaxed), record.coarse.1) {
            break;
        }
        if shared.spec.pace_us > 0 {
            thread::sleep(Duration::from_micros(shared.spec.pace_us));
        }
    }
    records
}

/// The unconnected socket of a thread, one a family.
#[derive(Default)]
struct Kept([Option<OwnedFd>; 2]);

/// One dial.
fn operation(spec: &LoadSpec, to: SocketAddr, target: u16, kept: &mut Kept) -> Record {
    let at = socket::any(false, 0);
    let mut record = Record { span: (0, 0), coarse: (0, 0), at, errno: 0, target, true_name: false };
    clocked(&mut record, || ());
    let done = match spec.mode {
        Mode::Tcp => connected(to, SocketType::STREAM, &mut record),
        Mode::ConnectedUdp => connected(to, SocketType::DGRAM, &mut record),
        Mode::Udp => unconnected(to, spec.fresh, kept, &mut record),
    };
    if let Err(e) = done {
        record.errno = socket::timed(e).raw_os_error() as u16;
    }
    record
}

/// Calls what decides, and notes when.
fn clocked<T>(record: &mut Record, call: impl FnOnce() -> T) -> T {
    (record.coarse.0, record.span.0) = (coarse(), now());
    let result = call();
    (record.coarse.1, record.span.1) = (coarse(), now());
    result
}

fn connected(to: SocketAddr, kind: SocketType, record: &mut Record) -> Result<(), Errno> {
    let s = socket::client(to, kind)?;
    if kind == SocketType::STREAM {
        // Closed by a reset: no port stays in TIME_WAIT.
        set_socket_linger(&s, Some(Duration::ZERO))?;
    }
    clocked(record, || connect(&s, &to))?;
    if kind == SocketType::DGRAM {
        send(&s, b"x", SendFlags::NOSIGNAL)?;
    }
    let mut buffer = [0; 512];
    let (length, ..) = recvfrom(&s, &mut buffer, RecvFlags::empty())?;
    record.true_name = socket::plain(getpeername(&s)?) == Some(to);
    note(&buffer[..length], record)
}

fn unconnected(to: SocketAddr, fresh: bool, kept: &mut Kept, record: &mut Record) -> Result<(), Errno> {
    let slot = &mut kept.0[usize::from(to.is_ipv6())];
    if fresh || slot.is_none() {
        *slot = Some(socket::client(to, SocketType::DGRAM)?);
    }
    let s = slot.as_ref().ok_or(Errno::BADF)?;
    clocked(record, || sendto(s, b"x", SendFlags::NOSIGNAL, &to))?;
    let mut buffer = [0; 512];
    let (length, _, source) = recvfrom(s, &mut buffer, RecvFlags::empty())?;
    record.true_name = socket::plain(source) == Some(to);
    note(&buffer[..length], record)
}

fn note(answer: &[u8], record: &mut Record) -> Result<(), Errno> {
    if answer.is_empty() {
        return Err(Errno::CONNRESET);
    }
    record.at = identity(answer).ok_or(Errno::PROTO)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = SECOND;

    #[test]
    fn full_seconds_begin_with_a_margin() {
        let margin = MARGIN.as_nanos() as u64;
        let begin = |now| span(Until::FullSeconds(1), now).0;
        assert_eq!(begin(7 * S + 1), 8 * S - margin);
        assert_eq!(begin(8 * S - margin), 8 * S - margin);
        assert_eq!(begin(8 * S - margin + 1), 9 * S - margin);
    }

    #[test]
    fn full_seconds_end_when_they_are_covered_however_late_they_began() {
        let three = Until::FullSeconds(3);
        assert!(!covers(three, 8 * S - 1, 11 * S - 1) && covers(three, 8 * S - 1, 11 * S));
        assert!(!covers(three, 8 * S + 1, 12 * S - 1) && covers(three, 8 * S + 1, 12 * S));
        assert!(!covers(Until::Count(1), 0, u64::MAX) && !covers(Until::Told(1), 0, u64::MAX));
    }
}

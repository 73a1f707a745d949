//! Steady traffic for the demo: real DNS queries and HTTP requests, and a tally of who answered.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};

use crate::{
    dns,
    protocol::{Answered, Steady, TrafficKind},
};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

type Tally = Arc<Mutex<BTreeMap<(SocketAddr, String), u64>>>;

/// Running traffic.
pub(super) struct Traffic {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    tally: Tally,
}

impl Traffic {
    /// Starts a thread for each stream.
    pub(super) fn start(streams: Vec<Steady>) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Tally::default());
        let threads = streams
            .into_iter()
            .map(|stream| {
                let (stop, tally) = (stop.clone(), tally.clone());
                thread::spawn(move || keep_asking(stream, &stop, &tally))
            })
            .collect();
        Self { threads, stop, tally }
    }

    /// Who answered so far.
    pub(super) fn answered(&self) -> Vec<Answered> {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.iter().map(|((to, who), times)| Answered { to: *to, who: who.clone(), times: *times }).collect()
    }

    /// Ends it; what was asked has been answered then.
    pub(super) fn stop(self) -> Result<Vec<Answered>> {
        self.stop.store(true, Ordering::Relaxed);
        let answered = self.tally.clone();
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a thread of the traffic panicked"))?;
        }
        let tally = answered.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tally
            .iter()
            .map(|((to, who), times)| Answered { to: *to, who: who.clone(), times: *times })
            .collect())
    }
}

fn keep_asking(stream: Steady, stop: &AtomicBool, tally: &Tally) {
    let start = Instant::now();
    for n in 0_u32.. {
        let due = start + Duration::from_secs(1) * n / stream.per_second.max(1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let who = ask(stream.kind, stream.to).unwrap_or_else(|e| format!("error: {e:#}"));
        *tally.lock().unwrap_or_else(PoisonError::into_inner).entry((stream.to, who)).or_default() += 1;
    }
}

/// Asks once, on a socket of its own → who answered.
pub(super) fn ask(kind: TrafficKind, to: SocketAddr) -> Result<String> {
    match kind {
        TrafficKind::Dns => {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(&dns::whoami_query())?;
            let mut buffer = [0; 512];
            let length = socket.recv(&mut buffer)?;
            dns::first_text(&buffer[..length]).context("an answer without a text")
        }
        TrafficKind::Http => {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let server = answer.lines().find_map(|l| l.strip_prefix("Server: "));
            Ok(server.context("an answer without a name")?.to_owned())
        }
    }
}

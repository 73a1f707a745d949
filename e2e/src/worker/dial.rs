//! One dial at a time, sockets that stay, and very many sockets at once.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketType, bind, connect, getpeername, recvfrom, send, sendto},
};

use super::socket;
use crate::{
    client::errno_name,
    protocol::{Flow, Many, Mode, Outcome},
};

/// Dials a flow on a new socket; gives the socket where a server answered.
pub(super) fn once(flow: Flow) -> (Outcome, Option<OwnedFd>) {
    let to = if flow.mapped { socket::mapped(flow.to) } else { flow.to };
    let mut outcome = Outcome::default();
    let kind = if flow.mode == Mode::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let result = socket::client(to, kind).and_then(|s| {
        match flow.mode {
            Mode::Udp => drop(sendto(&s, b"x", SendFlags::NOSIGNAL, &to)?),
            Mode::Tcp => connect(&s, &to)?,
            Mode::ConnectedUdp => {
                connect(&s, &to)?;
                send(&s, b"x", SendFlags::NOSIGNAL)?;
            }
        }
        if flow.mode != Mode::Udp {
            outcome.peer = socket::plain(getpeername(&s)?);
        }
        receive(&s, flow.mode != Mode::Tcp, &mut outcome).map(|()| s)
    });
    outcome.error = result.as_ref().err().map(|e| errno_name(socket::timed(*e)));
    (outcome, result.ok())
}

/// Reads the server's answer.
fn receive(s: impl AsFd, datagram: bool, outcome: &mut Outcome) -> Result<(), Errno> {
    let mut buffer = [0; 512];
    let (length, _, source) = recvfrom(s, &mut buffer, RecvFlags::empty())?;
    if length == 0 {
        return Err(Errno::CONNRESET);
    }
    if datagram {
        outcome.source = socket::plain(source);
    }
    outcome.at = Some(identity(&buffer[..length]).ok_or(Errno::PROTO)?);
    Ok(())
}

/// The address that a server says it was reached at: the first word of its answer.
pub(super) fn identity(answer: &[u8]) -> Option<SocketAddr> {
    let end = answer.iter().position(u8::is_ascii_whitespace)?;
    std::str::from_utf8(&answer[..end]).ok()?.parse().ok()
}

/// An unconnected UDP socket with a port of its own.
pub(super) fn open_udp(v6: bool) -> Result<OwnedFd> {
    let any = socket::any(v6, 0);
    let socket = socket::client(any, SocketType::DGRAM)?;
    bind(&socket, &any)?;
    Ok(socket)
}

/// A datagram and its answer on an unconnected socket.
pub(super) fn send_to(s: &OwnedFd, to: SocketAddr) -> Outcome {
    let mut outcome = Outcome::default();
    let done = sendto(s, b"x", SendFlags::NOSIGNAL, &to).and_then(|_| receive(s, true, &mut outcome));
    outcome.error = done.err().map(|e| errno_name(socket::timed(e)));
    outcome
}

/// Datagrams to all, then as many answers.
pub(super) fn send_to_all(s: &OwnedFd, to: &[SocketAddr]) -> Vec<Outcome> {
    let sent: Vec<_> = to.iter().map(|to| sendto(s, b"x", SendFlags::NOSIGNAL, to)).collect();
    sent.into_iter()
        .map(|sent| {
            let mut outcome = Outcome::default();
            let done = sent.and_then(|_| receive(s, true, &mut outcome));
            outcome.error = done.err().map(|e| errno_name(socket::timed(e)));
            outcome
        })
        .collect()
}

/// Bytes and their echo on a connected socket. A datagram's answer tells where it went; TCP's echo is the bytes alone.
pub(super) fn echo(s: &OwnedFd) -> Outcome {
    let mut outcome = Outcome::default();
    let done = (|| {
        send(s, b"ping", SendFlags::NOSIGNAL)?;
        outcome.peer = socket::plain(getpeername(s)?);
        let mut buffer = [0; 512];
        let (length, _, source) = recvfrom(s, &mut buffer, RecvFlags::empty())?;
        outcome.source = socket::plain(source);
        match &buffer[..length] {
            b"" => Err(Errno::CONNRESET),
            b"ping" => {
                outcome.at = outcome.peer;
                Ok(())
            }
            answer => {
                outcome.at = Some(identity(answer).ok_or(Errno::PROTO)?);
                Ok(())
            }
        }
    })();
    outcome.error = done.err().map(|e| errno_name(socket::timed(e)));
    outcome
}

/// Very many UDP sockets, every other one connected, that have asked and not yet read their answers.
pub(super) struct ManySockets {
    to: SocketAddr,
    sockets: Vec<OwnedFd>,
    seen: Many,
}

impl ManySockets {
    /// Opens them, bound to the addresses in turn, and lets each send one datagram.
    pub(super) fn send(to: SocketAddr, count: u32, from: &[IpAddr]) -> Result<(Self, Many)> {
        let mut many = Self { to, sockets: Vec::with_capacity(count as usize), seen: Many::default() };
        for (n, from) in (0..count).zip(from.iter().cycle()) {
            let socket = socket::client(to, SocketType::DGRAM)
                .with_context(|| format!("failed to open socket {n}"))?;
            bind(&socket, &SocketAddr::new(*from, 0))
                .with_context(|| format!("failed to bind socket {n}"))?;
            let sent = if is_connected(n as usize) {
                connect(&socket, &to).and_then(|()| send(&socket, b"x", SendFlags::NOSIGNAL))
            } else {
                sendto(&socket, b"x", SendFlags::NOSIGNAL, &to)
            };
            many.seen.sent += u32::from(sent.is_ok());
            many.sockets.push(socket);
        }
        let seen = many.seen;
        Ok((many, seen))
    }

    /// Does `getpeername` of a connected socket show the address that was asked?
    fn is_true_peer(&self, n: usize, socket: &OwnedFd) -> bool {
        !is_connected(n) || getpeername(socket).is_ok_and(|peer| socket::plain(peer) == Some(self.to))
    }

    /// Reads an answer on each.
    pub(super) fn receive(mut self) -> Many {
        for (n, socket) in self.sockets.iter().enumerate() {
            // So many time-outs that waiting for the rest says nothing more.
            if self.seen.lost >= 40 {
                self.seen.lost = self.seen.sent - self.seen.right - self.seen.wrong;
                break;
            }
            let mut outcome = Outcome::default();
            match receive(socket, true, &mut outcome) {
                Ok(()) if outcome.source == Some(self.to) && self.is_true_peer(n, socket) => {
                    self.seen.right += 1
                }
                Ok(()) => self.seen.wrong += 1,
                Err(_) => self.seen.lost += 1,
            }
        }
        self.seen
    }
}

/// Is that socket of many a connected one?
fn is_connected(n: usize) -> bool {
    n % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_first_word() {
        assert_eq!(identity(b"10.0.0.1:80 \nx"), Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(identity(b"[fd00::1]:80\n"), Some("[fd00::1]:80".parse().unwrap()));
        assert_eq!(identity(b"ping"), None);
        assert_eq!(identity(b"10.0.0.1 80\n"), None);
    }
}

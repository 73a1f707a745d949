//! Sockets with the options that clients and servers need, and the spelling of errors.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketAddrAny, SocketFlags, SocketType, socket_with,
        sockopt::{Timeout, set_ipv6_v6only, set_socket_timeout},
    },
};

use crate::wait;

/// How long a client waits for a connection or an answer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A client's socket of the family of `to`.
pub(super) fn client(to: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = socket_with(family(to), kind, SocketFlags::CLOEXEC, None)?;
    let patience = Some(PATIENCE * wait::slower());
    set_socket_timeout(&socket, Timeout::Recv, patience)?;
    set_socket_timeout(&socket, Timeout::Send, patience)?;
    Ok(socket)
}

/// A server's socket: non-blocking, of one family alone.
pub(super) fn server(at: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = socket_with(family(at), kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if at.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// The wildcard address of a family.
pub(super) fn any(v6: bool, port: u16) -> SocketAddr {
    let ip = if v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, port)
}

/// An IPv4 address as it is dialled from an IPv6 socket.
pub(super) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The internet address the kernel gave, if it is one.
pub(super) fn plain(address: Option<SocketAddrAny>) -> Option<SocketAddr> {
    address.and_then(|a| SocketAddr::try_from(a).ok())
}

/// A time-out of the socket is told as one.
pub(super) fn timed(error: Errno) -> Errno {
    if matches!(error, Errno::AGAIN | Errno::INPROGRESS) { Errno::TIMEDOUT } else { error }
}

//! Opens the addresses to listen on. A unix socket is private from its first moment, and gone at the end.

use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, fchmod},
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind as bind_socket, connect, listen,
        socket_with,
    },
};

use super::Access;
use crate::config::Listen;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// A system call failed.
    #[error("failed to listen on {listen}")]
    Io {
        /// The address.
        listen: Listen,
        /// Why.
        source: io::Error,
    },
    /// Another process listens on the socket.
    #[error("failed to listen on {listen}: another process listens there; is an agent running already?")]
    InUse {
        /// The address.
        listen: Listen,
    },
    /// The path is taken by something else than a socket.
    #[error("failed to listen on {listen}: the path exists and is no socket; it was left alone")]
    NoSocket {
        /// The address.
        listen: Listen,
    },
}

/// An address that is listened on, and not yet served. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Bound {
    pub(super) listener: Listener,
    /// The address as it was given, but with the port that was taken where any was asked for.
    pub listen: Listen,
    /// What is served there.
    pub access: Access,
}

#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

/// The file of a unix socket; removed when dropped, unless somebody else has put another one there.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Nothing is left to be done where it cannot be removed: the next agent finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on all addresses, or on none.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn bind(addresses: &[Listen]) -> Result<Vec<Bound>, BindError> {
    addresses
        .iter()
        .map(|listen| match listen {
            Listen::Unix(path) => bind_unix(path, listen),
            Listen::Tcp(host, port) => bind_tcp(host, *port, listen),
        })
        .collect()
}

fn bind_tcp(host: &str, port: u16, listen: &Listen) -> Result<Bound, BindError> {
    let open = || {
        let listener = TcpListener::bind((host, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let (listener, address) = open().map_err(|source: io::Error| match source {
        error if error.kind() == io::ErrorKind::AddrInUse => BindError::InUse { listen: listen.clone() },
        source => BindError::Io { listen: listen.clone(), source },
    })?;
    let access = if address.ip().to_canonical().is_loopback() { Access::All } else { Access::Health };
    Ok(Bound {
        listener: Listener::Tcp(listener),
        listen: Listen::Tcp(host.to_owned(), address.port()),
        access,
    })
}

fn bind_unix(path: &Path, listen: &Listen) -> Result<Bound, BindError> {
    let io = |source: io::Error| BindError::Io { listen: listen.clone(), source };
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(io)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NoSocket { listen: listen.clone() });
        }
        Ok(_) if somebody_listens(path).map_err(io)? => {
            return Err(BindError::InUse { listen: listen.clone() });
        }
        Ok(_) => fs::remove_file(path).map_err(io)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let listener = private_listener(path).map_err(|error| match error {
        Errno::ADDRINUSE => BindError::InUse { listen: listen.clone() },
        error => io(error.into()),
    })?;
    let file = SocketFile { path: path.to_owned(), identity: identity(path) };
    Ok(Bound { listener: Listener::Unix(listener, file), listen: listen.clone(), access: Access::All })
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Does a process listen on the socket? One whose queue is full does.
fn somebody_listens(path: &Path) -> io::Result<bool> {
    match connect(unix_socket()?, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT | Errno::PROTOTYPE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A listener whose file has mode 0600 from the moment it exists: bind(2) takes the mode of the socket itself, less the
/// umask, and a umask would be the whole process's.
fn private_listener(path: &Path) -> rustix::io::Result<UnixListener> {
    let socket = unix_socket()?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind_socket(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

//! Reading one file without being held up or overrun by what it is.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use balancing_api::manifest::MAX_BYTES;

/// What tells one version of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(m: &Metadata) -> Self {
        Self {
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified: (m.mtime(), m.mtime_nsec()),
            changed: (m.ctime(), m.ctime_nsec()),
        }
    }
}

/// What was found under a file's name.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or what is no regular file.
    Nothing,
    /// A text.
    Text(Stamp, Vec<u8>),
    /// Something that cannot be read, and why.
    Unreadable(Option<Stamp>, String),
}

/// The stamp of a file; `None`: there is none, or it cannot be told, or it is no regular file.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then(|| Stamp::of(&metadata))
}

/// Reads a file, following symbolic links. FIFOs, sockets, devices and folders are not opened.
pub(super) fn read(path: &Path) -> Found {
    match try_read(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            Found::Nothing
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Found::Unreadable(None, format!("failed to follow the symbolic link: {e}"))
        }
        Err(e) => Found::Unreadable(stamp(path), format!("failed to read the file: {e}")),
    }
}

fn try_read(path: &Path) -> io::Result<Found> {
    if !fs::metadata(path)?.is_file() {
        return Ok(Found::Nothing);
    }
    // It may have been replaced since: opening must not wait for the other end of a FIFO.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Found::Nothing);
    }
    let stamp = Stamp::of(&metadata);
    let too_large = |size: u64| {
        let message = format!("{size} bytes are more than {MAX_BYTES} (16 MiB): the file is not read");
        Ok(Found::Unreadable(Some(stamp), message))
    };
    if metadata.size() > MAX_BYTES {
        return too_large(metadata.size());
    }
    let text = read_limited(&mut file, metadata.size())?;
    if text.len() as u64 > MAX_BYTES {
        return too_large(text.len() as u64);
    }
    Ok(Found::Text(stamp, text))
}

/// All of a file, but no more than one byte over the limit: it may grow while it is read.
fn read_limited(file: &mut File, size: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(MAX_BYTES + 1).read_to_end(&mut text)?;
    Ok(text)
}

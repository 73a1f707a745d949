//! The folders that the agent attaches to and pins in, looked at.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};

use super::{ConfigError, Places};

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: FsWord = 0xcafe_4a11_u32 as FsWord;
/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2: FsWord = 0x6367_7270;

/// A mount of the cgroup v2 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup2Mount {
    /// The folder it is mounted on.
    pub point: PathBuf,
    /// Which folder of the hierarchy, as this process's cgroup namespace shows it, is seen there.
    pub root: PathBuf,
}

/// The cgroup v2 mounts in the text of `/proc/self/mountinfo` (proc(5)), in its order.
#[must_use]
pub fn cgroup2_mounts(mountinfo: &str) -> Vec<Cgroup2Mount> {
    let mount = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        let cgroup2 = file_system.split(' ').next()? == "cgroup2";
        cgroup2.then(|| Cgroup2Mount { point: unescape(point), root: unescape(root) })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// A path of mountinfo: space, tab, newline and backslash stand there as `\` and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|d| first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        let value = digits.map(|d| d.iter().fold(0u32, |n, b| n * 8 + u32::from(b - b'0')));
        match value.and_then(|v| u8::try_from(v).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

/// Is the folder in a cgroup v2 hierarchy?
///
/// # Errors
/// Those of statfs(2).
pub fn is_cgroup2(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.f_type == CGROUP2)
}

/// Has the cgroup a file `cgroup.type`? Every cgroup has, but the root of the hierarchy (kernel, cgroup-v2.rst).
///
/// # Errors
/// Those of stat(2), but that the file does not exist.
pub fn cgroup_type_file(cgroup: &Path) -> io::Result<bool> {
    match std::fs::metadata(cgroup.join("cgroup.type")) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn folder(setting: &'static str, path: &Path) -> Result<FsWord, ConfigError> {
    let look = || {
        if !std::fs::metadata(path)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(statfs(path)?.f_type)
    };
    look().map_err(|source| ConfigError::Folder { setting, path: path.to_owned(), source })
}

impl Places {
    /// Are both folders there, and of the right file systems?
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if folder("--cgroup-root", &self.cgroup_root)? != CGROUP2 {
            return Err(ConfigError::WrongFileSystem {
                setting: "--cgroup-root",
                path: self.cgroup_root.clone(),
                wanted: "cgroup2",
                hint: ": name a folder below the mount of cgroup v2",
            });
        }
        self.check_bpffs()
    }

    /// `cleanup` needs no more: the links are found by their pins, also where the cgroup is gone.
    pub(super) fn check_bpffs(&self) -> Result<(), ConfigError> {
        if folder("--bpffs", &self.bpffs)? != BPF_FS {
            return Err(ConfigError::WrongFileSystem {
                setting: "--bpffs",
                path: self.bpffs.clone(),
                wanted: "bpf",
                hint: ": name a folder of one, or mount one there (mount -t bpf bpf /sys/fs/bpf)",
            });
        }
        Ok(())
    }

    /// Fails where the cgroup is the root of the hierarchy, or all that this process can see of it.
    pub(super) fn refuse_root(&self, mounts: &[Cgroup2Mount]) -> Result<(), ConfigError> {
        let look =
            |source| ConfigError::Folder { setting: "--cgroup-root", path: self.cgroup_root.clone(), source };
        let real = self.cgroup_root.canonicalize().map_err(look)?;
        let seen = mounts.iter().any(|m| m.root == Path::new("/") && m.point == real);
        if seen || !cgroup_type_file(&real).map_err(look)? {
            return Err(ConfigError::RootCgroup { path: self.cgroup_root.clone() });
        }
        Ok(())
    }
}

//! What the kernel says of loaded programs: the bpf(2) commands that aya does not offer.
#![expect(unsafe_code, reason = "system calls")]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use serde::{Deserialize, Serialize};

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `union bpf_attr`, as 8-byte words: large enough for every command used here.
type Attr = [u64; 16];

fn bpf(command: libc::c_long, attr: &mut Attr, size: usize) -> io::Result<i64> {
    // SAFETY: `attr` outlives the call and is at least `size` long; the pointers in it are valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us; it fits, as every descriptor does.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn info<const N: usize>(fd: BorrowedFd<'_>) -> io::Result<[u64; N]> {
    let mut info = [0u64; N];
    let mut attr = Attr::default();
    attr[0] = u64::from(fd.as_raw_fd().cast_unsigned()) | (size_of_val(&info) as u64) << 32;
    attr[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr, 16)?;
    Ok(info)
}

/// Opens what is pinned at a path.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = Attr::default();
    attr[0] = path.as_ptr() as u64;
    bpf(BPF_OBJ_GET, &mut attr, 16).map(owned)
}

/// The program behind a pinned link. Needs CAP_SYS_ADMIN.
pub fn program_of_link(path: &Path) -> io::Result<OwnedFd> {
    // struct bpf_link_info { u32 type, id, prog_id; ... }
    let link = info::<8>(obj_get(path)?.as_fd())?;
    let mut attr = Attr::default();
    attr[0] = u64::from(link[1] as u32);
    bpf(BPF_PROG_GET_FD_BY_ID, &mut attr, 12).map(owned)
}

/// Takes a program off its hook by its pinned link.
pub fn detach(path: &Path) -> io::Result<()> {
    let link = obj_get(path)?;
    let mut attr = Attr::default();
    attr[0] = u64::from(link.as_raw_fd().cast_unsigned());
    bpf(BPF_LINK_DETACH, &mut attr, 4).map(drop)
}

/// Puts another program behind a pinned link.
pub fn replace(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = obj_get(path)?;
    let mut attr = Attr::default();
    // struct { u32 link_fd, new_prog_fd, flags, old_prog_fd }
    attr[0] =
        u64::from(link.as_raw_fd().cast_unsigned()) | u64::from(program.as_raw_fd().cast_unsigned()) << 32;
    bpf(BPF_LINK_UPDATE, &mut attr, 16).map(drop)
}

/// Number of elements of a pinned map.
pub fn map_entries(path: &Path) -> io::Result<u32> {
    // struct bpf_map_info { u32 type, id, key_size, value_size, max_entries, ... }
    Ok(info::<8>(obj_get(path)?.as_fd())?[2] as u32)
}

/// What the kernel counts of a program while run-time statistics are on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunStats {
    /// Nanoseconds in the program.
    pub nanoseconds: u64,
    /// How often it ran.
    pub count: u64,
}

/// Size of a program, in what the verifier and the JIT made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Instructions after the verifier.
    pub translated: u64,
    /// Bytes of machine code.
    pub jited: u64,
    /// Instructions that the verifier followed.
    pub verified: u64,
}

/// Run-time statistics of a program. `struct bpf_prog_info` has them at byte 192.
pub fn run_stats(program: BorrowedFd<'_>) -> io::Result<RunStats> {
    let info = info::<29>(program)?;
    Ok(RunStats { nanoseconds: info[24], count: info[25] })
}

/// Size of a program.
pub fn size(program: BorrowedFd<'_>) -> io::Result<Size> {
    let info = info::<29>(program)?;
    Ok(Size {
        translated: (info[2] >> 32) / 8,
        jited: info[2] & 0xffff_ffff,
        verified: info[27] & 0xffff_ffff,
    })
}

/// Memory that a pinned map takes in the kernel, in bytes: `memlock` of its descriptor.
pub fn map_memory(path: &Path) -> io::Result<u64> {
    let map = obj_get(path)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let memory = text.lines().find_map(|line| line.strip_prefix("memlock:"));
    memory.and_then(|m| m.trim().parse().ok()).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

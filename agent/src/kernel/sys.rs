//! The bpf(2) commands that aya does not offer, and mmap of array maps: the agent's only unsafe code besides the ring.
#![expect(unsafe_code, reason = "system calls, and memory shared with the kernel")]

use std::{
    ffi::CString,
    io,
    marker::PhantomData,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `BPF_MAP_TYPE_HASH`
pub(super) const MAP_TYPE_HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`
pub(super) const MAP_TYPE_ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_ARRAY_OF_MAPS`
pub(super) const MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
/// `BPF_F_NO_PREALLOC`: memory for what is there, not for what may come.
pub(super) const NO_PREALLOC: u32 = 1;

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

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Opens what is pinned at a path.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = Attr::default();
    attr[0] = path.as_ptr() as u64;
    bpf(BPF_OBJ_GET, &mut attr, 16).map(owned)
}

/// Pins a map or link.
pub(super) fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = Attr::default();
    attr[0] = path.as_ptr() as u64;
    attr[1] = pair(raw(fd), 0);
    bpf(BPF_OBJ_PIN, &mut attr, 16).map(drop)
}

/// Puts another program behind a link, with no moment without one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr[0] = pair(raw(link), raw(program));
    bpf(BPF_LINK_UPDATE, &mut attr, 16).map(drop)
}

/// Ends a link, whoever else holds it.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = Attr::default();
    attr[0] = pair(raw(link), 0);
    bpf(BPF_LINK_DETACH, &mut attr, 4).map(drop)
}

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    /// Id of its program.
    pub(super) program: u32,
    /// Id of its cgroup; 0: the cgroup is gone.
    pub(super) cgroup: u64,
    /// `enum bpf_attach_type`.
    pub(super) attach_type: u32,
}

/// Asks a cgroup link what it is.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // struct bpf_link_info { u32 type, id, prog_id; (4 free) union { struct { u64 cgroup_id; u32 attach_type; } cgroup; } }
    let mut info = [0u64; 8];
    object_info(link, &mut info)?;
    Ok(LinkInfo { program: info[1] as u32, cgroup: info[2], attach_type: info[3] as u32 })
}

/// Shape of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapShape {
    /// `enum bpf_map_type`.
    pub(super) map_type: u32,
    /// Bytes of a key.
    pub(super) key: u32,
    /// Bytes of a value.
    pub(super) value: u32,
    /// Elements.
    pub(super) entries: u32,
}

/// Asks a map what it is.
pub(super) fn map_info(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    // struct bpf_map_info { u32 type, id, key_size, value_size, max_entries, map_flags; ... }
    let mut info = [0u64; 8];
    object_info(map, &mut info)?;
    Ok(MapShape {
        map_type: info[0] as u32,
        key: info[1] as u32,
        value: (info[1] >> 32) as u32,
        entries: info[2] as u32,
    })
}

fn object_info(fd: BorrowedFd<'_>, info: &mut [u64; 8]) -> io::Result<()> {
    let mut attr = Attr::default();
    attr[0] = pair(raw(fd), size_of_val(info) as u32);
    attr[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr, 16).map(drop)
}

/// Ids of the programs on a hook of a cgroup itself, not of its ancestors.
pub(super) fn programs_on(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut attr = Attr::default();
    // { u32 target_fd, attach_type, query_flags, attach_flags; u64 prog_ids; u32 prog_cnt; }
    attr[0] = pair(raw(cgroup), attach_type);
    attr[2] = ids.as_mut_ptr() as u64;
    attr[3] = ids.len() as u64;
    bpf(BPF_PROG_QUERY, &mut attr, 32)?;
    let count = (attr[3] as u32 as usize).min(ids.len());
    Ok(ids[..count].to_vec())
}

/// Makes a map without BTF.
pub(super) fn map_create(shape: MapShape, flags: u32, inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = Attr::default();
    attr[0] = pair(shape.map_type, shape.key);
    attr[1] = pair(shape.value, shape.entries);
    attr[2] = pair(flags, inner.map_or(0, raw));
    bpf(BPF_MAP_CREATE, &mut attr, 72).map(owned)
}

/// Sets the element of an array of maps. The kernel waits for a grace period before it returns
/// (`maybe_wait_bpf_programs`, since 4.20): no program that ran before the call runs after it.
pub(super) fn update_array_of_maps(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    let key = 0u32;
    let value = raw(inner);
    let mut attr = Attr::default();
    attr[0] = pair(raw(outer), 0);
    attr[1] = (&raw const key) as u64;
    attr[2] = (&raw const value) as u64;
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr, 32).map(drop)
}

/// Gives back to the machine what only a start or as large a change needed: memory that is free and that the allocator
/// keeps, and the code that read and converted it all.
pub fn release_memory() {
    release_code();
    // Others either do so by themselves or cannot.
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time, from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Unmaps the pages of code that this process has used so far. What goes on being used is mapped again at its next use,
/// from the page cache; the rest counts for this process no more, and the kernel may take it where memory is short.
fn release_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (first, bytes) in maps.lines().filter_map(code_of_file) {
        // SAFETY: a private mapping of a file that nothing in this process writes to: position-independent code is not
        // relocated. Its pages are read from the file again when they are used.
        // What cannot be given back stays.
        let _ = unsafe {
            rustix::mm::madvise(
                std::ptr::without_provenance_mut(first),
                bytes,
                rustix::mm::Advice::LinuxDontNeed,
            )
        };
    }
}

/// Address and length of the mapping in a line of `/proc/PID/maps`, if it is code of a file that cannot be written to.
fn code_of_file(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (first, end) = fields.next()?.split_once('-')?;
    let (first, end) = (usize::from_str_radix(first, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    let is_code = fields.next()? == "r-xp";
    // After the offset and the device; 0 is no file.
    let is_file = fields.nth(2)? != "0";
    (is_code && is_file).then_some((first, end.checked_sub(first)?))
}

/// Nanoseconds of `CLOCK_MONOTONIC`, the clock of the kernel programs.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// An array map made with `BPF_F_MMAPABLE`, in this process's memory. Elements are read and written whole fields at a
/// time; who may write which is the programmer's business.
pub(super) struct Mapped<T> {
    first: *mut T,
    entries: usize,
    bytes: usize,
    _elements: PhantomData<T>,
}

// SAFETY: the memory is the kernel's and shared by design; all access is volatile or atomic, through `&self`.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// Maps all elements of a map. The kernel keeps them at distances of a multiple of 8, so `T` must be one.
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let shape = map_info(map)?;
        if shape.value as usize != size_of::<T>() {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let entries = shape.entries as usize;
        let bytes = (entries * size_of::<T>()).next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let first = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                map,
                0,
            )?
        };
        Ok(Self { first: first.cast(), entries, bytes, _elements: PhantomData })
    }

    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    fn at(&self, index: usize) -> *mut T {
        assert!(index < self.entries, "index {index} of an array of {}", self.entries);
        // SAFETY: within the mapping, just checked.
        unsafe { self.first.add(index) }
    }

    /// Reads an element. A program may write it meanwhile: single words are whole, the element need not be.
    pub(super) fn read(&self, index: usize) -> T {
        // SAFETY: in bounds and aligned; any bit pattern is a value, since all layouts are integers.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes an element that no program reads.
    pub(super) fn write(&self, index: usize, value: T) {
        // SAFETY: in bounds and aligned.
        unsafe { self.at(index).write_volatile(value) }
    }

    /// A 32-bit word of an element, `offset` bytes into it.
    pub(super) fn word32(&self, index: usize, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        // SAFETY: in bounds and aligned; it lives as long as the mapping, which `self` owns.
        unsafe { AtomicU32::from_ptr(self.at(index).byte_add(offset).cast()) }
    }

    /// A 64-bit word of an element, `offset` bytes into it.
    pub(super) fn word64(&self, index: usize, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        // SAFETY: as in `word32`.
        unsafe { AtomicU64::from_ptr(self.at(index).byte_add(offset).cast()) }
    }

    /// Writes part of an element that no program reads: `value`, `offset` bytes into it.
    pub(super) fn write_part<P: Copy>(&self, index: usize, offset: usize, value: P) {
        assert!(offset.is_multiple_of(align_of::<P>()) && offset + size_of::<P>() <= size_of::<T>());
        // SAFETY: in bounds and aligned, just checked.
        unsafe { self.at(index).byte_add(offset).cast::<P>().write_volatile(value) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and nobody borrows from it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.first.cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Makes what was written before visible before what is written after.
pub(super) fn release_fence() {
    std::sync::atomic::fence(Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_unmapped() {
        let code = "7f0000001000-7f0000003000 r-xp 00001000 fe:00 1234        /usr/bin/x y";
        assert_eq!(code_of_file(code), Some((0x7f00_0000_1000, 0x2000)));
        for other in [
            // Relocated, and only then made read-only.
            "7f0000003000-7f0000004000 r--p 00003000 fe:00 1234 /usr/bin/x",
            "7f0000003000-7f0000004000 rw-p 00003000 fe:00 1234 /usr/bin/x",
            "7f0000003000-7f0000004000 r-xs 00003000 fe:00 1234 /usr/bin/x",
            "7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]",
            "7f0000003000-7f0000004000 r-xp 00000000 00:00 0",
            "7f0000003000-7f0000004000",
            "",
        ] {
            assert_eq!(code_of_file(other), None, "{other}");
        }
    }

    /// What was unmapped runs on, on every thread.
    #[test]
    fn code_is_there_again_when_it_is_used() {
        let sum = || (0..1000_u64).map(|n| n.to_string().len()).sum::<usize>();
        std::thread::scope(|scope| {
            let others: Vec<_> =
                (0..2).map(|_| scope.spawn(|| (0..50).map(|_| sum()).sum::<usize>())).collect();
            for _ in 0..50 {
                release_memory();
            }
            for other in others {
                assert_eq!(other.join().unwrap(), 50 * 2890);
            }
        });
        assert_eq!(sum(), 2890);
    }
}

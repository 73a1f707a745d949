//! Atomic instructions that the BPF target of the compiler does not offer. All on aligned 64-bit map memory.

#[cfg(target_arch = "bpf")]
use core::arch::asm;

/// `*p += v`. Every kernel.
#[inline(always)]
pub fn add(p: *mut u64, v: u64) {
    // SAFETY: callers pass aligned memory of a map element, which lives as long as the program runs.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) p, v = in(reg) v, options(nostack));
    }
}

/// `*p += v`, and what was there before. Kernel 5.12; arm64's JIT from 5.18.
#[inline(always)]
pub fn fetch_add(p: *mut u64, v: u64) -> u64 {
    #[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "changed by the instruction"))]
    let mut r = v;
    // SAFETY: as for `add`.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!("{r} = atomic_fetch_add((u64 *)({p} + 0), {r})", p = in(reg) p, r = inout(reg) r, options(nostack));
    }
    r
}

/// Stores `new` where `old` is; returns what was there. Kernel 5.12; arm64's JIT from 5.18.
#[inline(always)]
pub fn compare_exchange(p: *mut u64, old: u64, new: u64) -> u64 {
    #[cfg_attr(not(target_arch = "bpf"), expect(unused_mut, reason = "changed by the instruction"))]
    let mut r = old;
    // SAFETY: as for `add`. The instruction takes and returns its accumulator in r0.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!("r0 = cmpxchg_64({p} + 0, r0, {n})", p = in(reg) p, n = in(reg) new, inout("r0") r, options(nostack));
    }
    r
}

/// The compiler moves no access to memory across this. (BPF has no instruction for a fence.)
#[inline(always)]
pub fn keep_order() {
    // SAFETY: no instruction at all.
    #[cfg(target_arch = "bpf")]
    unsafe {
        asm!("", options(nostack));
    }
}

/// Admits at most `limit` in the second `second`, exactly, under any number of CPUs: `word` holds a second `<< 32` and
/// what was counted in it, and never goes back to an earlier second.
///
/// One compare-and-exchange at the turn of the second, one fetch-add within it, no write once the second is full.
#[inline(always)]
pub fn admit(word: *mut u64, limit: u32, second: u64) -> bool {
    let limit = limit as u64;
    for _ in 0..3 {
        // SAFETY: as for `add`.
        let seen = unsafe { word.read_volatile() };
        if seen >> 32 < second {
            if compare_exchange(word, seen, second << 32 | 1) == seen {
                return limit != 0;
            }
            continue;
        }
        // Also where this CPU's clock is behind the word: it counts in the newer second.
        if seen & 0xffff_ffff >= limit {
            return false;
        }
        return fetch_add(word, 1) & 0xffff_ffff < limit;
    }
    false
}

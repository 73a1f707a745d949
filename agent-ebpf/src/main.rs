//! The kernel programs: read what the hook was given, ask [`decide`], write the answer back, remember how to undo it.
//!
//! Built for the BPF target alone (`cargo xtask bpf`). Everything is inlined: the verifier follows each program as one
//! function, and a call with more than five arguments does not link.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, unused, reason = "the programs exist for the BPF target alone")
)]
#![expect(unsafe_code, reason = "kernel helpers and map memory are reached through raw pointers")]
#![expect(unreachable_pub, reason = "programs and globals are found by their symbols")]

mod atomic;
mod counters;
mod events;
mod hooks;
mod maps;
mod reverse;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: `cargo xtask bpf` refuses an object that can panic.
    loop {}
}

/// The kernel lets programs call its GPL-only helpers by this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

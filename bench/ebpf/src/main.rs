//! What the product's programs are measured against: a program that does nothing, and the least that a translation
//! takes, which is one hash lookup and a rewrite.
//!
//! Built as the product's programs are (`cargo xtask bpf`): the same toolchain, the same flags.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, unused, reason = "the programs exist for the BPF target alone")
)]
#![expect(unsafe_code, reason = "the context and map memory are reached through raw pointers")]
#![expect(unreachable_pub, reason = "programs are found by their symbols")]

mod programs;

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

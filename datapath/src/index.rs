//! The index in front of the hash of frontends: a word for each value of a hash of the key.
//!
//! Nearly every key is alone with its value. Then its word leads straight to its slot, and a word that is zero says that
//! there is no such frontend: neither takes a look into the hash map. Only a key that shares its value with an earlier one
//! has to be looked for there.

use crate::layout::FrontendKey;

/// The word that no frontend has.
pub const INDEX_EMPTY: u64 = 0;

/// Set where further frontends have this value: they are in the hash map alone.
const SHARED: u64 = 1 << 63;
/// Bits of the key's hash that tell it from most others with the same value.
const TAG: u64 = 0x7fff_ffff << 32;

/// What a word says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexed {
    /// There is no such frontend.
    Absent,
    /// It has this slot. The slot's own key has to be compared, as two keys may agree in their whole hash.
    Slot(u32),
    /// The hash map knows.
    Elsewhere,
}

/// The hash of a key: the low bits choose the word, the high ones are compared with it. (The mixing of splitmix64, whose
/// every output bit depends on every input bit.)
#[inline(always)]
#[must_use]
pub const fn index_hash(key: &FrontendKey) -> u64 {
    let x = key.addr[0].wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ key.addr[1] ^ key.meta;
    let x = (x ^ (x >> 32)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 32)
}

/// The word of a frontend with this hash and slot. `shared`: others have the same value.
#[inline(always)]
#[must_use]
pub const fn index_word(hash: u64, slot: u32, shared: bool) -> u64 {
    // One more than the slot, so that no frontend's word is the empty one.
    (if shared { SHARED } else { 0 }) | hash & TAG | (slot as u64 + 1) & 0xffff_ffff
}

/// The word with its mark that others have the same value, or without.
#[must_use]
pub const fn index_shared(word: u64, shared: bool) -> u64 {
    if shared { word | SHARED } else { word & !SHARED }
}

/// Is it the word of this frontend, shared or not?
#[must_use]
pub const fn index_is(word: u64, hash: u64, slot: u32) -> bool {
    index_shared(word, false) == index_word(hash, slot, false)
}

/// What the word says about the key with this hash.
#[inline(always)]
#[must_use]
pub const fn indexed(word: u64, hash: u64) -> Indexed {
    if word == INDEX_EMPTY {
        Indexed::Absent
    } else if (word ^ hash) & TAG == 0 {
        Indexed::Slot((word as u32).wrapping_sub(1))
    } else if word & SHARED != 0 {
        Indexed::Elsewhere
    } else {
        Indexed::Absent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{SCOPE_ANY, TCP, UDP};

    fn key(ip: u32, port: u16, protocol: u8) -> FrontendKey {
        let addr = crate::layout::addr_from_ip(core::net::Ipv4Addr::from_bits(ip).into());
        FrontendKey::new(addr, port.to_be(), protocol, SCOPE_ANY)
    }

    #[test]
    fn a_word_leads_its_own_key_to_its_slot() {
        let (own, other) = (index_hash(&key(1, 80, TCP)), index_hash(&key(2, 80, TCP)));
        for slot in [0, 1, u32::MAX - 1] {
            for shared in [false, true] {
                let word = index_word(own, slot, shared);
                assert_eq!(indexed(word, own), Indexed::Slot(slot));
                let rest = if shared { Indexed::Elsewhere } else { Indexed::Absent };
                assert_eq!(indexed(word, other), rest);
            }
        }
        assert_eq!(indexed(INDEX_EMPTY, own), Indexed::Absent);
    }

    /// Services lie close to one another in address and port; their words must not.
    #[test]
    fn neighbours_are_spread() {
        const WORDS: usize = 1 << 14;
        let mut counts = [0u8; WORDS];
        for ip in 0..2048u32 {
            for (port, protocol) in [(53, UDP), (53, TCP)] {
                let hash = index_hash(&key(0x0a60_0000 + ip, port, protocol));
                counts[hash as usize & (WORDS - 1)] += 1;
            }
        }
        let alone: usize = counts.iter().filter(|&&count| count == 1).count();
        // Of 4096 thrown into 16384 at random about 3190 are alone; the deviation is some 30.
        assert!((3040..=3340).contains(&alone), "{alone}");
        assert!(counts.iter().all(|&count| count <= 8));
    }
}

//! Sets of small numbers.

/// A set of small numbers, one bit each.
#[derive(Clone, Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Puts a number in, or takes it out.
    pub fn set(&mut self, bit: u32, there: bool) {
        let (word, mask) = (bit as usize / 64, 1u64 << (bit % 64));
        if there {
            if self.0.len() <= word {
                self.0.resize(word + 1, 0);
            }
            self.0[word] |= mask;
        } else if let Some(word) = self.0.get_mut(word) {
            *word &= !mask;
        }
    }

    /// Is it there?
    #[must_use]
    pub fn has(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Adds those of another.
    pub fn unite(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }

    /// Keeps those that another has too.
    pub fn intersect(&mut self, other: &Self) {
        self.0.truncate(other.0.len());
        for (word, kept) in self.0.iter_mut().zip(&other.0) {
            *word &= kept;
        }
    }

    /// The numbers, smallest first.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().zip(0u32..).flat_map(|(word, index)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }
}

impl PartialEq for Bits {
    fn eq(&self, other: &Self) -> bool {
        let shared = self.0.len().min(other.0.len());
        self.0[..shared] == other.0[..shared]
            && self.0[shared..].iter().chain(&other.0[shared..]).all(|word| *word == 0)
    }
}

impl Eq for Bits {}

impl FromIterator<u32> for Bits {
    fn from_iter<I: IntoIterator<Item = u32>>(all: I) -> Self {
        let mut bits = Self::default();
        for bit in all {
            bits.set(bit, true);
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_sets(a in prop::collection::btree_set(0u32..200, 0..20), b in prop::collection::btree_set(0u32..200, 0..20)) {
            let (x, y): (Bits, Bits) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
            prop_assert_eq!(x.count() as usize, a.len());
            prop_assert_eq!(x == y, a == b);
            let (mut both, mut either) = (x.clone(), x.clone());
            both.intersect(&y);
            either.unite(&y);
            prop_assert_eq!(both.iter().collect::<Vec<_>>(), a.intersection(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(either.iter().collect::<Vec<_>>(), a.union(&b).copied().collect::<Vec<_>>());
            prop_assert_eq!(both.is_empty(), a.is_disjoint(&b));
            for bit in 0..200 {
                prop_assert_eq!(x.has(bit), a.contains(&bit));
            }
            let mut emptied = x.clone();
            a.iter().for_each(|bit| emptied.set(*bit, false));
            prop_assert_eq!(emptied, Bits::default());
        }
    }
}

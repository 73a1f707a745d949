//! Keeps the index in front of the hash of frontends: which key of those that share a word owns it.
//!
//! A word leads only to what the hash holds: it is written after an insertion and before a removal. So whatever moment an
//! agent ends at, a slot that a reader may reach is one that the next agent finds in use.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
};

use balancing_datapath::{FrontendKey, INDEX_EMPTY, index_hash, index_is, index_shared, index_word};

use super::sys::Mapped;

/// The words. A power of two of them; each is read and written whole.
pub(super) trait Words {
    /// How many there are.
    fn len(&self) -> usize;
    /// Reads one.
    fn read(&self, at: usize) -> u64;
    /// Writes one, after all that was written before.
    fn write(&self, at: usize, word: u64);
}

impl Words for Mapped<u64> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn read(&self, at: usize) -> u64 {
        self.word64(at, 0).load(Ordering::Relaxed)
    }

    fn write(&self, at: usize, word: u64) {
        self.word64(at, 0).store(word, Ordering::Release);
    }
}

/// The index, and what its words do not tell.
pub(super) struct Index<W> {
    words: W,
    /// By word: frontends that another one owns it before. No list is empty.
    behind: HashMap<usize, Vec<(FrontendKey, u32)>>,
}

impl<W: Words> Index<W> {
    /// An index over words that are all empty, or that [`Self::repair`] is to be told the truth about.
    pub(super) fn new(words: W) -> Self {
        Self { words, behind: HashMap::new() }
    }

    fn at(&self, hash: u64) -> usize {
        hash as usize & (self.words.len() - 1)
    }

    /// The hash holds this frontend now.
    pub(super) fn insert(&mut self, key: &FrontendKey, slot: u32) {
        let hash = index_hash(key);
        let at = self.at(hash);
        let word = self.words.read(at);
        if word == INDEX_EMPTY {
            self.words.write(at, index_word(hash, slot, false));
        } else {
            self.behind.entry(at).or_default().push((*key, slot));
            self.words.write(at, index_shared(word, true));
        }
    }

    /// The hash is about to lose this frontend. Nothing happens where the index has lost it before: a removal from the
    /// hash may fail and be tried again, and the word be another's by then.
    pub(super) fn remove(&mut self, key: &FrontendKey, slot: u32) {
        let hash = index_hash(key);
        let at = self.at(hash);
        let word = self.words.read(at);
        let mut behind = self.behind.remove(&at).unwrap_or_default();
        if index_is(word, hash, slot) {
            let heir = behind.pop();
            let shared = !behind.is_empty();
            let next = heir.map_or(INDEX_EMPTY, |(key, slot)| index_word(index_hash(&key), slot, shared));
            self.words.write(at, next);
        } else if let Some(place) = behind.iter().position(|(other, _)| other == key) {
            behind.swap_remove(place);
            self.words.write(at, index_shared(word, !behind.is_empty()));
        }
        if !behind.is_empty() {
            self.behind.insert(at, behind);
        }
    }

    /// Makes the index what these frontends, all that the hash holds, ask for. Writes only what differs.
    pub(super) fn repair(&mut self, frontends: &[(FrontendKey, u32)]) {
        let mut groups: BTreeMap<usize, Vec<(FrontendKey, u32)>> = BTreeMap::new();
        for &(key, slot) in frontends {
            groups.entry(self.at(index_hash(&key))).or_default().push((key, slot));
        }
        self.behind.clear();
        for at in 0..self.words.len() {
            let word = self.words.read(at);
            let wanted = match groups.remove(&at) {
                None => INDEX_EMPTY,
                Some(mut group) => {
                    let owns = |(key, slot): &(FrontendKey, u32)| index_is(word, index_hash(key), *slot);
                    let (key, slot) = group.swap_remove(group.iter().position(owns).unwrap_or(0));
                    let shared = !group.is_empty();
                    if shared {
                        self.behind.insert(at, group);
                    }
                    index_word(index_hash(&key), slot, shared)
                }
            };
            if word != wanted {
                self.words.write(at, wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

    use balancing_datapath::{Indexed, SCOPE_ANY, TCP, addr_from_ip, indexed};
    use proptest::prelude::*;

    use super::*;

    /// Words that anybody may look at, and that count what is written.
    #[derive(Clone, Default)]
    struct Shown(Rc<RefCell<(Vec<u64>, usize)>>);

    impl Shown {
        fn new(words: usize) -> Self {
            Self(Rc::new(RefCell::new((vec![INDEX_EMPTY; words], 0))))
        }
    }

    impl Words for Shown {
        fn len(&self) -> usize {
            self.0.borrow().0.len()
        }

        fn read(&self, at: usize) -> u64 {
            self.0.borrow().0[at]
        }

        fn write(&self, at: usize, word: u64) {
            let mut inner = self.0.borrow_mut();
            inner.0[at] = word;
            inner.1 += 1;
        }
    }

    fn key(number: u32) -> FrontendKey {
        let ip = std::net::Ipv4Addr::from_bits(0x0a60_0000 + number);
        FrontendKey::new(addr_from_ip(ip.into()), 80, TCP, SCOPE_ANY)
    }

    /// What a program does: the word, then perhaps the hash.
    fn found(words: &Shown, hash: &BTreeMap<u32, u32>, number: u32) -> Option<u32> {
        let key = key(number);
        let h = index_hash(&key);
        match indexed(words.read(h as usize & (words.len() - 1)), h) {
            Indexed::Absent => None,
            // Few keys and 31 bits: none agree in all of them.
            Indexed::Slot(slot) => Some(slot),
            Indexed::Elsewhere => hash.get(&number).copied(),
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u32),
        Remove(u32),
        /// The agent ends, in the middle of a change to this frontend, and another one takes over.
        Restart(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..24).prop_map(Step::Insert),
            3 => (0u32..24).prop_map(Step::Remove),
            1 => (0u32..24).prop_map(Step::Restart),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        /// After every step, and between its parts, a program finds each frontend that is not being changed, and none
        /// that is not there; a word never leads to a slot that the hash does not hold.
        #[test]
        fn programs_find_what_the_hash_holds(steps in steps()) {
            // Few words, so that many frontends share one.
            let words = Shown::new(8);
            let mut index = Index::new(words.clone());
            let mut hash: BTreeMap<u32, u32> = BTreeMap::new();
            let mut next_slot = 0;
            let check = |hash: &BTreeMap<u32, u32>, changing: Option<u32>| {
                for number in 0..24 {
                    let found = found(&words, hash, number);
                    if Some(number) == changing {
                        prop_assert!(found.is_none() || found == hash.get(&number).copied());
                    } else {
                        prop_assert_eq!(found, hash.get(&number).copied(), "frontend {}", number);
                    }
                }
                Ok(())
            };
            for step in steps {
                match step {
                    Step::Insert(number) if !hash.contains_key(&number) => {
                        hash.insert(number, next_slot);
                        check(&hash, Some(number))?;
                        index.insert(&key(number), next_slot);
                        next_slot += 1;
                    }
                    Step::Remove(number) if hash.contains_key(&number) => {
                        let slot = hash[&number];
                        index.remove(&key(number), slot);
                        check(&hash, Some(number))?;
                        // The hash did not lose it at once.
                        index.remove(&key(number), slot);
                        check(&hash, Some(number))?;
                        hash.remove(&number);
                    }
                    Step::Insert(_) | Step::Remove(_) => {}
                    Step::Restart(number) => {
                        // Before its word was written, or after it was taken away.
                        if let Some(slot) = hash.get(&number) {
                            index.remove(&key(number), *slot);
                        } else {
                            hash.insert(number, next_slot);
                            next_slot += 1;
                        }
                        check(&hash, Some(number))?;
                        index = Index::new(words.clone());
                        let all: Vec<_> = hash.iter().map(|(number, slot)| (key(*number), *slot)).collect();
                        index.repair(&all);
                        let written = words.0.borrow().1;
                        index.repair(&all);
                        prop_assert_eq!(words.0.borrow().1, written, "nothing was left to repair");
                    }
                }
                check(&hash, None)?;
            }
            for (number, slot) in &hash {
                index.remove(&key(*number), *slot);
            }
            prop_assert!(words.0.borrow().0.iter().all(|word| *word == INDEX_EMPTY));
            prop_assert!(index.behind.is_empty());
        }
    }

    #[test]
    fn words_of_nobody_are_taken_away() {
        let words = Shown::new(8);
        words.write(3, index_word(7, 1, true));
        let mut index = Index::new(words.clone());
        index.repair(&[(key(1), 5)]);
        assert_eq!(found(&words, &BTreeMap::new(), 1), Some(5));
        assert_eq!(words.0.borrow().0.iter().filter(|word| **word != INDEX_EMPTY).count(), 1);
    }
}

//! Numbers of policies and nodes: kept where valid and unique, assigned otherwise. Pure.

use std::collections::HashSet;

use balancing_api::published::fnv1a;

/// The smallest number that is assigned; those below are left to people.
const FIRST: u32 = 100_000;
/// The largest, so that it is a positive number everywhere.
const LAST: u32 = i32::MAX as u32;

/// The number that an annotation spells: decimal, 1 to 2^32-1, without leading zeros.
#[must_use]
pub fn parse(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Something that has a number or wants one.
#[derive(Clone, Debug)]
pub struct Numbered<K> {
    /// What it is. Of two with the same number the first in this order keeps it.
    pub key: K,
    /// What the number is made of where one is assigned: the same name gets the same number again.
    pub name: String,
    /// The number it has, if that is valid.
    pub id: Option<u32>,
}

/// Who needs a new number, and which.
#[must_use]
pub fn assign<K: Ord + Clone>(mut all: Vec<Numbered<K>>) -> Vec<(K, u32)> {
    all.sort_by(|a, b| a.key.cmp(&b.key));
    let mut taken = HashSet::new();
    let without: Vec<_> = all.iter().filter(|one| !one.id.is_some_and(|id| taken.insert(id))).collect();
    let mut assigned = Vec::new();
    for one in without {
        let mut id = wish(&one.name);
        while !taken.insert(id) {
            id = if id == LAST { FIRST } else { id + 1 };
        }
        assigned.push((one.key.clone(), id));
    }
    assigned
}

fn wish(name: &str) -> u32 {
    let span = u64::from(LAST - FIRST) + 1;
    let offset = fnv1a(name.as_bytes()) % span;
    FIRST + u32::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_number_is() {
        assert_eq!(["1", "10091", "4294967295"].map(parse), [Some(1), Some(10091), Some(u32::MAX)]);
        for wrong in ["", "0", "007", "+7", "-1", "4294967296", "seven", " 7", "1e3"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    fn one(key: u32, name: &str, id: Option<u32>) -> Numbered<u32> {
        Numbered { key, name: name.to_owned(), id }
    }

    #[test]
    fn the_first_keeps_its_number() {
        let all = vec![one(2, "b", Some(7)), one(1, "a", Some(7)), one(3, "c", None), one(4, "d", Some(8))];
        let assigned = assign(all.clone());
        assert_eq!(assigned.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [2, 3]);
        // The same name, the same number, whoever else is there.
        assert_eq!(assign(vec![one(9, "c", None)])[0].1, assigned[1].1);
    }

    #[test]
    fn a_taken_wish_goes_to_the_next() {
        let wished = wish("a");
        assert_eq!(assign(vec![one(1, "x", Some(wished)), one(2, "a", None)]), [(2, wished + 1)]);
    }

    proptest! {
        #[test]
        fn afterwards_all_are_unique_and_nobody_needs_one(ids in prop::collection::vec(prop::option::of(1u32..6), 0..12)) {
            let all: Vec<_> = (0u32..).zip(&ids).map(|(key, id)| one(key, &format!("n{}", key % 3), *id)).collect();
            let assigned: BTreeMap<_, _> = assign(all.clone()).into_iter().collect();
            let after: Vec<_> = all
                .into_iter()
                .map(|mut n| { n.id = assigned.get(&n.key).copied().or(n.id); n })
                .collect();
            let distinct: HashSet<_> = after.iter().filter_map(|n| n.id).collect();
            prop_assert_eq!(distinct.len(), ids.len());
            prop_assert!(assign(after).is_empty());
        }
    }
}

//! The endpoints of a slice, packed: of all that an agent keeps there are most of these.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    slice,
};

use super::{Hints, SliceEndpoint, Text};

const READY: u8 = 1;
const SERVING: u8 = 1 << 1;
const TERMINATING: u8 = 1 << 2;
const SIX: u8 = 1 << 3;
const NODE: u8 = 1 << 4;
const POD: u8 = 1 << 5;
const HINTS: u8 = 1 << 6;

/// Endpoints in their order. Two are equal if they hold equal endpoints.
///
/// Of each there are its flags, its address, the number of its node and the length of what its pod's name adds to the
/// beginning that all pods' names have in common; numbers have seven bits a byte, the lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    count: u32,
    /// Length of the common beginning of the pods' names.
    common: u32,
    bytes: Box<[u8]>,
    /// The common beginning, then what each pod's name adds.
    pods: Box<str>,
    /// Names of nodes, each once.
    nodes: Box<[Text]>,
    /// Of the endpoints that have any.
    hints: Box<[Hints]>,
}

/// An endpoint of a slice, as [`SliceEndpoint`] but borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointRef<'a> {
    /// Its first address.
    pub address: IpAddr,
    /// Does it want new connections?
    pub ready: bool,
    /// Could it serve them?
    pub serving: bool,
    /// Is it on its way out?
    pub terminating: bool,
    /// Name of its node.
    pub node: Option<&'a Text>,
    /// `namespace/name` of its pod.
    pub pod: Option<PodName<'a>>,
    /// For which nodes and zones it is meant.
    pub hints: Option<&'a Hints>,
}

/// `namespace/name` of a pod, in two parts of any length.
#[derive(Clone, Copy, Debug)]
pub struct PodName<'a> {
    common: &'a str,
    own: &'a str,
}

impl PodName<'_> {
    /// The name in a piece of its own.
    #[must_use]
    pub fn text(&self) -> Text {
        [self.common, self.own].concat().into()
    }

    /// The name as the value of `buffer`, whatever that was before.
    pub fn write_to(&self, buffer: &mut String) {
        buffer.clear();
        buffer.push_str(self.common);
        buffer.push_str(self.own);
    }
}

impl<'a> From<&'a str> for PodName<'a> {
    fn from(name: &'a str) -> Self {
        Self { common: "", own: name }
    }
}

impl PartialEq for PodName<'_> {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |name: &Self| [name.common.as_bytes(), name.own.as_bytes()];
        bytes(self).into_iter().flatten().eq(bytes(other).into_iter().flatten())
    }
}

impl Eq for PodName<'_> {}

impl fmt::Display for PodName<'_> {
    /// `namespace/name`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.common)?;
        f.write_str(self.own)
    }
}

impl Endpoints {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All of them, in their order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        let (common, own) = self.pods.split_at_checked(self.common as usize).unwrap_or_default();
        Iter { nodes: &self.nodes, bytes: &self.bytes, common, own, hints: self.hints.iter() }
    }
}

impl FromIterator<SliceEndpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = SliceEndpoint>>(all: I) -> Self {
        let all: Vec<SliceEndpoint> = all.into_iter().collect();
        let common = common_beginning(all.iter().filter_map(|e| e.pod.as_deref()));
        let mut pods = common.to_owned();
        let (mut bytes, mut nodes, mut hints) = (Vec::new(), Vec::<Text>::new(), Vec::new());
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        for e in &all {
            let flag = |set: bool, flag: u8| if set { flag } else { 0 };
            bytes.push(
                flag(e.ready, READY)
                    | flag(e.serving, SERVING)
                    | flag(e.terminating, TERMINATING)
                    | flag(e.address.is_ipv6(), SIX)
                    | flag(e.node.is_some(), NODE)
                    | flag(e.pod.is_some(), POD)
                    | flag(e.hints.is_some(), HINTS),
            );
            match e.address {
                IpAddr::V4(ip) => bytes.extend(ip.octets()),
                IpAddr::V6(ip) => bytes.extend(ip.octets()),
            }
            if let Some(node) = &e.node {
                let number = *numbers.entry(node).or_insert_with(|| {
                    nodes.push(Text::clone(node));
                    length(nodes.len() - 1)
                });
                put_number(&mut bytes, number);
            }
            if let Some(own) = e.pod.as_deref().and_then(|pod| pod.strip_prefix(common)) {
                put_number(&mut bytes, length(own.len()));
                pods.push_str(own);
            }
            hints.extend(e.hints.as_deref().cloned());
        }
        Self {
            count: length(all.len()),
            common: length(common.len()),
            bytes: bytes.into(),
            pods: pods.into(),
            nodes: nodes.into(),
            hints: hints.into(),
        }
    }
}

/// What all of these begin with.
fn common_beginning<'a>(mut all: impl Iterator<Item = &'a str>) -> &'a str {
    let first = all.next().unwrap_or_default();
    let shared = |a: &str, b: &str| {
        a.char_indices()
            .zip(b.chars())
            .find(|((_, a), b)| a != b)
            .map_or(a.len().min(b.len()), |((at, _), _)| at)
    };
    let length = all.fold(first.len(), |length, other| length.min(shared(first, other)));
    first.get(..length).unwrap_or_default()
}

fn put_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The endpoints of a slice, in their order.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    bytes: &'a [u8],
    common: &'a str,
    own: &'a str,
    nodes: &'a [Text],
    hints: slice::Iter<'a, Hints>,
}

impl<'a> Iter<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..u32::BITS).step_by(7) {
            let [byte] = self.take()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn own_name(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        let (own, rest) = self.own.split_at_checked(length)?;
        self.own = rest;
        Some(own)
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EndpointRef<'a>;

    fn next(&mut self) -> Option<EndpointRef<'a>> {
        let [flags] = self.take()?;
        let has = |flag: u8| flags & flag != 0;
        let address = if has(SIX) {
            Ipv6Addr::from(self.take::<16>()?).into()
        } else {
            Ipv4Addr::from(self.take::<4>()?).into()
        };
        let node = if has(NODE) { self.number() } else { None };
        let own = if has(POD) { self.own_name() } else { None };
        Some(EndpointRef {
            address,
            ready: has(READY),
            serving: has(SERVING),
            terminating: has(TERMINATING),
            node: node.and_then(|number| self.nodes.get(number)),
            pod: own.map(|own| PodName { common: self.common, own }),
            hints: if has(HINTS) { self.hints.next() } else { None },
        })
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = EndpointRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl From<EndpointRef<'_>> for SliceEndpoint {
    fn from(e: EndpointRef<'_>) -> Self {
        Self {
            address: e.address,
            ready: e.ready,
            serving: e.serving,
            terminating: e.terminating,
            node: e.node.cloned(),
            pod: e.pod.map(|pod| pod.text()),
            hints: e.hints.cloned().map(Box::new),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(pattern: &'static str) -> impl Strategy<Value = Text> {
        pattern.prop_map(Text::from)
    }

    fn endpoint() -> impl Strategy<Value = SliceEndpoint> {
        let hints =
            (prop::collection::vec(texts("[a-c]"), 0..3), prop::collection::vec(texts("[a-c]"), 0..3))
                .prop_map(|(nodes, zones)| Box::new(Hints { nodes, zones }));
        (
            any::<IpAddr>(),
            any::<[bool; 3]>(),
            prop::option::of(texts("n[0-9]{0,3}")),
            // Names that begin alike, that end within another's, and of letters that take several bytes.
            prop::option::of(texts("(ns/web-(a|é|è)?){0,1}[a-bé]{0,3}")),
            prop::option::of(hints),
        )
            .prop_map(|(address, [ready, serving, terminating], node, pod, hints)| SliceEndpoint {
                address,
                ready,
                serving,
                terminating,
                node,
                pod,
                hints,
            })
    }

    fn all() -> impl Strategy<Value = Vec<SliceEndpoint>> {
        prop::collection::vec(endpoint(), 0..40)
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(wanted in all()) {
            let packed: Endpoints = wanted.iter().cloned().collect();
            prop_assert_eq!(packed.len(), wanted.len());
            let found: Vec<SliceEndpoint> = packed.iter().map(SliceEndpoint::from).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn equal_is_what_holds_the_same(a in all(), b in all(), at in any::<prop::sample::Index>()) {
            let pack = |all: &[SliceEndpoint]| all.iter().cloned().collect::<Endpoints>();
            prop_assert_eq!(pack(&a) == pack(&b), a == b);
            prop_assert_eq!(pack(&a), pack(&a));
            if !a.is_empty() {
                let mut other = a.clone();
                other[at.index(a.len())].ready ^= true;
                prop_assert_ne!(pack(&a), pack(&other));
            }
        }
    }

    #[test]
    fn many_nodes_and_a_long_name() {
        let wanted: Vec<SliceEndpoint> = (0..1000_u32)
            .map(|n| SliceEndpoint {
                address: Ipv4Addr::from_bits(n).into(),
                ready: true,
                serving: true,
                terminating: false,
                node: Some(format!("n{n}").into()),
                pod: Some(format!("ns/{}", "x".repeat(n as usize)).into()),
                hints: None,
            })
            .collect();
        let packed: Endpoints = wanted.iter().cloned().collect();
        let found: Vec<SliceEndpoint> = packed.iter().map(SliceEndpoint::from).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn names_of_one_workload_take_little() {
        let pods = ["ns/web-6d4cf56db6-00001", "ns/web-6d4cf56db6-00002", "ns/web-6d4cf56db6-00010"];
        assert_eq!(common_beginning(pods.into_iter()), "ns/web-6d4cf56db6-000");
        assert_eq!(common_beginning(["é", "è"].into_iter()), "");
        assert_eq!(common_beginning(["ns/a", "ns/a"].into_iter()), "ns/a");
        let name = PodName { common: "ns/", own: "a" };
        assert_eq!(name, PodName::from("ns/a"));
        assert_ne!(name, PodName::from("ns/b"));
        assert_ne!(name, PodName::from("ns/"));
        assert_eq!((name.to_string(), &*name.text()), ("ns/a".to_owned(), "ns/a"));
    }
}

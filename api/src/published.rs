//! What the operator publishes for the agents: EndpointSlices in its own namespace, that no Service owns.
//!
//! - **Backends of a BalancingPolicy with a `serviceEndpoint`**: labels [`LABEL_POLICY_KIND`] and [`LABEL_POLICY_NAME`];
//!   the policy is the (only) owner reference, so that its full name and its uid stand there and the slices go with it.
//!   One endpoint an address, sorted nowhere. `conditions.ready` says whether it serves; agents take those only. Ports:
//!   each (number, protocol) of `toPorts` once, called `tcp-53`; they are for whoever looks at the slice. An agent knows
//!   from the policy which backend port goes with a frontend.
//! - **Addresses of all nodes**: label [`LABEL_NODES`]; no ports; one endpoint an address, `nodeName` is its node.
//!
//! None has the label `kubernetes.io/service-name`, so nothing takes them for a Service's.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    names::{LABEL_NODES, LABEL_POLICY_KIND, LABEL_POLICY_NAME},
    policy::{PolicyKind, PolicyRef},
};

/// Endpoints in one slice, at most (as Kubernetes' own controller does).
pub const MAX_ENDPOINTS: usize = 100;

/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// What a slice of the operator holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Published {
    /// Backends of a policy.
    Backends {
        /// The policy.
        policy: PolicyRef,
        /// Its `metadata.uid`: one made again under the same name is another.
        uid: String,
    },
    /// Addresses of nodes.
    Nodes,
}

impl Published {
    /// What a slice holds, by its labels and owner; nothing where it is not of the operator.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        let labels = meta.labels.as_ref()?;
        if labels.contains_key(LABEL_NODES) {
            return Some(Self::Nodes);
        }
        let kind = match labels.get(LABEL_POLICY_KIND)?.as_str() {
            "BalancingPolicy" => PolicyKind::BalancingPolicy,
            "LocalRedirectPolicy" => PolicyKind::LocalRedirectPolicy,
            _ => return None,
        };
        let owner = meta.owner_references.iter().flatten().find(|o| o.kind == kind.as_str())?;
        (labels.get(LABEL_POLICY_NAME)? == label_value(&owner.name).as_ref())
            .then(|| Self::Backends { policy: PolicyRef::new(kind, &owner.name), uid: owner.uid.clone() })
    }

    /// The labels of its slices.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        match self {
            Self::Nodes => BTreeMap::from([(LABEL_NODES.to_owned(), "true".to_owned())]),
            Self::Backends { policy, .. } => BTreeMap::from([
                (LABEL_POLICY_KIND.to_owned(), policy.kind.as_str().to_owned()),
                (LABEL_POLICY_NAME.to_owned(), label_value(&policy.name).into_owned()),
            ]),
        }
    }
}

/// A name as the value of a label: itself, or where it is too long its beginning and a digest of all of it.
#[must_use]
pub fn label_value(name: &str) -> Cow<'_, str> {
    if name.len() <= MAX_LABEL {
        return Cow::Borrowed(name);
    }
    let digest = format!("-{:016x}", fnv1a(name.as_bytes()));
    let mut end = MAX_LABEL - digest.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(name[..end].trim_end_matches(['-', '.']).to_owned() + &digest)
}

/// FNV-1a of 64 bits: the same number in every version of the product.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn a_long_name_has_a_value_of_its_own() {
        assert_eq!(label_value("web"), "web");
        assert_eq!(label_value(&"a".repeat(63)), "a".repeat(63));
        let (one, other) = ("a".repeat(200), "a".repeat(199) + "b");
        assert_eq!(label_value(&one).len(), 63);
        assert_ne!(label_value(&one), label_value(&other));
        let dotted = "a".repeat(45) + ".-" + &"b".repeat(40);
        assert!(label_value(&dotted).starts_with(&("a".repeat(45) + "-")), "{}", label_value(&dotted));
        // The published test vectors of the algorithm.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn labels_say_what_a_slice_holds() {
        let name = "x".repeat(100);
        let held = Published::Backends {
            policy: PolicyRef::new(PolicyKind::BalancingPolicy, name.clone()),
            uid: "u1".to_owned(),
        };
        let owner = OwnerReference {
            kind: "BalancingPolicy".to_owned(),
            name,
            uid: "u1".to_owned(),
            ..Default::default()
        };
        let mut meta = ObjectMeta {
            labels: Some(held.labels()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        };
        assert_eq!(Published::of(&meta), Some(held));
        meta.owner_references = None;
        assert_eq!(Published::of(&meta), None);
        let meta = ObjectMeta { labels: Some(Published::Nodes.labels()), ..ObjectMeta::default() };
        assert_eq!(Published::of(&meta), Some(Published::Nodes));
        assert_eq!(Published::of(&ObjectMeta::default()), None);
    }
}

//! What the operator keeps of each object, made at the edge of the watch.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use balancing_api::{
    agent::PolicyState,
    names::{
        ANNOTATION_NODE_ID, ANNOTATION_NODE_PROXY_IPV4, ANNOTATION_NODE_PROXY_IPV6, ANNOTATION_SERVICE_ID,
        API_VERSION, condition,
    },
    net::Protocol,
    node_state::NodeBalancingState,
    placement::Placement,
    policy::{PolicyKind, PolicyObjectStatus, PolicyRef},
    published::Published,
    records::{ConvertError, Converter, Name, Node, Pod, Service, Text},
    rules::{self, checked},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

/// A policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Kind and name.
    pub reference: PolicyRef,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its `serviceId` annotation, as written.
    pub id: Option<String>,
    /// What it asks for, or which rules it breaks.
    pub spec: Result<checked::Policy, String>,
    /// Its status, as stored.
    pub status: PolicyObjectStatus,
}

/// How many broken rules are told.
const RULES_TOLD: usize = 3;

impl Policy {
    /// The record of a policy, given its metadata and its `spec` and `status`.
    #[must_use]
    pub fn new(kind: PolicyKind, mut meta: ObjectMeta, mut data: Value) -> Self {
        let status = data.get_mut("status").map(Value::take).unwrap_or_default();
        meta.managed_fields = None;
        let reference = PolicyRef::new(kind, meta.name.clone().unwrap_or_default());
        let mut value = json!({"apiVersion": API_VERSION, "kind": kind.as_str(), "metadata": meta});
        if let Some(spec) = data.get_mut("spec") {
            value["spec"] = spec.take();
        }
        let result = rules::check(&value);
        let why = || {
            let told: Vec<_> =
                result.blocking().take(RULES_TOLD).map(|f| format!("{} ({})", f.message, f.code)).collect();
            match result.blocking().count().saturating_sub(RULES_TOLD) {
                0 => told.join("; "),
                more => format!("{}; and {more} more", told.join("; ")),
            }
        };
        Self {
            reference,
            uid: meta.uid.unwrap_or_default(),
            version: meta.resource_version.unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.map(|t| t.0),
            id: meta.annotations.and_then(|mut all| all.remove(ANNOTATION_SERVICE_ID)),
            spec: result.policy.clone().ok_or_else(why),
            // What is stored by another version, or by nobody, is written anew.
            status: serde_json::from_value(status).unwrap_or_default(),
        }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Name, labels, addresses.
    pub node: Node,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`, for writes; not compared: it changes with every heartbeat.
    pub version: Version,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its `nodeId` annotation, as written.
    pub id: Option<String>,
}

/// A resourceVersion that makes no difference between objects.
#[derive(Clone, Debug, Default)]
pub struct Version(pub String);

impl PartialEq for Version {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Version {}

/// The record of a Node, and what of it could not be read: a Node with a wrong proxy address is one all the same.
///
/// # Errors
/// An address of it is none.
pub fn node(
    converter: &mut Converter,
    node: &v1::Node,
) -> Result<(ClusterNode, Option<ConvertError>), ConvertError> {
    let meta = &node.metadata;
    let (record, wrong) = match converter.node(node) {
        Ok(record) => (record, None),
        Err(wrong) => {
            let mut rest = node.clone();
            let proxies = [ANNOTATION_NODE_PROXY_IPV4, ANNOTATION_NODE_PROXY_IPV6];
            rest.metadata.annotations.get_or_insert_default().retain(|key, _| !proxies.contains(&&**key));
            (converter.node(&rest)?, Some(wrong))
        }
    };
    let node = ClusterNode {
        node: record,
        uid: meta.uid.clone().unwrap_or_default(),
        version: Version(meta.resource_version.clone().unwrap_or_default()),
        created: meta.creation_timestamp.as_ref().map(|t| t.0),
        id: meta.annotations.as_ref().and_then(|all| all.get(ANNOTATION_NODE_ID)).cloned(),
    };
    Ok((node, wrong))
}

/// What a node says of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The policy's uid, empty where the agent does not say.
    pub uid: Text,
    /// The generation it speaks of.
    pub generation: i64,
    /// The state there.
    pub state: PolicyState,
    /// Why.
    pub reason: Text,
    /// Why, for people.
    pub message: Text,
    /// Does it redirect there, to at least one backend?
    pub effective: bool,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Name of the node.
    pub node: Text,
    /// Is it Ready?
    pub ready: bool,
    /// What it says of each policy.
    pub policies: BTreeMap<Arc<PolicyRef>, Report>,
    /// Policies behind this one, by kind and name, that the list has no room for are in order.
    pub listed_until: Option<PolicyRef>,
}

/// The record of a NodeBalancingState.
#[must_use]
pub fn state(
    converter: &mut Converter,
    references: &mut HashSet<Arc<PolicyRef>>,
    object: &NodeBalancingState,
) -> NodeState {
    let status = object.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().any(|c| c.type_ == condition::READY && c.status == "True");
    let mut last = None;
    let policies = (status.policies.iter())
        .map(|p| {
            let reference = PolicyRef::new(p.kind, &p.name);
            let effective = p.state == PolicyState::Programmed && p.backends.programmed > 0;
            if p.state == PolicyState::Programmed {
                last = Some(reference.clone());
            }
            let report = Report {
                uid: converter.strings.text(&p.uid),
                generation: p.observed_generation,
                state: p.state,
                reason: converter.strings.text(&p.reason),
                message: converter.strings.text(&p.message),
                effective,
            };
            (shared(references, reference), report)
        })
        .collect();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let listed_until = last.filter(|_| status.truncated > 0);
    NodeState { node: converter.strings.text(name), ready, policies, listed_until }
}

/// The one allocation of a reference.
fn shared(references: &mut HashSet<Arc<PolicyRef>>, reference: PolicyRef) -> Arc<PolicyRef> {
    if let Some(known) = references.get(&reference) {
        return Arc::clone(known);
    }
    let new = Arc::new(reference);
    references.insert(Arc::clone(&new));
    new
}

/// An endpoint that is published.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Does it serve?
    pub ready: bool,
    /// Its node.
    pub node: Option<Text>,
    /// Its pod.
    pub pod: Option<Text>,
}

/// A port that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An EndpointSlice of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: String,
    /// What it holds; nothing where it should not be there.
    pub published: Option<Published>,
    /// Addresses of IPv4?
    pub v4: bool,
    /// Its endpoints, sorted.
    pub endpoints: Vec<Endpoint>,
    /// Its ports, sorted.
    pub ports: Vec<Port>,
}

/// The record of an EndpointSlice of the operator. What does not read as written by it makes a record that differs from
/// every one that is wanted.
#[must_use]
pub fn slice(slice: &EndpointSlice) -> Slice {
    let pod = |e: &k8s_openapi::api::discovery::v1::Endpoint| -> Option<Text> {
        let pod = e.target_ref.as_ref()?;
        Some(format!("{}/{}", pod.namespace.as_deref()?, pod.name.as_deref()?).into())
    };
    let mut endpoints: Vec<_> = (slice.endpoints.iter())
        .filter_map(|e| {
            Some(Endpoint {
                address: e.addresses.first()?.parse().ok()?,
                ready: e.conditions.as_ref()?.ready?,
                node: e.node_name.as_deref().map(Into::into),
                pod: pod(e),
            })
        })
        .collect();
    endpoints.sort();
    let mut ports: Vec<_> = (slice.ports.iter().flatten())
        .filter_map(|p| {
            Some(Port {
                number: u16::try_from(p.port?).ok()?,
                protocol: p.protocol.as_deref().unwrap_or("TCP").parse().ok()?,
            })
        })
        .collect();
    ports.sort();
    Slice {
        name: slice.metadata.name.clone().unwrap_or_default(),
        published: Published::of(&slice.metadata),
        v4: slice.address_type == "IPv4",
        endpoints,
        ports,
    }
}

/// What became of an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy appears, changes or goes.
    Policy(PolicyRef, Option<Box<Policy>>),
    /// A Service.
    Service(Name, Option<Arc<Service>>),
    /// A Node.
    Node(Text, Option<Arc<ClusterNode>>),
    /// A Pod.
    Pod(Name, Option<Arc<Pod>>),
    /// A NodeBalancingState.
    State(Text, Option<Box<NodeState>>),
    /// An EndpointSlice of the operator.
    Slice(String, Option<Box<Slice>>),
    /// Where the DaemonSet of the agents puts them.
    Agents(Option<Box<Placement>>),
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::PolicyKind;

    use super::*;
    use crate::{owner::Owner, reconcile::apply::slice_object, testing::from};

    #[test]
    fn a_slice_reads_as_it_was_written() {
        let endpoint = |address: &str, pod: Option<&str>, ready| Endpoint {
            address: address.parse().unwrap(),
            ready,
            node: Some("n1".into()),
            pod: pod.map(Into::into),
        };
        let policy = PolicyRef::new(PolicyKind::BalancingPolicy, "x".repeat(100));
        for published in [Published::Backends { policy, uid: "u1".to_owned() }, Published::Nodes] {
            let slice = Slice {
                name: "balancing-x-v4-0".to_owned(),
                published: Some(published),
                v4: true,
                endpoints: vec![endpoint("10.1.0.1", Some("ns/p"), true), endpoint("10.1.0.2", None, false)],
                ports: vec![
                    Port { number: 53, protocol: Protocol::Tcp },
                    Port { number: 53, protocol: Protocol::Udp },
                ],
            };
            let object = slice_object("elf", &Owner::default(), &slice);
            let names: Vec<_> = object.ports.iter().flatten().filter_map(|p| p.name.clone()).collect();
            assert_eq!(names, ["tcp-53", "udp-53"]);
            assert!(
                object.metadata.labels.as_ref().unwrap().keys().all(|k| k != "kubernetes.io/service-name")
            );
            // As the API server gives it back.
            let back: EndpointSlice = from(serde_json::to_value(&object).unwrap());
            assert_eq!(super::slice(&back), slice);
            // Somebody changes an endpoint into one that nobody wants: it differs, so it is mended.
            let mut broken = back;
            broken.endpoints[0].conditions = None;
            assert_ne!(super::slice(&broken), slice);
        }
    }

    #[test]
    fn a_node_with_a_wrong_proxy_is_a_node() {
        let object = from(json!({
            "metadata": {"name": "n1", "uid": "u", "annotations": {
                "balancing.elf.io/nodeProxyIpv4": "fd00::1", "balancing.elf.io/nodeId": "7"}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }));
        let (node, wrong) = super::node(&mut Converter::default(), &object).unwrap();
        assert_eq!(
            (node.node.addresses.len(), node.node.proxies.len(), node.id.as_deref()),
            (1, 0, Some("7"))
        );
        assert!(wrong.unwrap().to_string().contains("not an IPv4 address"));
    }
}

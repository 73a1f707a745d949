//! The product's own compact records of Kubernetes objects: what agent and operator need of each and nothing else.

mod convert;
mod endpoints;

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
};

use jiff::Timestamp;

pub use convert::{ConvertError, Converter};
pub use endpoints::{EndpointRef, Endpoints, Iter as EndpointIter, PodName};

use crate::{
    names::API_SERVER_SERVICE, net::Protocol, policy::PolicyRef, published::Published, rules::checked,
};

/// A shared string.
pub type Text = Arc<str>;

/// Gives equal strings one allocation.
#[derive(Debug, Default)]
pub struct Interner(HashSet<Text>);

impl Interner {
    /// The shared string with this text.
    pub fn text(&mut self, s: &str) -> Text {
        if let Some(text) = self.0.get(s) {
            return Arc::clone(text);
        }
        let text: Text = s.into();
        self.0.insert(Arc::clone(&text));
        text
    }

    /// Forgets the strings that nobody else holds.
    pub fn shrink(&mut self) {
        self.0.retain(|text| Arc::strong_count(text) > 1);
    }

    /// Number of strings held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Labels, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Text, Text)]>);

impl Labels {
    /// Labels from pairs in any order; of a key that comes twice the last counts.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>, strings: &mut Interner) -> Self {
        let sorted: BTreeMap<&str, &str> = pairs.into_iter().collect();
        Self(sorted.into_iter().map(|(k, v)| (strings.text(k), strings.text(v))).collect())
    }

    /// The value of a label.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| &**v)
    }

    /// All of them, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(k, v)| (k, v))
    }
}

/// Name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
}

impl Name {
    /// The name of an object.
    #[must_use]
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Is this [`API_SERVER_SERVICE`]?
    #[must_use]
    pub fn is_api_server(&self) -> bool {
        (&*self.namespace, &*self.name) == API_SERVER_SERVICE
    }
}

impl fmt::Display for Name {
    /// `namespace/name`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    /// A Node.
    Node(Text),
    /// A Service.
    Service(Name),
    /// An EndpointSlice.
    Slice(Name),
    /// A Pod.
    Pod(Name),
    /// A policy.
    Policy(PolicyRef),
}

impl fmt::Display for ObjectKey {
    /// `Kind/name`, with the namespace before the name where there is one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "Node/{name}"),
            Self::Service(name) => write!(f, "Service/{name}"),
            Self::Slice(name) => write!(f, "EndpointSlice/{name}"),
            Self::Pod(name) => write!(f, "Pod/{name}"),
            Self::Policy(policy) => policy.fmt(f),
        }
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Node.
    Node(Arc<Node>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    Slice(Arc<Slice>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A policy.
    Policy(Arc<Policy>),
}

impl Object {
    /// Its identity.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Node(node) => ObjectKey::Node(Arc::clone(&node.name)),
            Self::Service(service) => ObjectKey::Service(service.name.clone()),
            Self::Slice(slice) => ObjectKey::Slice(slice.name.clone()),
            Self::Pod(pod) => ObjectKey::Pod(pod.name.clone()),
            Self::Policy(policy) => ObjectKey::Policy(policy.reference.clone()),
        }
    }
}

/// An object appears or changes (`Some`), or goes (`None`).
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectChange {
    /// Which object.
    pub key: ObjectKey,
    /// What it is now.
    pub object: Option<Object>,
}

impl ObjectChange {
    /// The object appears or changes.
    #[must_use]
    pub fn set(object: Object) -> Self {
        Self { key: object.key(), object: Some(object) }
    }

    /// The object goes.
    #[must_use]
    pub fn removed(key: ObjectKey) -> Self {
        Self { key, object: None }
    }
}

/// A Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Text,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, InternalIP before ExternalIP, in the object's order.
    pub addresses: Vec<IpAddr>,
    /// Proxy addresses from its annotations, at most one a family.
    pub proxies: Vec<IpAddr>,
}

/// Why a Service is not programmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// It has no ClusterIP, or the label of headless Services.
    Headless,
    /// It is of type ExternalName.
    ExternalName,
    /// Its label says that another proxy serves it.
    OtherProxy,
}

impl Unsupported {
    /// For people: completes "Service x ...".
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Headless => "is headless: it has no ClusterIP to redirect",
            Self::ExternalName => "is of type ExternalName: it has no ClusterIP to redirect",
            Self::OtherProxy => {
                "has the label service.kubernetes.io/service-proxy-name: another proxy serves it"
            }
        }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: Name,
    /// When it was created; absent is oldest.
    pub created: Option<Timestamp>,
    /// Its ClusterIPs; none where it is not programmed.
    pub addresses: Vec<IpAddr>,
    /// Its external IPs and the addresses of its load balancers that clients may be led past, those of its ClusterIPs left
    /// out; none where it is not programmed.
    pub external: Vec<IpAddr>,
    /// Its TCP and UDP ports.
    pub ports: Vec<ServicePort>,
    /// Session affinity.
    pub affinity_seconds: Option<u32>,
    /// Is `internalTrafficPolicy` Local?
    pub internal_local: bool,
    /// Why it is not programmed, where it is not.
    pub unsupported: Option<Unsupported>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty where it has none.
    pub name: Text,
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An EndpointSlice of addresses (none of names).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name.
    pub name: Name,
    /// The Service that its label names.
    pub service: Option<Name>,
    /// What the operator publishes in it, if it is one of the operator's.
    pub published: Option<Box<Published>>,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its endpoints.
    pub endpoints: Endpoints,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The Service port's name, empty where it has none.
    pub name: Text,
    /// The endpoints' port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address: the others are for DNS.
    pub address: IpAddr,
    /// Absent means ready.
    pub ready: bool,
    /// Absent means as `ready`.
    pub serving: bool,
    /// Absent means not.
    pub terminating: bool,
    /// Name of its node.
    pub node: Option<Text>,
    /// `namespace/name` of its pod.
    pub pod: Option<Text>,
    /// For which nodes and zones it is meant.
    pub hints: Option<Box<Hints>>,
}

/// Topology hints of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Names of nodes.
    pub nodes: Vec<Text>,
    /// Names of zones.
    pub zones: Vec<Text>,
}

/// What a pod's phase means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet running.
    Pending,
    /// Running.
    Running,
    /// Over: succeeded or failed.
    Finished,
    /// Unknown.
    Unknown,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: Name,
    /// `namespace/name`, shared by all backends that it is.
    pub full_name: Text,
    /// What its cgroup is named by: its uid, or the hash of its manifest for a static pod.
    pub uid: Text,
    /// Name of its node.
    pub node: Option<Text>,
    /// Name of its service account, where it names one.
    pub account: Option<Text>,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Its phase.
    pub phase: Phase,
    /// Is the condition Ready True?
    pub ready: bool,
    /// Has it a deletion timestamp?
    pub terminating: bool,
    /// Ids of the containers that its status calls running, without init and ephemeral ones; empty unless
    /// [`Converter::container_ids`](convert::Converter::container_ids) asks for them.
    pub running: Box<[Text]>,
}

/// Whether a pod can be a backend of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usability {
    /// It can.
    Ready,
    /// It is over.
    Finished,
    /// It is being deleted.
    Terminating,
    /// It does not run yet.
    NotRunning,
    /// Its condition Ready is not True.
    NotReady,
    /// It has no address.
    NoAddress,
    /// Its cgroup, or that of a container that is said to run, had processes and has none any more, whatever the API says.
    NoProcess,
}

impl Usability {
    /// The word for it in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Finished => "Finished",
            Self::Terminating => "Terminating",
            Self::NotRunning => "NotRunning",
            Self::NotReady => "NotReady",
            Self::NoAddress => "NoAddress",
            Self::NoProcess => "NoProcess",
        }
    }
}

impl Pod {
    /// Can it be a backend of a policy?
    #[must_use]
    pub fn usability(&self) -> Usability {
        if self.phase == Phase::Finished {
            Usability::Finished
        } else if self.terminating {
            Usability::Terminating
        } else if self.phase != Phase::Running {
            Usability::NotRunning
        } else if !self.ready {
            Usability::NotReady
        } else if self.addresses.is_empty() {
            Usability::NoAddress
        } else {
            Usability::Ready
        }
    }

    /// Can it be a backend of a policy?
    #[must_use]
    pub fn usable(&self) -> bool {
        self.usability() == Usability::Ready
    }
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its kind and name.
    pub reference: PolicyRef,
    /// `metadata.uid`, empty where there is none.
    pub uid: Text,
    /// Its `serviceId`, 0 where it has none.
    pub id: u32,
    /// `metadata.generation`, 0 where there is none.
    pub generation: i64,
    /// When it was created; absent is oldest.
    pub created: Option<Timestamp>,
    /// What it asks for, or which rules it breaks.
    pub spec: Result<PolicySpec, Text>,
}

impl Policy {
    /// The record of a policy that breaks no blocking rule.
    #[must_use]
    pub fn valid(checked: checked::Policy) -> Self {
        let service = match &checked.matcher {
            checked::Matcher::Service { namespace, name } => Some(Name::new(&**namespace, &**name)),
            checked::Matcher::Address(_) => None,
        };
        Self {
            reference: checked.reference.clone(),
            uid: Text::default(),
            id: checked.service_id.map_or(0, NonZeroU32::get),
            generation: checked.generation,
            created: checked.created,
            spec: Ok(PolicySpec { checked, service }),
        }
    }

    /// The record of a policy that breaks rules.
    #[must_use]
    pub fn invalid(reference: PolicyRef, generation: i64, why: &str) -> Self {
        Self { reference, uid: Text::default(), id: 0, generation, created: None, spec: Err(why.into()) }
    }

    /// The same with its uid.
    #[must_use]
    pub fn with_uid(self, uid: &str) -> Self {
        Self { uid: uid.into(), ..self }
    }

    /// The Service its matcher names, if it is valid and names one.
    #[must_use]
    pub fn matched_service(&self) -> Option<&Name> {
        self.spec.as_ref().ok()?.service.as_ref()
    }
}

/// A valid policy's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySpec {
    /// What it says.
    pub checked: checked::Policy,
    /// The Service its matcher names.
    pub service: Option<Name>,
}

impl PolicySpec {
    /// Its selector of pods and their namespaces (none: all), if its backends are pods.
    #[must_use]
    pub fn pods(&self) -> Option<(&checked::Selector, &[String])> {
        match &self.checked.backend {
            checked::Backend::Local { selector, namespaces, .. }
            | checked::Backend::Pods { selector, namespaces, .. } => Some((selector, namespaces)),
            checked::Backend::Addresses(_) => None,
        }
    }

    /// Does it select this pod?
    #[must_use]
    pub fn selects(&self, pod: &Pod) -> bool {
        self.pods().is_some_and(|(selector, namespaces)| crate::backends::selects(selector, namespaces, pod))
    }
}

//! Kubernetes objects as an agent's folder of manifests holds them (JSON is YAML), and the folder.
//!
//! Ports are spelled `8080/TCP`, `http:8080/TCP` with a name and, in Services, `http:8080->80/TCP` with a target.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// `apiVersion` of the policies.
pub const POLICIES: &str = "balancing.elf.io/v1beta1";

/// A port spelling taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    number: u16,
    target: u16,
    protocol: String,
}

/// A spelling that makes no sense is a mistake in the test itself.
#[expect(clippy::panic, reason = "a spelling that makes no sense is a mistake in the test itself")]
fn port(text: &str) -> Port {
    let parts = || {
        let (rest, protocol) = text.rsplit_once('/')?;
        let (name, rest) = rest.split_once(':').unwrap_or(("", rest));
        let (number, target) = rest.split_once("->").unwrap_or((rest, rest));
        let (number, target) = (number.parse().ok()?, target.parse().ok()?);
        Some(Port { name: name.to_owned(), number, target, protocol: protocol.to_owned() })
    };
    parts().unwrap_or_else(|| panic!("port {text:?}"))
}

/// An object of a name; `uid` follows from kind and name, so that it stays the same when the object is written again.
fn meta(kind: &str, namespace: Option<&str>, name: &str) -> Value {
    let mut meta = json!({"name": name, "uid": uid(kind, namespace.unwrap_or_default(), name)});
    if let Some(namespace) = namespace {
        meta["namespace"] = json!(namespace);
    }
    meta
}

/// A text in the form of a UUID that is the same for the same object.
#[must_use]
pub fn uid(kind: &str, namespace: &str, name: &str) -> String {
    // FNV-1a, twice with different starts: 128 bits are plenty for a test's objects.
    let hash = |start: u64| {
        let text = format!("{kind}/{namespace}/{name}");
        text.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    };
    let (a, b) = (hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4));
    let at = |x: u64, shift: u32, bits: u32| (x >> shift) & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        at(a, 32, 32),
        at(a, 16, 16),
        at(a, 0, 12),
        at(b, 48, 12),
        at(b, 0, 48)
    )
}

/// A Node.
#[must_use]
pub fn node(name: &str, addresses: &[IpAddr], labels: Value) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
    let mut meta = meta("Node", None, name);
    meta["labels"] = labels;
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": meta,
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// A Pod as kubelet reports it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its node.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its labels.
    pub labels: Value,
    /// Condition Ready.
    pub ready: bool,
    /// Does it use the host's network?
    pub host_network: bool,
    /// Is it being deleted?
    pub deleting: bool,
}

impl Pod {
    /// A Ready pod of namespace `default` on node n1, labelled `app: web`.
    #[must_use]
    pub fn new(name: &str, addresses: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "default".to_owned(),
            node: "n1".to_owned(),
            addresses: addresses.to_vec(),
            labels: json!({"app": "web"}),
            ready: true,
            host_network: false,
            deleting: false,
        }
    }

    /// With other labels.
    #[must_use]
    pub fn labels(mut self, labels: Value) -> Self {
        self.labels = labels;
        self
    }

    /// On another node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// Ready or not.
    #[must_use]
    pub fn ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// In the host's network namespace.
    #[must_use]
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// With a deletion timestamp.
    #[must_use]
    pub fn deleting(mut self) -> Self {
        self.deleting = true;
        self
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> String {
        uid("Pod", &self.namespace, &self.name)
    }

    /// The folder of its container's cgroup below a node's cgroup, as kubelet's cgroupfs driver lays it.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("kubepods/besteffort/pod{}/main", self.uid()))
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> Value {
        let truth = if self.ready { "True" } else { "False" };
        let conditions: Vec<_> =
            ["Ready", "ContainersReady"].iter().map(|t| json!({"type": t, "status": truth})).collect();
        let ips: Vec<_> = self.addresses.iter().map(|a| json!({"ip": a})).collect();
        let mut meta = meta("Pod", Some(&self.namespace), &self.name);
        meta["labels"] = self.labels.clone();
        if self.deleting {
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            meta["deletionGracePeriodSeconds"] = json!(30);
        }
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": meta,
            "spec": {
                "nodeName": self.node,
                "hostNetwork": self.host_network,
                "containers": [{"name": "main", "image": "example.invalid/app:1"}],
            },
            "status": {"phase": "Running", "podIP": self.addresses.first(), "podIPs": ips, "conditions": conditions},
        })
    }
}

/// A ClusterIP Service and, unless there are no endpoints, an EndpointSlice for each of their families.
#[must_use]
pub fn service(name: &str, addresses: &[IpAddr], ports: &[&str], endpoints: &[IpAddr]) -> Vec<Value> {
    let ports: Vec<_> = ports.iter().map(|p| port(p)).collect();
    let service_ports: Vec<_> = ports
        .iter()
        .map(|p| json!({"name": p.name, "port": p.number, "protocol": p.protocol, "targetPort": p.target}))
        .collect();
    let slice_ports: Vec<_> =
        ports.iter().map(|p| json!({"name": p.name, "port": p.target, "protocol": p.protocol})).collect();
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service", "metadata": meta("Service", Some("default"), name),
        "spec": {
            "type": "ClusterIP", "clusterIP": addresses.first(), "clusterIPs": addresses, "ports": service_ports,
        },
    })];
    for (family, v6) in [("IPv4", false), ("IPv6", true)] {
        let endpoints: Vec<_> = endpoints
            .iter()
            .filter(|e| e.is_ipv6() == v6)
            .map(|e| json!({"addresses": [e], "conditions": {"ready": true, "serving": true, "terminating": false}}))
            .collect();
        if endpoints.is_empty() {
            continue;
        }
        let mut meta = meta("EndpointSlice", Some("default"), &format!("{name}-{}", family.to_lowercase()));
        meta["labels"] = json!({"kubernetes.io/service-name": name});
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": meta,
            "addressType": family, "endpoints": endpoints, "ports": slice_ports,
        }));
    }
    objects
}

/// What a policy matches.
#[derive(Clone, Copy, Debug)]
pub enum Front<'a> {
    /// Service `namespace/name`.
    Service(&'a str),
    /// A VIP.
    Address(IpAddr),
}

/// A LocalRedirectPolicy that leads to pods labelled `app: web`; without frontend ports it takes all of the Service.
#[must_use]
pub fn redirect(name: &str, front: Front<'_>, ports: Option<&[&str]>, to: &[&str]) -> Value {
    let mut matcher = Map::new();
    match front {
        Front::Service(service) => {
            let (namespace, service) = service.split_once('/').unwrap_or(("default", service));
            matcher.insert("namespace".to_owned(), json!(namespace));
            matcher.insert("serviceName".to_owned(), json!(service));
        }
        Front::Address(address) => drop(matcher.insert("ip".to_owned(), json!(address))),
    }
    if let Some(ports) = ports {
        matcher.insert("toPorts".to_owned(), policy_ports(ports));
    }
    let kind = if matches!(front, Front::Service(_)) { "serviceMatcher" } else { "addressMatcher" };
    json!({
        "apiVersion": POLICIES, "kind": "LocalRedirectPolicy", "metadata": meta("LocalRedirectPolicy", None, name),
        "spec": {
            "frontend": {kind: matcher},
            "backend": {"endpointSelector": {"matchLabels": {"app": "web"}}, "toPorts": policy_ports(to)},
        },
    })
}

/// `toPorts` of a policy.
#[must_use]
pub fn policy_ports(ports: &[&str]) -> Value {
    let ports = ports.iter().map(|p| port(p)).map(|p| {
        let mut out = json!({"port": p.number.to_string(), "protocol": p.protocol});
        if !p.name.is_empty() {
            out["name"] = json!(p.name);
        }
        out
    });
    ports.collect()
}

/// The object with the value at a JSON pointer set; missing objects on the way are made.
#[must_use]
pub fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut object;
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
    object
}

/// A folder of manifests: each file appears, changes and goes by one rename or unlink.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    staging: PathBuf,
}

impl Folder {
    /// Makes it, and a folder beside it where files are prepared.
    ///
    /// # Errors
    /// It exists, or cannot be made.
    pub fn create(path: PathBuf) -> Result<Self> {
        let staging = path.with_extension("staging");
        for folder in [&path, &staging] {
            fs::create_dir(folder).with_context(|| format!("failed to make {}", folder.display()))?;
        }
        Ok(Self { path, staging })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes or replaces a file of several documents.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, file: &str, objects: &[Value]) -> Result<()> {
        let text: Vec<_> = objects.iter().map(|o| format!("{o:#}\n")).collect();
        self.write_text(file, text.join("---\n"))
    }

    /// Writes or replaces a file.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_text(&self, file: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let staged = self.staging.join(file);
        fs::write(&staged, text).with_context(|| format!("failed to write {}", staged.display()))?;
        fs::rename(&staged, self.path.join(file)).with_context(|| format!("failed to place {file}"))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.path.join(file)).with_context(|| format!("failed to remove {file}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_spelled_as_documented() {
        let all = port("p1:8080->80/TCP");
        assert_eq!(
            (all.name.as_str(), all.number, all.target, all.protocol.as_str()),
            ("p1", 8080, 80, "TCP")
        );
        let short = port("53/UDP");
        assert_eq!(
            (short.name.as_str(), short.number, short.target, short.protocol.as_str()),
            ("", 53, 53, "UDP")
        );
    }

    #[test]
    fn a_uid_looks_like_one_and_belongs_to_one_object() {
        let a = uid("Pod", "default", "a");
        assert_eq!(a, uid("Pod", "default", "a"));
        assert_ne!(a, uid("Pod", "default", "b"));
        assert_eq!(a.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    }

    #[test]
    fn with_makes_what_is_missing() {
        let out = with(json!({"spec": {"a": 1}}), "/spec/qos/redirectsPerSecond", json!(5));
        assert_eq!(out, json!({"spec": {"a": 1, "qos": {"redirectsPerSecond": 5}}}));
    }
}

//! From Kubernetes objects to records. What the API server would have refused is an error that names the field.

use std::net::IpAddr;

use k8s_openapi::{
    api::{core::v1, discovery::v1 as discovery},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Hints, Interner, Labels, Name, Node, Phase, Pod, Service, ServicePort, Slice, SliceEndpoint, SlicePort,
    Text, Unsupported,
};
use crate::{
    manifest::Path,
    names::{
        ANNOTATION_CONFIG_MIRROR, ANNOTATION_NODE_PROXY_IPV4, ANNOTATION_NODE_PROXY_IPV6, LABEL_HEADLESS,
        LABEL_SERVICE_NAME, LABEL_SERVICE_PROXY_NAME,
    },
    net::Protocol,
    published::Published,
};

/// Seconds of session affinity where a Service names none (Kubernetes).
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// A field holds what no valid object of its kind can hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConvertError {
    /// The field, `spec.ports[0].port`.
    pub field: Path,
    /// What is wrong with it.
    pub message: String,
}

impl ConvertError {
    fn new(field: Path, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }
}

/// Converts objects, giving equal strings one allocation.
#[derive(Debug, Default)]
pub struct Converter {
    /// The strings of all records made so far.
    pub strings: Interner,
    /// Namespace of the operator: what it publishes counts there, and nowhere else, since whoever may write
    /// EndpointSlices in some namespace would otherwise say where policies lead.
    pub operator: Option<Text>,
    /// Keep the ids of running containers: for pods of the own node, whose cgroups can be looked at.
    pub container_ids: bool,
}

/// `status.containerStatuses[].containerID` of those that run, without the runtime's name before `://`.
fn running_containers(status: Option<&v1::PodStatus>) -> Box<[Text]> {
    let all = status.and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let running = all.iter().filter(|c| c.state.as_ref().is_some_and(|state| state.running.is_some()));
    let id = |c: &v1::ContainerStatus| Some(c.container_id.as_deref()?.split_once("://")?.1.into());
    running.filter_map(id).collect()
}

fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

fn has_label(meta: &ObjectMeta, name: &str) -> bool {
    meta.labels.as_ref().is_some_and(|all| all.contains_key(name))
}

fn address(text: &str, field: impl Fn() -> Path) -> Result<IpAddr, ConvertError> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| ConvertError::new(field(), format!("{text:?} is not an IP address")))
}

/// Why no client may be sent from or to such an address, if so.
fn unusable(ip: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_loopback() {
        Some("a loopback address")
    } else if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if broadcast {
        Some("the broadcast address")
    } else {
        None
    }
}

fn usable_address(text: &str, field: impl Fn() -> Path) -> Result<IpAddr, ConvertError> {
    let ip = address(text, &field)?;
    match unusable(ip) {
        Some(what) => Err(ConvertError::new(field(), format!("{ip} is {what}"))),
        None => Ok(ip),
    }
}

fn port(number: i32, field: impl Fn() -> Path) -> Result<u16, ConvertError> {
    u16::try_from(number)
        .ok()
        .filter(|p| *p != 0)
        .ok_or_else(|| ConvertError::new(field(), format!("{number} is not a port number from 1 to 65535")))
}

/// The protocol, if the data path translates it. Absent is TCP.
fn protocol(text: Option<&str>, field: impl Fn() -> Path) -> Result<Option<Protocol>, ConvertError> {
    match text {
        None | Some("TCP") => Ok(Some(Protocol::Tcp)),
        Some("UDP") => Ok(Some(Protocol::Udp)),
        Some("SCTP") => Ok(None),
        Some(other) => Err(ConvertError::new(field(), format!("{other:?} is not TCP, UDP or SCTP"))),
    }
}

/// The addresses of a Service outside of the cluster at which its endpoints may serve directly, as kube-proxy does it:
/// `externalIPs`, and load balancers but those that want to see the traffic (`ipMode: Proxy`, KEP-1860) or hold it to
/// `loadBalancerSourceRanges`, which nobody would otherwise. What is no usable address is left out: one bad address of a
/// load balancer must not cost the ClusterIPs.
fn external(service: &v1::Service) -> Vec<IpAddr> {
    let spec = service.spec.as_ref();
    let ranges = spec.and_then(|s| s.load_balancer_source_ranges.as_deref()).unwrap_or_default();
    let held = ranges.iter().any(|range| !matches!(range.trim(), "0.0.0.0/0" | "::/0"));
    let balancers = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.as_deref());
    let balancers =
        balancers.unwrap_or_default().iter().filter(|b| !held && b.ip_mode.as_deref() != Some("Proxy"));
    let fixed = spec.and_then(|s| s.external_ips.as_deref()).unwrap_or_default();
    let texts = fixed.iter().chain(balancers.filter_map(|b| b.ip.as_ref()));
    let mut all = Vec::new();
    for ip in texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()) {
        if unusable(ip).is_none() && !is_link_local(ip) && !all.contains(&ip) {
            all.push(ip);
        }
    }
    all
}

/// Of one link alone, as the metadata of a cloud's machine (169.254.169.254) are: no address of a whole cluster.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The first address of each family.
fn one_a_family(all: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut first: Vec<IpAddr> = Vec::new();
    for ip in all {
        if !first.iter().any(|f| f.is_ipv4() == ip.is_ipv4()) {
            first.push(ip);
        }
    }
    first
}

impl Converter {
    fn name(&mut self, meta: &ObjectMeta) -> Name {
        Name {
            namespace: self.strings.text(meta.namespace.as_deref().unwrap_or("default")),
            name: meta.name.as_deref().unwrap_or_default().into(),
        }
    }

    fn labels(&mut self, meta: &ObjectMeta) -> Labels {
        let pairs = meta.labels.iter().flatten().map(|(k, v)| (k.as_str(), v.as_str()));
        Labels::new(pairs, &mut self.strings)
    }

    /// The record of a Node.
    ///
    /// # Errors
    /// An address of it is none.
    pub fn node(&mut self, node: &v1::Node) -> Result<Node, ConvertError> {
        let status = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
        let mut addresses = Vec::new();
        for wanted in ["InternalIP", "ExternalIP"] {
            for (i, a) in status.iter().enumerate().filter(|(_, a)| a.type_ == wanted) {
                let ip = address(&a.address, || Path::of(&["status", "addresses"]).index(i).key("address"))?;
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
        }
        let mut proxies = Vec::new();
        for (key, v4) in [(ANNOTATION_NODE_PROXY_IPV4, true), (ANNOTATION_NODE_PROXY_IPV6, false)] {
            let Some(text) = annotation(&node.metadata, key) else { continue };
            let field = || Path::of(&["metadata", "annotations"]).key(key);
            let ip = usable_address(text, field)?;
            if ip.is_ipv4() != v4 {
                let family = if v4 { "IPv4" } else { "IPv6" };
                return Err(ConvertError::new(field(), format!("{ip} is not an {family} address")));
            }
            proxies.push(ip);
        }
        let name = self.strings.text(node.metadata.name.as_deref().unwrap_or_default());
        Ok(Node { name, labels: self.labels(&node.metadata), addresses, proxies })
    }

    /// The record of a Service.
    ///
    /// # Errors
    /// A ClusterIP is no address or one that no Service can have, or a port is none.
    pub fn service(&mut self, service: &v1::Service) -> Result<Service, ConvertError> {
        let meta = &service.metadata;
        let spec = service.spec.as_ref();
        let (texts, listed) = match spec.and_then(|s| s.cluster_ips.as_deref()) {
            Some(all) if !all.is_empty() => (all, true),
            _ => (
                spec.and_then(|s| s.cluster_ip.as_ref()).map(std::slice::from_ref).unwrap_or_default(),
                false,
            ),
        };
        let field = |i: usize| match listed {
            true => Path::of(&["spec", "clusterIPs"]).index(i),
            false => Path::of(&["spec", "clusterIP"]),
        };

        let unsupported = if has_label(meta, LABEL_SERVICE_PROXY_NAME) {
            Some(Unsupported::OtherProxy)
        } else if spec.and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
            Some(Unsupported::ExternalName)
        } else if texts.iter().all(String::is_empty)
            || texts.iter().any(|t| t == "None")
            || has_label(meta, LABEL_HEADLESS)
        {
            Some(Unsupported::Headless)
        } else {
            None
        };
        let mut addresses = Vec::new();
        if unsupported.is_none() {
            for (i, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
                addresses.push(usable_address(text, || field(i))?);
            }
        }

        let mut ports = Vec::new();
        for (i, p) in spec.and_then(|s| s.ports.as_deref()).unwrap_or_default().iter().enumerate() {
            let number = port(p.port, || Path::of(&["spec", "ports"]).index(i).key("port"))?;
            if let Some(protocol) =
                protocol(p.protocol.as_deref(), || Path::of(&["spec", "ports"]).index(i).key("protocol"))?
            {
                let name = self.strings.text(p.name.as_deref().unwrap_or_default());
                ports.push(ServicePort { name, port: number, protocol });
            }
        }

        let mut external = if unsupported.is_none() { external(service) } else { Vec::new() };
        // Of a family that the Service does not have, kube-proxy knows nothing either.
        external
            .retain(|ip| !addresses.contains(ip) && addresses.iter().any(|a| a.is_ipv4() == ip.is_ipv4()));
        addresses.shrink_to_fit();
        external.shrink_to_fit();
        ports.shrink_to_fit();
        let affinity_seconds = spec.filter(|s| s.session_affinity.as_deref() == Some("ClientIP")).map(|s| {
            let config = s.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
            let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
            u32::try_from(seconds).unwrap_or(0).max(1)
        });
        Ok(Service {
            name: self.name(meta),
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            addresses,
            external,
            ports,
            affinity_seconds,
            internal_local: spec.and_then(|s| s.internal_traffic_policy.as_deref()) == Some("Local"),
            unsupported,
        })
    }

    /// The record of an EndpointSlice.
    ///
    /// # Errors
    /// An endpoint's address or a port is none.
    pub fn slice(&mut self, slice: &discovery::EndpointSlice) -> Result<Slice, ConvertError> {
        let meta = &slice.metadata;
        let name = self.name(meta);
        let elsewhere = has_label(meta, LABEL_HEADLESS) || has_label(meta, LABEL_SERVICE_PROXY_NAME);
        let label = meta.labels.as_ref().and_then(|all| all.get(LABEL_SERVICE_NAME)).filter(|_| !elsewhere);
        let service = label.map(|s| Name { namespace: name.namespace.clone(), name: self.strings.text(s) });

        let mut ports = Vec::new();
        for (i, p) in slice.ports.iter().flatten().enumerate() {
            let protocol = protocol(p.protocol.as_deref(), || Path::of(&["ports"]).index(i).key("protocol"))?;
            // A port without a number means every port; no Service's slice has it.
            let (Some(number), Some(protocol)) = (p.port, protocol) else { continue };
            let number = port(number, || Path::of(&["ports"]).index(i).key("port"))?;
            ports.push(SlicePort {
                name: self.strings.text(p.name.as_deref().unwrap_or_default()),
                port: number,
                protocol,
            });
        }

        ports.shrink_to_fit();
        let mut endpoints = Vec::new();
        if matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            for (i, e) in slice.endpoints.iter().enumerate() {
                if let Some(first) = e.addresses.first() {
                    let field = || Path::of(&["endpoints"]).index(i).key("addresses").index(0);
                    let ip = usable_address(first, field)?;
                    if ip.is_ipv4() != (slice.address_type == "IPv4") {
                        let message = format!("{ip} is not of addressType {}", slice.address_type);
                        return Err(ConvertError::new(field(), message));
                    }
                    endpoints.push(self.endpoint(e, ip, &name.namespace));
                }
            }
        }
        let of_operator = service.is_none() && self.operator.as_ref() == Some(&name.namespace);
        let published = of_operator.then(|| Published::of(meta)).flatten().map(Box::new);
        Ok(Slice { name, service, published, ports, endpoints: endpoints.into_iter().collect() })
    }

    fn endpoint(&mut self, e: &discovery::Endpoint, address: IpAddr, namespace: &Text) -> SliceEndpoint {
        let condition =
            |get: fn(&discovery::EndpointConditions) -> Option<bool>| e.conditions.as_ref().and_then(get);
        let ready = condition(|c| c.ready).unwrap_or(true);
        let pod = e.target_ref.as_ref().filter(|r| r.kind.as_deref() == Some("Pod"));
        let pod = pod.and_then(|r| {
            let namespace = r.namespace.as_deref().unwrap_or(namespace);
            Some(format!("{namespace}/{}", r.name.as_deref()?).into())
        });
        let hints = e.hints.as_ref().map(|h| Hints {
            nodes: h.for_nodes.iter().flatten().map(|n| self.strings.text(&n.name)).collect(),
            zones: h.for_zones.iter().flatten().map(|z| self.strings.text(&z.name)).collect(),
        });
        SliceEndpoint {
            address,
            ready,
            serving: condition(|c| c.serving).unwrap_or(ready),
            terminating: condition(|c| c.terminating).unwrap_or(false),
            node: e.node_name.as_deref().map(|n| self.strings.text(n)),
            pod,
            hints: hints.filter(|h| *h != Hints::default()).map(Box::new),
        }
    }

    /// The record of a Pod.
    ///
    /// # Errors
    /// An address of it is none.
    pub fn pod(&mut self, pod: &v1::Pod) -> Result<Pod, ConvertError> {
        let meta = &pod.metadata;
        let status = pod.status.as_ref();
        let mut addresses = Vec::new();
        for (i, ip) in status.and_then(|s| s.pod_ips.as_deref()).unwrap_or_default().iter().enumerate() {
            addresses.push(usable_address(&ip.ip, || Path::of(&["status", "podIPs"]).index(i).key("ip"))?);
        }
        if addresses.is_empty()
            && let Some(ip) = status.and_then(|s| s.pod_ip.as_deref()).filter(|ip| !ip.is_empty())
        {
            addresses.push(usable_address(ip, || Path::of(&["status", "podIP"]))?);
        }
        let phase = match status.and_then(|s| s.phase.as_deref()) {
            None | Some("Pending") => Phase::Pending,
            Some("Running") => Phase::Running,
            Some("Succeeded" | "Failed") => Phase::Finished,
            Some(_) => Phase::Unknown,
        };
        let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let name = self.name(meta);
        let uid = annotation(meta, ANNOTATION_CONFIG_MIRROR).or(meta.uid.as_deref()).unwrap_or_default();
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty());
        let account = spec.and_then(|s| s.service_account_name.as_deref()).filter(|a| !a.is_empty());
        Ok(Pod {
            full_name: name.to_string().into(),
            name,
            uid: uid.into(),
            node: node.map(|n| self.strings.text(n)),
            account: account.map(|a| self.strings.text(a)),
            labels: self.labels(meta),
            addresses: one_a_family(addresses),
            phase,
            ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            terminating: meta.deletion_timestamp.is_some(),
            running: if self.container_ids { running_containers(status) } else { Box::default() },
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::records::Usability;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;

    fn from<T: DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service(spec: &serde_json::Value, labels: &serde_json::Value) -> Result<Service, ConvertError> {
        Converter::default().service(&from(
            json!({"metadata": {"name": "web", "namespace": "team", "labels": labels}, "spec": spec}),
        ))
    }

    #[test]
    fn service_of_both_families() {
        let s = service(
            &json!({
                "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00:0::1"], "sessionAffinity": "ClientIP",
                "internalTrafficPolicy": "Local",
                "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}, {"port": 80}, {"port": 9, "protocol": "SCTP"}],
            }),
            &json!({}),
        )
        .unwrap();
        assert_eq!(s.name.to_string(), "team/web");
        assert_eq!(s.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
        let ports: Vec<_> = s.ports.iter().map(|p| (&*p.name, p.port, p.protocol)).collect();
        assert_eq!(ports, [("dns", 53, Protocol::Udp), ("", 80, Protocol::Tcp)]);
        assert_eq!((s.affinity_seconds, s.internal_local, s.unsupported), (Some(10_800), true, None));
    }

    #[test]
    fn services_that_are_not_programmed() {
        let ip = json!({"clusterIP": "10.0.0.1"});
        for (spec, labels, why) in [
            (json!({"clusterIP": "None"}), json!({}), Unsupported::Headless),
            (json!({"clusterIP": ""}), json!({}), Unsupported::Headless),
            (json!({}), json!({}), Unsupported::Headless),
            (ip.clone(), json!({"service.kubernetes.io/headless": ""}), Unsupported::Headless),
            (json!({"type": "ExternalName", "externalName": "x"}), json!({}), Unsupported::ExternalName),
            (ip, json!({"service.kubernetes.io/service-proxy-name": "x"}), Unsupported::OtherProxy),
        ] {
            let s = service(&spec, &labels).unwrap();
            assert_eq!((s.unsupported, s.addresses.len()), (Some(why), 0), "{spec}");
        }
    }

    #[test]
    fn cluster_ips_that_no_service_can_have() {
        for text in [
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "x",
        ] {
            let e = service(&json!({"clusterIPs": ["10.0.0.1", text]}), &json!({})).unwrap_err();
            assert_eq!(e.field.to_string(), "spec.clusterIPs[1]", "{text}: {e}");
        }
        let e =
            service(&json!({"clusterIP": "10.0.0.1", "ports": [{"port": 65536}]}), &json!({})).unwrap_err();
        assert_eq!(e.to_string(), "spec.ports[0].port: 65536 is not a port number from 1 to 65535");
    }

    #[test]
    fn addresses_outside_of_the_cluster() {
        let service = |spec: serde_json::Value| {
            let ingress = json!([
                {"ip": "203.0.113.1"}, {"ip": "fd00::99", "ipMode": "VIP"}, {"ip": "203.0.113.2", "ipMode": "Proxy"},
                {"hostname": "lb.example"}, {"ip": "127.0.0.1"}, {"ip": "169.254.169.254"}, {"ip": "fe80::1"}, {"ip": "x"}, {"ip": "203.0.113.9"}, {"ip": "10.0.0.1"},
            ]);
            let object = json!({"metadata": {"name": "web"}, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}});
            Converter::default().service(&from(object)).unwrap()
        };
        let spec = |more: serde_json::Value| {
            let mut spec = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "externalIPs": ["203.0.113.9"]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let s = service(spec(json!({})));
        assert_eq!(s.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
        assert_eq!(s.external, [ip("203.0.113.9"), ip("203.0.113.1"), ip("fd00::99")]);
        // Who holds clients to ranges of addresses has to see them.
        let held = spec(json!({"loadBalancerSourceRanges": ["0.0.0.0/0", "192.0.2.0/24"]}));
        assert_eq!(service(held).external, [ip("203.0.113.9")]);
        assert_eq!(service(spec(json!({"loadBalancerSourceRanges": [" 0.0.0.0/0"]}))).external.len(), 3);
        let single = service(spec(json!({"clusterIPs": ["10.0.0.1"]})));
        assert_eq!(single.external, [ip("203.0.113.9"), ip("203.0.113.1")]);
        let headless = spec(json!({"clusterIP": "None", "clusterIPs": ["None"]}));
        assert_eq!(service(headless).external, Vec::<IpAddr>::new());
    }

    fn slice(address_type: &str, endpoints: &serde_json::Value, labels: &serde_json::Value) -> Slice {
        let value = json!({
            "metadata": {"name": "web-1", "labels": labels}, "addressType": address_type, "endpoints": endpoints,
            "ports": [{"name": null, "port": 80}, {"name": "any", "port": null}],
        });
        Converter::default().slice(&from(value)).unwrap()
    }

    #[test]
    fn only_what_the_operator_publishes_leads_anywhere() {
        let published = |namespace: &str, operator: Option<&str>, more: (&str, &str)| {
            let mut converter = Converter { operator: operator.map(Into::into), ..Converter::default() };
            let value = json!({
                "metadata": {
                    "name": "lb-x-1", "namespace": namespace,
                    "labels": {"balancing.elf.io/policy-kind": "BalancingPolicy", "balancing.elf.io/policy-name": "x",
                               more.0: more.1},
                    "ownerReferences": [{"apiVersion": "balancing.elf.io/v1beta1", "kind": "BalancingPolicy", "name": "x",
                                         "uid": "u1"}],
                },
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
            });
            converter.slice(&from(value)).unwrap().published
        };
        let other = ("a", "b");
        let policy = crate::policy::PolicyRef::new(crate::policy::PolicyKind::BalancingPolicy, "x");
        let wanted = Published::Backends { policy, uid: "u1".to_owned() };
        assert_eq!(published("elf", Some("elf"), other), Some(Box::new(wanted)));
        assert_eq!(published("team", Some("elf"), other), None);
        assert_eq!(published("elf", None, other), None, "a folder's policies are resolved by the agent");
        assert_eq!(published("elf", Some("elf"), ("kubernetes.io/service-name", "web")), None);
    }

    #[test]
    fn slices_as_found_in_the_wild() {
        let labels = json!({"kubernetes.io/service-name": "web"});
        let s = slice(
            "IPv4",
            &json!([
                {"addresses": ["10.0.0.1", "10.0.0.2"], "conditions": {"ready": null}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "terminating": true, "serving": true},
                 "nodeName": "n1", "targetRef": {"kind": "Pod", "name": "p"}, "hints": {"forZones": [{"name": "z"}]}},
                {"addresses": ["10.0.0.4"], "conditions": {"ready": false}, "hints": {}},
                {"addresses": []},
            ]),
            &labels,
        );
        assert_eq!(s.service, Some(Name::new("default", "web")));
        assert_eq!(s.ports.len(), 1);
        assert_eq!((&*s.ports[0].name, s.ports[0].protocol), ("", Protocol::Tcp));
        let seen: Vec<_> = s
            .endpoints
            .iter()
            .map(|e| (e.address, e.ready, e.serving, e.terminating, e.hints.is_some()))
            .collect();
        assert_eq!(
            seen,
            [
                (ip("10.0.0.1"), true, true, false, false),
                (ip("10.0.0.3"), false, true, true, true),
                (ip("10.0.0.4"), false, false, false, false),
            ]
        );
        let pod = s.endpoints.iter().nth(1).and_then(|e| e.pod).map(|pod| pod.to_string());
        assert_eq!(pod.as_deref(), Some("default/p"));

        assert_eq!(slice("FQDN", &json!([{"addresses": ["example.invalid"]}]), &labels).endpoints.len(), 0);
        let headless = json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""});
        assert_eq!(slice("IPv4", &json!([]), &headless).service, None);
    }

    #[test]
    fn pod_states() {
        let pod = |metadata: serde_json::Value, status: serde_json::Value| {
            Converter::default()
                .pod(&from(json!({"metadata": metadata, "spec": {"nodeName": "n1", "containers": []}, "status": status})))
                .unwrap()
        };
        let meta = json!({"name": "p", "uid": "u"});
        let status = |phase: &str, ready: &str| {
            json!({"phase": phase, "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "10.0.0.2"}],
                   "conditions": [{"type": "Ready", "status": ready}]})
        };
        let good = pod(meta.clone(), status("Running", "True"));
        assert_eq!(good.usability(), Usability::Ready);
        assert_eq!(good.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
        assert_eq!((&*good.full_name, &*good.uid), ("default/p", "u"));
        let leaving = json!({"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (metadata, status, usability) in [
            (meta.clone(), status("Running", "False"), Usability::NotReady),
            (meta.clone(), status("Pending", "True"), Usability::NotRunning),
            (meta.clone(), status("Failed", "True"), Usability::Finished),
            (
                meta.clone(),
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}),
                Usability::NoAddress,
            ),
            (meta.clone(), json!({"phase": "Running", "podIP": "10.0.0.1"}), Usability::NotReady),
            (leaving, status("Running", "True"), Usability::Terminating),
        ] {
            assert_eq!(pod(metadata, status.clone()).usability(), usability, "{status}");
        }
        let mirror = json!({"name": "p", "uid": "u", "annotations": {"kubernetes.io/config.mirror": "hash"}});
        assert_eq!(&*pod(mirror, status("Running", "True")).uid, "hash");
    }

    #[test]
    fn running_containers_are_kept_where_they_are_asked_for() {
        let pod = from(json!({"metadata": {"name": "p"}, "status": {
            "initContainerStatuses": [
                {"name": "i", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "containerID": "containerd://init", "state": {"running": {}}},
            ],
            "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 1,
                 "containerID": "containerd://aa", "state": {"running": {}},
                 "lastState": {"terminated": {"exitCode": 1, "containerID": "containerd://old"}}},
                {"name": "b", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "containerID": "cri-o://bb", "state": {"terminated": {"exitCode": 0}}},
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {}}},
                {"name": "d", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
                {"name": "e", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                 "containerID": "docker://ee", "state": {"running": {}}},
            ],
        }}));
        let running = |container_ids: bool| {
            let mut converter = Converter { container_ids, ..Converter::default() };
            converter.pod(&pod).unwrap().running.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(running(true), ["aa", "ee"]);
        assert!(running(false).is_empty());
    }

    #[test]
    fn node_addresses_and_proxies() {
        let node = |annotations: serde_json::Value| {
            Converter::default().node(&from(json!({
                "metadata": {"name": "n1", "labels": {"zone": "z1"}, "annotations": annotations},
                "status": {"addresses": [
                    {"type": "ExternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"},
                    {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "InternalIP", "address": "fd00::1"},
                ]},
            })))
        };
        let n = node(json!({"balancing.elf.io/nodeProxyIpv4": "10.9.9.9"})).unwrap();
        assert_eq!(n.addresses, [ip("10.0.0.1"), ip("fd00::1"), ip("192.0.2.1")]);
        assert_eq!(n.proxies, [ip("10.9.9.9")]);
        assert_eq!(n.labels.get("zone"), Some("z1"));
        let e = node(json!({"balancing.elf.io/nodeProxyIpv4": "fd00::9"})).unwrap_err();
        assert!(e.to_string().contains("not an IPv4 address"), "{e}");
    }
}

//! Random objects and flows.

use std::net::IpAddr;

use balancing_api::net::{Frontend, Protocol};
use serde_json::{Value, json};

use super::{Caller, Flow, NAMESPACE, Random};

/// The addresses that random objects are made of: those of a real network, where flows are to be dialled.
#[derive(Clone, Debug)]
pub struct World {
    /// Name of the node whose agent it is.
    pub node: String,
    /// Name of another node.
    pub other: String,
    /// Addresses of the two nodes.
    pub node_addresses: [Vec<IpAddr>; 2],
    /// Pods of the node that may exist: name, IPv4, IPv6.
    pub local: Vec<(String, IpAddr, IpAddr)>,
    /// Pods of the other node that may exist.
    pub remote: Vec<(String, IpAddr, IpAddr)>,
    /// Addresses for addressMatchers.
    pub vips: Vec<IpAddr>,
    /// Addresses for Services: IPv4, IPv6.
    pub cluster: Vec<(IpAddr, IpAddr)>,
    /// Fixed addresses for a BalancingPolicy.
    pub outside: Vec<IpAddr>,
    /// Port numbers that clients dial.
    pub frontend_ports: Vec<u16>,
    /// Port numbers that backends listen on.
    pub backend_ports: Vec<u16>,
    /// May policies meet on one frontend?
    pub conflicts: bool,
    /// May there be BalancingPolicies?
    pub balancing: bool,
}

impl Default for World {
    /// Addresses of nobody.
    fn default() -> Self {
        let v4 = |net: u8, last: u8| IpAddr::from([10, net, 0, last]);
        let v6 = |net: u16, last: u16| IpAddr::from([0xfd00, net, 0, 0, 0, 0, 0, last]);
        let pods = |prefix: &str, net: u8| {
            (1..=4).map(|i| (format!("{prefix}{i}"), v4(net, i), v6(net.into(), i.into()))).collect()
        };
        Self {
            node: "n1".to_owned(),
            other: "n2".to_owned(),
            node_addresses: [vec![v4(1, 1), v6(1, 1)], vec![v4(1, 2), v6(1, 2)]],
            local: pods("l", 2),
            remote: pods("r", 3),
            vips: vec![v4(90, 1), v4(90, 2), v6(90, 1)],
            cluster: (1..=3).map(|i| (v4(96, i), v6(96, i.into()))).collect(),
            outside: vec![v4(7, 1), v4(7, 2), v6(7, 1)],
            frontend_ports: vec![53, 80, 443, 8080],
            backend_ports: vec![81, 82, 8053],
            conflicts: true,
            balancing: true,
        }
    }
}

const NAMESPACES: [&str; 2] = ["default", "team"];
const NAMED: [(&str, &str); 4] = [("a", "TCP"), ("b", "TCP"), ("u", "UDP"), ("a", "UDP")];

/// Creation times: several objects share one, some have none.
fn metadata(rng: &mut Random, name: &str) -> Value {
    let mut meta = json!({"name": name});
    if rng.chance(85) {
        meta["creationTimestamp"] = json!(format!("2026-01-01T00:00:0{}Z", rng.below(4)));
    }
    meta
}

fn labels(rng: &mut Random) -> Value {
    let mut all = json!({"app": *rng.pick(&["a", "b"])});
    if rng.chance(40) {
        all["tier"] = json!(*rng.pick(&["x", "y"]));
    }
    all
}

/// A selector of pods or nodes over the given keys.
fn selector(rng: &mut Random, keys: &[(&str, [&str; 2])]) -> Value {
    let (key, values) = *rng.pick(keys);
    let value = *rng.pick(&values);
    match rng.below(7) {
        0 => json!({"matchExpressions": [{"key": key, "operator": "In", "values": values}]}),
        1 => json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]}),
        2 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
        3 => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
        _ => json!({"matchLabels": {key: value}}),
    }
}

/// A random state of the node: objects as in manifests, in random order.
pub fn objects(rng: &mut Random, world: &World) -> Vec<Value> {
    let mut all = Vec::new();
    for (i, name) in [&world.node, &world.other].into_iter().enumerate() {
        if i == 1 || rng.chance(90) {
            all.push(node(rng, world, name, i));
        }
    }
    let mut services = Vec::new();
    for i in 0..rng.between(1, 4) {
        let api_server = i == 0 && rng.chance(30);
        let name = if api_server { "kubernetes".to_owned() } else { format!("s{i}") };
        let (service, slices) = service(rng, world, &name);
        services.push(service.clone());
        all.push(service);
        all.extend(slices);
    }
    for (pods, node) in [(&world.local, &world.node), (&world.remote, &world.other)] {
        for (name, v4, v6) in pods {
            if rng.chance(70) {
                all.push(pod(rng, name, node, *v4, *v6));
            }
        }
    }
    let mut vips = rng.sample(&world.vips, world.vips.len());
    for i in 0..rng.between(0, 6) {
        all.extend(policy(rng, world, &format!("p{i}"), &mut services, &mut vips));
    }
    let n = all.len();
    rng.sample(&all, n)
}

fn node(rng: &mut Random, world: &World, name: &str, index: usize) -> Value {
    let mut labels = json!({"kubernetes.io/hostname": name});
    if rng.chance(80) {
        labels["topology.kubernetes.io/zone"] = json!(*rng.pick(&["z1", "z2"]));
    }
    if rng.chance(60) {
        labels["region"] = json!(*rng.pick(&["edge", "core"]));
    }
    let own = world.node_addresses.get(index).cloned().unwrap_or_default();
    let addresses: Vec<Value> = own.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
    let mut annotations = json!({});
    if let Some(v4) = own.iter().find(|a| a.is_ipv4()).filter(|_| rng.chance(60)) {
        annotations["balancing.elf.io/nodeProxyIpv4"] = json!(v4);
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels, "annotations": annotations},
           "status": {"addresses": addresses}})
}

fn service(rng: &mut Random, world: &World, name: &str) -> (Value, Vec<Value>) {
    let named = rng.between(1, 3);
    let named = rng.sample(&NAMED, named);
    let numbers = rng.sample(&world.frontend_ports, named.len());
    let unnamed = named.len() == 1 && rng.chance(50);
    let mut ports = Vec::new();
    let mut slice_ports = Vec::new();
    for ((label, protocol), number) in named.iter().zip(numbers) {
        let mut port = json!({"port": number, "protocol": protocol});
        let mut to = json!({"port": rng.pick(&world.backend_ports), "protocol": protocol});
        if !unnamed {
            // A Service's port names are unique; policies pair by (name, protocol).
            let label = format!("{label}{}", protocol.to_lowercase());
            port["name"] = json!(label);
            to["name"] = json!(label);
        } else if rng.chance(50) {
            to["name"] = json!("");
        }
        ports.push(port);
        slice_ports.push(to);
    }
    let (v4, v6) = *rng.pick(&world.cluster);
    let ips = match rng.below(4) {
        0 => json!([v6]),
        1 => json!([v4, v6]),
        _ => json!([v4]),
    };
    let mut meta = metadata(rng, name);
    meta["namespace"] = json!(if name == "kubernetes" { "default" } else { *rng.pick(&NAMESPACES) });
    let mut spec = json!({"clusterIP": ips[0], "clusterIPs": ips, "ports": ports});
    match rng.below(16) {
        0 => spec = json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports}),
        1 => spec = json!({"type": "ExternalName", "externalName": "example.invalid", "ports": ports}),
        2 => meta["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"}),
        3..=5 => spec["internalTrafficPolicy"] = json!("Local"),
        _ => {}
    }
    let namespace = meta["namespace"].clone();
    let mut balancers = Vec::new();
    if rng.chance(30) {
        spec["externalIPs"] = json!([outside(rng, world)]);
        spec["externalTrafficPolicy"] = json!(*rng.pick(&["Local", "Cluster"]));
    }
    if rng.chance(30) {
        balancers.push(json!({"ip": outside(rng, world)}));
        balancers.push(json!({"ip": outside(rng, world), "ipMode": *rng.pick(&["VIP", "Proxy"])}));
        if rng.chance(20) {
            spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24"]);
        }
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec,
                         "status": {"loadBalancer": {"ingress": balancers}}});

    let mut slices = Vec::new();
    let hinted = rng.chance(40);
    for i in 0..rng.between(0, 3) {
        let v6 = rng.chance(40);
        let some = rng.below(4);
        let everybody: Vec<_> = (world.local.iter().map(|p| (p, &world.node)))
            .chain(world.remote.iter().map(|p| (p, &world.other)))
            .collect();
        let endpoints: Vec<Value> = rng
            .sample(&everybody, some)
            .into_iter()
            .map(|((_, four, six), node)| endpoint(rng, if v6 { *six } else { *four }, node, hinted))
            .collect();
        let some_ports: Vec<&Value> = slice_ports.iter().filter(|_| rng.chance(90)).collect();
        slices.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("{name}-{i}"), "namespace": namespace,
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": if v6 { "IPv6" } else { "IPv4" }, "endpoints": endpoints, "ports": some_ports,
        }));
    }
    (service, slices)
}

/// An address for a Service from outside of the cluster. Now and then it is another Service's, or its own.
fn outside(rng: &mut Random, world: &World) -> IpAddr {
    if world.conflicts && rng.chance(25) { rng.pick(&world.cluster).0 } else { *rng.pick(&world.vips) }
}

fn endpoint(rng: &mut Random, address: IpAddr, node: &str, hinted: bool) -> Value {
    let conditions = match rng.below(6) {
        0 => json!({"ready": false, "serving": true, "terminating": true}),
        1 => json!({"ready": false, "serving": false, "terminating": false}),
        2 => json!({}),
        3 => json!({"ready": null, "serving": null}),
        _ => json!({"ready": true, "serving": true, "terminating": false}),
    };
    let mut e = json!({"addresses": [address], "conditions": conditions});
    if rng.chance(85) {
        e["nodeName"] = json!(node);
    }
    if hinted && rng.chance(85) {
        e["hints"] = json!({"forZones": [{"name": *rng.pick(&["z1", "z2"])}]});
        if rng.chance(50) {
            e["hints"]["forNodes"] = json!([{"name": node}]);
        }
    }
    e
}

fn pod(rng: &mut Random, name: &str, node: &str, v4: IpAddr, v6: IpAddr) -> Value {
    let ips = match rng.below(4) {
        0 => vec![v4, v6],
        1 => vec![v6],
        _ => vec![v4],
    };
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let mut namespace = *rng.pick(&NAMESPACES);
    let mut labels = labels(rng);
    let mut spec =
        json!({"nodeName": node, "containers": [{"name": "main", "image": "example.invalid/app:1"}]});
    if rng.chance(20) {
        // A pod of the operator, or one that lacks something of it.
        if rng.chance(85) {
            namespace = NAMESPACE;
        }
        if rng.chance(85) {
            spec["serviceAccountName"] = json!("balancing-operator");
        }
        labels["app.kubernetes.io/name"] = json!("balancing");
        labels["app.kubernetes.io/component"] = json!(*rng.pick(&["operator", "operator", "agent"]));
    }
    let mut meta =
        json!({"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": labels});
    if rng.chance(10) {
        meta["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    }
    let phase = *rng.pick(&["Running", "Running", "Running", "Running", "Running", "Pending", "Failed"]);
    let ready = if rng.chance(80) { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": meta,
        "spec": spec,
        "status": {"phase": phase, "podIPs": ips, "conditions": [{"type": "Ready", "status": ready}]},
    })
}

/// Frontend and backend ports of a policy. `fixed` are the numbers of the frontend, with names to be given.
fn policy_ports(rng: &mut Random, world: &World, fixed: &[(u16, String)]) -> (Vec<Value>, Vec<Value>) {
    let single = fixed.len() == 1 && rng.chance(50);
    let mut front = Vec::new();
    let mut back = Vec::new();
    for (i, (number, protocol)) in fixed.iter().enumerate() {
        let port = |number: u16, text: bool| if text { json!(number.to_string()) } else { json!(number) };
        let mut f = json!({"port": port(*number, rng.chance(70)), "protocol": protocol});
        let mut b =
            json!({"port": port(*rng.pick(&world.backend_ports), rng.chance(70)), "protocol": protocol});
        if !single {
            f["name"] = json!(format!("x{i}"));
            b["name"] = json!(format!("x{i}"));
        } else if rng.chance(30) {
            b["name"] = json!("only");
        }
        front.push(f);
        back.push(b);
    }
    let n = back.len();
    (front, rng.sample(&back, n))
}

fn policy(
    rng: &mut Random,
    world: &World,
    name: &str,
    services: &mut Vec<Value>,
    vips: &mut Vec<IpAddr>,
) -> Option<Value> {
    let (frontend, back) = if rng.chance(60) {
        let at = rng.below(services.len());
        let service = if world.conflicts {
            services.get(at)?.clone()
        } else {
            services.get(at)?;
            services.remove(at)
        };
        let offered: Vec<(u16, String, Value)> = service["spec"]["ports"]
            .as_array()?
            .iter()
            .filter_map(|p| {
                let number = u16::try_from(p["port"].as_u64()?).ok()?;
                Some((number, p["protocol"].as_str()?.to_owned(), p["name"].clone()))
            })
            .collect();
        let mut matcher = json!({"serviceName": service["metadata"]["name"], "namespace": service["metadata"]["namespace"]});
        if rng.chance(8) {
            matcher["serviceName"] = json!("missing");
        }
        if rng.chance(25) {
            // All ports of the Service: they pair by its names.
            let mut back: Vec<Value> = offered
                .iter()
                .map(|(_, protocol, label)| {
                    let mut b = json!({"port": rng.pick(&world.backend_ports), "protocol": protocol});
                    if let Some(label) = label.as_str() {
                        b["name"] = json!(label);
                    }
                    b
                })
                .collect();
            if back.len() > 1 && rng.chance(30) {
                back.pop();
            }
            (json!({"serviceMatcher": matcher}), back)
        } else {
            let some = rng.between(1, offered.len());
            let mut fixed: Vec<(u16, String)> =
                rng.sample(&offered, some).into_iter().map(|(n, p, _)| (n, p)).collect();
            if rng.chance(10) {
                fixed.push((9153, "TCP".to_owned()));
            }
            let (front, back) = policy_ports(rng, world, &fixed);
            if rng.chance(20) {
                (json!({"serviceMatcher": matcher, "toPorts": front}), back)
            } else {
                matcher["toPorts"] = json!(front);
                (json!({"serviceMatcher": matcher}), back)
            }
        }
    } else {
        // Now and then a VIP that is a Service's address.
        let vip = if world.conflicts && rng.chance(25) {
            rng.pick(&world.cluster).0
        } else if world.conflicts {
            *vips.first()?
        } else {
            vips.pop()?
        };
        let n = rng.between(1, 3);
        let fixed: Vec<(u16, String)> = rng
            .sample(&world.frontend_ports, n)
            .into_iter()
            .map(|n| (n, (*rng.pick(&["TCP", "UDP"])).to_owned()))
            .collect();
        let (front, back) = policy_ports(rng, world, &fixed);
        (json!({"addressMatcher": {"ip": vip, "toPorts": front}}), back)
    };

    let mut config = json!({});
    if rng.chance(30) {
        config["nodeLabelSelector"] = selector(rng, &[("region", ["edge", "core"])]);
    }
    if rng.chance(20) {
        config["enableOutCluster"] = json!(rng.chance(50));
    }
    if rng.chance(40) {
        config["onNoBackend"] = json!(*rng.pick(&["Refuse", "Fallback"]));
    }
    let pods = selector(rng, &[("app", ["a", "b"]), ("app", ["a", "b"]), ("tier", ["x", "y"])]);
    let mut spec = json!({"config": config, "frontend": frontend});
    let mut kind = "LocalRedirectPolicy";
    if world.balancing && rng.chance(30) {
        kind = "BalancingPolicy";
        spec["backend"] = if rng.chance(40) {
            let some = rng.between(1, 3);
            json!({"addressEndpoint": {"addresses": rng.sample(&world.outside, some), "toPorts": back}})
        } else {
            let mode = *rng.pick(&["podEndpoint", "podEndpoint", "hostPort", "nodeProxy"]);
            json!({"serviceEndpoint": {"endpointSelector": pods, "redirectMode": mode, "toPorts": back}})
        };
    } else {
        spec["backend"] = json!({"endpointSelector": pods, "toPorts": back});
        if rng.chance(20) {
            spec["backend"]["namespaces"] = json!([*rng.pick(&NAMESPACES)]);
        }
        if rng.chance(30) {
            spec["backend"]["skipRedirectFromBackend"] = json!(rng.chance(50));
        }
    }
    let meta = metadata(rng, name);
    Some(json!({"apiVersion": "balancing.elf.io/v1beta1", "kind": kind, "metadata": meta, "spec": spec}))
}

/// Flows in that world, from the host and from its local pods: to every address and port that objects may speak of.
pub fn flows(rng: &mut Random, world: &World, n: usize) -> Vec<Flow> {
    let mut addresses = world.vips.clone();
    addresses.extend(world.cluster.iter().flat_map(|(v4, v6)| [*v4, *v6]));
    let mut ports = world.frontend_ports.clone();
    ports.push(9153);
    (0..n)
        .map(|_| {
            let from = match rng.pick(&world.local) {
                (name, ..) if rng.chance(50) => Caller::Pod(name.clone()),
                _ => Caller::Host,
            };
            let protocol = if rng.chance(60) { Protocol::Tcp } else { Protocol::Udp };
            Flow { from, to: Frontend::new(*rng.pick(&addresses), *rng.pick(&ports), protocol) }
        })
        .collect()
}

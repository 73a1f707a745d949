//! A naive statement of the rules: for every flow it looks at all manifests anew. It knows no ladder, no index and no
//! record, and shares no code with what it judges.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use super::{Caller, Expected, Flow, NAMESPACE};

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `--node-name`.
    pub node: String,
    /// `--service-resolution`: `all`, `policies` or `off`.
    pub resolution: String,
}

type Port = (u64, String, String);

/// Where a flow may end. A pod as caller is named without its namespace; a pod that is no object is a host process.
#[must_use]
pub fn expected(objects: &[Value], rules: &Rules, flow: &Flow) -> Expected {
    let dialled = (u64::from(flow.to.port), flow.to.protocol.as_str());
    let service = if rules.resolution == "all" { owner(objects, flow.to.address, dialled) } else { None };
    let beneath = || match service {
        None => Expected::Untouched,
        Some(service) => {
            let to = endpoints(objects, rules, service, flow.to.address, dialled);
            if to.is_empty() { Expected::Refuse } else { Expected::Service(to) }
        }
    };

    let mut policies: Vec<&Value> = objects
        .iter()
        .filter(|o| o["kind"] == "LocalRedirectPolicy" || o["kind"] == "BalancingPolicy")
        .filter(|p| selects_node(objects, rules, p))
        .collect();
    policies.sort_by_key(|p| {
        (text(&p["metadata"]["creationTimestamp"]), p["kind"] == "BalancingPolicy", name(p))
    });
    for policy in policies {
        let Some(port) = leads_to(objects, rules, policy, flow.to.address, dialled) else { continue };
        let to = backends(objects, rules, policy, port, flow.to.address.is_ipv4());
        if to.is_empty() {
            let refuse = policy["spec"]["config"]["onNoBackend"] == "Refuse";
            return if refuse && !is_api_server(objects, flow.to.address, dialled) {
                Expected::Refuse
            } else {
                beneath()
            };
        }
        if is_operator(objects, rules, &flow.from) {
            return beneath();
        }
        if policy["kind"] == "BalancingPolicy" {
            return Expected::Balance(to);
        }
        return if is_exempt(objects, rules, policy, &flow.from) {
            beneath()
        } else {
            Expected::Redirect(to)
        };
    }
    beneath()
}

/// The limit of a LocalRedirectPolicy, given the agent's default.
#[must_use]
pub fn limit(policy: &Value, default: u64) -> u64 {
    match policy["kind"].as_str() {
        Some("LocalRedirectPolicy") => {
            policy["spec"]["qos"]["redirectsPerSecond"].as_u64().unwrap_or(default)
        }
        _ => 0,
    }
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

fn name(o: &Value) -> &str {
    text(&o["metadata"]["name"])
}

fn list(v: &Value) -> &[Value] {
    v.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn ip(v: &Value) -> Option<IpAddr> {
    v.as_str()?.parse().ok()
}

/// `[(number, protocol, name)]` of a list of ports.
fn ports(v: &Value) -> Vec<Port> {
    let number = |p: &Value| p["port"].as_u64().or_else(|| text(&p["port"]).parse().ok()).unwrap_or_default();
    list(v)
        .iter()
        .map(|p| (number(p), text(&p["protocol"]).to_owned(), text(&p["name"]).to_owned()))
        .collect()
}

fn fits(selector: &Value, labels: &Value) -> bool {
    let equal = selector["matchLabels"].as_object().into_iter().flatten().all(|(k, v)| labels[k] == *v);
    equal
        && list(&selector["matchExpressions"]).iter().all(|e| {
            let label = &labels[text(&e["key"])];
            let among = list(&e["values"]).contains(label);
            match text(&e["operator"]) {
                "In" => among,
                "NotIn" => !among,
                "Exists" => !label.is_null(),
                _ => label.is_null(),
            }
        })
}

fn the_node<'a>(objects: &'a [Value], node: &str) -> Option<&'a Value> {
    objects.iter().find(|o| o["kind"] == "Node" && name(o) == node)
}

fn selects_node(objects: &[Value], rules: &Rules, policy: &Value) -> bool {
    let config = &policy["spec"]["config"];
    match the_node(objects, &rules.node) {
        Some(node) => fits(&config["nodeLabelSelector"], &node["metadata"]["labels"]),
        None => config["enableOutCluster"] != false,
    }
}

/// May it be programmed at all?
fn has_cluster_ip(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
        && service["spec"]["clusterIP"] != "None"
        && service["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"].is_null()
}

fn is_at(service: &Value, address: IpAddr) -> bool {
    has_cluster_ip(service) && list(&service["spec"]["clusterIPs"]).iter().any(|a| ip(a) == Some(address))
}

/// Is it an address from outside of the cluster at which the Service's endpoints serve?
fn is_outside(service: &Value, address: IpAddr) -> bool {
    let ranges = !list(&service["spec"]["loadBalancerSourceRanges"]).is_empty();
    let balancers = list(&service["status"]["loadBalancer"]["ingress"]).iter();
    let balancers = balancers.filter(|b| !ranges && b["ipMode"] != "Proxy").map(|b| &b["ip"]);
    let mut all = list(&service["spec"]["externalIPs"]).iter().chain(balancers);
    let mut cluster = list(&service["spec"]["clusterIPs"]).iter().filter_map(ip);
    let of_one_link = match address {
        IpAddr::V4(v4) => v4.octets().starts_with(&[169, 254]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    has_cluster_ip(service)
        && !of_one_link
        && cluster.any(|a| a.is_ipv4() == address.is_ipv4())
        && all.any(|a| ip(a) == Some(address))
        && !is_at(service, address)
}

fn has_port(service: &Value, (number, protocol): (u64, &str)) -> bool {
    ports(&service["spec"]["ports"]).iter().any(|p| (p.0, p.1.as_str()) == (number, protocol))
}

/// Does the API server's Service claim it? Nobody is refused there.
fn is_api_server(objects: &[Value], address: IpAddr, port: (u64, &str)) -> bool {
    let named = |o: &&Value| o["metadata"]["namespace"] == "default" && name(o) == "kubernetes";
    let mut services = objects.iter().filter(|o| o["kind"] == "Service").filter(named);
    services.any(|o| is_at(o, address) && has_port(o, port))
}

/// The Service that a frontend belongs to: the oldest of those that claim it, those whose ClusterIP it is before others.
fn owner<'a>(objects: &'a [Value], address: IpAddr, port: (u64, &str)) -> Option<&'a Value> {
    let age = |s: &&Value| {
        let meta = &s["metadata"];
        let names =
            [&meta["creationTimestamp"], &meta["namespace"], &meta["name"]].map(|v| text(v).to_owned());
        (is_outside(s, address), names)
    };
    let claims = |s: &&Value| (is_at(s, address) || is_outside(s, address)) && has_port(s, port);
    objects.iter().filter(|o| o["kind"] == "Service").filter(claims).min_by_key(age)
}

/// The backend port of a policy for a frontend, if the policy claims it.
fn leads_to(
    objects: &[Value],
    rules: &Rules,
    policy: &Value,
    address: IpAddr,
    port: (u64, &str),
) -> Option<u64> {
    let frontend = &policy["spec"]["frontend"];
    let backend = &policy["spec"]["backend"];
    let front = if frontend["addressMatcher"].is_object() {
        let matcher = &frontend["addressMatcher"];
        if ip(&matcher["ip"]) != Some(address) {
            return None;
        }
        ports(&matcher["toPorts"])
    } else {
        let matcher = &frontend["serviceMatcher"];
        let service = objects.iter().find(|o| {
            let meta = &o["metadata"];
            o["kind"] == "Service"
                && (&meta["namespace"], &meta["name"]) == (&matcher["namespace"], &matcher["serviceName"])
        })?;
        if rules.resolution == "off" || !is_at(service, address) || !has_port(service, port) {
            return None;
        }
        let listed = [&matcher["toPorts"], &frontend["toPorts"]].into_iter().find(|v| v.is_array());
        ports(listed.unwrap_or(&service["spec"]["ports"]))
    };
    let back =
        [&backend["toPorts"], &backend["serviceEndpoint"]["toPorts"], &backend["addressEndpoint"]["toPorts"]];
    let back = ports(back.into_iter().find(|v| v.is_array())?);
    let f = front.iter().find(|f| (f.0, f.1.as_str()) == port)?;
    if front.len() == 1 && back.len() == 1 {
        return (back[0].1 == f.1).then_some(back[0].0);
    }
    back.iter().find(|b| (&b.1, &b.2) == (&f.1, &f.2)).map(|b| b.0)
}

fn selected<'a>(objects: &'a [Value], policy: &'a Value) -> impl Iterator<Item = &'a Value> {
    let backend = &policy["spec"]["backend"];
    let from = if backend["serviceEndpoint"].is_object() { &backend["serviceEndpoint"] } else { backend };
    objects.iter().filter(|o| o["kind"] == "Pod").filter(|pod| {
        let namespaces = list(&from["namespaces"]);
        from["endpointSelector"].is_object()
            && fits(&from["endpointSelector"], &pod["metadata"]["labels"])
            && (namespaces.is_empty() || namespaces.contains(&pod["metadata"]["namespace"]))
    })
}

fn can_serve(pod: &Value) -> bool {
    let ready =
        list(&pod["status"]["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

fn backends(
    objects: &[Value],
    rules: &Rules,
    policy: &Value,
    port: u64,
    v4: bool,
) -> BTreeSet<(IpAddr, u16)> {
    let backend = &policy["spec"]["backend"];
    let mut found: Vec<Option<IpAddr>> =
        list(&backend["addressEndpoint"]["addresses"]).iter().map(ip).collect();
    let mode = text(&backend["serviceEndpoint"]["redirectMode"]);
    for pod in selected(objects, policy).filter(|pod| can_serve(pod)) {
        let at = text(&pod["spec"]["nodeName"]);
        if policy["kind"] == "LocalRedirectPolicy" && at != rules.node {
            continue;
        }
        let node = the_node(objects, at);
        match mode {
            "hostPort" => {
                let all = node.map(|n| list(&n["status"]["addresses"])).unwrap_or_default();
                let mut of_family =
                    all.iter().map(|a| ip(&a["address"])).filter(|a| a.is_some_and(|a| a.is_ipv4() == v4));
                found.extend(of_family.next());
            }
            "nodeProxy" => {
                let key =
                    if v4 { "balancing.elf.io/nodeProxyIpv4" } else { "balancing.elf.io/nodeProxyIpv6" };
                found.extend(node.map(|n| ip(&n["metadata"]["annotations"][key])));
            }
            _ => found.extend(list(&pod["status"]["podIPs"]).iter().map(|a| ip(&a["ip"]))),
        }
    }
    let port = u16::try_from(port).unwrap_or_default();
    found.into_iter().flatten().filter(|a| a.is_ipv4() == v4).map(|a| (a, port)).collect()
}

fn is_exempt(objects: &[Value], rules: &Rules, policy: &Value, from: &Caller) -> bool {
    let Caller::Pod(caller) = from else { return false };
    policy["spec"]["backend"]["skipRedirectFromBackend"] != false
        && selected(objects, policy).any(|pod| {
            let over = ["Succeeded", "Failed"].contains(&text(&pod["status"]["phase"]));
            name(pod) == caller && pod["spec"]["nodeName"] == rules.node.as_str() && !over
        })
}

/// A pod of the operator, on this node.
fn is_operator(objects: &[Value], rules: &Rules, from: &Caller) -> bool {
    let Caller::Pod(caller) = from else { return false };
    objects.iter().filter(|o| o["kind"] == "Pod" && name(o) == caller).any(|pod| {
        let labels = &pod["metadata"]["labels"];
        pod["metadata"]["namespace"] == NAMESPACE
            && pod["spec"]["nodeName"] == rules.node.as_str()
            && pod["spec"]["serviceAccountName"] == "balancing-operator"
            && labels["app.kubernetes.io/name"] == "balancing"
            && labels["app.kubernetes.io/component"] == "operator"
            && !["Succeeded", "Failed"].contains(&text(&pod["status"]["phase"]))
    })
}

/// Where the endpoints of a Service are that serve this frontend.
fn endpoints(
    objects: &[Value],
    rules: &Rules,
    service: &Value,
    address: IpAddr,
    port: (u64, &str),
) -> BTreeSet<(IpAddr, u16)> {
    let own = ports(&service["spec"]["ports"]);
    let Some((.., port_name)) = own.iter().find(|p| (p.0, p.1.as_str()) == port) else {
        return BTreeSet::new();
    };
    let meta = &service["metadata"];
    let mut all: Vec<(&Value, (IpAddr, u16))> = Vec::new();
    for slice in objects.iter().filter(|o| {
        o["kind"] == "EndpointSlice"
            && o["metadata"]["namespace"] == meta["namespace"]
            && o["metadata"]["labels"]["kubernetes.io/service-name"] == meta["name"]
    }) {
        for (number, ..) in ports(&slice["ports"]).iter().filter(|p| p.1 == port.1 && p.2 == *port_name) {
            for e in list(&slice["endpoints"]) {
                let at = ip(&e["addresses"][0]).filter(|a| a.is_ipv4() == address.is_ipv4());
                if let Some(at) = at {
                    all.push((e, (at, u16::try_from(*number).unwrap_or_default())));
                }
            }
        }
    }
    let local = service["spec"]["internalTrafficPolicy"] == "Local" && is_at(service, address);
    if local {
        all.retain(|(e, _)| e["nodeName"] == rules.node.as_str());
    }
    let is_ready = |e: &Value| e["conditions"]["ready"] != false;
    let ready: Vec<_> = all.iter().filter(|(e, _)| is_ready(e)).collect();
    if ready.is_empty() {
        let serves = |e: &Value| e["conditions"]["serving"] == true && e["conditions"]["terminating"] == true;
        return all.iter().filter(|(e, _)| serves(e)).map(|(_, at)| *at).collect();
    }
    let zone = the_node(objects, &rules.node)
        .map(|n| text(&n["metadata"]["labels"]["topology.kubernetes.io/zone"]).to_owned())
        .unwrap_or_default();
    for (field, here) in [("forNodes", rules.node.as_str()), ("forZones", zone.as_str())] {
        let says = |e: &Value| list(&e["hints"][field]).iter().any(|h| h["name"] == here);
        let everybody = ready.iter().all(|(e, _)| !list(&e["hints"][field]).is_empty());
        if !local && everybody && ready.iter().any(|(e, _)| says(e)) {
            return ready.iter().filter(|(e, _)| says(e)).map(|(_, at)| *at).collect();
        }
    }
    ready.iter().map(|(_, at)| *at).collect()
}

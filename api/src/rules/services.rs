//! Policies against the Services that stand in the same files.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use serde_json::Value;

use super::{
    Finding, Place, Policy, Severity,
    catalogue::code,
    checked::{Matcher, Port, Ports},
};
use crate::{
    manifest::{Object, Path},
    names::API_SERVER_SERVICE,
};

/// What the rules need to know of a Service.
#[derive(Debug)]
struct Facts {
    addresses: HashSet<IpAddr>,
    ports: Vec<Port>,
    /// Why there is no address to take over, if so.
    unsupported: Option<&'static str>,
}

/// The Services of a set of files.
#[derive(Debug, Default)]
pub(super) struct Services(HashMap<(String, String), Facts>);

impl Services {
    /// Note an object, if it is a Service.
    pub(super) fn note(&mut self, object: &Object) {
        if object.kind != "Service" || object.api_version != "v1" {
            return;
        }
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        self.0.insert((namespace, object.name.clone()), facts(&object.value["spec"]));
    }

    /// What is to be said about a policy. A Service that does not stand in the files may well be in the cluster, unless
    /// they are all there is.
    pub(super) fn check(&self, policy: &Policy, all_there_is: bool) -> Vec<Finding> {
        match &policy.matcher {
            Matcher::Address(vip) => self.shadowed(*vip).into_iter().chain(self.api_server(*vip)).collect(),
            Matcher::Service { namespace, name } => match self.0.get(&(namespace.clone(), name.clone())) {
                Some(facts) => matched(policy, facts),
                None if all_there_is => vec![missing(policy)],
                None => Vec::new(),
            },
        }
    }

    /// A VIP that is the address of the API server.
    fn api_server(&self, vip: IpAddr) -> Option<Finding> {
        let (namespace, name) = API_SERVER_SERVICE;
        let facts = self.0.get(&(namespace.to_owned(), name.to_owned()))?;
        let path = Path::of(&["spec", "frontend", "addressMatcher", "ip"]);
        let message = format!("{vip} is the address of the API server, that of default/kubernetes");
        let help = "programs that reach the API server by it depend on the backend from now on; onNoBackend: Refuse has no effect here";
        let finding = || finding(code::API_SERVER, Severity::Info, Place::value(path), message, help);
        facts.addresses.contains(&vip).then(finding)
    }

    fn shadowed(&self, vip: IpAddr) -> Option<Finding> {
        let mut names: Vec<_> =
            self.0.iter().filter(|(_, f)| f.addresses.contains(&vip)).map(|(n, _)| n).collect();
        names.sort();
        let (namespace, name) = names.first()?;
        let path = Path::of(&["spec", "frontend", "addressMatcher", "ip"]);
        let message = format!(
            "{vip} is the ClusterIP of {namespace}/{name}: for the ports listed here the policy comes first"
        );
        let help = format!(
            "to follow the Service wherever its address goes, match it: serviceMatcher: {{serviceName: {name}, namespace: {namespace}}}"
        );
        Some(finding(code::SHADOWED_SERVICE, Severity::Info, Place::value(path), message, &help))
    }
}

/// A Service that stands nowhere.
fn missing(policy: &Policy) -> Finding {
    let message = format!("there is no Service {} in these files", policy.matcher);
    let help = "add it, or correct the name or the namespace; until then the policy does nothing";
    let place = Place::value(Path::of(&["spec", "frontend", "serviceMatcher", "serviceName"]));
    finding(code::UNFIT_SERVICE, Severity::Warning, place, message, help)
}

/// What is to be said about a policy whose Service is known.
fn matched(policy: &Policy, facts: &Facts) -> Vec<Finding> {
    let matcher = Path::of(&["spec", "frontend", "serviceMatcher"]);
    let service = &policy.matcher;
    if let Some(why) = facts.unsupported {
        let message = format!("{service} {why}: there is no ClusterIP to take over");
        let help = "match a Service that has a ClusterIP, or use addressMatcher";
        let place = Place::value(matcher.key("serviceName"));
        return vec![finding(code::UNFIT_SERVICE, Severity::Error, place, message, help)];
    }
    let offers: Vec<_> = facts.ports.iter().map(ToString::to_string).collect();
    let help = format!(
        "{service} has {}",
        if offers.is_empty() { "no ports".to_owned() } else { offers.join(", ") }
    );
    let place = || Place::key(matcher.key("toPorts"));
    match &policy.ports {
        Ports::Listed(pairing) => {
            let offered =
                |p: &Port| facts.ports.iter().any(|s| (s.number, s.protocol) == (p.number, p.protocol));
            let listed = pairing.pairs.iter().map(|p| &p.frontend).chain(&pairing.unpaired);
            listed
                .filter(|p| !offered(p))
                .map(|p| {
                    let message = format!("{service} has no port {}/{}", p.number, p.protocol);
                    finding(code::SERVICE_PORT, Severity::Error, place(), message, &help)
                })
                .collect()
        }
        Ports::OfService { .. } if policy.ports.for_service(&facts.ports).pairs.is_empty() => {
            let message =
                format!("no port of {service} is called as a backend port is, so the policy does nothing");
            vec![finding(code::SERVICE_PORT, Severity::Error, Place::key(matcher), message, &help)]
        }
        Ports::OfService { .. } => Vec::new(),
    }
}

fn facts(spec: &Value) -> Facts {
    let text = |key: &str| spec[key].as_str().unwrap_or_default();
    let listed = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let addresses = listed.chain([text("clusterIP")]).filter_map(|a| a.parse::<IpAddr>().ok());
    let ports = spec["ports"].as_array().into_iter().flatten();
    Facts {
        addresses: addresses.map(|a| a.to_canonical()).collect(),
        ports: ports.filter_map(port).collect(),
        unsupported: match (text("type"), text("clusterIP")) {
            ("ExternalName", _) => Some("is an ExternalName"),
            (_, "None") => Some("is headless"),
            _ => None,
        },
    }
}

/// A port of a Service; one of another protocol is of no use here.
fn port(value: &Value) -> Option<Port> {
    Some(Port {
        number: value["port"].as_u64().and_then(|n| u16::try_from(n).ok())?,
        protocol: value["protocol"].as_str().unwrap_or("TCP").parse().ok()?,
        name: value["name"].as_str().unwrap_or_default().to_owned(),
    })
}

fn finding(code: &'static str, severity: Severity, place: Place, message: String, help: &str) -> Finding {
    Finding { code, severity, place, message, help: help.to_owned(), related: Vec::new(), blocks: false }
}

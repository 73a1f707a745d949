//! One policy, field by field.

use std::{collections::HashSet, net::IpAddr, num::NonZeroU32};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Finding, Place, Policy, Severity,
    catalogue::code,
    checked::{Backend, Matcher, Ports, Selector, pair},
    ports::{self, Side},
    reader::{Fields, Report, to_text},
    selector, suppress,
    syntax::{is_dns_label, is_dns_subdomain, nearest},
};
use crate::{
    manifest::{Path, describe, quote},
    names::{ANNOTATION_SERVICE_ID, API_SERVER_SERVICE, API_VERSION, GROUP},
    policy::{OnNoBackend, PolicyKind, PolicyRef, RedirectMode},
};

const OBJECT: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
const METADATA: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
];
const REDIRECT_SPEC: &[&str] = &["config", "frontend", "backend", "qos"];
const BALANCING_SPEC: &[&str] = &["config", "frontend", "backend"];
const CONFIG: &[&str] = &["nodeLabelSelector", "enableOutCluster", "onNoBackend"];
const FRONTEND: &[&str] = &["addressMatcher", "serviceMatcher", "toPorts"];
const ADDRESS_MATCHER: &[&str] = &["ip", "toPorts"];
const SERVICE_MATCHER: &[&str] = &["serviceName", "namespace", "toPorts"];
const REDIRECT_BACKEND: &[&str] = &["endpointSelector", "toPorts", "namespaces", "skipRedirectFromBackend"];
const BALANCING_BACKEND: &[&str] = &["addressEndpoint", "serviceEndpoint"];
const ADDRESS_ENDPOINT: &[&str] = &["addresses", "toPorts"];
const SERVICE_ENDPOINT: &[&str] = &["endpointSelector", "redirectMode", "toPorts", "namespaces"];
const QOS: &[&str] = &["redirectsPerSecond"];

/// Where each field that stands in one kind of place belongs.
const HOMES: &[(&str, &[&str])] = &[
    ("metadata", &["name", "labels", "annotations"]),
    ("spec", &["config", "frontend", "backend"]),
    ("spec of a LocalRedirectPolicy", &["qos"]),
    ("spec.config", CONFIG),
    ("spec.frontend", &["addressMatcher", "serviceMatcher"]),
    ("spec.frontend.addressMatcher", &["ip"]),
    ("spec.frontend.serviceMatcher", &["serviceName"]),
    ("spec.backend of a LocalRedirectPolicy", &["endpointSelector", "namespaces", "skipRedirectFromBackend"]),
    ("spec.backend of a BalancingPolicy", BALANCING_BACKEND),
    ("spec.backend.addressEndpoint of a BalancingPolicy", &["addresses"]),
    (
        "spec.backend.serviceEndpoint of a BalancingPolicy",
        &["endpointSelector", "redirectMode", "namespaces"],
    ),
    ("spec.qos of a LocalRedirectPolicy", QOS),
    ("a label selector", &["matchLabels", "matchExpressions"]),
];

/// The places where a field of that name is known.
pub(super) fn homes_of(key: &str) -> Vec<&'static str> {
    HOMES.iter().filter(|(_, fields)| fields.contains(&key)).map(|(home, _)| *home).collect()
}

/// The outcome of [`check`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The policy, parsed; nothing where a finding blocks it.
    pub policy: Option<Policy>,
    /// What is to be said about it, in the order of its fields.
    pub findings: Vec<Finding>,
    /// Findings that its annotation keeps quiet, and that are not in the list.
    pub suppressed: usize,
}

impl Checked {
    /// The findings for which the object must not be programmed.
    pub fn blocking(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.blocks)
    }
}

/// Is this object a policy, or meant to be one? Then [`check`] has something to say about it.
#[must_use]
pub fn concerns(value: &Value) -> bool {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let parts = |spec: &Value| spec.get("frontend").is_some() && spec.get("backend").is_some();
    let shaped = || value.get("spec").is_some_and(parts);
    (group == GROUP && kind != "NodeBalancingState")
        || kind_of(kind).is_some()
        || ((api_version.is_empty() || kind.is_empty()) && shaped())
}

fn kind_of(kind: &str) -> Option<PolicyKind> {
    [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy].into_iter().find(|k| k.as_str() == kind)
}

/// Check one object that [`concerns`] says is a policy.
#[must_use]
pub fn check(value: &Value) -> Checked {
    let mut report = Report::default();
    let policy = identify(&mut report, value).and_then(|kind| object(&mut report, value, kind));
    let mut findings = report.findings;
    let blocked = findings.iter().any(|f| f.blocks);
    let (all, quiet) = (findings.len(), suppress::codes(value));
    findings.retain(|f| f.blocks || !quiet.contains(&f.code));
    Checked { policy: policy.filter(|_| !blocked), suppressed: all - findings.len(), findings }
}

/// The kind of policy that an object says it is. In another version fields may mean anything: nothing more is said.
fn identify(report: &mut Report, value: &Value) -> Option<PolicyKind> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let kinds = [PolicyKind::LocalRedirectPolicy.as_str(), PolicyKind::BalancingPolicy.as_str()];
    let known = kind_of(kind);
    if kind.is_empty() {
        let help = format!("write kind: {}", kinds.join(" or kind: "));
        report.block(code::KIND, &Path::of(&["kind"]), "kind is missing".to_owned(), &help);
    } else if known.is_none() {
        let help = match nearest(kind, kinds) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("the kinds are {}", kinds.join(" and ")),
        };
        report.block(code::KIND, &Path::of(&["kind"]), format!("{GROUP} has no kind {}", quote(kind)), &help);
    }
    if api_version == API_VERSION {
        return known;
    }
    let path = Path::of(&["apiVersion"]);
    let help = format!("write apiVersion: {API_VERSION}");
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let foreign = group != GROUP && group.contains('.') && nearest(group, [GROUP]).is_none();
    if api_version.is_empty() {
        report.block(code::KIND, &path, "apiVersion is missing".to_owned(), &help);
    } else if foreign {
        let message = format!("{kind} of {group} is not of this product and is not checked");
        report.warn(code::KIND, &path, message, &format!("if it is meant to be, {help}"));
    } else if group == GROUP {
        report.block(code::KIND, &path, format!("{api_version} is not served"), &help);
    } else {
        report.block(code::KIND, &path, format!("{kind} is not of {api_version}"), &help);
    }
    None
}

/// What `metadata` holds.
struct Meta {
    name: String,
    uid: String,
    generation: i64,
    created: Option<Timestamp>,
    service_id: Option<NonZeroU32>,
}

fn object(report: &mut Report, value: &Value, kind: PolicyKind) -> Option<Policy> {
    let fields = Fields::open(report, value, Path::default(), OBJECT)?;
    let meta = metadata(report, &fields, kind);
    fields.require(report, "spec");
    let known = match kind {
        PolicyKind::LocalRedirectPolicy => REDIRECT_SPEC,
        PolicyKind::BalancingPolicy => BALANCING_SPEC,
    };
    let spec = fields.fields(report, "spec", known)?;
    let config = config(report, &spec);
    let frontend = frontend(report, &spec);
    let backend = match kind {
        PolicyKind::LocalRedirectPolicy => local_backend(report, &spec),
        PolicyKind::BalancingPolicy => balancing_backend(report, &spec),
    };
    let redirects_per_second = match kind {
        PolicyKind::LocalRedirectPolicy => limit(report, &spec),
        PolicyKind::BalancingPolicy => None,
    };
    let (frontend, backend) = (frontend?, backend?);
    families(report, &frontend.matcher, &backend.kind, &backend.path);
    let ports = match (frontend.ports, backend.ports) {
        (Some(front), Some(back)) => {
            ports::pairing(report, &front, &back);
            let (front, back) = (front.plain()?, back.plain()?);
            Ports::Listed(pair(&front, &back))
        }
        (None, Some(back)) if frontend.takes_all => Ports::OfService { backend: back.plain()? },
        _ => return None,
    };
    circle(report, &frontend.matcher, &backend.kind, &ports, &backend.path);
    let meta = meta?;
    Some(Policy {
        reference: PolicyRef::new(kind, meta.name),
        uid: meta.uid,
        generation: meta.generation,
        created: meta.created,
        service_id: meta.service_id,
        nodes: config.nodes.filter(|s| !s.is_empty()),
        enable_out_cluster: config.enable_out_cluster,
        on_no_backend: config.on_no_backend,
        matcher: frontend.matcher,
        backend: backend.kind,
        ports,
        redirects_per_second,
    })
}

fn metadata(report: &mut Report, object: &Fields<'_>, kind: PolicyKind) -> Option<Meta> {
    let name_path = Path::of(&["metadata", "name"]);
    let Some(meta) = object.fields(report, "metadata", METADATA) else {
        if object.get("metadata").is_none() {
            let message = format!("this {kind} has no name: metadata.name is missing");
            report.block(code::NAME, &name_path, message, "");
        }
        return None;
    };
    let name = name(report, &meta, kind);
    if let Some(namespace) = meta.text(report, "namespace").filter(|n| !n.is_empty()) {
        let message = format!("a {kind} is cluster-scoped: namespace {} is ignored", quote(namespace));
        let place = Place::key(meta.path.key("namespace"));
        let help = "remove it; where backend pods may live is said by namespaces in spec.backend";
        report.add(code::NAMESPACE, Severity::Warning, place, message, help);
    }
    let created = meta.text(report, "creationTimestamp").and_then(|t| {
        let time = t.parse();
        if time.is_err() {
            let path = meta.path.key("creationTimestamp");
            report.block(
                code::TYPE,
                &path,
                format!("{} is no time", quote(t)),
                "write it as 2026-01-31T12:00:00Z",
            );
        }
        time.ok()
    });
    string_map(report, &meta, "labels");
    string_map(report, &meta, "annotations");
    suppress::check(report, &meta);
    let uid = meta.text(report, "uid").unwrap_or_default().to_owned();
    let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or_default();
    Some(Meta { name: name?, uid, generation, created, service_id: service_id(report, &meta) })
}

fn name(report: &mut Report, meta: &Fields<'_>, kind: PolicyKind) -> Option<String> {
    let path = meta.path.key("name");
    if meta.get("name").is_none() {
        let help = if meta.get("generateName").is_some() {
            "generateName works with kubectl create alone; write a name"
        } else {
            ""
        };
        report.block(code::NAME, &path, format!("this {kind} has no name: metadata.name is missing"), help);
        return None;
    }
    let name = meta.text(report, "name")?;
    if !is_dns_subdomain(name) {
        let message = format!("{} is no name of an object", quote(name));
        let help = "use at most 253 of a-z, 0-9, - and ., with a letter or digit at each end";
        report.block(code::NAME, &path, message, help);
    }
    Some(name.to_owned())
}

/// Labels and annotations have text as values; the API server refuses anything else.
fn string_map(report: &mut Report, meta: &Fields<'_>, key: &'static str) {
    let Some(value) = meta.get(key) else { return };
    let path = meta.path.key(key);
    let Some(map) = value.as_object() else {
        return report.wrong_type(&path, "a mapping", value, "");
    };
    for (key, value) in map.iter().filter(|(_, v)| !v.is_string()) {
        let path = path.key(key);
        let message = format!("{path} has to be text, not {}", describe(value));
        report.add(code::TYPE, Severity::Error, Place::value(path), message, to_text(value));
    }
}

fn service_id(report: &mut Report, meta: &Fields<'_>) -> Option<NonZeroU32> {
    let written = meta.get("annotations")?.get(ANNOTATION_SERVICE_ID)?.as_str()?;
    let digits = !written.is_empty() && written.bytes().all(|b| b.is_ascii_digit());
    let id = written.parse().ok().filter(|_| digits && !written.starts_with('0'));
    if id.is_none() {
        let path = meta.path.key("annotations").key(ANNOTATION_SERVICE_ID);
        let message = format!("serviceId {} is no number from 1 to 4294967295", quote(written));
        let help = "remove the annotation to have one assigned";
        report.add(code::SERVICE_ID, Severity::Error, Place::value(path), message, help);
    }
    id
}

/// `spec.config`.
struct Config {
    nodes: Option<Selector>,
    enable_out_cluster: bool,
    on_no_backend: OnNoBackend,
}

fn config(report: &mut Report, spec: &Fields<'_>) -> Config {
    let mut config = Config { nodes: None, enable_out_cluster: true, on_no_backend: OnNoBackend::default() };
    let Some(fields) = spec.fields(report, "config", CONFIG) else { return config };
    if let Some(value) = fields.get("nodeLabelSelector") {
        config.nodes = selector::read(report, value, &fields.path.key("nodeLabelSelector"));
    }
    let choices = [("Fallback", OnNoBackend::Fallback), ("Refuse", OnNoBackend::Refuse)];
    config.enable_out_cluster = fields.boolean(report, "enableOutCluster").unwrap_or(true);
    config.on_no_backend = fields.choice(report, "onNoBackend", &choices).unwrap_or_default();
    config
}

/// `spec.frontend`.
struct Frontend {
    matcher: Matcher,
    ports: Option<ports::List>,
    /// There is no list of ports, and that means all ports of the Service.
    takes_all: bool,
}

fn frontend(report: &mut Report, spec: &Fields<'_>) -> Option<Frontend> {
    spec.require(report, "frontend")?;
    let fields = spec.fields(report, "frontend", FRONTEND)?;
    let address = fields.get("addressMatcher").is_some();
    let service = fields.get("serviceMatcher").is_some();
    match (address, service) {
        (true, true) => {
            let place = Place::key(fields.path.key("serviceMatcher"));
            let message = "both addressMatcher and serviceMatcher are given".to_owned();
            let help = "keep one of the two; for both, write two policies";
            let finding = report.add(code::ONE_OF, Severity::Error, place, message, help);
            finding.blocks = true;
            let other = Place::key(fields.path.key("addressMatcher"));
            finding.related.push((other, "and this".to_owned()));
            None
        }
        (false, false) => {
            let misspelt = ["addressMatcher", "serviceMatcher"].iter().any(|f| fields.is_misspelt(f));
            if misspelt {
                fields.block_misspelt(report);
            } else {
                let help =
                    "write addressMatcher with an ip, or serviceMatcher with serviceName and namespace";
                let place = Place::key(fields.path.clone());
                let message = "neither addressMatcher nor serviceMatcher is given".to_owned();
                report.add(code::ONE_OF, Severity::Error, place, message, help).blocks = true;
            }
            None
        }
        (true, false) => address_matcher(report, &fields),
        (false, true) => service_matcher(report, &fields),
    }
}

fn address_matcher(report: &mut Report, frontend: &Fields<'_>) -> Option<Frontend> {
    let fields = frontend.fields(report, "addressMatcher", ADDRESS_MATCHER)?;
    if frontend.get("toPorts").is_some() {
        let place = Place::key(frontend.path.key("toPorts"));
        let message = "toPorts stands beside addressMatcher, where it is not read".to_owned();
        let help = "move it into addressMatcher, two spaces further in";
        report.add(code::MISPLACED_PORTS, Severity::Error, place, message, help).blocks = true;
    } else {
        fields.require(report, "toPorts");
    }
    let ports = ports::read(report, &fields, Side::Frontend);
    let ip = fields.require_text(report, "ip")?;
    let address = address(report, ip, &fields.path.key("ip"), "VIP")?;
    Some(Frontend { matcher: Matcher::Address(address), ports, takes_all: false })
}

fn service_matcher(report: &mut Report, frontend: &Fields<'_>) -> Option<Frontend> {
    let fields = frontend.fields(report, "serviceMatcher", SERVICE_MATCHER)?;
    let beside = frontend.get("toPorts").is_some();
    let inside = fields.get("toPorts").is_some();
    if beside {
        let place = Place::key(frontend.path.key("toPorts"));
        let help = "move it into serviceMatcher, two spaces further in";
        if inside {
            let message = "toPorts stands both beside serviceMatcher and inside of it".to_owned();
            let help = "keep the one inside";
            let finding = report.add(code::MISPLACED_PORTS, Severity::Error, place, message, help);
            finding.blocks = true;
            let other = Place::key(fields.path.key("toPorts"));
            finding.related.push((other, "and here".to_owned()));
        } else {
            let message = "toPorts stands beside serviceMatcher; it is read as if it stood inside".to_owned();
            report.add(code::MISPLACED_PORTS, Severity::Warning, place, message, help);
        }
    }
    let holder = if beside && !inside { frontend } else { &fields };
    let ports = ports::read(report, holder, Side::Frontend);
    let name = object_name(report, &fields, "serviceName", "Service");
    let namespace = object_name(report, &fields, "namespace", "namespace");
    let (name, namespace) = (name?, namespace?);
    if (namespace.as_str(), name.as_str()) == API_SERVER_SERVICE {
        let message = "this takes over default/kubernetes, the address of the API server itself".to_owned();
        let help = "programs that reach the API server by it depend on the backend pods from now on, except for \
                    agents and operators; onNoBackend: Refuse has no effect here";
        let place = Place::value(fields.path.key("serviceName"));
        report.add(code::API_SERVER, Severity::Info, place, message, help);
    }
    Some(Frontend { matcher: Matcher::Service { namespace, name }, ports, takes_all: !beside && !inside })
}

/// The name of a Service or namespace.
fn object_name(report: &mut Report, fields: &Fields<'_>, key: &'static str, what: &str) -> Option<String> {
    let name = fields.require_text(report, key)?;
    let path = fields.path.key(key);
    if !is_dns_label(name) {
        let help = if name.contains(['/', '.']) && key == "serviceName" {
            "write the name alone; the namespace has a field of its own"
        } else {
            "use at most 63 of a-z, 0-9 and -, with a letter or digit at each end"
        };
        report.block(code::REFERENCE, &path, format!("{} is no name of a {what}", quote(name)), help);
    }
    Some(name.to_owned())
}

/// An address that can be dialled, in canonical form.
fn address(report: &mut Report, written: &str, path: &Path, what: &str) -> Option<IpAddr> {
    let Ok(address) = written.parse::<IpAddr>() else {
        report.block(
            code::ADDRESS,
            path,
            format!("{} is no IP address", quote(written)),
            &not_an_address(written),
        );
        return None;
    };
    let address = address.to_canonical();
    let unfit = match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_multicast() => "a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        a if a.is_loopback() && what == "VIP" => "a loopback address",
        _ => return Some(address),
    };
    let help = match what {
        "VIP" => "use an address that nothing else has, for example of 169.254.0.0/16 or fd00::/8",
        _ => "use an address of the backend that every node can reach",
    };
    report.block(code::ADDRESS, path, format!("{written} is {unfit} and can be no {what}"), help);
    None
}

/// What a text that is no address was probably meant to be.
fn not_an_address(written: &str) -> String {
    let parses = |s: &str| s.parse::<IpAddr>().is_ok();
    let trimmed = written.trim();
    let host = |s: &str| s.parse::<std::net::SocketAddr>().ok().map(|s| s.ip());
    if trimmed.len() != written.len() && parses(trimmed) {
        "remove the blanks around it".to_owned()
    } else if trimmed.split_once('%').is_some_and(|(a, _)| parses(a)) {
        "an address with a zone (%...) means something else on every node; write it without".to_owned()
    } else if let Some((a, _)) = trimmed.split_once('/').filter(|(a, _)| parses(a)) {
        format!("a range cannot be matched; for the one address write {a}")
    } else if let Some(address) = host(trimmed) {
        format!("the port goes into toPorts; write {address} here")
    } else if trimmed.split('.').count() == 4 && trimmed.split('.').all(|p| p.parse::<u8>().is_ok()) {
        "write its numbers without leading zeros".to_owned()
    } else if trimmed.bytes().any(|b| b.is_ascii_alphabetic()) && !trimmed.contains(':') {
        "names are not looked up; write the address itself, or use serviceMatcher for a Service".to_owned()
    } else {
        "write an IPv4 address as 169.254.0.90 or an IPv6 address as fd00::90".to_owned()
    }
}

/// `spec.backend`, or the endpoint in it.
struct BackendPart {
    kind: Backend,
    ports: Option<ports::List>,
    path: Path,
}

fn local_backend(report: &mut Report, spec: &Fields<'_>) -> Option<BackendPart> {
    spec.require(report, "backend")?;
    let fields = spec.fields(report, "backend", REDIRECT_BACKEND)?;
    let selector = pod_selector(report, &fields);
    fields.require(report, "toPorts");
    let ports = ports::read(report, &fields, Side::Backend);
    let namespaces = namespaces(report, &fields);
    let skip = fields.boolean(report, "skipRedirectFromBackend").unwrap_or(true);
    if !skip {
        let message = "connections of the backend pods to the frontend are sent back to them".to_owned();
        let help = "remove it, unless these pods never dial the frontend";
        report.warn(code::LOOP, &fields.path.key("skipRedirectFromBackend"), message, help);
    }
    let kind = Backend::Local { selector: selector?, namespaces, skip_redirect_from_backend: skip };
    Some(BackendPart { kind, ports, path: fields.path })
}

fn balancing_backend(report: &mut Report, spec: &Fields<'_>) -> Option<BackendPart> {
    spec.require(report, "backend")?;
    let fields = spec.fields(report, "backend", BALANCING_BACKEND)?;
    match (fields.get("addressEndpoint").is_some(), fields.get("serviceEndpoint").is_some()) {
        (true, true) => {
            let place = Place::key(fields.path.key("serviceEndpoint"));
            let message = "both addressEndpoint and serviceEndpoint are given".to_owned();
            let finding = report.add(code::ONE_OF, Severity::Error, place, message, "keep one of the two");
            finding.blocks = true;
            let other = Place::key(fields.path.key("addressEndpoint"));
            finding.related.push((other, "and this".to_owned()));
            None
        }
        (false, false) => {
            if BALANCING_BACKEND.iter().any(|f| fields.is_misspelt(f)) {
                fields.block_misspelt(report);
            } else {
                let help =
                    "write addressEndpoint with addresses, or serviceEndpoint with an endpointSelector";
                let message = "neither addressEndpoint nor serviceEndpoint is given".to_owned();
                let place = Place::key(fields.path.clone());
                report.add(code::ONE_OF, Severity::Error, place, message, help).blocks = true;
            }
            None
        }
        (true, false) => address_endpoint(report, &fields),
        (false, true) => service_endpoint(report, &fields),
    }
}

fn address_endpoint(report: &mut Report, backend: &Fields<'_>) -> Option<BackendPart> {
    let fields = backend.fields(report, "addressEndpoint", ADDRESS_ENDPOINT)?;
    fields.require(report, "addresses");
    fields.require(report, "toPorts");
    let ports = ports::read(report, &fields, Side::Backend);
    let path = fields.path.key("addresses");
    let list = fields.list(report, "addresses")?;
    if list.is_empty() {
        report.block(code::TYPE, &path, format!("{path} has no entry"), "");
    }
    let (mut addresses, mut seen) = (Vec::new(), HashSet::new());
    for (i, value) in list.iter().enumerate() {
        let path = path.index(i);
        let Some(written) = value.as_str() else {
            report.wrong_type(&path, "an IP address", value, "");
            continue;
        };
        let Some(address) = address(report, written, &path, "backend") else { continue };
        if address.is_loopback() {
            let message = format!("{written} is a loopback address: each client would reach itself");
            let help = "this works for programs in the node's own network alone, not for pods";
            report.warn(code::ADDRESS, &path, message, help);
        }
        if seen.insert(address) {
            addresses.push(address);
        } else {
            let help = "remove it: an address counts once";
            report.warn(code::DUPLICATE, &path, format!("{address} stands twice"), help);
        }
    }
    Some(BackendPart { kind: Backend::Addresses(addresses), ports, path })
}

fn service_endpoint(report: &mut Report, backend: &Fields<'_>) -> Option<BackendPart> {
    let fields = backend.fields(report, "serviceEndpoint", SERVICE_ENDPOINT)?;
    let selector = pod_selector(report, &fields);
    fields.require(report, "toPorts");
    let ports = ports::read(report, &fields, Side::Backend);
    let choices = [
        ("podEndpoint", RedirectMode::PodEndpoint),
        ("nodeProxy", RedirectMode::NodeProxy),
        ("hostPort", RedirectMode::HostPort),
    ];
    let mode = fields.choice(report, "redirectMode", &choices).unwrap_or_default();
    let namespaces = namespaces(report, &fields);
    let kind = Backend::Pods { selector: selector?, namespaces, mode };
    Some(BackendPart { kind, ports, path: fields.path })
}

fn pod_selector(report: &mut Report, fields: &Fields<'_>) -> Option<Selector> {
    let value = fields.require(report, "endpointSelector")?;
    let path = fields.path.key("endpointSelector");
    let selector = selector::read(report, value, &path)?;
    if selector.is_empty() {
        let message = "an empty selector selects every pod".to_owned();
        let help = "name the backend pods by their labels: matchLabels: {app: NAME}";
        report.add(code::SELECTOR, Severity::Warning, Place::key(path), message, help);
    }
    Some(selector)
}

fn namespaces(report: &mut Report, fields: &Fields<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let path = fields.path.key("namespaces");
    for (i, value) in fields.list(report, "namespaces").into_iter().flatten().enumerate() {
        let path = path.index(i);
        match value.as_str() {
            Some(name) if is_dns_label(name) => names.push(name.to_owned()),
            Some(name) => {
                let help = match name {
                    "*" => "for all namespaces leave the list out",
                    _ => "use at most 63 of a-z, 0-9 and -, with a letter or digit at each end",
                };
                report.block(
                    code::REFERENCE,
                    &path,
                    format!("{} is no name of a namespace", quote(name)),
                    help,
                );
            }
            None => report.wrong_type(&path, "text", value, ""),
        }
    }
    names
}

fn limit(report: &mut Report, spec: &Fields<'_>) -> Option<u32> {
    let fields = spec.fields(report, "qos", QOS)?;
    let value = fields.get("redirectsPerSecond")?;
    let path = fields.path.key("redirectsPerSecond");
    if let Some(limit) = value.as_u64().and_then(|n| u32::try_from(n).ok()) {
        if limit == 1 {
            let message = "a limit of 1 lets one connection a second through on each node".to_owned();
            let help = "write what the backend of one node can take; 0 is no limit";
            report.warn(code::TINY_LIMIT, &path, message, help);
        }
        return Some(limit);
    }
    let help = match value {
        Value::String(s) if s.parse::<u32>().is_ok() => format!("write it without quotes: {s}"),
        _ => "write a whole number; 0 means no limit".to_owned(),
    };
    let message = match value {
        Value::Number(n) => format!("the limit {n} is no whole number from 0 to 4294967295"),
        other => format!("the limit is {}, not a number", describe(other)),
    };
    report.block(code::LIMIT, &path, message, &help);
    None
}

/// A VIP that is its own backend.
fn circle(report: &mut Report, matcher: &Matcher, backend: &Backend, ports: &Ports, path: &Path) {
    let (Matcher::Address(vip), Backend::Addresses(addresses), Ports::Listed(pairing)) =
        (matcher, backend, ports)
    else {
        return;
    };
    let Some(pair) = pairing.pairs.iter().find(|p| p.backend == p.frontend.number) else { return };
    if addresses.contains(vip) {
        let message =
            format!("{vip} is its own backend on port {}: the connection stays as it is", pair.backend);
        let help = "write the addresses that are to serve it";
        report.add(code::LOOP, Severity::Warning, Place::key(path.clone()), message, help);
    }
}

/// A frontend of one family never gets a backend of the other.
fn families(report: &mut Report, matcher: &Matcher, backend: &Backend, path: &Path) {
    let (Matcher::Address(vip), Backend::Addresses(addresses)) = (matcher, backend) else { return };
    let family = |a: &IpAddr| if a.is_ipv4() { "IPv4" } else { "IPv6" };
    let others: Vec<_> = addresses.iter().filter(|a| family(a) != family(vip)).collect();
    if others.is_empty() {
        return;
    }
    let (severity, message) = if others.len() == addresses.len() {
        let message = format!("the VIP {vip} is {}, and no backend address is", family(vip));
        (Severity::Error, message)
    } else {
        let list = others.iter().take(3).map(ToString::to_string).collect::<Vec<_>>().join(", ");
        (Severity::Warning, format!("the VIP {vip} is {}: {list} will never be used", family(vip)))
    };
    let help = format!("add {} addresses, or write a policy for a VIP of the other family", family(vip));
    report.add(code::FAMILY, severity, Place::key(path.clone()), message, &help);
}

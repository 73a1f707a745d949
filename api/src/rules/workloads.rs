//! Policies against the Pods, workloads and Nodes that stand in the same files.

use serde_json::Value;

use super::{
    Finding, Place, Policy, Severity,
    catalogue::code,
    checked::{Backend, Ports, Selector},
};
use crate::{
    manifest::{Object, Path},
    names::{ANNOTATION_NODE_PROXY_IPV4, ANNOTATION_NODE_PROXY_IPV6},
    net::Protocol,
    policy::RedirectMode,
};

/// A Pod, or the pods that a workload makes.
#[derive(Debug)]
struct Pods {
    kind: String,
    namespace: String,
    name: String,
    labels: Value,
    /// Where a Pod runs; empty where that is not known.
    node: String,
    ready: bool,
    ports: Vec<Declared>,
}

/// A port that a container declares.
#[derive(Debug)]
struct Declared {
    container: u64,
    host: Option<u64>,
    protocol: Option<Protocol>,
}

/// The Pods, workloads and Nodes of a set of files.
#[derive(Debug, Default)]
pub(super) struct Workloads {
    pods: Vec<Pods>,
    /// Names of Nodes, and whether they have an address of a proxy.
    nodes: Vec<(String, bool)>,
}

impl Workloads {
    /// Note an object, if it is one of these.
    pub(super) fn note(&mut self, object: &Object) {
        let value = &object.value;
        match (object.api_version.as_str(), object.kind.as_str()) {
            ("v1", "Pod") => {
                let labels = value["metadata"]["labels"].clone();
                self.pods.push(Pods { ready: is_ready(value), ..pods(object, labels, &value["spec"]) });
            }
            ("apps/v1", "Deployment" | "StatefulSet" | "ReplicaSet" | "DaemonSet") => {
                let template = &value["spec"]["template"];
                self.pods.push(pods(object, template["metadata"]["labels"].clone(), &template["spec"]));
            }
            ("v1", "Node") => {
                let annotation = |key: &str| value["metadata"]["annotations"].get(key).is_some();
                let proxy =
                    [ANNOTATION_NODE_PROXY_IPV4, ANNOTATION_NODE_PROXY_IPV6].into_iter().any(annotation);
                self.nodes.push((object.name.clone(), proxy));
            }
            _ => {}
        }
    }

    /// What is to be said about a policy.
    pub(super) fn check(&self, policy: &Policy) -> Vec<Finding> {
        let (selector, namespaces, mode, path) = match &policy.backend {
            Backend::Addresses(_) => return Vec::new(),
            Backend::Local { selector, namespaces, .. } => {
                (selector, namespaces, None, &["spec", "backend"][..])
            }
            Backend::Pods { selector, namespaces, mode } => {
                (selector, namespaces, Some(*mode), &["spec", "backend", "serviceEndpoint"][..])
            }
        };
        let path = Path::of(path);
        let found: Vec<&Pods> = self.pods.iter().filter(|p| p.selected(selector, namespaces)).collect();
        let pods = self.no_pod(selector, namespaces, &found, &path);
        let ports = undeclared(policy, &found, mode, &path);
        let nodes = (mode == Some(RedirectMode::NodeProxy)).then(|| self.no_proxy(&found, &path)).flatten();
        let every = mode.is_none().then(|| not_every_node(&found, &path)).flatten();
        pods.into_iter().chain(ports).chain(nodes).chain(every).collect()
    }

    /// Are the files all that an agent reads? Those that hold Pods of nodes are taken for its folder.
    pub(super) fn are_all_there_is(&self) -> bool {
        self.pods.iter().any(|p| !p.node.is_empty())
    }

    /// Where the files are all there is, a pod that is not in them does not exist.
    fn no_pod(
        &self,
        selector: &Selector,
        namespaces: &[String],
        found: &[&Pods],
        path: &Path,
    ) -> Option<Finding> {
        if !self.are_all_there_is() {
            return None;
        }
        let labels = selector.to_string();
        let labels = if labels.is_empty() { "{}" } else { &labels };
        let (message, help) = if found.is_empty() {
            let of = if namespaces.is_empty() {
                String::new()
            } else {
                format!(" of {}", namespaces.join(" or "))
            };
            let elsewhere = self.pods.iter().find(|p| p.selected(selector, &[]));
            let help = match elsewhere {
                Some(pod) => format!("{} matches, but is in another namespace", pod.full_name()),
                None => "compare the selector with the labels of the pods".to_owned(),
            };
            (format!("{labels} matches no pod{of} in these files"), help)
        } else if found.iter().any(|p| p.ready || p.kind != "Pod") {
            return None;
        } else {
            let names: Vec<_> = found.iter().take(3).map(|p| p.full_name()).collect();
            (format!("{labels} matches no pod that is Ready"), format!("look at {}", names.join(", ")))
        };
        let place = Place::key(path.key("endpointSelector"));
        Some(finding(code::NO_POD, Severity::Warning, place, message, &help))
    }

    fn no_proxy(&self, found: &[&Pods], path: &Path) -> Option<Finding> {
        let runs_there =
            |node: &str| found.iter().all(|p| p.node.is_empty()) || found.iter().any(|p| p.node == node);
        let without: Vec<&str> = self
            .nodes
            .iter()
            .filter(|(name, proxy)| !proxy && runs_there(name))
            .map(|(n, _)| n.as_str())
            .collect();
        let first = without.first()?;
        let message = match without.len() {
            1 => format!("node {first} has no address of a proxy"),
            n => format!("{n} nodes have no address of a proxy: {}", shortened(&without)),
        };
        let help = format!(
            "annotate it: kubectl annotate node {first} {ANNOTATION_NODE_PROXY_IPV4}=ADDRESS; until then it is no backend"
        );
        let place = Place::value(path.key("redirectMode"));
        Some(finding(code::NODE_PROXY, Severity::Warning, place, message, &help))
    }
}

impl Pods {
    fn selected(&self, selector: &Selector, namespaces: &[String]) -> bool {
        let label = |key: &str| self.labels.get(key).and_then(Value::as_str);
        (namespaces.is_empty() || namespaces.contains(&self.namespace)) && selector.matches(label)
    }

    /// `Pod shop/web-cache`
    fn full_name(&self) -> String {
        format!("{} {}/{}", self.kind, self.namespace, self.name)
    }

    /// Does it declare that port? What declares no port at all says nothing.
    fn serves(&self, port: u16, protocol: Protocol, host: bool) -> bool {
        let number = |d: &Declared| if host { d.host } else { Some(d.container) };
        let is = |d: &Declared| d.protocol == Some(protocol) && number(d) == Some(u64::from(port));
        self.ports.is_empty() || self.ports.iter().any(is)
    }
}

/// A backend port that no selected pod declares.
fn undeclared(policy: &Policy, found: &[&Pods], mode: Option<RedirectMode>, path: &Path) -> Option<Finding> {
    if found.is_empty() || mode == Some(RedirectMode::NodeProxy) {
        return None;
    }
    let host = mode == Some(RedirectMode::HostPort);
    let wanted: Vec<(u16, Protocol)> = match &policy.ports {
        Ports::Listed(pairing) => pairing.pairs.iter().map(|p| (p.backend, p.frontend.protocol)).collect(),
        Ports::OfService { backend } => backend.iter().map(|p| (p.number, p.protocol)).collect(),
    };
    let missing =
        |(port, protocol): &(u16, Protocol)| !found.iter().any(|p| p.serves(*port, *protocol, host));
    let (port, protocol) = wanted.into_iter().find(missing)?;
    let kind = if host { "hostPort" } else { "containerPort" };
    let names: Vec<_> = found.iter().map(|p| p.full_name()).collect();
    let message = format!("no selected pod declares {kind} {port}/{protocol}");
    let help = format!("compare it with the ports of {}", shortened(&names));
    Some(finding(code::POD_PORT, Severity::Warning, Place::key(path.key("toPorts")), message, &help))
}

/// Pods of a LocalRedirectPolicy that come from workloads which do not run everywhere.
fn not_every_node(found: &[&Pods], path: &Path) -> Option<Finding> {
    if found.iter().any(|p| p.kind == "DaemonSet") {
        return None;
    }
    let some = found.iter().find(|p| p.kind != "Pod")?;
    let message = format!("{} does not put a pod on every node", some.full_name());
    let help = "on the others connections go where they went before; a DaemonSet runs on every node";
    let place = Place::key(path.key("endpointSelector"));
    Some(finding(code::NOT_EVERY_NODE, Severity::Info, place, message, help))
}

fn shortened<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(3).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(3);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn pods(object: &Object, labels: Value, spec: &Value) -> Pods {
    let containers = spec["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let declared = |port: &Value| {
        let container = port["containerPort"].as_u64()?;
        let on_host = spec["hostNetwork"].as_bool() == Some(true);
        let host = port["hostPort"].as_u64().or(on_host.then_some(container));
        Some(Declared { container, host, protocol: port["protocol"].as_str().unwrap_or("TCP").parse().ok() })
    };
    Pods {
        kind: object.kind.clone(),
        namespace: object.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: object.name.clone(),
        labels,
        node: spec["nodeName"].as_str().unwrap_or_default().to_owned(),
        ready: false,
        ports: ports.filter_map(declared).collect(),
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|c| c["type"] == "Ready");
    ready.any(|c| c["status"] == "True") && pod["metadata"].get("deletionTimestamp").is_none()
}

fn finding(code: &'static str, severity: Severity, place: Place, message: String, help: &str) -> Finding {
    Finding { code, severity, place, message, help: help.to_owned(), related: Vec::new(), blocks: false }
}

#[cfg(test)]
mod tests {
    use crate::{
        manifest::parse,
        rules::{check_files, rule},
    };

    fn messages(text: &str) -> Vec<String> {
        check_files(&[parse(text)]).findings.iter().map(|f| f.finding.to_string()).collect()
    }

    /// The right example of a rule with one place changed.
    fn bent(code: &str, old: &str, new: &str) -> String {
        let good = rule(code).unwrap().good.text();
        assert!(good.contains(old), "{old}");
        good.replacen(old, new, 1)
    }

    #[test]
    fn pods_that_cannot_serve() {
        let unready = messages(&bent("BAL0303", "status: \"True\"", "status: \"False\""));
        assert_eq!(unready.len(), 1);
        assert!(unready[0].contains("app=web-cache matches no pod that is Ready"), "{unready:?}");
        let elsewhere =
            bent("BAL0303", "    endpointSelector:", "    namespaces: [other]\n    endpointSelector:");
        let found = check_files(&[parse(&elsewhere)]).findings;
        assert_eq!(found[0].finding.help, "Pod shop/web-cache matches, but is in another namespace");
        let not_a_folder =
            bent("BAL0303", "  nodeName: n1\n", "").replace("labels: {app: web-cache}", "labels: {}");
        assert_eq!(messages(&not_a_folder), [""; 0], "pods of templates are not all there are");
    }

    #[test]
    fn a_service_that_stands_nowhere() {
        let pod = rule("BAL0304").unwrap().good.text().split("---").next().unwrap().to_owned();
        let policy = rule("BAL0301").unwrap().good.text().split("---").nth(1).unwrap().to_owned();
        let found = check_files(&[parse(&format!("{pod}---{policy}"))]).findings;
        let codes: Vec<_> = found.iter().map(|f| f.finding.code).collect();
        assert_eq!(codes, ["BAL0301"], "{found:?}");
        assert_eq!(found[0].finding.message, "there is no Service shop/web in these files");
        assert_eq!(messages(&policy), [""; 0], "a policy alone says nothing of what is elsewhere");
    }

    #[test]
    fn the_address_of_the_api_server() {
        let text = rule("BAL0203")
            .unwrap()
            .bad
            .text()
            .replace("  name: web\n  namespace: shop", "  name: kubernetes");
        let codes: Vec<_> = check_files(&[parse(&text)]).findings.iter().map(|f| f.finding.code).collect();
        assert_eq!(codes, ["BAL0203", "BAL0204"]);
    }

    #[test]
    fn ports_that_pods_declare() {
        let udp = bent("BAL0304", "containerPort: 8080", "containerPort: 8080, protocol: UDP");
        assert!(messages(&udp)[0].contains("containerPort 8080/TCP"), "{:?}", messages(&udp));
        let silent = bent("BAL0304", "      ports:\n        - {containerPort: 8080}\n", "");
        assert_eq!(messages(&silent), [""; 0], "a pod that declares nothing may listen anywhere");
        let host = |ports: &str| {
            let pod = rule("BAL0304").unwrap().good.text().split("---").next().unwrap().to_owned();
            let policy = rule("BAL0305").unwrap().good.text();
            let policy = policy.split("---").nth(1).unwrap().replace("nodeProxy", "hostPort");
            let policy = policy.replace("app: web}", "app: web-cache}");
            messages(&format!("{}---{policy}", pod.replace("containerPort: 8080", ports)))
        };
        assert_eq!(host("containerPort: 80, hostPort: 8080"), [""; 0]);
        assert!(host("containerPort: 8080")[0].contains("hostPort 8080/TCP"));
    }

    #[test]
    fn nodes_of_selected_pods_need_a_proxy() {
        let nodes = rule("BAL0305").unwrap().bad.text();
        assert!(messages(&nodes)[0].contains("node n1 has no address of a proxy"));
        let pod = rule("BAL0304").unwrap().good.text().split("---").next().unwrap().to_owned();
        let other = pod.replace("web-cache}", "web}").replace("nodeName: n1", "nodeName: n2");
        assert_eq!(messages(&format!("{other}---\n{nodes}")), [""; 0], "no selected pod runs on n1");
    }

    #[test]
    fn a_daemon_set_among_others_is_enough() {
        let bad = rule("BAL0306").unwrap().bad.text();
        let daemon = rule("BAL0306").unwrap().good.text().split("---").next().unwrap().to_owned();
        assert_eq!(messages(&format!("{daemon}---\n{bad}")), [""; 0]);
    }
}

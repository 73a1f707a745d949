//! Objects as a test gives them to the API server, and where they are.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Kube;
use crate::{
    manifests::{self, Pod},
    network::Network,
};

/// Kind, group and version as a path, plural, namespaced: of everything that tests make or read.
const KINDS: [(&str, &str, &str, bool); 20] = [
    ("Namespace", "/api/v1", "namespaces", false),
    ("Node", "/api/v1", "nodes", false),
    ("Pod", "/api/v1", "pods", true),
    ("Service", "/api/v1", "services", true),
    ("ServiceAccount", "/api/v1", "serviceaccounts", true),
    ("ConfigMap", "/api/v1", "configmaps", true),
    ("Secret", "/api/v1", "secrets", true),
    ("EndpointSlice", "/apis/discovery.k8s.io/v1", "endpointslices", true),
    ("DaemonSet", "/apis/apps/v1", "daemonsets", true),
    ("Deployment", "/apis/apps/v1", "deployments", true),
    ("Lease", "/apis/coordination.k8s.io/v1", "leases", true),
    ("ClusterRole", "/apis/rbac.authorization.k8s.io/v1", "clusterroles", false),
    ("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
    ("Role", "/apis/rbac.authorization.k8s.io/v1", "roles", true),
    ("RoleBinding", "/apis/rbac.authorization.k8s.io/v1", "rolebindings", true),
    ("CustomResourceDefinition", "/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", false),
    ("LocalRedirectPolicy", "/apis/balancing.elf.io/v1beta1", "localredirectpolicies", false),
    ("BalancingPolicy", "/apis/balancing.elf.io/v1beta1", "balancingpolicies", false),
    ("NodeBalancingState", "/apis/balancing.elf.io/v1beta1", "nodebalancingstates", false),
    ("TokenReview", "/apis/authentication.k8s.io/v1", "tokenreviews", false),
];

/// Where an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path to which such objects are posted.
    pub collection: String,
    /// Its name.
    pub name: String,
}

impl Place {
    /// The object's own path.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }
}

/// Where an object is; a namespaced one without a namespace is in `default`.
///
/// # Errors
/// It has no name, or a kind that no test has used so far.
pub fn place(object: &Value) -> Result<Place> {
    let kind = object["kind"].as_str().context("an object without kind")?;
    let name = object["metadata"]["name"].as_str().with_context(|| format!("a {kind} without a name"))?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    Ok(Place { collection: collection(kind, namespace)?, name: name.to_owned() })
}

/// The path of the objects of a kind in a namespace, which counts where the kind has one.
///
/// # Errors
/// A kind that no test has used so far.
pub fn collection(kind: &str, namespace: &str) -> Result<String> {
    let known = KINDS.iter().find(|(k, ..)| *k == kind);
    let (_, group, plural, namespaced) = known.with_context(|| format!("unknown kind {kind}"))?;
    Ok(if *namespaced {
        format!("{group}/namespaces/{namespace}/{plural}")
    } else {
        format!("{group}/{plural}")
    })
}

/// The path of an object.
///
/// # Errors
/// A kind that no test has used so far.
pub fn path(kind: &str, namespace: &str, name: &str) -> Result<String> {
    Ok(format!("{}/{name}", collection(kind, namespace)?))
}

/// An object as a user writes it: without the `uid` and `status` that a folder of manifests needs.
#[must_use]
pub fn written(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(fields) = object["metadata"].as_object_mut() {
        fields.remove("uid");
    }
    object
}

/// The Node whose host is the namespace of that name, Ready.
#[must_use]
pub fn node(network: &Network, name: &str) -> Value {
    let labels = json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"});
    manifests::node(name, &[network.v4(name), network.v6(name)], labels)
}

/// Makes the Node of that name, if it is not there. A pod on a node that is not there is in no slice.
///
/// # Errors
/// The API server refuses.
pub fn ensure_node(kube: &Kube, network: &Network, name: &str) -> Result<()> {
    let node = node(network, name);
    if !kube.get(&place(&node)?.path())?.is_success() {
        kube.create(&node)?;
    }
    Ok(())
}

/// A Ready pod of these labels in the namespace `space` of the network, on a node.
#[must_use]
pub fn pod(network: &Network, name: &str, space: &str, node: &str, labels: Value) -> Pod {
    Pod::new(name, &[network.v4(space), network.v6(space)]).labels(labels).on(node)
}

/// A dual-stack Service of namespace `default` with these ports, as in [`manifests::service`], for the pods of the
/// labels; its slices are made by the controller manager.
#[must_use]
pub fn service(name: &str, addresses: &[IpAddr], ports: &[&str], selector: Value) -> Value {
    let mut objects = manifests::service(name, addresses, ports, &[]);
    let mut service = written(objects.swap_remove(0));
    service["spec"]["selector"] = selector;
    if addresses.len() > 1 {
        service["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    }
    service
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_kind_and_namespace() {
        let policy = json!({"kind": "LocalRedirectPolicy", "metadata": {"name": "x"}});
        assert_eq!(place(&policy).unwrap().path(), "/apis/balancing.elf.io/v1beta1/localredirectpolicies/x");
        let pod = json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "elf"}});
        assert_eq!(place(&pod).unwrap().path(), "/api/v1/namespaces/elf/pods/p");
        assert!(place(&json!({"kind": "Pod", "metadata": {}})).is_err());
    }

    #[test]
    fn a_service_selects_and_has_no_slices_of_ours() {
        let addresses = [IpAddr::from([10, 96, 0, 10])];
        let service = service("dns", &addresses, &["dns:53/UDP"], json!({"app": "dns"}));
        assert_eq!(service["spec"]["selector"]["app"], "dns");
        assert_eq!(service["spec"]["ports"][0]["protocol"], "UDP");
        assert!(service["metadata"].get("uid").is_none());
    }
}

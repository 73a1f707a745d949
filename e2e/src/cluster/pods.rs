//! What scheduler and kubelet do for pods of the product: they put them on a node, say that they run, and give them a
//! token. The programs of these pods are processes of the tests.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{ControlPlane, Kube, objects};
use crate::wait;

/// The namespace of the product.
pub const NAMESPACE: &str = "elf";
/// How long the controller manager may take to make a pod.
const MADE: Duration = Duration::from_secs(60);

/// A pod of the product that a process of the tests stands for.
#[derive(Clone, Debug)]
pub struct OwnPod {
    /// The object, on its node.
    pub object: Value,
    /// Its token, bound to it, and so to its node.
    pub token: String,
    /// A kubeconfig with this token.
    pub kubeconfig: PathBuf,
}

impl OwnPod {
    /// Takes the pod that a DaemonSet has made for a node.
    ///
    /// # Errors
    /// There is none in time.
    pub fn of_daemon_set(plane: &ControlPlane, component: &str, node: &str) -> Result<Self> {
        let wants = |pod: &Value| {
            let terms = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                ["nodeSelectorTerms"];
            terms[0]["matchFields"][0]["values"][0] == node || pod["spec"]["nodeName"] == node
        };
        Self::take(plane, component, node, wants)
    }

    /// Takes a pod of a Deployment that nobody has taken so far, and puts it on a node.
    ///
    /// # Errors
    /// There is none in time.
    pub fn of_deployment(plane: &ControlPlane, component: &str, node: &str) -> Result<Self> {
        Self::take(plane, component, node, |pod| pod["spec"]["nodeName"].is_null())
    }

    fn take(
        plane: &ControlPlane,
        component: &str,
        node: &str,
        wants: impl Fn(&Value) -> bool,
    ) -> Result<Self> {
        let kube = plane.admin()?;
        let pods = objects::collection("Pod", NAMESPACE)?;
        let labelled = format!("{pods}?labelSelector=app.kubernetes.io/component%3D{component}");
        let pod = wait::until(
            MADE,
            || format!("a pod of the {component} for {node}"),
            || {
                let (going, there): (Vec<_>, Vec<_>) = kube
                    .list(&labelled)?
                    .into_iter()
                    .partition(|p| !p["metadata"]["deletionTimestamp"].is_null());
                // On a node it is the kubelet that says when a pod has ended.
                for name in going.iter().filter_map(|pod| pod["metadata"]["name"].as_str()) {
                    kube.delete(&format!("{pods}/{name}"))?;
                }
                Ok(there.into_iter().find(&wants))
            },
        )?;
        let name = pod["metadata"]["name"].as_str().context("a pod without a name")?.to_owned();
        let path = format!("{pods}/{name}");
        if pod["spec"]["nodeName"].is_null() {
            let binding = json!({
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": NAMESPACE},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            kube.request(&Method::POST, &format!("{path}/binding"), "application/json", Some(&binding))?
                .object()
                .with_context(|| format!("bind {name} to {node}"))?;
        }
        let object = kube.object(&path)?;
        let token = token(&kube, &object)?;
        let kubeconfig = plane.kubeconfig_with(&name, &token)?;
        Ok(Self { object, token, kubeconfig })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The cgroup of its container, below its node's.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        let uid = self.object["metadata"]["uid"].as_str().unwrap_or_default();
        PathBuf::from(format!("kubepods/besteffort/pod{uid}/main"))
    }

    /// The file with its token of an audience, as its kubelet would mount it.
    ///
    /// # Errors
    /// The API server gives none, or the file cannot be written.
    pub fn projected_token(&self, plane: &ControlPlane, audience: &str) -> Result<PathBuf> {
        let path = plane.folder().join(format!("{}-{audience}.token", self.name()));
        std::fs::write(&path, token_for(&plane.admin()?, &self.object, &[audience])?)?;
        Ok(path)
    }

    /// Says, as its kubelet would, that it runs at these addresses and is Ready or not.
    ///
    /// # Errors
    /// The pod is gone.
    pub fn report(&mut self, kube: &Kube, addresses: &[IpAddr], ready: bool) -> Result<()> {
        let path = objects::place(&self.object)?.path();
        self.object = kube.set_status(&path, &running(addresses, ready))?;
        Ok(())
    }

    /// The variables that its container has, where they are written down or a field of the pod.
    #[must_use]
    pub fn variables(&self) -> BTreeMap<String, String> {
        let env = self.object["spec"]["containers"][0]["env"].as_array();
        let value = |variable: &Value| {
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            let value = field.map_or(&variable["value"], |f| {
                self.object.pointer(&format!("/{}", f.replace('.', "/"))).unwrap_or(&Value::Null)
            });
            Some((variable["name"].as_str()?.to_owned(), value.as_str()?.to_owned()))
        };
        env.into_iter().flatten().filter_map(value).collect()
    }
}

/// The status of a pod that runs.
#[must_use]
pub fn running(addresses: &[IpAddr], ready: bool) -> Value {
    let truth = if ready { "True" } else { "False" };
    let conditions: Vec<_> =
        ["Ready", "ContainersReady"].iter().map(|t| json!({"type": t, "status": truth})).collect();
    let ips: Vec<_> = addresses.iter().map(|a| json!({"ip": a})).collect();
    json!({"phase": "Running", "podIP": addresses.first(), "podIPs": ips, "conditions": conditions})
}

/// A token of the pod's service account for the API server, as the kubelet mounts it.
fn token(kube: &Kube, pod: &Value) -> Result<String> {
    token_for(kube, pod, &[])
}

/// A token of the pod's service account for these audiences.
fn token_for(kube: &Kube, pod: &Value, audiences: &[&str]) -> Result<String> {
    let account = pod["spec"]["serviceAccountName"].as_str().context("a pod without a service account")?;
    account_token(kube, (NAMESPACE, account), audiences, Some(pod))
}

/// A token of a service account, by namespace and name, for these audiences; bound to a pod, or to nothing.
///
/// # Errors
/// The API server gives none.
pub fn account_token(
    kube: &Kube,
    (namespace, account): (&str, &str),
    audiences: &[&str],
    pod: Option<&Value>,
) -> Result<String> {
    let path = format!("{}/token", objects::path("ServiceAccount", namespace, account)?);
    let mut request = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": 7200, "audiences": audiences},
    });
    if let Some(pod) = pod {
        let meta = &pod["metadata"];
        request["spec"]["boundObjectRef"] =
            json!({"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]});
    }
    let answer = kube.request(&Method::POST, &path, "application/json", Some(&request))?.object()?;
    let token = answer["status"]["token"].as_str().unwrap_or_default();
    ensure!(!token.is_empty(), "no token in {answer}");
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_those_of_the_container() {
        let object = json!({
            "metadata": {"name": "p", "namespace": "elf"},
            "spec": {"nodeName": "n1", "containers": [{"env": [
                {"name": "A", "value": "1"},
                {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}},
            ]}]},
        });
        let pod = OwnPod { object, token: String::new(), kubeconfig: PathBuf::new() };
        let want = [("A", "1"), ("NODE_NAME", "n1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(pod.variables(), BTreeMap::from(want));
    }
}

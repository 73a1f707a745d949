//! Objects for tests, as the watches would bring them.

use std::sync::Arc;

use balancing_api::{
    placement::Placement,
    policy::{PolicyKind, PolicyRef},
    records::{Converter, Name},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::objects::{self, Change, Policy};

pub(crate) fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn lr(name: &str) -> PolicyRef {
    PolicyRef::new(PolicyKind::LocalRedirectPolicy, name)
}

pub(crate) fn bl(name: &str) -> PolicyRef {
    PolicyRef::new(PolicyKind::BalancingPolicy, name)
}

/// `serviceMatcher` of `ns/SERVICE`, all its ports.
pub(crate) fn service_matcher(service: &str) -> Value {
    json!({"serviceMatcher": {"serviceName": service, "namespace": "ns"}})
}

/// A LocalRedirectPolicy's spec for a frontend.
pub(crate) fn redirect(frontend: &Value) -> Value {
    json!({
        "frontend": frontend,
        "backend": {"endpointSelector": {"matchLabels": {"app": "dns"}}, "toPorts": [{"port": "53", "protocol": "UDP"}]},
    })
}

/// A BalancingPolicy's spec for a frontend.
pub(crate) fn balance(frontend: &Value, mode: &str) -> Value {
    json!({
        "frontend": frontend,
        "backend": {"serviceEndpoint": {
            "endpointSelector": {"matchLabels": {"app": "dns"}}, "redirectMode": mode,
            "toPorts": [{"port": "53", "protocol": "UDP"}],
        }},
    })
}

/// The spec, for nodes with a label `pool`.
pub(crate) fn on_pool(mut spec: Value, pool: &str) -> Value {
    spec["config"] = json!({"nodeLabelSelector": {"matchLabels": {"pool": pool}}});
    spec
}

/// A policy created so many seconds after an hour.
pub(crate) fn policy_at(reference: &PolicyRef, second: u32, spec: &Value) -> Policy {
    let meta = from(json!({
        "name": reference.name, "uid": format!("uid-{}", reference.name), "generation": 1,
        "resourceVersion": format!("{second}"), "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
    }));
    Policy::new(reference.kind, meta, json!({"spec": spec}))
}

pub(crate) fn set_policy(policy: Policy) -> Change {
    Change::Policy(policy.reference.clone(), Some(Box::new(policy)))
}

/// Service `ns/NAME` with that ClusterIP and port 53/UDP.
pub(crate) fn set_service(name: &str, ip: &str) -> Change {
    set_service_spec(
        name,
        &json!({"clusterIP": ip, "ports": [{"port": 53, "protocol": "UDP", "name": "dns"}]}),
    )
}

pub(crate) fn set_service_spec(name: &str, spec: &Value) -> Change {
    let object = from(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}));
    let service = Converter::default().service(&object).unwrap();
    Change::Service(service.name.clone(), Some(Arc::new(service)))
}

/// A Node with the label `pool` and an address.
pub(crate) fn set_node(name: &str, pool: &str, address: &str) -> Change {
    let object = from(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"pool": pool},
                     "annotations": {"balancing.elf.io/nodeProxyIpv4": "198.51.100.7"}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }));
    let (node, _) = objects::node(&mut Converter::default(), &object).unwrap();
    Change::Node(name.into(), Some(Arc::new(node)))
}

/// A Node of another operating system than Linux.
pub(crate) fn set_windows_node(name: &str, address: &str) -> Change {
    let object = from(json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": {"kubernetes.io/os": "windows"}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }));
    let (node, _) = objects::node(&mut Converter::default(), &object).unwrap();
    Change::Node(name.into(), Some(Arc::new(node)))
}

/// A DaemonSet of the agents whose pods want these labels of a node.
pub(crate) fn set_agents(labels: &Value) -> Change {
    Change::Agents(Some(Box::new(Placement::of(&json!({"nodeSelector": labels})))))
}

/// Pod `ns/NAME` with the label `app`.
pub(crate) fn set_pod(name: &str, app: &str, node: &str, address: &str, ready: bool) -> Change {
    let object = from(json!({
        "metadata": {"name": name, "namespace": "ns", "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "podIPs": [{"ip": address}],
                   "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }));
    let pod = Converter::default().pod(&object).unwrap();
    Change::Pod(Name::new("ns", name), Some(Arc::new(pod)))
}

/// What a node says of policies: state, reason, number of backends, generation.
pub(crate) fn set_state(node: &str, policies: &[(&PolicyRef, &str, &str, u32, i64)]) -> Change {
    set_cut_state(node, policies, 0)
}

pub(crate) fn set_cut_state(
    node: &str,
    policies: &[(&PolicyRef, &str, &str, u32, i64)],
    truncated: u32,
) -> Change {
    let policies: Vec<_> = policies
        .iter()
        .map(|(policy, state, reason, backends, generation)| {
            json!({
                "kind": policy.kind.as_str(), "name": policy.name, "uid": format!("uid-{}", policy.name),
                "observedGeneration": generation, "state": state, "reason": reason,
                "message": if *state == "Programmed" { "" } else { "as it is" },
                "backends": {"wanted": backends, "programmed": backends},
            })
        })
        .collect();
    let object = from(json!({
        "apiVersion": "balancing.elf.io/v1beta1", "kind": "NodeBalancingState", "metadata": {"name": node},
        "status": {"policies": policies, "truncated": truncated,
                   "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                                   "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    }));
    let state = objects::state(&mut Converter::default(), &mut Default::default(), &object);
    Change::State(node.into(), Some(Box::new(state)))
}

/// A TLS port of ours on loopback, its address, and whom to trust.
pub(crate) async fn tls_port(
    router: axum::Router,
    limits: crate::port::Limits,
    elsewhere: impl Fn() -> Option<std::net::SocketAddr> + Send + 'static,
    identity: &(Arc<crate::tls::Identity>, String),
) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(identity.0.server().unwrap());
    tokio::spawn(crate::port::serve(listener, acceptor, router, limits, elsewhere, Default::default()));
    address
}

/// An identity for `localhost`, and whom to trust for it.
pub(crate) fn identity() -> (Arc<crate::tls::Identity>, String) {
    use crate::tls::rotation::{Step, take};
    let certificates = take(None, Step::Begin, &["localhost".to_owned()], jiff::Timestamp::now()).unwrap();
    let identity = Arc::new(crate::tls::Identity::default());
    identity.set(&certificates).unwrap();
    (identity, certificates.bundle())
}

/// A TLS connection to `localhost` at an address.
pub(crate) async fn tls_dial(
    address: std::net::SocketAddr,
    bundle: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    tls_over(tokio::net::TcpStream::connect(address).await?, bundle).await
}

/// TLS with `localhost` over a connection.
pub(crate) async fn tls_over(
    stream: tokio::net::TcpStream,
    bundle: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends a request as it stands and reads the answer to its end.
pub(crate) async fn exchange(address: std::net::SocketAddr, bundle: &str, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tls_dial(address, bundle).await.unwrap();
    // It may have closed the connection before all of it was sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

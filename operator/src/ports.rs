//! The operator's TLS ports, wired together.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use balancing_api::{names::OPERATOR_SERVICE, records::Text};
use kube::Client;
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    admission,
    metrics::Metrics,
    observe::{self, Hub, Observer, access::ApiServer, announce::Announcer},
    owner::Owner,
    port::{self, Limits},
    run::Ties,
    tls::{self, Identity, Keeper},
};

/// The Secret of the certificates.
const SECRET: &str = "balancing-operator-tls";
/// The webhook configurations.
const WEBHOOKS: &str = "balancing-operator";
/// Questions of the webhook that may wait for the loop.
const WAITING: usize = 64;
/// Of the webhook, which the API server alone should know. It keeps connections open between questions.
const WEBHOOK: Limits = Limits {
    connections: 256,
    of_one: 64,
    handshake: Duration::from_secs(5),
    head: Duration::from_secs(120),
};

/// Of the live view. Agents are counted until they have shown who they are; a node has one of them.
const OBSERVE: Limits = Limits {
    connections: 1024,
    of_one: 128,
    handshake: Duration::from_secs(10),
    head: Duration::from_secs(15),
};

/// What the ports need.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the operator.
    pub namespace: String,
    /// Where agents dial in and viewers look.
    pub observe: SocketAddr,
    /// The webhook's, if there is one.
    pub webhook: Option<SocketAddr>,
    /// Where agents reach this replica.
    pub own: Option<std::net::IpAddr>,
    /// The name of its pod, if it is in one.
    pub pod: Option<String>,
    /// Whose what it makes is.
    pub owner: Owner,
}

/// A port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The address cannot be had.
    #[error("failed to listen on {address} ({flag})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Its flag.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// There is no TLS in this build.
    #[error("failed to set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Names that the certificate is made out to: the Service's, and that of whoever forwards a port.
#[must_use]
pub fn names(namespace: &str) -> Vec<String> {
    let service = format!("{OPERATOR_SERVICE}.{namespace}.svc");
    vec![
        service.clone(),
        format!("{service}.cluster.local"),
        OPERATOR_SERVICE.to_owned(),
        "localhost".to_owned(),
    ]
}

/// Opens the ports and serves them until `end`.
///
/// # Errors
/// One cannot be opened.
pub async fn open(
    client: &Client,
    settings: &Settings,
    metrics: &Metrics,
    end: &CancellationToken,
) -> Result<Ties, PortError> {
    let identity = Arc::new(Identity::default());
    let acceptor = TlsAcceptor::from(identity.server()?);
    let (leading, leads) = watch::channel(false);
    let (nodes, node_names) = watch::channel::<Arc<[Text]>>(Arc::new([]));
    let (desk, questions) = admission::Desk::new(WAITING);

    let keeper = tls::Settings {
        namespace: settings.namespace.clone(),
        secret: SECRET.to_owned(),
        webhooks: settings.webhook.map(|_| WEBHOOKS.to_owned()),
        names: names(&settings.namespace),
        owner: settings.owner.clone(),
    };
    let (keeper, bundle) = Keeper::new(client.clone(), keeper, identity);
    tokio::spawn(keeper.run(leads.clone(), end.clone()));

    if let Some(address) = settings.webhook {
        let listener = bind(address, "--listen-webhook").await?;
        let router = admission::router(desk, metrics.clone());
        let serving = port::serve(listener, acceptor.clone(), router, WEBHOOK, || None, end.clone());
        tokio::spawn(serving);
    }

    let (leader, leader_at) = watch::channel(None);
    let own = settings.own.map(|ip| SocketAddr::new(ip, settings.observe.port()));
    let announcer = Announcer {
        namespace: settings.namespace.clone(),
        own,
        pod: settings.pod.clone(),
        owner: settings.owner.clone(),
        leading: leads.clone(),
        bundle,
        leader,
    };
    tokio::spawn(announcer.run(client.clone(), end.clone()));

    let listener = bind(settings.observe, "--listen-observe").await?;
    let observer = Observer {
        hub: Arc::new(Hub::new(metrics.clone())),
        gate: Arc::new(ApiServer::new(client.clone(), &settings.namespace)),
        leading: leads.clone(),
        nodes: node_names,
        end: end.clone(),
    };
    // Whoever is sent here by the Service is served by the leader all the same.
    let elsewhere = move || {
        let away = !*leads.borrow();
        (*leader_at.borrow()).filter(|at| away && Some(*at) != own)
    };
    let serving = port::serve(listener, acceptor, observe::router(observer), OBSERVE, elsewhere, end.clone());
    tokio::spawn(serving);
    Ok(Ties { questions, leading, nodes })
}

async fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, PortError> {
    TcpListener::bind(address).await.map_err(|source| PortError::Bind { address, flag, source })
}

//! How the API server is reached, and by whom one is taken there.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How the API server is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// By a kubeconfig.
    Kubeconfig(PathBuf),
    /// As the service account of the agent's own pod.
    InCluster,
}

/// The API server cannot even be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoorError {
    /// The kubeconfig cannot be used.
    #[error("failed to use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// There is no service account here.
    #[error(
        "failed to use the service account of this pod (--in-cluster): is its token mounted, and are \
         KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT set, or --api-server-host and --api-server-port given?"
    )]
    InCluster(#[source] Box<kube::config::InClusterError>),
    /// `--api-server-host` and `--api-server-port` make no address.
    #[error("failed to make an address of --api-server-host {host} and --api-server-port {port}")]
    Address {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The credentials or certificates cannot be used.
    #[error("failed to make a client of the API server")]
    Client(#[source] Box<kube::Error>),
}

/// A connection to the API server has so long to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Credentials that are refused are read again, but not more often.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// Clients of the API server. A file with credentials may change under way: see [`Door::renew`].
pub(crate) struct Door {
    access: Access,
    server: Option<(String, u16)>,
    client: Mutex<(Client, Instant)>,
}

impl Door {
    /// Reads the credentials. Nothing is asked of the API server.
    pub(super) async fn open(access: Access, server: Option<(String, u16)>) -> Result<Arc<Self>, DoorError> {
        let client = client(&access, server.as_ref()).await?;
        Ok(Arc::new(Self { access, server, client: Mutex::new((client, Instant::now())) }))
    }

    /// Clients of a test's API server, without credentials.
    #[cfg(test)]
    pub(super) fn to(url: &str) -> Arc<Self> {
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let (access, client) =
            (Access::Kubeconfig("/no/such/file".into()), Mutex::new((client, Instant::now())));
        Arc::new(Self { access, server: None, client })
    }

    /// A client for the next requests.
    pub(crate) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The credentials were refused: reads them again, if that was not done just now.
    pub(super) async fn renew(&self) {
        {
            let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
            if held.1.elapsed() < RENEW_EVERY {
                return;
            }
            held.1 = Instant::now();
        }
        match client(&self.access, self.server.as_ref()).await {
            Ok(client) => self.client.lock().unwrap_or_else(PoisonError::into_inner).0 = client,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                tracing::warn!("{error}{cause}; going on with the credentials that were refused");
            }
        }
    }
}

async fn client(access: &Access, server: Option<&(String, u16)>) -> Result<Client, DoorError> {
    let mut config = match access {
        Access::Kubeconfig(path) => {
            let failed = |source| DoorError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        Access::InCluster => in_cluster(server.is_some())?,
    };
    if let Some((host, port)) = server {
        redirect(&mut config, host, *port)?;
    }
    config.connect_timeout = Some(CONNECT_WITHIN);
    Client::try_from(config).map_err(|source| DoorError::Client(Box::new(source)))
}

/// Without the variables of the `kubernetes` Service its name stands in for its address, which is of no use but to
/// check the certificate by: the address is then given.
fn in_cluster(address_is_given: bool) -> Result<Config, DoorError> {
    let failed = |source| DoorError::InCluster(Box::new(source));
    match Config::incluster_env() {
        Err(kube::config::InClusterError::ReadEnvironmentVariable(_)) if address_is_given => {
            Config::incluster_dns().map_err(failed)
        }
        result => result.map_err(failed),
    }
}

/// Dials another address, and trusts whom it trusted before: the certificate is checked against the name or address
/// that the configuration has. That of the `kubernetes` Service is in every API server's certificate.
fn redirect(config: &mut Config, host: &str, port: u16) -> Result<(), DoorError> {
    if config.tls_server_name.is_none() {
        let trusted = config.cluster_url.host().unwrap_or_default();
        config.tls_server_name = Some(trusted.trim_matches(['[', ']']).to_owned());
    }
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let path = config.cluster_url.path().to_owned();
    let scheme = config.cluster_url.scheme_str().unwrap_or("https").to_owned();
    let url = format!("{scheme}://{authority}{path}");
    config.cluster_url = url.parse().map_err(|source| DoorError::Address {
        host: host.to_owned(),
        port,
        source: Box::new(source),
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(url: &str, name: Option<&str>, host: &str) -> (String, Option<String>) {
        let mut config = Config::new(url.parse().unwrap());
        config.tls_server_name = name.map(str::to_owned);
        redirect(&mut config, host, 6443).unwrap();
        (config.cluster_url.to_string(), config.tls_server_name)
    }

    #[test]
    fn another_address_is_dialled_and_the_same_name_trusted() {
        let trusted = |name: &str| Some(name.to_owned());
        assert_eq!(
            redirected("https://10.96.0.1:443", None, "192.0.2.7"),
            ("https://192.0.2.7:6443/".to_owned(), trusted("10.96.0.1"))
        );
        assert_eq!(
            redirected("https://[fd00::1]:443", None, "2001:db8::7"),
            ("https://[2001:db8::7]:6443/".to_owned(), trusted("fd00::1"))
        );
        assert_eq!(
            redirected("https://rancher.example/k8s/clusters/c-1", Some("api.example"), "lb.example"),
            ("https://lb.example:6443/k8s/clusters/c-1".to_owned(), trusted("api.example"))
        );
        assert_eq!(redirected("http://127.0.0.1:10550", None, "127.0.0.1").0, "http://127.0.0.1:6443/");
    }

    #[tokio::test]
    async fn what_cannot_be_used_is_named() {
        let absent = Access::Kubeconfig("/no/such/kubeconfig".into());
        let error = Door::open(absent, None).await.err().unwrap();
        assert_eq!(error.to_string(), "failed to use the kubeconfig /no/such/kubeconfig");
    }
}

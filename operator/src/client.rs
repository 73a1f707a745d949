//! The client of the API server.

use kube::{
    Client, Config,
    config::{InClusterError, InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::config;

/// Name under which every API server's certificate is valid.
const SERVER_NAME: &str = "kubernetes.default.svc";

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("failed to read the kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// This is no pod.
    #[error("failed to find the cluster that this pod runs in; outside of one give --kubeconfig")]
    InCluster(#[source] InClusterError),
    /// What was found is no configuration.
    #[error("failed to find a cluster")]
    Infer(#[source] InferConfigError),
    /// The address is none.
    #[error("failed to make an address of --api-server-host {0:?}: expected a name or an IP address")]
    Address(String),
    /// The client cannot be made.
    #[error("failed to make a client of the API server")]
    Client(#[source] kube::Error),
}

/// Makes the client that the flags ask for.
///
/// # Errors
/// There is no way to the API server.
pub async fn connect(flags: &config::Config) -> Result<Client, ClientError> {
    let mut config = match &flags.kubeconfig {
        Some(path) => {
            let failed = |source| ClientError::Kubeconfig {
                path: path.display().to_string(),
                source: Box::new(source),
            };
            let file = Kubeconfig::read_from(path).map_err(failed)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(failed)?
        }
        None => Config::incluster().map_err(ClientError::InCluster)?,
    };
    if let (Some(host), Some(port)) = (&flags.api_server_host, flags.api_server_port) {
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let url = format!("https://{bracketed}:{port}").parse();
        config.cluster_url = url.map_err(|_| ClientError::Address(host.clone()))?;
        config.tls_server_name.get_or_insert_with(|| SERVER_NAME.to_owned());
    }
    Client::try_from(config).map_err(ClientError::Client)
}

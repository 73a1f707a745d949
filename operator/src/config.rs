//! Flags and variables.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Parser, ValueEnum};

/// The operator of a cluster: gives policies their ids and their status, decides what spans nodes and publishes it for
/// the agents. Of several replicas the one that holds the lease writes.
#[derive(Clone, Debug, Parser)]
#[command(name = "balancing-operator", version, after_help = AFTER_HELP)]
pub struct Config {
    /// Kubeconfig of the cluster [default: the cluster that this pod runs in]
    #[arg(long, value_name = "FILE", env = "BALANCING_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Host of the API server, where no proxy leads to it
    #[arg(long, value_name = "HOST", env = "BALANCING_API_SERVER_HOST", requires = "api_server_port")]
    pub api_server_host: Option<String>,
    /// Port of the API server
    #[arg(long, value_name = "PORT", env = "BALANCING_API_SERVER_PORT", requires = "api_server_host",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub api_server_port: Option<u16>,
    /// Namespace of the lease and of the EndpointSlices that are published
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "elf")]
    pub namespace: String,
    /// Name of this replica, under which it holds the lease [default: the host's name]
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Name of the lease
    #[arg(long, value_name = "NAME", env = "BALANCING_LEASE_NAME", default_value = "balancing-operator")]
    pub lease_name: String,
    /// How long the lease outlives the last sign of life of its holder, in seconds
    #[arg(long, value_name = "SECONDS", env = "BALANCING_LEASE_DURATION", default_value_t = 15,
          value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub lease_duration: u64,
    /// The Deployment that this replica is of: what the operator makes for itself belongs to it and goes with it
    #[arg(long, value_name = "NAME", env = "BALANCING_DEPLOYMENT")]
    pub deployment: Option<String>,
    /// Where to serve /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS", env = "BALANCING_LISTEN_HEALTH", default_value = "0.0.0.0:5820")]
    pub listen_health: SocketAddr,
    /// Where agents dial in and the plugin's live view is served, with TLS
    #[arg(long, value_name = "ADDRESS", env = "BALANCING_LISTEN_OBSERVE", default_value = "0.0.0.0:5821")]
    pub listen_observe: SocketAddr,
    /// Where to serve the admission webhook, with TLS
    #[arg(long, value_name = "ADDRESS", env = "BALANCING_LISTEN_WEBHOOK", default_value = "0.0.0.0:5822")]
    pub listen_webhook: SocketAddr,
    /// Serve the admission webhook, and say in its configurations who signed its certificate
    #[arg(long, value_name = "BOOL", env = "BALANCING_WEBHOOK", default_value_t = true,
          action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub webhook: bool,
    /// Address at which agents reach this replica; without one it has no live view of them
    #[arg(long, value_name = "ADDRESS", env = "POD_IP")]
    pub pod_ip: Option<IpAddr>,
    /// Shortest time between two writes of one policy's status, in seconds; a changed condition does not wait for it
    #[arg(long, value_name = "SECONDS", env = "BALANCING_STATUS_INTERVAL", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=600))]
    pub status_interval: u64,
    /// Only look whether agents and operator are at work; 0 if they are, 1 with what is missing
    #[arg(long)]
    pub check: bool,
    /// Shape of the log on stderr
    #[arg(long, value_name = "FORMAT", env = "BALANCING_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// What to log: a level, or target=level,... [variables: BALANCING_LOG_LEVEL, RUST_LOG]
    #[arg(long, value_name = "LEVEL", env = "BALANCING_LOG_LEVEL")]
    pub log_level: Option<String>,
}

const AFTER_HELP: &str = "\
A flag goes before its variable, the variable before the default.\n\
Exit status: 0 ended as asked, 1 failed, 2 wrong usage.";

/// Shape of a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn flags_and_their_defaults() {
        Config::command().debug_assert();
        let config = Config::parse_from(["balancing-operator", "--namespace", "x"]);
        assert_eq!((config.namespace.as_str(), config.lease_duration), ("x", 15));
        assert_eq!(config.listen_health, "0.0.0.0:5820".parse().unwrap());
        assert!(config.webhook && !Config::parse_from(["balancing-operator", "--webhook", "false"]).webhook);
        let wrong = |args: &[&str]| {
            Config::try_parse_from([&["balancing-operator"], args].concat()).unwrap_err().to_string()
        };
        assert!(wrong(&["--api-server-host", "h"]).contains("--api-server-port"));
        assert!(wrong(&["--lease-duration", "1"]).contains("3..=3600"));
    }

    #[test]
    fn the_help() {
        let command = Config::command().mut_args(|arg| arg.hide_env_values(true));
        let text = command.term_width(100).render_long_help().to_string();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("operator-help", text));
    }
}

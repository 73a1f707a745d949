//! kubectl's flags that choose a cluster and who asks it, before and behind the command.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::relay::{Operator, TokenFile};
use crate::text::parse_time;

/// What the flags of every command are called in help.
const HEADING: &str = "Connection";

/// How the API server is reached. As kubectl's flags, each overrides what the kubeconfig says.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
pub struct ClusterArgs {
    /// The kubeconfig to use [default: the files of KUBECONFIG, or ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The cluster of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub cluster: Option<String>,
    /// The user of the kubeconfig to use
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub user: Option<String>,
    /// The namespace of Services and pods that are named without one
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Address and port of the API server
    #[arg(short, long, global = true, value_name = "URL", hide_short_help = true)]
    pub server: Option<String>,
    /// The bearer token to authenticate with
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub token: Option<String>,
    /// The user to act as
    #[arg(long = "as", global = true, value_name = "USER", hide_short_help = true)]
    pub as_user: Option<String>,
    /// A group to act as; repeat for several
    #[arg(long, global = true, value_name = "GROUP", hide_short_help = true)]
    pub as_group: Vec<String>,
    /// The uid to act as
    #[arg(long, global = true, value_name = "UID", hide_short_help = true)]
    pub as_uid: Option<String>,
    /// The authority that signed the API server's certificate
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = clap::ValueHint::FilePath)]
    pub certificate_authority: Option<PathBuf>,
    /// The certificate to authenticate with
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = clap::ValueHint::FilePath)]
    pub client_certificate: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = clap::ValueHint::FilePath)]
    pub client_key: Option<PathBuf>,
    /// Do not check the API server's certificate: whoever is between can read and change everything
    #[arg(long, global = true, hide_short_help = true)]
    pub insecure_skip_tls_verify: bool,
    /// The name that the API server's certificate must have
    #[arg(long, global = true, value_name = "NAME", hide_short_help = true)]
    pub tls_server_name: Option<String>,
    /// How long one request may take, as 5s or 1m; 0 is without end. Streams may last [default: 30s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = request_timeout, hide_short_help = true)]
    pub request_timeout: Option<Duration>,
    /// Accepted as kubectl's; nothing is kept between two calls
    #[arg(long, global = true, value_name = "FOLDER", hide = true)]
    pub cache_dir: Option<PathBuf>,
    /// The namespace that Balancing is installed in
    #[arg(
        long,
        global = true,
        value_name = "NAMESPACE",
        env = "BALANCING_NAMESPACE",
        default_value = INSTALLED,
        hide_short_help = true,
        hide_env_values = true
    )]
    pub balancing_namespace: String,
    /// Ask the operator there about single nodes, not by a port that the API server forwards to its pod
    ///
    /// For who has a route to it. Its certificate is checked all the same.
    #[arg(long, global = true, value_name = "HOST:PORT", hide_short_help = true)]
    pub operator: Option<Operator>,
    /// Show the operator the token in this file, not that of the kubeconfig's user
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, value_hint = clap::ValueHint::FilePath)]
    pub operator_token: Option<TokenFile>,
}

/// Where the book installs the product.
const INSTALLED: &str = "elf";

/// kubectl takes a plain `0` for "without end".
fn request_timeout(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { parse_time(text) }
}

impl ClusterArgs {
    /// Does the command line name a cluster, or something about how to reach one?
    #[must_use]
    pub fn names_a_cluster(&self) -> bool {
        let Self {
            kubeconfig,
            context,
            cluster,
            user,
            namespace: _,
            server,
            token,
            as_user,
            as_group,
            as_uid,
            certificate_authority,
            client_certificate,
            client_key,
            insecure_skip_tls_verify,
            tls_server_name,
            request_timeout: _,
            cache_dir: _,
            balancing_namespace: _,
            operator,
            operator_token,
        } = self;
        [kubeconfig, certificate_authority, client_certificate, client_key].iter().any(|f| f.is_some())
            || [context, cluster, user, server, token, as_user, as_uid, tls_server_name]
                .iter()
                .any(|f| f.is_some())
            || !as_group.is_empty()
            || operator.is_some()
            || operator_token.is_some()
            || *insecure_skip_tls_verify
    }
}

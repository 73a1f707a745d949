//! From flags, `KUBECONFIG` and files to a client of the API server.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use http::{HeaderValue, header};
use kube::{
    Client, Config,
    config::{
        AuthInfo, Cluster, Context, ExecInteractiveMode, InClusterError, KubeConfigOptions, Kubeconfig,
        KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext,
    },
};

use super::{
    flags::ClusterArgs,
    relay::{Credentials, Operator},
};

/// How long a request may take unless told otherwise: whoever waits longer should be told.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take until the API server is there at all.
const CONNECT: Duration = Duration::from_secs(10);
/// What a context is called that is made of flags alone.
const OF_FLAGS: &str = "flags";

/// A client of the API server, and what was settled on the way to it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    /// Who asks, for others than the API server.
    pub credentials: Credentials,
    /// Where the operator is reached without the API server.
    pub operator: Option<Operator>,
    /// The context of the kubeconfig; none in a pod.
    pub context: Option<String>,
    /// Address of the API server.
    pub server: String,
    /// The namespace of what is named without one.
    pub namespace: String,
    /// How long one request may take; none is without end.
    pub timeout: Option<Duration>,
}

/// There is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A kubeconfig cannot be used.
    #[error("failed to use the kubeconfig {place}: {}", chain(.source))]
    Kubeconfig {
        /// The files.
        place: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// No file that was named is there.
    #[error("there is no kubeconfig {0}")]
    NoFile(String),
    /// What the service account of a pod says cannot be used.
    #[error("failed to use the service account of this pod")]
    InCluster(#[source] InClusterError),
    /// A flag cannot be used.
    #[error("{0}")]
    Flag(String),
    /// The client cannot be made.
    #[error("failed to make a client of the API server: {}", chain(.0))]
    Client(#[source] Box<kube::Error>),
}

/// An error and its causes, each once.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = error.source();
    }
    text
}

/// The kubeconfig files that apply, in order; those of a list that are not there count as empty, as kubectl has it.
fn files(flags: &ClusterArgs, variable: Option<&std::ffi::OsStr>, home: Option<&Path>) -> Vec<PathBuf> {
    if let Some(file) = &flags.kubeconfig {
        return vec![file.clone()];
    }
    let listed = variable.map(|v| env::split_paths(v).collect::<Vec<_>>()).unwrap_or_default();
    let listed: Vec<PathBuf> = listed.into_iter().filter(|p| !p.as_os_str().is_empty()).collect();
    if listed.is_empty() {
        return home.map(|h| h.join(".kube/config")).into_iter().collect();
    }
    listed
}

/// The kubeconfig files of this process that exist.
fn found(flags: &ClusterArgs) -> Vec<PathBuf> {
    let home = env::var_os("HOME").filter(|h| !h.is_empty()).map(PathBuf::from);
    let all = files(flags, env::var_os("KUBECONFIG").as_deref(), home.as_deref());
    all.into_iter().filter(|f| f.exists()).collect()
}

/// Is there anything that says where a cluster is?
#[must_use]
pub fn is_configured(flags: &ClusterArgs) -> bool {
    flags.names_a_cluster() || !found(flags).is_empty() || in_pod()
}

fn in_pod() -> bool {
    env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|v| !v.is_empty())
        && Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

/// The kubeconfig, with the flags put over what it says.
fn kubeconfig(flags: &ClusterArgs) -> Result<Option<(String, Kubeconfig)>, Error> {
    let files = found(flags);
    if let (Some(file), []) = (&flags.kubeconfig, files.as_slice()) {
        return Err(Error::NoFile(file.display().to_string()));
    }
    if files.is_empty() && flags.server.is_none() {
        return Ok(None);
    }
    let mut merged = Kubeconfig::default();
    let mut place = Vec::new();
    for file in files {
        let name = file.display().to_string();
        let failed = |source| Error::Kubeconfig { place: name.clone(), source: Box::new(source) };
        merged = Kubeconfig::read_from(&file).and_then(|k| merged.merge(k)).map_err(failed)?;
        place.push(name);
    }
    overridden(merged, flags).map(|config| Some((place.join(":"), config)))
}

/// A path that does not depend on where a kubeconfig is.
fn absolute(path: &Path) -> Result<String, Error> {
    let path = std::path::absolute(path)
        .map_err(|e| Error::Flag(format!("failed to find {}: {e}", path.display())))?;
    // Without this, what fails later would not say which flag is to blame.
    fs::metadata(&path).map_err(|e| Error::Flag(format!("failed to read {}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

/// The kubeconfig as it would be if it said what the flags say.
fn overridden(mut config: Kubeconfig, flags: &ClusterArgs) -> Result<Kubeconfig, Error> {
    let chosen = flags.context.clone().or(config.current_context.clone()).filter(|c| !c.is_empty());
    let name = chosen.unwrap_or_else(|| OF_FLAGS.to_owned());
    if flags.context.is_none() && !config.contexts.iter().any(|c| c.name == name) && flags.server.is_some() {
        let context =
            Context { cluster: OF_FLAGS.to_owned(), user: Some(OF_FLAGS.to_owned()), ..Context::default() };
        config.contexts.push(NamedContext {
            name: name.clone(),
            context: Some(context),
            ..NamedContext::default()
        });
        config.clusters.push(NamedCluster {
            name: OF_FLAGS.to_owned(),
            cluster: Some(Cluster::default()),
            ..NamedCluster::default()
        });
    }
    let context = config.contexts.iter().find(|c| c.name == name).and_then(|c| c.context.clone());
    let Some(context) = context else {
        let known: Vec<&str> = config.contexts.iter().map(|c| c.name.as_str()).collect();
        return Err(Error::Flag(match (known.as_slice(), &flags.context) {
            ([], _) => {
                "the kubeconfig has no context; name an API server with --server, or another file with \
                        --kubeconfig"
                    .to_owned()
            }
            (known, Some(wanted)) => {
                format!("there is no context {wanted:?} in the kubeconfig; there is {}", known.join(", "))
            }
            (known, None) => {
                format!("the kubeconfig has no current context; choose with --context: {}", known.join(", "))
            }
        }));
    };
    config.current_context = Some(name);
    let cluster = flags.cluster.clone().unwrap_or(context.cluster);
    if let Some(c) = config.clusters.iter_mut().find(|c| c.name == cluster).and_then(|c| c.cluster.as_mut()) {
        if let Some(server) = &flags.server {
            c.server =
                Some(if server.contains("://") { server.clone() } else { format!("https://{server}") });
        }
        if let Some(file) = &flags.certificate_authority {
            c.certificate_authority = Some(absolute(file)?);
            c.certificate_authority_data = None;
        }
        if flags.insecure_skip_tls_verify {
            c.insecure_skip_tls_verify = Some(true);
            (c.certificate_authority, c.certificate_authority_data) = (None, None);
        }
        c.tls_server_name = flags.tls_server_name.clone().or(c.tls_server_name.take());
    }
    let user = flags.user.clone().or(context.user).unwrap_or_else(|| OF_FLAGS.to_owned());
    if let Some(wanted) = &flags.user
        && !config.auth_infos.iter().any(|a| a.name == *wanted)
    {
        return Err(Error::Flag(format!("there is no user {wanted:?} in the kubeconfig")));
    }
    if !config.auth_infos.iter().any(|a| a.name == user) {
        config.auth_infos.push(NamedAuthInfo { name: user.clone(), ..NamedAuthInfo::default() });
    }
    if let Some(named) = config.auth_infos.iter_mut().find(|a| a.name == user) {
        authenticate(named.auth_info.get_or_insert_default(), flags)?;
    }
    for named in config.contexts.iter_mut().filter(|c| Some(&c.name) == config.current_context.as_ref()) {
        if let Some(context) = &mut named.context {
            context.user = Some(user.clone());
        }
    }
    Ok(config)
}

/// Who asks, as the flags say.
fn authenticate(user: &mut AuthInfo, flags: &ClusterArgs) -> Result<(), Error> {
    if let Some(token) = &flags.token {
        // One way to say who asks: a second would be taken first by some.
        *user = AuthInfo { token: Some(token.clone().into()), ..AuthInfo::default() };
    }
    if let Some(file) = &flags.client_certificate {
        (user.client_certificate, user.client_certificate_data) = (Some(absolute(file)?), None);
    }
    if let Some(file) = &flags.client_key {
        (user.client_key, user.client_key_data) = (Some(absolute(file)?), None);
    }
    user.impersonate = flags.as_user.clone().or(user.impersonate.take());
    user.impersonate_uid = flags.as_uid.clone().or(user.impersonate_uid.take());
    if !flags.as_group.is_empty() {
        user.impersonate_groups = Some(flags.as_group.clone());
    }
    if user.impersonate.is_none() && (!flags.as_group.is_empty() || flags.as_uid.is_some()) {
        return Err(Error::Flag("--as-group and --as-uid need --as USER too".to_owned()));
    }
    Ok(())
}

/// Who may be asked for a password while a plug-in of the kubeconfig finds credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompts {
    /// Whoever sits at the terminal.
    Allowed,
    /// Nobody: a shell completes a word.
    Never,
}

/// Makes the client that flags, `KUBECONFIG` and files ask for. Nothing is asked of the API server yet.
///
/// # Errors
/// There is no way to the API server.
pub async fn connect(flags: &ClusterArgs, prompts: Prompts) -> Result<Connection, Error> {
    let (context, mut config) = match kubeconfig(flags)? {
        None => (None, Config::incluster().map_err(Error::InCluster)?),
        Some((place, mut file)) => {
            if prompts == Prompts::Never {
                let users = file.auth_infos.iter_mut().filter_map(|a| a.auth_info.as_mut());
                users.filter_map(|a| a.exec.as_mut()).for_each(|e| {
                    e.interactive_mode = Some(ExecInteractiveMode::Never);
                });
            }
            let options = KubeConfigOptions {
                context: file.current_context.clone(),
                cluster: flags.cluster.clone(),
                user: None,
            };
            let context = file.current_context.clone().filter(|c| c != OF_FLAGS);
            let config = Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|source| Error::Kubeconfig { place, source: Box::new(source) })?;
            (context, config)
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.headers.push((
        header::USER_AGENT,
        HeaderValue::from_static(concat!("kubectl-balancing/", env!("CARGO_PKG_VERSION"))),
    ));
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let timeout = flags.request_timeout.unwrap_or(PATIENCE);
    let timeout = Some(timeout).filter(|t| !t.is_zero());
    let (credentials, client) =
        Credentials::of(config, flags.operator_token.clone()).map_err(|e| Error::Client(Box::new(e)))?;
    let operator = flags.operator.clone();
    Ok(Connection { client, credentials, operator, context, server, namespace, timeout })
}

/// The kubeconfig files that can be read, for completion.
#[must_use]
pub fn kubeconfigs(flags: &ClusterArgs) -> Vec<Kubeconfig> {
    found(flags).into_iter().filter_map(|f| Kubeconfig::read_from(f).ok()).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn flags(line: &str) -> ClusterArgs {
        Cli::try_parse_from(format!("x {line} status").split_whitespace()).unwrap().connection
    }

    const FILE: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- {name: c1, cluster: {server: 'https://one:6443', certificate-authority-data: QQ==}}
- {name: c2, cluster: {server: 'https://two:6443'}}
users:
- {name: u1, user: {token: secret, exec: {command: nobody}}}
- {name: u2, user: {username: two, password: word}}
contexts:
- {name: a, context: {cluster: c1, user: u1, namespace: dns}}
- {name: b, context: {cluster: c2, user: u2}}
";

    fn with(line: &str) -> Result<Kubeconfig, Error> {
        overridden(Kubeconfig::from_yaml(FILE).unwrap(), &flags(line))
    }

    fn cluster(config: &Kubeconfig, name: &str) -> Cluster {
        config.clusters.iter().find(|c| c.name == name).unwrap().cluster.clone().unwrap()
    }

    fn user(config: &Kubeconfig, name: &str) -> AuthInfo {
        config.auth_infos.iter().find(|c| c.name == name).unwrap().auth_info.clone().unwrap()
    }

    #[test]
    fn files_are_kubectls() {
        let paths = |line: &str, variable: Option<&str>| -> Vec<String> {
            files(&flags(line), variable.map(AsRef::as_ref), Some(Path::new("/home/me")))
                .iter()
                .map(|p| p.display().to_string())
                .collect()
        };
        assert_eq!(paths("", None), ["/home/me/.kube/config"]);
        assert_eq!(paths("", Some("")), ["/home/me/.kube/config"]);
        assert_eq!(paths("", Some("/a::/b")), ["/a", "/b"]);
        assert_eq!(paths("--kubeconfig /c", Some("/a:/b")), ["/c"]);
    }

    #[test]
    fn flags_stand_over_the_file() {
        let plain = with("").unwrap();
        assert_eq!(plain.current_context.as_deref(), Some("a"));
        assert_eq!(cluster(&plain, "c1").server.as_deref(), Some("https://one:6443"));
        let other = with("--context b --server elsewhere:443 --tls-server-name k8s").unwrap();
        assert_eq!(cluster(&other, "c2").server.as_deref(), Some("https://elsewhere:443"));
        assert_eq!(cluster(&other, "c2").tls_server_name.as_deref(), Some("k8s"));
        assert_eq!(cluster(&other, "c1").server.as_deref(), Some("https://one:6443"), "it is not asked");
        let insecure = cluster(&with("--insecure-skip-tls-verify").unwrap(), "c1");
        assert_eq!(
            (insecure.insecure_skip_tls_verify, insecure.certificate_authority_data),
            (Some(true), None)
        );
        let token = user(&with("--token t").unwrap(), "u1");
        assert!(token.token.is_some() && token.exec.is_none(), "the plug-in of the file is not asked too");
        let acting = user(&with("--as jane --as-group g1 --as-group g2 --as-uid 7").unwrap(), "u1");
        assert_eq!(acting.impersonate.as_deref(), Some("jane"));
        assert_eq!(acting.impersonate_groups, Some(vec!["g1".to_owned(), "g2".to_owned()]));
        assert_eq!(acting.impersonate_uid.as_deref(), Some("7"));
        let swapped = with("--user u2").unwrap();
        assert_eq!(swapped.contexts[0].context.as_ref().unwrap().user.as_deref(), Some("u2"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = |line: &str| with(line).unwrap_err().to_string();
        assert_eq!(error("--context c"), "there is no context \"c\" in the kubeconfig; there is a, b");
        assert_eq!(error("--user u3"), "there is no user \"u3\" in the kubeconfig");
        assert_eq!(error("--as-group g"), "--as-group and --as-uid need --as USER too");
        assert!(error("--certificate-authority /nowhere/ca").starts_with("failed to read /nowhere/ca"));
        let empty = overridden(Kubeconfig::default(), &flags("")).unwrap_err().to_string();
        assert!(empty.contains("--server"), "{empty}");
    }

    #[test]
    fn a_server_alone_is_a_cluster() {
        let config = overridden(Kubeconfig::default(), &flags("-s https://one:1 --token t")).unwrap();
        assert_eq!(cluster(&config, OF_FLAGS).server.as_deref(), Some("https://one:1"));
        assert!(user(&config, OF_FLAGS).token.is_some());
    }

    #[test]
    fn what_names_a_cluster() {
        for line in
            ["--kubeconfig /x", "--context a", "-s https://x", "--as me", "--insecure-skip-tls-verify"]
        {
            assert!(flags(line).names_a_cluster(), "{line}");
        }
        for line in ["", "-n x", "--request-timeout 5s", "--cache-dir /x"] {
            assert!(!flags(line).names_a_cluster(), "{line}");
        }
    }
}

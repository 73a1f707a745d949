//! The flags. Values are kept as text here, since variables and the file bring the same texts.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{Args, Parser, Subcommand};

/// Values by the flag's name, without `--`.
pub(super) type Texts = BTreeMap<&'static str, Vec<String>>;

pub(super) enum CommandName {
    Run,
    Cleanup,
}

pub(super) struct Flags {
    pub(super) command: CommandName,
    pub(super) texts: Texts,
}

/// Names of all settings, as flags spell them; `config` alone is no key of the file.
pub(super) const SETTINGS: [&str; 20] = [
    "node-name",
    "manifests",
    "kubeconfig",
    "in-cluster",
    "cgroup-root",
    "bpffs",
    "api",
    "redirect-qos-limit",
    "service-resolution",
    "policy-lease",
    "max-frontends",
    "max-backends",
    "api-server-host",
    "api-server-port",
    "namespace",
    "daemonset",
    "node-status",
    "operator-token",
    "log-format",
    "log-level",
];

/// The agent of one node: redirects connections in the clients' own connect() and sendmsg(), as policies say.
#[derive(Parser)]
#[command(name = "balancing-agent", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "\
Every flag has a variable: BALANCING_ and the flag in capitals (BALANCING_POLICY_LEASE for --policy-lease). A flag goes \
before its variable, the variable before the --config file, the file before the default.\n\
Exit status: 0 ended as asked, 1 failed, 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    /// Serve this node until SIGTERM. Ending leaves the data path attached and working.
    Run(Box<Run>),
    /// Detach and unpin everything that an agent with the same places owns.
    Cleanup(Cleanup),
}

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
struct Run {
    /// Name of this node in the objects [variables: BALANCING_NODE_NAME, NODE_NAME]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Folder of Kubernetes YAML to serve; it is watched
    #[arg(long, value_name = "DIR", help_heading = "Source (one of them)")]
    manifests: Option<String>,
    /// Kubeconfig of the cluster to serve [variables: BALANCING_KUBECONFIG, KUBECONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Source (one of them)")]
    kubeconfig: Option<String>,
    /// Serve the cluster that this pod runs in
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "Source (one of them)")]
    in_cluster: Option<String>,
    #[command(flatten)]
    places: Places,
    /// Where to serve the agent API: unix:PATH or tcp:HOST:PORT; repeatable [default: unix:/run/balancing/agent.sock]
    #[arg(long, value_name = "ADDRESS")]
    api: Vec<String>,
    /// Redirects a second of policies without a limit of their own; 0 is no limit [default: 0]
    /// [variables: BALANCING_REDIRECT_QOS_LIMIT, REDIRECT_QOS_LIMIT]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    redirect_qos_limit: Option<String>,
    /// Which Services to resolve: all, policies (only those a policy names) or off [default: all]
    #[arg(long, value_name = "WHICH")]
    service_resolution: Option<String>,
    /// How long policies outlive the agent's last sign of life; 0 is for ever [default: 60s]
    #[arg(long, value_name = "DURATION")]
    policy_lease: Option<String>,
    /// Frontends that the maps can hold [default: 65536]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_frontends: Option<String>,
    /// Backends that the maps can hold, old and new set of a change together [default: 131072]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_backends: Option<String>,
    /// Host of the API server to dial, where no proxy leads to its Service; its certificate is checked as without it
    #[arg(long, value_name = "HOST", help_heading = "In a cluster")]
    api_server_host: Option<String>,
    /// Port of the API server to dial
    #[arg(long, value_name = "PORT", allow_negative_numbers = true, help_heading = "In a cluster")]
    api_server_port: Option<String>,
    /// Namespace of the operator, and of the agent's own DaemonSet [default: elf]
    /// [variables: BALANCING_NAMESPACE, POD_NAMESPACE]
    #[arg(long, value_name = "NAME", help_heading = "In a cluster")]
    namespace: Option<String>,
    /// Name of the agent's own DaemonSet: once that is deleted, SIGTERM ends in a cleanup
    #[arg(long, value_name = "NAME", help_heading = "In a cluster")]
    daemonset: Option<String>,
    /// Write this node's NodeBalancingState [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
          help_heading = "In a cluster")]
    node_status: Option<String>,
    /// File with the token for the operator, to which the agent reports while somebody watches; without it nothing else
    /// is missing [default: /var/run/secrets/balancing.elf.io/token]
    #[arg(long, value_name = "FILE", help_heading = "In a cluster")]
    operator_token: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
#[command(after_help = AFTER_HELP)]
struct Cleanup {
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct Places {
    /// The cgroup to serve, with all below it [default: the mount of cgroup v2]
    #[arg(long, value_name = "PATH")]
    cgroup_root: Option<String>,
    /// Folder of a bpf file system to pin in; one agent a folder [default: /sys/fs/bpf]
    #[arg(long, value_name = "PATH")]
    bpffs: Option<String>,
}

#[derive(Args)]
struct Common {
    /// YAML file with settings; its keys are the flags in camelCase
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Shape of the log on stderr: json or text [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// What to log: a level, or target=level,... [default: info] [variables: BALANCING_LOG_LEVEL, RUST_LOG]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

/// Reads the command line; `args` begins with the program's name.
pub(super) fn parse<A>(args: A) -> Result<Flags, clap::Error>
where
    A: IntoIterator,
    A::Item: Into<OsString> + Clone,
{
    Ok(match Cli::try_parse_from(args)?.command {
        Command::Run(run) => Flags { command: CommandName::Run, texts: run.texts() },
        Command::Cleanup(cleanup) => Flags {
            command: CommandName::Cleanup,
            texts: texts(cleanup.places.into_iter().chain(cleanup.common)),
        },
    })
}

type Named = (&'static str, Option<String>);

fn texts(named: impl IntoIterator<Item = Named>) -> Texts {
    named.into_iter().filter_map(|(name, text)| Some((name, vec![text?]))).collect()
}

impl IntoIterator for Places {
    type Item = Named;
    type IntoIter = std::array::IntoIter<Named, 2>;

    fn into_iter(self) -> Self::IntoIter {
        [("cgroup-root", self.cgroup_root), ("bpffs", self.bpffs)].into_iter()
    }
}

impl IntoIterator for Common {
    type Item = Named;
    type IntoIter = std::array::IntoIter<Named, 3>;

    fn into_iter(self) -> Self::IntoIter {
        [("config", self.config), ("log-format", self.log_format), ("log-level", self.log_level)].into_iter()
    }
}

impl Run {
    fn texts(self) -> Texts {
        let named = [
            ("node-name", self.node_name),
            ("manifests", self.manifests),
            ("kubeconfig", self.kubeconfig),
            ("in-cluster", self.in_cluster),
            ("redirect-qos-limit", self.redirect_qos_limit),
            ("service-resolution", self.service_resolution),
            ("policy-lease", self.policy_lease),
            ("max-frontends", self.max_frontends),
            ("max-backends", self.max_backends),
            ("api-server-host", self.api_server_host),
            ("api-server-port", self.api_server_port),
            ("namespace", self.namespace),
            ("daemonset", self.daemonset),
            ("node-status", self.node_status),
            ("operator-token", self.operator_token),
        ];
        let mut all = texts(named.into_iter().chain(self.places).chain(self.common));
        if !self.api.is_empty() {
            all.insert("api", self.api);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_list_of_settings_is_that_of_the_flags() {
        Cli::command().debug_assert();
        let run = Cli::command().find_subcommand("run").unwrap().clone();
        let flags: BTreeSet<_> =
            run.get_arguments().filter_map(|a| a.get_long()).map(str::to_owned).collect();
        let mut settings: BTreeSet<_> = SETTINGS.iter().map(|s| (*s).to_owned()).collect();
        settings.insert("config".to_owned());
        assert_eq!(flags, settings);
    }
    #[test]
    fn the_help() {
        let mut text = String::new();
        for command in ["run", "cleanup"] {
            let mut whole = Cli::command().term_width(100);
            whole.build();
            let command = whole.find_subcommand_mut(command).unwrap();
            text += &format!("{}\n\n", command.render_long_help());
        }
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!("agent-help", text));
    }
}

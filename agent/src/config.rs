//! The agent's command line: flags, variables and the configuration file, made into plain values.
//!
//! A flag goes before its variable (`BALANCING_` and the flag in capitals), the variable before the key of the
//! `--config` file (the flag in camelCase), the key before the default. An empty variable counts as not set.

mod file;
mod flags;
mod layers;
mod places;
mod values;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

pub use places::{Cgroup2Mount, cgroup_type_file, cgroup2_mounts, is_cgroup2};
pub use values::{Listen, LogFormat, ServiceResolution};

/// Variables of the process, by name.
pub type Environment = BTreeMap<String, OsString>;

/// What the agent was asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve the node until SIGTERM.
    Run(Box<RunConfig>),
    /// Detach and unpin what the agent owns.
    Cleanup(CleanupConfig),
}

impl Command {
    /// How to log.
    #[must_use]
    pub fn log(&self) -> &LogConfig {
        match self {
            Self::Run(run) => &run.log,
            Self::Cleanup(cleanup) => &cleanup.log,
        }
    }
}

/// `balancing-agent run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunConfig {
    /// The node's name in the objects.
    pub node_name: String,
    /// Where the objects come from.
    pub source: Source,
    /// Where to attach and to pin.
    pub places: Places,
    /// Where the agent API is served.
    pub api: Vec<Listen>,
    /// Redirects a second of policies that set no limit of their own; 0 is no limit.
    pub default_redirects_per_second: u32,
    /// Which Services are resolved.
    pub service_resolution: ServiceResolution,
    /// How long a policy's rung outlives the agent's last sign of life; `None` is for ever.
    pub policy_lease: Option<Duration>,
    /// Capacity of the map of frontends.
    pub max_frontends: u32,
    /// Capacity of the map of backends.
    pub max_backends: u32,
    /// Host and port of the API server, where they are not to be taken from the kubeconfig or the cluster.
    pub api_server: Option<(String, u16)>,
    /// Namespace of the operator and of the agent's own DaemonSet.
    pub namespace: String,
    /// Name of the agent's own DaemonSet, if it is to be watched.
    pub daemonset: Option<String>,
    /// Is the node's NodeBalancingState written?
    pub node_status: bool,
    /// File with the token that is shown to the operator.
    pub operator_token: PathBuf,
    /// `BALANCING_REFUSE_ROOT_CGROUP`: never attach to the root of the cgroup hierarchy.
    pub refuse_root_cgroup: bool,
    /// How to log.
    pub log: LogConfig,
}

/// `balancing-agent cleanup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanupConfig {
    /// Where an agent has attached and pinned.
    pub places: Places,
    /// How to log.
    pub log: LogConfig,
}

/// What makes agents on one machine independent of one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The cgroup that the programs are attached to.
    pub cgroup_root: PathBuf,
    /// The folder of a bpf file system below which everything is pinned.
    pub bpffs: PathBuf,
}

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder of manifests.
    Manifests(PathBuf),
    /// An API server, by a kubeconfig.
    Kubeconfig(PathBuf),
    /// The API server of the cluster that the agent's own pod runs in.
    InCluster,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Shape of a line.
    pub format: LogFormat,
    /// What is logged, as `RUST_LOG` spells it.
    pub level: String,
}

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The flag of that name, without `--`.
    Flag(&'static str),
    /// The variable of that name.
    Variable(String),
    /// The configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// The key.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "--{name}"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File { path, line, key } => write!(f, "{}:{line}: {key}", path.display()),
        }
    }
}

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The command line itself is wrong, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A value is not one of its setting's.
    #[error("{origin}: invalid value {value:?}: {message}")]
    Invalid {
        /// Where it was written.
        origin: Origin,
        /// What was written.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// A key of the configuration file is no setting.
    #[error("{}:{line}: unknown key {key:?}{}", path.display(), hint.as_ref().map(|h| format!(", did you mean {h:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// The key.
        key: String,
        /// A key it may have been meant to be.
        hint: Option<String>,
    },
    /// The configuration file is not a mapping of settings.
    #[error("{}:{line}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// 1-based.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The configuration file cannot be read.
    #[error("failed to read the configuration file {}", path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing says which node this is.
    #[error("the node's name is missing: give --node-name, or set NODE_NAME")]
    NoNodeName,
    /// Nothing says where the objects come from.
    #[error(
        "nothing says where Services and policies come from: give one of --manifests DIR, --kubeconfig FILE, \
         --in-cluster"
    )]
    NoSource,
    /// More than one source.
    #[error("{first} and {second} exclude each other: the objects come from one source")]
    TwoSources {
        /// One of them.
        first: Origin,
        /// The other.
        second: Origin,
    },
    /// Host without port, or port without host.
    #[error("{given} needs --{missing} beside it")]
    HalfApiServer {
        /// What was given.
        given: Origin,
        /// What is missing.
        missing: &'static str,
    },
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted here: mount one (mount -t cgroup2 none /sys/fs/cgroup) or name a cgroup by \
         --cgroup-root"
    )]
    NoCgroup2,
    /// A folder cannot be looked at.
    #[error("{setting} {}: {}", path.display(), missing_folder(source))]
    Folder {
        /// `--bpffs` or `--cgroup-root`.
        setting: &'static str,
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder of the wrong file system.
    #[error("{setting} {}: this folder is not in a {wanted} file system{}", path.display(), .hint)]
    WrongFileSystem {
        /// `--bpffs` or `--cgroup-root`.
        setting: &'static str,
        /// The folder.
        path: PathBuf,
        /// `bpf` or `cgroup2`.
        wanted: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// `BALANCING_REFUSE_ROOT_CGROUP` is set.
    #[error(
        "--cgroup-root {}: this is the root of the cgroup hierarchy, and BALANCING_REFUSE_ROOT_CGROUP is set: name a \
         cgroup below it",
        path.display()
    )]
    RootCgroup {
        /// The cgroup.
        path: PathBuf,
    },
}

fn missing_folder(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such folder; make it first",
        io::ErrorKind::NotADirectory => "this is not a folder",
        _ => "failed to look at this folder",
    }
}

impl ConfigError {
    /// Exit status: 0 help was asked for, 1 the machine is not as the settings say, 2 wrong usage.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CommandLine(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::ReadFile { .. }
            | Self::NoCgroup2
            | Self::Folder { .. }
            | Self::WrongFileSystem { .. }
            | Self::RootCgroup { .. } => 1,
            Self::Invalid { .. }
            | Self::UnknownKey { .. }
            | Self::File { .. }
            | Self::NoNodeName
            | Self::NoSource
            | Self::TwoSources { .. }
            | Self::HalfApiServer { .. } => 2,
        }
    }

    /// Says it to the user: help on stdout, all else on stderr.
    pub fn print(&self) {
        use std::io::Write;
        if let Self::CommandLine(error) = self {
            // A closed terminal is no reason to fail differently.
            let _ = error.print();
            return;
        }
        let mut text = format!("error: {self}\n");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text += &format!("  caused by: {error}\n");
            cause = error.source();
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// The command that flags, variables and file ask for. Looks at nothing else: see [`load`] for the rest.
///
/// `args` begins with the program's name; `read` reads the configuration file; `mountinfo` is the text of
/// `/proc/self/mountinfo`.
///
/// # Errors
/// Whatever is wrong with what was written, with where it was written.
pub fn parse<A>(
    args: A,
    environment: &Environment,
    read: impl Fn(&Path) -> io::Result<String>,
    mountinfo: &str,
) -> Result<Command, ConfigError>
where
    A: IntoIterator,
    A::Item: Into<OsString> + Clone,
{
    let flags = flags::parse(args)?;
    let layers = layers::Layers::new(flags.texts, environment, read)?;
    match flags.command {
        flags::CommandName::Run => layers.run(mountinfo).map(|run| Command::Run(Box::new(run))),
        flags::CommandName::Cleanup => layers.cleanup(mountinfo).map(Command::Cleanup),
    }
}

/// The command that this process was started with, its folders looked at.
///
/// # Errors
/// See [`parse`]; and a folder that does not exist, or is not of the right file system.
pub fn load() -> Result<Command, ConfigError> {
    let environment =
        std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value)).collect();
    // Without /proc there is no default for --cgroup-root, and the error then says so.
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let command = parse(std::env::args_os(), &environment, |path| std::fs::read_to_string(path), &mountinfo)?;
    match &command {
        Command::Run(run) => {
            run.places.check()?;
            if run.refuse_root_cgroup {
                run.places.refuse_root(&cgroup2_mounts(&mountinfo))?;
            }
        }
        Command::Cleanup(cleanup) => cleanup.places.check_bpffs()?,
    }
    Ok(command)
}

#[cfg(test)]
mod tests;

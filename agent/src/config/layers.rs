//! Which text of a setting counts: the flag's, the variable's, the file's, or none and the default.

use std::{io, path::Path, path::PathBuf, time::Duration};

use super::{
    CleanupConfig, ConfigError, Environment, Listen, LogConfig, Origin, Places, RunConfig, Source,
    file::{self, File},
    flags::Texts,
    places::cgroup2_mounts,
    values,
};

/// A second variable of a setting, besides the one behind `BALANCING_`, which goes before it.
const SECOND_VARIABLES: [(&str, &str); 5] = [
    ("node-name", "NODE_NAME"),
    ("redirect-qos-limit", "REDIRECT_QOS_LIMIT"),
    ("kubeconfig", "KUBECONFIG"),
    ("namespace", "POD_NAMESPACE"),
    ("log-level", "RUST_LOG"),
];

const REFUSE_ROOT_CGROUP: &str = "BALANCING_REFUSE_ROOT_CGROUP";
const DEFAULT_SOCKET: &str = "/run/balancing/agent.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
const DEFAULT_LEASE: Duration = Duration::from_secs(60);
const DEFAULT_MAX_FRONTENDS: u32 = 65_536;
const DEFAULT_MAX_BACKENDS: u32 = 131_072;
const DEFAULT_OPERATOR_TOKEN: &str = "/var/run/secrets/balancing.elf.io/token";
const DEFAULT_NAMESPACE: &str = "elf";
const SOURCES: [&str; 3] = ["manifests", "kubeconfig", "in-cluster"];

/// The layers in which a setting may be given, first to last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Flag,
    Variable,
    SecondVariable,
    File,
}

const LAYERS: [Layer; 4] = [Layer::Flag, Layer::Variable, Layer::SecondVariable, Layer::File];

/// A setting's texts and where they were written.
struct Given {
    origin: Origin,
    texts: Vec<String>,
}

impl Given {
    fn invalid(&self, value: &str, message: String) -> ConfigError {
        ConfigError::Invalid { origin: self.origin.clone(), value: value.to_owned(), message }
    }

    /// The value; of texts written more than once (only `--api` can be), the last.
    fn value<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let text = self.texts.last().map(String::as_str).unwrap_or_default();
        parse(text).map_err(|message| self.invalid(text, message))
    }
}

/// Everything that was written.
pub(super) struct Layers<'e> {
    flags: Texts,
    environment: &'e Environment,
    file: Option<File>,
}

/// The variable of a setting: `BALANCING_POLICY_LEASE`.
fn variable_of(setting: &str) -> String {
    format!("BALANCING_{}", setting.to_ascii_uppercase().replace('-', "_"))
}

impl<'e> Layers<'e> {
    /// Reads the configuration file, if flag or variable names one.
    pub(super) fn new(
        flags: Texts,
        environment: &'e Environment,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let mut layers = Self { flags, environment, file: None };
        if let Some(path) = layers.value("config", values::path)? {
            let text = read(&path).map_err(|source| ConfigError::ReadFile { path: path.clone(), source })?;
            layers.file = Some(file::parse(&path, &text)?);
        }
        Ok(layers)
    }

    /// A variable; one that is empty counts as not set.
    fn variable(&self, name: &str) -> Result<Option<Given>, ConfigError> {
        let Some(value) = self.environment.get(name).filter(|v| !v.is_empty()) else { return Ok(None) };
        let origin = Origin::Variable(name.to_owned());
        match value.to_str() {
            Some(text) => Ok(Some(Given { origin, texts: vec![text.to_owned()] })),
            None => Err(ConfigError::Invalid {
                origin,
                value: value.to_string_lossy().into_owned(),
                message: "not UTF-8".to_owned(),
            }),
        }
    }

    fn in_layer(&self, layer: Layer, setting: &'static str) -> Result<Option<Given>, ConfigError> {
        match layer {
            Layer::Flag => {
                let texts = self.flags.get(setting).cloned();
                Ok(texts.map(|texts| Given { origin: Origin::Flag(setting), texts }))
            }
            Layer::Variable => self.variable(&variable_of(setting)),
            Layer::SecondVariable => match SECOND_VARIABLES.iter().find(|(s, _)| *s == setting) {
                Some((_, name)) => self.variable(name),
                None => Ok(None),
            },
            Layer::File => Ok(self.file.as_ref().and_then(|file| {
                let entry = file.entries.iter().find(|e| e.setting == setting)?;
                let origin =
                    Origin::File { path: file.path.clone(), line: entry.line, key: entry.key.clone() };
                Some(Given { origin, texts: entry.texts.clone() })
            })),
        }
    }

    fn given(&self, setting: &'static str) -> Result<Option<Given>, ConfigError> {
        for layer in LAYERS {
            if let Some(given) = self.in_layer(layer, setting)? {
                return Ok(Some(given));
            }
        }
        Ok(None)
    }

    fn value<T>(
        &self,
        setting: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.given(setting)?.map(|given| given.value(parse)).transpose()
    }

    /// What `run` is to do.
    pub(super) fn run(&self, mountinfo: &str) -> Result<RunConfig, ConfigError> {
        let refuse_root_cgroup = match self.variable(REFUSE_ROOT_CGROUP)? {
            Some(given) => given.value(values::boolean)?,
            None => false,
        };
        Ok(RunConfig {
            node_name: self.value("node-name", values::node_name)?.ok_or(ConfigError::NoNodeName)?,
            source: self.source()?,
            api: self.api()?,
            default_redirects_per_second: self.value("redirect-qos-limit", values::limit)?.unwrap_or(0),
            service_resolution: self.value("service-resolution", str::parse)?.unwrap_or_default(),
            policy_lease: self.value("policy-lease", values::lease)?.unwrap_or(Some(DEFAULT_LEASE)),
            max_frontends: self.value("max-frontends", values::capacity)?.unwrap_or(DEFAULT_MAX_FRONTENDS),
            max_backends: self.value("max-backends", values::capacity)?.unwrap_or(DEFAULT_MAX_BACKENDS),
            api_server: self.api_server()?,
            namespace: self
                .value("namespace", values::namespace)?
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            daemonset: self.value("daemonset", values::object_name)?,
            node_status: self.value("node-status", values::boolean)?.unwrap_or(true),
            operator_token: self
                .value("operator-token", values::path)?
                .unwrap_or_else(|| DEFAULT_OPERATOR_TOKEN.into()),
            refuse_root_cgroup,
            log: self.log()?,
            places: self.places(mountinfo)?,
        })
    }

    /// What `cleanup` is to do.
    pub(super) fn cleanup(&self, mountinfo: &str) -> Result<CleanupConfig, ConfigError> {
        Ok(CleanupConfig { places: self.places(mountinfo)?, log: self.log()? })
    }

    /// The source: of the first layer that names one. `KUBECONFIG` is set in many shells for other programs, so it
    /// never contradicts a source that was named for this one.
    fn source(&self) -> Result<Source, ConfigError> {
        let mut kubeconfig = None;
        for layer in LAYERS {
            let mut named: Vec<(Source, Origin)> = Vec::new();
            for setting in SOURCES {
                let Some(given) = self.in_layer(layer, setting)? else { continue };
                let source = match setting {
                    "manifests" => Source::Manifests(given.value(values::path)?),
                    "kubeconfig" => Source::Kubeconfig(given.value(values::path)?),
                    _ if given.value(values::boolean)? => Source::InCluster,
                    _ => continue,
                };
                named.push((source, given.origin));
            }
            if layer == Layer::SecondVariable {
                kubeconfig = named.pop();
                continue;
            }
            let mut named = named.into_iter();
            match (named.next(), named.next()) {
                (None, _) => {}
                (Some((_, first)), Some((_, second))) => {
                    return Err(ConfigError::TwoSources { first, second });
                }
                (Some((Source::Kubeconfig(_), _)), None) if kubeconfig.is_some() => break,
                (Some((source, _)), None) => return Ok(source),
            }
        }
        kubeconfig.map(|(source, _)| source).ok_or(ConfigError::NoSource)
    }

    fn api(&self) -> Result<Vec<Listen>, ConfigError> {
        let Some(given) = self.given("api")? else {
            return Ok(vec![Listen::Unix(DEFAULT_SOCKET.into())]);
        };
        let mut texts: Vec<&str> = given.texts.iter().map(String::as_str).collect();
        if matches!(given.origin, Origin::Variable(_)) {
            texts = texts.iter().flat_map(|t| t.split(',')).map(str::trim).collect();
        }
        let mut all: Vec<Listen> = Vec::new();
        for text in texts {
            let listen = text.parse().map_err(|message| given.invalid(text, message))?;
            if all.contains(&listen) {
                return Err(given.invalid(text, "given twice".to_owned()));
            }
            all.push(listen);
        }
        Ok(all)
    }

    fn api_server(&self) -> Result<Option<(String, u16)>, ConfigError> {
        match (self.given("api-server-host")?, self.given("api-server-port")?) {
            (None, None) => Ok(None),
            (Some(host), Some(port)) => Ok(Some((host.value(values::host)?, port.value(values::port)?))),
            (Some(host), None) => {
                Err(ConfigError::HalfApiServer { given: host.origin, missing: "api-server-port" })
            }
            (None, Some(port)) => {
                Err(ConfigError::HalfApiServer { given: port.origin, missing: "api-server-host" })
            }
        }
    }

    fn log(&self) -> Result<LogConfig, ConfigError> {
        Ok(LogConfig {
            format: self.value("log-format", str::parse)?.unwrap_or_default(),
            level: self.value("log-level", values::level)?.unwrap_or_else(|| "info".to_owned()),
        })
    }

    fn places(&self, mountinfo: &str) -> Result<Places, ConfigError> {
        let cgroup_root = match self.value("cgroup-root", values::path)? {
            Some(path) => path,
            None => default_cgroup_root(mountinfo)?,
        };
        let bpffs = self.value("bpffs", values::path)?.unwrap_or_else(|| DEFAULT_BPFFS.into());
        Ok(Places { cgroup_root, bpffs })
    }
}

/// The mount of the whole hierarchy, where there is one, else the first mount.
fn default_cgroup_root(mountinfo: &str) -> Result<PathBuf, ConfigError> {
    let mounts = cgroup2_mounts(mountinfo);
    let best = mounts.iter().find(|m| m.root == Path::new("/")).or_else(|| mounts.first());
    best.map(|m| m.point.clone()).ok_or(ConfigError::NoCgroup2)
}

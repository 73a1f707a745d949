//! Completion: scripts for shells, and what kubectl asks when a word of `kubectl balancing ...` is to be completed.
//!
//! kubectl runs `kubectl_complete-balancing WORD...` with the word under the cursor last, and reads a candidate a line,
//! a tab, its description, and at the end `:` with cobra's directive. That name is this program under another.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs, io,
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use balancing_api::{
    cli::PolicyTopItem,
    net::Frontend,
    policy::PolicyKind,
    rules::{
        Policy, RULES,
        checked::{Matcher, Ports},
    },
};
use clap::{Args, Command, CommandFactory, Parser, ValueEnum, ValueHint};
use clap_complete::{
    Shell,
    engine::{ArgValueCandidates, CompletionCandidate, complete},
};
use kube::config::Kubeconfig;

use crate::{
    cli::Cli,
    cluster::{
        Wanted,
        connect::{self, Connection, Prompts},
        read::{self, NAMESPACES, PODS, SERVICES},
    },
    columns::{Row, Shown},
    explain::policy::kind_of,
    get::{self, Kind},
    rows,
    target::Target,
    text::sanitise,
    trace::OUTCOMES,
};

/// What kubectl looks for beside `kubectl-balancing`.
const COMPLETER: &str = "kubectl_complete-balancing";
const PLUGIN: &str = "kubectl-balancing";
/// A shell waits for this: who does not answer at once is gone without.
const PATIENCE: Duration = Duration::from_secs(1);
/// Cobra's directives: let the shell complete file names, or do not.
const FILES: u8 = 0;
const NO_FILES: u8 = 4;
/// Nor put a blank behind the only candidate.
const NO_SPACE: u8 = 2;

/// What to do about completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The script for bash.
    Bash,
    /// The script for zsh.
    Zsh,
    /// The script for fish.
    Fish,
    /// The script for PowerShell.
    Powershell,
    /// The script for elvish.
    Elvish,
    /// Put kubectl_complete-balancing, by which kubectl completes, beside this program.
    Install,
}

/// Arguments of `completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// The shell whose script to print, or install.
    #[arg(value_enum, value_name = "SHELL|install")]
    pub what: What,
    /// The folder to install into; it has to be one of PATH. [default: where kubectl-balancing is]
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// Completion could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Write(#[from] io::Error),
    /// This program does not know where it is.
    #[error("failed to find this program: {0}")]
    Myself(#[source] io::Error),
    /// The link cannot be made.
    #[error("failed to create {}: {source}; name another folder of PATH with --dir", path.display())]
    Link {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else has that name.
    #[error("{} exists and is not this program: remove it, or name another folder of PATH with --dir", .0.display())]
    Taken(PathBuf),
}

/// Prints a script, or installs.
pub fn run(args: &CompletionArgs, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Error> {
    let shell = match args.what {
        What::Bash => Shell::Bash,
        What::Zsh => Shell::Zsh,
        What::Fish => Shell::Fish,
        What::Powershell => Shell::PowerShell,
        What::Elvish => Shell::Elvish,
        What::Install => return install(args.dir.as_deref(), out, err),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PLUGIN, &mut script);
    out.write_all(&script)?;
    Ok(out.flush()?)
}

fn install(dir: Option<&Path>, out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Error> {
    let myself = std::env::current_exe().map_err(Error::Myself)?;
    let path: Vec<PathBuf> =
        std::env::var_os("PATH").map(|p| std::env::split_paths(&p).collect()).unwrap_or_default();
    // As it is called: behind a link of a package manager, that link outlives an upgrade.
    let called = path.iter().map(|p| p.join(PLUGIN)).find(|p| same_file(p, &myself)).unwrap_or(myself);
    let folder = dir.or_else(|| called.parent()).unwrap_or(Path::new("."));
    let link = folder.join(COMPLETER);
    match symlink(&called, &link) {
        Ok(()) => writeln!(out, "created {} -> {}", link.display(), called.display())?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && same_file(&link, &called) => {
            writeln!(out, "{} is there already", link.display())?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(Error::Taken(link)),
        Err(source) => return Err(Error::Link { path: link, source }),
    }
    if !path.iter().any(|p| same_file(p, folder)) {
        writeln!(err, "warning: {} is not in PATH, so kubectl will not find it there", folder.display())?;
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((fs::canonicalize(a), fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Was this program called by the name by which kubectl asks for completions?
#[must_use]
pub fn is_asked(program: Option<&OsStr>) -> bool {
    program.map(Path::new).and_then(Path::file_stem).is_some_and(|name| name == COMPLETER)
}

/// Answers kubectl. A failure is no candidates: whoever presses Tab does not want to read an error.
pub fn answer(words: &[OsString], out: &mut dyn Write) -> io::Result<()> {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into_owned()).collect();
    let mut command = with_live_names(Cli::command(), &Arc::new(Context::of(&words)));
    let line: Vec<OsString> =
        std::iter::once(PLUGIN).chain(words.iter().map(String::as_str)).map(Into::into).collect();
    let last = line.len().saturating_sub(1);
    let candidates = complete(&mut command, line, last, None).unwrap_or_default();
    let shown: Vec<&CompletionCandidate> = candidates.iter().filter(|c| !c.is_hide_set()).collect();
    let is_flag = |c: &CompletionCandidate| c.get_value().as_encoded_bytes().starts_with(b"--");
    // As kubectl's own completion: flags once their dash is there, or where there is nothing else.
    let flags = words.last().is_some_and(|w| w.starts_with('-')) || shown.iter().all(|c| is_flag(c));
    let mut seen = BTreeSet::new();
    // Behind `pod/` there is more to come.
    let goes_on = !shown.is_empty() && shown.iter().all(|c| c.get_value().as_encoded_bytes().ends_with(b"/"));
    for candidate in shown.into_iter().filter(|c| flags || !is_flag(c)) {
        let value = candidate.get_value().to_string_lossy();
        // As cobra has it: shells put `--flag=` before it themselves.
        let flag = words.last().and_then(|w| w.split_once('=')).map(|(flag, _)| format!("{flag}="));
        let value = flag.and_then(|f| value.strip_prefix(&f).map(str::to_owned)).map_or(value, Into::into);
        if !seen.insert(value.clone().into_owned()) {
            continue;
        }
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        let tab = if help.is_empty() { "" } else { "\t" };
        writeln!(out, "{}{tab}{}", sanitise(&value), sanitise(help))?;
    }
    let directive = match (wants_file(&words), goes_on) {
        (true, _) => FILES,
        (false, true) => NO_FILES | NO_SPACE,
        (false, false) => NO_FILES,
    };
    writeln!(out, ":{directive}")?;
    out.flush()
}

/// Is the last word the name of a file?
fn wants_file(words: &[String]) -> bool {
    let mut command = Cli::command();
    command.build();
    let Some((last, before)) = words.split_last() else { return false };
    let mut current = &command;
    for word in before.iter().filter(|w| !w.starts_with('-')) {
        if let Some(sub) = current.find_subcommand(word) {
            current = sub;
        }
    }
    let is_path = |a: &clap::Arg| {
        matches!(a.get_value_hint(), ValueHint::AnyPath | ValueHint::FilePath | ValueHint::DirPath)
    };
    let previous = before.last().map(String::as_str).unwrap_or_default();
    let flag = current.get_arguments().find(|a| {
        a.get_long().is_some_and(|l| previous.strip_prefix("--") == Some(l))
            || a.get_short().is_some_and(|s| previous == format!("-{s}"))
    });
    match flag.filter(|a| a.get_action().takes_values()) {
        Some(flag) => is_path(flag),
        None => !last.starts_with('-') && current.get_positionals().any(is_path),
    }
}

/// The command line so far, and whom it names.
struct Context {
    words: Vec<String>,
    cli: Cli,
    /// What was answered: asked once, however many arguments want to know.
    known: OnceLock<Known>,
}

/// A part of a path of names, as `pod/NAMESPACE/NAME`, that is to be completed.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Its namespace.
    Namespace,
    /// A name in this namespace.
    Name(&'a str),
}

/// What there is to complete names with.
#[derive(Default)]
struct Known {
    policies: Vec<KnownPolicy>,
    nodes: Vec<(String, String)>,
    /// `namespace/name` of pods that an agent tells.
    pods: Vec<String>,
}

struct KnownPolicy {
    kind: PolicyKind,
    name: String,
    of: String,
    /// `namespace/name` of the Service it matches.
    service: Option<String>,
    frontends: Vec<Frontend>,
}

impl Context {
    /// The flags that say who is asked, of a line that is not finished.
    fn of(words: &[String]) -> Self {
        let line = named_flags(words);
        let cli = Cli::try_parse_from(&line).or_else(|_| Cli::try_parse_from([PLUGIN]));
        // Without any flag it can be read.
        let cli = cli.unwrap_or_else(|_| Cli {
            agent: None,
            color: Default::default(),
            connection: Default::default(),
            command: None,
        });
        Self { words: words.to_vec(), cli, known: Default::default() }
    }

    /// What is known, if it is said at once. Nobody is asked for a password meanwhile.
    fn known(&self) -> &Known {
        self.known.get_or_init(|| at_once(ask(&self.cli)).flatten().unwrap_or_default())
    }

    /// The word that is completed, without `--flag=` before it.
    fn word(&self) -> &str {
        let last = self.words.last().map(String::as_str).unwrap_or_default();
        if last.starts_with("--") { last.split_once('=').map_or(last, |(_, value)| value) } else { last }
    }

    /// Asks the cluster that the flags name; nobody where they name an agent.
    fn cluster<T>(&self, ask: impl AsyncFnOnce(&Connection) -> Option<T>) -> Option<T> {
        at_once(async {
            match Target::of(&self.cli, Prompts::Never).await.ok()? {
                Target::Cluster(cluster) => ask(&cluster.connection).await,
                Target::Agent(_) => None,
            }
        })
        .flatten()
    }

    fn named(&self, kind: read::Kind, namespace: Option<&str>) -> Vec<String> {
        self.cluster(async |c| c.names(kind, namespace).await.ok()).unwrap_or_default()
    }

    fn namespaces(&self) -> Vec<CompletionCandidate> {
        self.named(NAMESPACES, None).iter().map(|n| candidate(n, "")).collect()
    }

    /// `PREFIXnamespace/`, or `PREFIXnamespace/name` of what a cluster has of a kind; a namespace at a time, since all
    /// pods of a cluster are too many.
    fn paths(&self, prefix: &str, kind: read::Kind) -> Vec<CompletionCandidate> {
        match step(self.word(), prefix) {
            None => Vec::new(),
            Some(Step::Namespace) => {
                let all = self.named(NAMESPACES, None);
                all.iter().map(|n| candidate(&format!("{prefix}{n}/"), "namespace")).collect()
            }
            Some(Step::Name(namespace)) => {
                let all = self.named(kind, Some(namespace));
                all.iter().map(|n| candidate(&format!("{prefix}{namespace}/{n}"), "")).collect()
            }
        }
    }

    /// Pods: of a cluster all, of an agent those that it tells.
    fn pods_behind(&self, prefix: &str) -> Vec<CompletionCandidate> {
        let paths = self.paths(prefix, PODS);
        if !paths.is_empty() {
            return paths;
        }
        self.known().pods.iter().map(|p| candidate(&format!("{prefix}{p}"), "pod")).collect()
    }

    fn pods(&self) -> Vec<CompletionCandidate> {
        self.pods_behind("")
    }

    fn callers(&self) -> Vec<CompletionCandidate> {
        let mut all = fixed(&[("host", "a process outside every pod")]);
        match self.word().starts_with("pod/") {
            true => all.extend(self.pods_behind("pod/")),
            false => all.extend(fixed(&[("pod/", "NAMESPACE/NAME")])),
        }
        all
    }

    fn services(&self) -> Vec<CompletionCandidate> {
        let paths = self.paths("", SERVICES);
        if !paths.is_empty() {
            return paths;
        }
        let of = self.known().policies.iter().filter_map(|p| p.service.as_deref());
        of.map(|s| candidate(s, "Service")).collect()
    }

    /// What can be dialled: frontends of policies, and Services with their ports.
    fn dialled(&self) -> Vec<CompletionCandidate> {
        const PREFIX: &str = "service/";
        let mut all = self.frontends();
        match step(self.word(), PREFIX) {
            None => all.extend(fixed(&[(PREFIX, "NAMESPACE/NAME:PORT")])),
            Some(Step::Namespace) => all.extend(self.paths(PREFIX, SERVICES)),
            Some(Step::Name(namespace)) => {
                let services = self.cluster(async |c| c.list("", SERVICES, Some(namespace), "").await.ok());
                all.extend(services.iter().flatten().flat_map(|s| ports(PREFIX, s)));
            }
        }
        all
    }

    /// Policies by name; behind `lr/` or `bl/` with that.
    fn policies(&self) -> Vec<CompletionCandidate> {
        let kind = self.word().split_once('/').and_then(|(kind, _)| Some((kind, kind_of(kind).ok()?)));
        let one = |p: &KnownPolicy| {
            let name = kind.map_or_else(|| p.name.clone(), |(word, _)| format!("{word}/{}", p.name));
            candidate(&name, &format!("{} {}", p.kind, p.of))
        };
        self.known().policies.iter().filter(|p| kind.is_none_or(|(_, k)| k == p.kind)).map(one).collect()
    }

    /// `TYPE`s, and behind `TYPE/` the names of that type.
    fn things(&self, kinds: &[(&str, &str)]) -> Vec<CompletionCandidate> {
        let Some((word, _)) = self.word().split_once('/') else { return fixed(kinds) };
        let known = self.known();
        match word.parse::<get::Target>().map(|t| t.kind) {
            Ok(Kind::Policies(kind)) => {
                let of_kind = known.policies.iter().filter(|p| kind.is_none_or(|k| k == p.kind));
                of_kind.map(|p| candidate(&format!("{word}/{}", p.name), p.kind.as_str())).collect()
            }
            Ok(Kind::Nodes) => {
                known.nodes.iter().map(|(n, kernel)| candidate(&format!("{word}/{n}"), kernel)).collect()
            }
            _ => Vec::new(),
        }
    }

    fn kinds(&self) -> Vec<CompletionCandidate> {
        self.things(KINDS)
    }

    fn explained(&self) -> Vec<CompletionCandidate> {
        self.things(EXPLAINED)
    }

    fn nodes(&self) -> Vec<CompletionCandidate> {
        self.known().nodes.iter().map(|(name, kernel)| candidate(name, kernel)).collect()
    }

    /// What `top` shows alone.
    fn shown(&self) -> Vec<CompletionCandidate> {
        let of = |word: &String| rows::What::from_str(word, true).is_ok_and(|w| w == rows::What::Nodes);
        if self.words.iter().any(of) { self.nodes() } else { self.policies() }
    }

    /// Frontends of policies: those of all Services may be thousands.
    fn frontends(&self) -> Vec<CompletionCandidate> {
        let of = |p: &KnownPolicy| {
            let owner = format!("{}/{}", p.kind.short_name(), p.name);
            p.frontends.iter().map(|f| candidate(&f.to_string(), &owner)).collect::<Vec<_>>()
        };
        self.known().policies.iter().flat_map(of).collect()
    }

    /// Names of what `get` is to list.
    fn names(&self) -> Vec<CompletionCandidate> {
        let kind =
            self.words.iter().skip_while(|w| *w != "get").skip(1).find_map(|w| w.parse::<get::Target>().ok());
        match kind.map(|t| t.kind) {
            Some(Kind::Policies(kind)) => {
                let of_kind = self.known().policies.iter().filter(|p| kind.is_none_or(|k| k == p.kind));
                of_kind.map(|p| candidate(&p.name, p.kind.as_str())).collect()
            }
            Some(Kind::Nodes) => self.nodes(),
            Some(Kind::Frontends) => self.frontends(),
            Some(Kind::Backends) | None => Vec::new(),
        }
    }

    /// Contexts of the kubeconfig; nobody is asked.
    fn contexts(&self) -> Vec<CompletionCandidate> {
        let named = |k: &Kubeconfig| k.contexts.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        self.of_kubeconfigs(named, "context")
    }

    fn clusters(&self) -> Vec<CompletionCandidate> {
        let named = |k: &Kubeconfig| k.clusters.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        self.of_kubeconfigs(named, "cluster")
    }

    fn users(&self) -> Vec<CompletionCandidate> {
        let named = |k: &Kubeconfig| k.auth_infos.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        self.of_kubeconfigs(named, "user")
    }

    fn of_kubeconfigs(&self, named: fn(&Kubeconfig) -> Vec<String>, what: &str) -> Vec<CompletionCandidate> {
        let read = connect::kubeconfigs(&self.cli.connection);
        read.iter().flat_map(named).map(|n| candidate(&n, what)).collect()
    }
}

/// What is answered within the time that a shell waits.
fn at_once<T>(asked: impl Future<Output = T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await.ok() })
}

/// Which part of `PREFIXnamespace/name` a word has come to; none where it does not begin so.
fn step<'a>(word: &'a str, prefix: &str) -> Option<Step<'a>> {
    let rest = word.strip_prefix(prefix)?;
    Some(rest.split_once('/').map_or(Step::Namespace, |(namespace, _)| Step::Name(namespace)))
}

/// `service/NAMESPACE/NAME:PORT` for the ports of a Service.
fn ports(prefix: &str, service: &serde_json::Value) -> Vec<CompletionCandidate> {
    let of = |key: &str| service["metadata"][key].as_str().unwrap_or_default();
    let (namespace, name) = (of("namespace"), of("name"));
    let ports = service["spec"]["ports"].as_array();
    let mut all: Vec<(u64, String)> = Vec::new();
    for port in ports.into_iter().flatten() {
        let Some(number) = port["port"].as_u64() else { continue };
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let help = format!("{} {protocol}", port["name"].as_str().unwrap_or_default());
        match all.iter_mut().find(|(n, _)| *n == number) {
            // DNS has one number for both: without a protocol both are meant.
            Some((_, known)) => known.push_str(&format!(", {}", help.trim())),
            None => all.push((number, help.trim().to_owned())),
        }
    }
    all.iter().map(|(n, help)| candidate(&format!("{prefix}{namespace}/{name}:{n}"), help)).collect()
}

/// The flags of all commands that stand in the line, with their values.
fn named_flags(words: &[String]) -> Vec<String> {
    let command = Cli::command();
    let flag = |word: &str| {
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        let arg = command.get_arguments().find(|a| {
            a.get_long().is_some_and(|l| name.strip_prefix("--") == Some(l))
                || a.get_short().is_some_and(|s| name == format!("-{s}"))
        })?;
        Some((arg.get_action().takes_values(), value.is_some()))
    };
    let mut line = vec![PLUGIN.to_owned()];
    // The last word is not finished.
    let mut words = words.split_last().map_or(&[][..], |(_, before)| before).iter();
    while let Some(word) = words.next() {
        match flag(word) {
            Some((true, false)) => {
                line.extend(words.next().map(|v| [word.clone(), v.clone()]).into_iter().flatten())
            }
            Some(_) => line.push(word.clone()),
            None => {}
        }
    }
    line
}

/// The frontends of a policy that matches an address; those of a Service are its own.
fn claimed(policy: &Policy) -> Vec<Frontend> {
    match (&policy.matcher, &policy.ports) {
        (Matcher::Address(address), Ports::Listed(pairing)) => {
            let ports = pairing.pairs.iter().map(|p| &p.frontend);
            ports.map(|p| Frontend::new(*address, p.number, p.protocol)).collect()
        }
        _ => Vec::new(),
    }
}

/// Asks whom the flags name.
async fn ask(cli: &Cli) -> Option<Known> {
    match Target::of(cli, Prompts::Never).await.ok()? {
        Target::Agent(client) => {
            let status = client.status().await.ok()?;
            let wanted = status.policies.iter().flat_map(|p| &p.wanted.pods);
            let pods = wanted.map(|p| p.pod.clone()).collect::<BTreeSet<_>>().into_iter().collect();
            let policies = status.policies.into_iter().map(|p| KnownPolicy {
                of: p.wanted.service.clone().or(p.wanted.address.clone()).unwrap_or_default(),
                kind: p.kind,
                name: p.name,
                service: p.wanted.service,
                frontends: p.frontends,
            });
            Some(Known {
                policies: policies.collect(),
                nodes: vec![(status.node.name, status.kernel.release)],
                pods,
            })
        }
        Target::Cluster(cluster) => {
            let read = cluster.read(Wanted { states: true, pods: false }).await.ok()?;
            let policies = read.policies.into_iter().flatten().map(|p| KnownPolicy {
                of: p.wanted.service.clone().or(p.wanted.address.clone()).unwrap_or_default(),
                kind: p.policy.kind,
                name: p.policy.name,
                frontends: p.parsed.as_ref().map(claimed).unwrap_or_default(),
                service: p.wanted.service,
            });
            let nodes = read.states.into_iter().flatten().map(|s| (s.name, s.status.kernel_release));
            Some(Known { policies: policies.collect(), nodes: nodes.collect(), pods: Vec::new() })
        }
    }
}

fn candidate(value: &str, help: &str) -> CompletionCandidate {
    CompletionCandidate::new(sanitise(value).into_owned()).help(Some(sanitise(help).into_owned().into()))
}

fn fixed(pairs: &[(&str, &str)]) -> Vec<CompletionCandidate> {
    pairs.iter().map(|(value, help)| candidate(value, help)).collect()
}

fn columns<R: Row>() -> Vec<CompletionCandidate> {
    R::columns()
        .iter()
        .filter(|c| c.meta.shown != Shown::Live)
        .flat_map(|c| {
            [candidate(c.meta.key, c.meta.help), candidate(&format!("-{}", c.meta.key), c.meta.help)]
        })
        .collect()
}

fn rules() -> Vec<CompletionCandidate> {
    RULES.iter().map(|r| candidate(r.code, r.title)).collect()
}

/// Gives arguments of a command their candidates. The arguments stay in their order.
fn with(command: Command, candidates: &[(&str, ArgValueCandidates)]) -> Command {
    command.mut_args(|arg| match candidates.iter().find(|(id, _)| arg.get_id() == *id) {
        Some((_, candidates)) => arg.add(candidates.clone()),
        None => arg,
    })
}

/// The command line with values that only an agent or a cluster knows.
fn with_live_names(command: Command, context: &Arc<Context>) -> Command {
    let live = |of: fn(&Context) -> Vec<CompletionCandidate>| {
        let context = context.clone();
        ArgValueCandidates::new(move || of(&context))
    };
    let dialled = live(Context::dialled);
    let frontends = live(Context::frontends);
    let rules = ArgValueCandidates::new(rules);
    let sort_by = ArgValueCandidates::new(columns::<PolicyTopItem>);
    let outcomes = ArgValueCandidates::new(|| fixed(OUTCOMES));
    // Flags that mean the same wherever they are.
    let everywhere = [
        ("context", live(Context::contexts)),
        ("cluster", live(Context::clusters)),
        ("user", live(Context::users)),
        ("namespace", live(Context::namespaces)),
        ("balancing_namespace", live(Context::namespaces)),
        ("node", live(Context::nodes)),
        ("policy", live(Context::policies)),
        ("from-pod", live(Context::pods)),
        ("service", live(Context::services)),
        ("outcome", outcomes),
    ];
    everywhere_with(command, &everywhere)
        .mut_subcommand("explain", |explain| {
            with(explain, &[("thing", live(Context::explained))])
                .mut_subcommand("policy", |c| with(c, &[("name", live(Context::policies))]))
                .mut_subcommand("node", |c| with(c, &[("name", live(Context::nodes))]))
                .mut_subcommand("connection", |c| {
                    with(c, &[("to", dialled), ("from", live(Context::callers))])
                })
        })
        .mut_subcommand("get", |c| {
            let (kinds, names) = (live(Context::kinds), live(Context::names));
            with(c, &[("what", kinds), ("names", names), ("sort_by", sort_by.clone())])
        })
        .mut_subcommand("services", |c| with(c, &[("frontend", frontends.clone())]))
        .mut_subcommand("top", |c| with(c, &[("sort_by", sort_by), ("name", live(Context::shown))]))
        .mut_subcommand("trace", |c| with(c, &[("to", frontends)]))
        .mut_subcommand("validate", |c| with(c, &[("explain", rules.clone()), ("suppress", rules)]))
}

/// Gives arguments of a command, and of those beneath it, their candidates.
fn everywhere_with(command: Command, candidates: &[(&str, ArgValueCandidates)]) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.iter().fold(with(command, candidates), |command, name| {
        command.mut_subcommand(name, |c| everywhere_with(c, candidates))
    })
}

/// What can be explained by type and name.
const EXPLAINED: &[(&str, &str)] = &[("lr/", "a LocalRedirectPolicy"), ("bl/", "a BalancingPolicy")];

/// What `get` lists, in words.
const KINDS: &[(&str, &str)] = &[
    ("policies", "of both kinds"),
    ("lr", "LocalRedirectPolicies"),
    ("bl", "BalancingPolicies"),
    ("nodes", "nodes with an agent"),
    ("frontends", "what clients dial"),
    ("backends", "where connections end"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What kubectl reads, without an agent.
    fn asked(line: &str) -> Vec<String> {
        let mut words: Vec<OsString> = vec!["--agent=unix:/nonexistent".into()];
        words.extend(line.split(' ').map(OsString::from));
        let mut out = Vec::new();
        answer(&words, &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    fn values(line: &str) -> Vec<String> {
        let lines = asked(line);
        let (directive, candidates) = lines.split_last().unwrap();
        assert!(directive.starts_with(':'), "{lines:?}");
        candidates.iter().map(|c| c.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn commands_flags_and_fixed_values() {
        let commands = values("");
        for command in
            ["top", "explain", "get", "services", "trace", "status", "validate", "version", "completion"]
        {
            assert!(commands.contains(&command.to_owned()), "{command}: {commands:?}");
        }
        assert!(commands.iter().all(|c| !c.starts_with('-')), "{commands:?}");
        assert!(values("-").contains(&"--agent".to_owned()));
        assert!(values("explain connection ").contains(&"--to".to_owned()));
        assert_eq!(values("explain p"), ["policy"]);
        assert_eq!(values("get po"), ["policies"]);
        assert_eq!(values("trace --outcome q"), ["qosDrop"]);
        assert_eq!(values("validate --explain BAL0203"), ["BAL0203"]);
        assert_eq!(values("services -o j"), ["json", "jsonl"]);
        assert!(values("get policies --sort-by -na").contains(&"-name".to_owned()));
        assert!(values("trace --n").contains(&"--not".to_owned()));
        assert!(asked("explain ")[0].contains('\t'), "{:?}", asked("explain "));
        assert_eq!(values("trace --outcome=q"), ["qosDrop"], "without the flag, as cobra answers");
    }

    #[test]
    fn without_an_agent_there_are_no_names_and_no_errors() {
        assert!(values("explain policy ").iter().all(|v| v.starts_with('-')));
        assert_eq!(asked("explain policy n"), [":4"]);
        assert_eq!(asked("trace --policy x"), [":4"]);
    }

    #[test]
    fn paths_of_names_are_completed_part_by_part() {
        assert_eq!(step("pod/", "pod/"), Some(Step::Namespace));
        assert_eq!(step("pod/kube-s", "pod/"), Some(Step::Namespace));
        assert_eq!(step("pod/kube-system/", "pod/"), Some(Step::Name("kube-system")));
        assert_eq!(step("service/a/b", "pod/"), None);
        let lines = asked("explain connection --from p");
        assert_eq!(lines, ["pod/\tNAMESPACE/NAME", ":6"], "no blank behind it");
        let lines = asked("explain connection --to s");
        assert_eq!(lines, ["service/\tNAMESPACE/NAME:PORT", ":6"]);
        let lines = asked("explain l");
        assert_eq!(lines, ["lr/\ta LocalRedirectPolicy", ":6"]);
    }

    #[test]
    fn ports_of_a_service_are_offered_once() {
        let service = serde_json::json!({
            "metadata": {"namespace": "kube-system", "name": "kube-dns"},
            "spec": {"ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                {"port": 9153},
            ]},
        });
        let all: Vec<(String, String)> = ports("service/", &service)
            .iter()
            .map(|c| (c.get_value().to_string_lossy().into_owned(), c.get_help().unwrap().to_string()))
            .collect();
        let expected = [
            ("service/kube-system/kube-dns:53", "dns UDP, dns-tcp TCP"),
            ("service/kube-system/kube-dns:9153", "TCP"),
        ];
        assert_eq!(all, expected.map(|(v, h)| (v.to_owned(), h.to_owned())));
    }

    #[test]
    fn who_is_asked_is_said_by_finished_words() {
        let words = |line: &str| named_flags(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(words("get lr --context a -n b -o "), [PLUGIN, "--context", "a", "-n", "b"]);
        assert_eq!(words("get lr --agent=unix:/x --context "), [PLUGIN, "--agent=unix:/x"]);
        assert_eq!(words("-n kube"), [PLUGIN]);
    }

    #[test]
    fn files_are_left_to_the_shell() {
        for line in [
            "validate -f ",
            "validate --filename pol",
            "validate ",
            "completion install --dir ",
            "top --record ",
            "top --replay rec",
            "get lr --kubeconfig ",
        ] {
            assert_eq!(asked(line).last().unwrap(), ":0", "{line}");
        }
        for line in ["validate -o ", "validate --fail-on ", "get ", "version --c", "validate --explain "] {
            assert_eq!(asked(line).last().unwrap(), ":4", "{line}");
        }
    }

    #[test]
    fn it_is_asked_by_its_other_name() {
        for (program, is) in [
            ("kubectl_complete-balancing", true),
            ("/usr/local/bin/kubectl_complete-balancing", true),
            ("kubectl-balancing", false),
            ("", false),
        ] {
            assert_eq!(is_asked(Some(OsStr::new(program))), is, "{program}");
        }
        assert!(!is_asked(None));
    }

    #[test]
    fn every_shell_has_a_script() {
        for what in [What::Bash, What::Zsh, What::Fish, What::Powershell, What::Elvish] {
            let mut script = Vec::new();
            run(&CompletionArgs { what, dir: None }, &mut script, &mut Vec::new()).unwrap();
            assert!(String::from_utf8(script).unwrap().contains("explain"), "{what:?}");
        }
    }

    #[test]
    fn installed_once_and_over_nothing_else() {
        let folder = std::env::temp_dir().join(format!("completion-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let install = || {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let done = install(Some(&folder), &mut out, &mut err);
            done.map(|()| (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()))
        };
        let (out, err) = install().unwrap();
        assert!(out.starts_with("created ") && err.contains("is not in PATH"), "{out}{err}");
        assert!(same_file(&folder.join(COMPLETER), &std::env::current_exe().unwrap()));
        assert!(install().unwrap().0.contains("is there already"));
        fs::remove_file(folder.join(COMPLETER)).unwrap();
        fs::write(folder.join(COMPLETER), "mine").unwrap();
        assert!(matches!(install(), Err(Error::Taken(_))));
        assert_eq!(fs::read_to_string(folder.join(COMPLETER)).unwrap(), "mine");
        fs::remove_dir_all(&folder).unwrap();
    }
}

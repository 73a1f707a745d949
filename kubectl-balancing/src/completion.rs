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
    sync::Arc,
    time::Duration,
};

use balancing_api::{cli::PolicyTopItem, net::Frontend, policy::PolicyKind, rules::RULES};
use clap::{Args, Command, CommandFactory, Parser, ValueEnum, ValueHint};
use clap_complete::{
    Shell,
    engine::{ArgValueCandidates, CompletionCandidate, complete},
};

use crate::{
    cli::Cli,
    cluster::{
        Wanted,
        connect::{self, Prompts},
    },
    columns::{Row, Shown},
    get::{Kind, Target},
    target,
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
    for candidate in shown.into_iter().filter(|c| flags || !is_flag(c)) {
        let value = candidate.get_value().to_string_lossy();
        if !seen.insert(value.clone().into_owned()) {
            continue;
        }
        let help = candidate.get_help().map(ToString::to_string).unwrap_or_default();
        let help = help.lines().next().unwrap_or_default();
        let tab = if help.is_empty() { "" } else { "\t" };
        writeln!(out, "{}{tab}{}", sanitise(&value), sanitise(help))?;
    }
    writeln!(out, ":{}", if wants_file(&words) { FILES } else { NO_FILES })?;
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
    known: std::sync::OnceLock<Known>,
}

/// What there is to complete names with.
#[derive(Default)]
struct Known {
    policies: Vec<KnownPolicy>,
    nodes: Vec<(String, String)>,
}

struct KnownPolicy {
    kind: PolicyKind,
    name: String,
    of: String,
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
        self.known.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let asked = runtime.ok().and_then(|r| {
                r.block_on(async { tokio::time::timeout(PATIENCE, ask(&self.cli)).await.ok().flatten() })
            });
            asked.unwrap_or_default()
        })
    }

    fn policies(&self) -> Vec<CompletionCandidate> {
        let one = |p: &KnownPolicy| candidate(&p.name, &format!("{} {}", p.kind, p.of));
        self.known().policies.iter().map(one).collect()
    }

    fn nodes(&self) -> Vec<CompletionCandidate> {
        self.known().nodes.iter().map(|(name, kernel)| candidate(name, kernel)).collect()
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
            self.words.iter().skip_while(|w| *w != "get").skip(1).find_map(|w| w.parse::<Target>().ok());
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
        connect::contexts(&self.cli.connection).iter().map(|c| candidate(c, "context")).collect()
    }
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
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        match flag(word) {
            Some((true, false)) => {
                let value = words.next().cloned().unwrap_or_default();
                line.extend([word.clone(), value]);
            }
            Some(_) => line.push(word.clone()),
            None => {}
        }
    }
    line
}

/// Asks whom the flags name.
async fn ask(cli: &Cli) -> Option<Known> {
    match target::Target::of(cli, Prompts::Never).await.ok()? {
        target::Target::Agent(client) => {
            let status = client.status().await.ok()?;
            let policies = status.policies.into_iter().map(|p| KnownPolicy {
                of: p.wanted.service.clone().or(p.wanted.address.clone()).unwrap_or_default(),
                kind: p.kind,
                name: p.name,
                frontends: p.frontends,
            });
            Some(Known {
                policies: policies.collect(),
                nodes: vec![(status.node.name, status.kernel.release)],
            })
        }
        target::Target::Cluster(cluster) => {
            let read = cluster.read(Wanted { states: true, pods: false }).await.ok()?;
            let policies = read.policies.into_iter().flatten().map(|p| KnownPolicy {
                of: p.wanted.service.clone().or(p.wanted.address.clone()).unwrap_or_default(),
                kind: p.policy.kind,
                name: p.policy.name,
                frontends: Vec::new(),
            });
            let nodes = read.states.into_iter().flatten().map(|s| (s.name, s.status.kernel_release));
            Some(Known { policies: policies.collect(), nodes: nodes.collect() })
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
    let policies = live(Context::policies);
    let frontends = live(Context::frontends);
    let rules = ArgValueCandidates::new(rules);
    let sort_by = ArgValueCandidates::new(columns::<PolicyTopItem>);
    let callers = ArgValueCandidates::new(|| {
        fixed(&[("host", "a process outside every pod"), ("pod/", "NAMESPACE/NAME")])
    });
    let contexts = live(Context::contexts);
    let kinds = ArgValueCandidates::new(|| fixed(KINDS));
    let outcomes = ArgValueCandidates::new(|| fixed(OUTCOMES));
    with(command, &[("context", contexts)])
        .mut_subcommand("explain", |explain| {
            explain
                .mut_subcommand("policy", |c| with(c, &[("name", policies.clone())]))
                .mut_subcommand("node", |c| with(c, &[("name", live(Context::nodes))]))
                .mut_subcommand("connection", |c| with(c, &[("to", frontends.clone()), ("from", callers)]))
        })
        .mut_subcommand("get", |c| {
            with(c, &[("what", kinds), ("names", live(Context::names)), ("sort_by", sort_by.clone())])
        })
        .mut_subcommand("services", |c| with(c, &[("frontend", frontends.clone())]))
        .mut_subcommand("top", |c| with(c, &[("sort_by", sort_by)]))
        .mut_subcommand("trace", |c| {
            with(c, &[("policy", policies), ("to", frontends), ("outcome", outcomes)])
        })
        .mut_subcommand("validate", |c| with(c, &[("explain", rules.clone()), ("suppress", rules)]))
}

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
    }

    #[test]
    fn without_an_agent_there_are_no_names_and_no_errors() {
        assert!(values("explain policy ").iter().all(|v| v.starts_with('-')));
        assert_eq!(asked("explain policy n"), [":4"]);
        assert_eq!(asked("trace --policy x"), [":4"]);
    }

    #[test]
    fn files_are_left_to_the_shell() {
        for line in ["validate -f ", "validate --filename pol", "validate ", "completion install --dir "] {
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

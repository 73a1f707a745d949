//! The command line, and which command does what.

use std::io::{self, IsTerminal, Write};

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    client::Endpoint,
    cluster::{self, connect::Prompts, flags::ClusterArgs},
    colour::{self, ColourChoice},
    completion::{self, CompletionArgs},
    explain::{self, connection::ConnectionArgs, node::NodeArgs, policy::PolicyArgs, short::ShortArgs},
    get::{self, GetArgs},
    output,
    services::{self, ServicesArgs},
    status::{self, StatusArgs},
    target::{self, Target},
    top::{self, TopArgs},
    trace::{self, TraceArgs},
    tui,
    validate::{self, ValidateArgs},
    version::{self, VersionArgs},
};

/// Something failed, or was found that must not be.
const FAILED: u8 = 1;
/// The command line is wrong: what clap answers too.
const WRONG_USAGE: u8 = 2;
/// What a shell shows for a program that a closed pipe ended: 128 and SIGPIPE.
const CLOSED_PIPE: u8 = 141;
/// The same for Ctrl-C: 128 and SIGINT.
const INTERRUPTED: u8 = 130;

/// Shows what Balancing redirects, what it does not, and why. It only reads.
///
/// It asks the cluster that kubectl would ask, or with --agent the agent of one node. Data goes to standard output, everything else to standard error.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-balancing",
    bin_name = "kubectl balancing",
    version,
    after_help = "Examples:
  kubectl balancing top                                   live view of all policies
  kubectl balancing top --once -o wide                    one table, with totals and reasons
  kubectl balancing explain policy node-local-dns         why a policy is or is not in force
  kubectl balancing explain connection --to 10.96.0.10:53/udp
  kubectl balancing validate -f policies/                 before they are applied

Exit status: 0 done, 1 failed or found what must not be, 2 wrong usage (an unknown flag, column
or field, an expression that cannot be read). `kubectl balancing validate --help` names its own."
)]
pub struct Cli {
    /// Ask this agent, without any cluster: unix:PATH or http://HOST:PORT [env: BALANCING_AGENT]
    ///
    /// Without it a cluster is asked, as kubectl finds it. Where there is no kubeconfig, the agent at
    /// unix:/run/balancing/agent.sock is.
    #[arg(long, global = true, value_name = "ADDRESS")]
    pub agent: Option<Endpoint>,
    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are obeyed too.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColourChoice,
    /// Which cluster is asked, and as whom.
    #[command(flatten)]
    pub connection: ClusterArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show policies, nodes, frontends, backends or problems, with rates, live or once
    ///
    /// On a terminal this is a live view: press ? for its keys. Without a terminal, with --once or with -o it prints.
    ///
    /// Rates are decisions a second: one connect(), or one datagram on an unconnected socket. QOS-DROPS/s counts redirects
    /// that were not made because the policy's limit was reached; FALLBACK/s those not made for another reason. In both
    /// cases the connection went on down the ladder: to the Service, or to the address dialled.
    #[command(after_help = "Examples:
  kubectl balancing top                                    live view
  kubectl balancing top policy node-local-dns              of one policy
  kubectl balancing top --once                             what is wrong first
  kubectl balancing top backends --once --sort-by=-selected
  kubectl balancing top --count 10 --interval 1s -o jsonl  ten samples for a program
  kubectl balancing top frontends --filter '!service' -o csv")]
    Top(Box<TopArgs>),
    /// Explain a policy, a connection or a node
    ///
    /// For the fields of a policy use `kubectl explain localredirectpolicy`.
    #[command(
        alias = "describe",
        override_usage = "kubectl balancing explain TYPE/NAME [OPTIONS]\n       kubectl balancing explain <COMMAND>",
        after_help = "Examples:
  kubectl balancing explain lr/node-local-dns               as: explain policy lr/node-local-dns
  kubectl balancing explain node/n1
  kubectl balancing explain connection --to 10.96.0.10:53/udp"
    )]
    Explain {
        /// The short form.
        #[command(flatten)]
        short: ShortArgs,
        /// What to explain.
        #[command(subcommand)]
        what: Option<ExplainCommand>,
    },
    /// Check policies in files, or those of a cluster, against the rules
    Validate(Box<ValidateArgs>),
    /// Show decisions as they are made, one a line
    ///
    /// Every line is one connect(), or one datagram on an unconnected socket, that met a frontend. While somebody looks,
    /// the agent reports all of them, up to 100,000 a second; what is lost, or is more than --rate, is counted in its
    /// place. Filters of one kind are alternatives, filters of different kinds must all hold; * in names stands for any
    /// letters. Ctrl-C ends it, with status 130.
    ///
    /// In a cluster the operator asks the agents. That takes a token of yours, which is shown to it alone, and rights:
    /// those of the chart's Role and ClusterRole balancing-node-inspector.
    #[command(after_help = "Examples:
  kubectl balancing trace                                         until Ctrl-C
  kubectl balancing trace --policy node-local-dns --not --outcome redirect
  kubectl balancing trace --from-pod 'default/*' --to 10.96.0.10:53 --count 20
  kubectl balancing trace --node n1 --node n2 --outcome refuse
  kubectl balancing trace --last 50 -o json | jq .outcome")]
    Trace(Box<TraceArgs>),
    /// List policies, nodes, frontends or backends as they are now
    #[command(after_help = "Examples:
  kubectl balancing get policies
  kubectl balancing get lr node-local-dns -o yaml
  kubectl balancing get frontends 10.96.0.10:53
  kubectl balancing get policies --watch
  kubectl balancing get backends --filter state=Active -o name")]
    Get(Box<GetArgs>),
    /// List every programmed frontend with its ladder, as the data path sees it
    ///
    /// For each frontend its rungs, first to last, and their backends, read back from the maps. A rung is taken if those
    /// above it are not; behind the last one, otherwise=refuse gives the client an error and otherwise=untouched leaves
    /// the connection alone. A backend's numbers are those of its policy or Service, whatever frontend led to it.
    #[command(after_help = "Examples:
  kubectl balancing services
  kubectl balancing services --stats --exact
  kubectl balancing services --node n1 lr/node-local-dns
  kubectl balancing services --rate kube-system/kube-dns")]
    Services(Box<ServicesArgs>),
    /// Show how a cluster or a node is, on one page: what works, what is wrong, and what to do
    #[command(after_help = "Examples:
  kubectl balancing status
  kubectl balancing status -o json | jq .problems")]
    Status(StatusArgs),
    /// Print a completion script, or install completion for kubectl
    ///
    /// kubectl completes `kubectl balancing ...` by asking kubectl_complete-balancing, which `install` puts beside this
    /// program; names of policies, nodes and frontends come from the agent. The scripts are for kubectl-balancing itself.
    #[command(after_help = "Examples:
  kubectl balancing completion install
  source <(kubectl-balancing completion bash)")]
    Completion(CompletionArgs),
    /// Print the version of this program and of the agent
    ///
    /// Exit status 1: the agent does not answer.
    Version(VersionArgs),
}

/// What to explain.
#[derive(Clone, Debug, Subcommand)]
pub enum ExplainCommand {
    /// Does a policy do what it says on this node? If not: which step fails, and what to do
    #[command(
        alias = "policies",
        after_help = "Examples:
  kubectl balancing explain policy node-local-dns
  kubectl balancing explain policy lr/node-local-dns -o json"
    )]
    Policy(PolicyArgs),
    /// What happens to a connection, rung by rung: the decision of the kernel's maps, and the intended one beside it
    ///
    /// Nothing is dialled, counted or spent. Exit status 1: the maps do not do what the objects ask for.
    #[command(after_help = "Examples:
  kubectl balancing explain connection --to 10.96.0.10:53/udp
  kubectl balancing explain connection --from pod/default/web-0 --to '[fd00::10]:443'
  kubectl balancing explain connection --node n1 --to 10.96.0.10:53/udp
  kubectl balancing explain connection --to service/kube-system/kube-dns:53 -o json")]
    Connection(ConnectionArgs),
    /// How is a node: agent, programs, maps, sources, conditions, and the state of each policy on it
    #[command(
        alias = "nodes",
        after_help = "Examples:
  kubectl balancing explain node
  kubectl balancing explain node n1 -o json"
    )]
    Node(NodeArgs),
}

/// Runs the command line of this process and answers its exit status.
#[must_use]
pub fn main() -> u8 {
    let mut words = std::env::args_os();
    if completion::is_asked(words.next().as_deref()) {
        // What went wrong is of no use to a shell that completes a word.
        let _ = completion::answer(&words.collect::<Vec<_>>(), &mut io::stdout().lock());
        return 0;
    }
    let cli = Cli::parse();
    let coloured = colour::settle(cli.color);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&anyhow::Error::new(error).context("failed to start")),
    };
    match runtime.block_on(run(&cli, coloured)) {
        Ok(status) => status,
        Err(error) if is_closed_pipe(&error) => CLOSED_PIPE,
        Err(error) => report(&error),
    }
}

async fn run(cli: &Cli, coloured: bool) -> anyhow::Result<u8> {
    let mut out = io::stdout().lock();
    let target = || Target::of(cli, Prompts::Allowed);
    match &cli.command {
        Some(Command::Top(args)) => {
            let args = &args.named()?;
            let sort = top::check(args)?;
            if live(args) {
                drop(out);
                return tui::shell::run(args, sort, top::source(args, target()).await?, coloured).await;
            }
            let source = top::source(args, target()).await?;
            let good = top::run(args, source, &mut out, &mut io::stderr().lock(), coloured).await?;
            Ok(u8::from(!good))
        }
        Some(Command::Explain { short, what }) => {
            let Some(what) = short.command(what.clone())? else { return help(&mut out, "explain") };
            explain(&what, target().await?, &mut out, coloured).await
        }
        Some(Command::Validate(args)) => {
            // Without what it is to check, it could not do it: 2, as where a file cannot be read.
            let live = match live_policies(args.needs_a_cluster(), target()).await {
                Ok(live) => live,
                Err(error) => return Ok(report(&error).max(WRONG_USAGE)),
            };
            Ok(validate::run(args, live.as_ref(), &mut out, &mut io::stderr().lock(), coloured)?)
        }
        Some(Command::Trace(args)) => {
            let agents = trace::Agents::of(args, &target().await?).await?;
            let end = trace::run(args, &agents, &mut out, &mut io::stderr().lock(), coloured).await?;
            Ok(if end == trace::End::Interrupted { INTERRUPTED } else { 0 })
        }
        Some(Command::Get(args)) => {
            if cli.connection.namespace.is_some() {
                return Err(output::Error::Usage(get::NO_NAMESPACE.to_owned()).into());
            }
            let target = target().await?.choosing(&args.labels)?;
            let interrupted = get::run(args, &target, &mut out, &mut io::stderr().lock()).await?;
            Ok(if interrupted { INTERRUPTED } else { 0 })
        }
        Some(Command::Services(args)) => {
            services::run(args, &target().await?, &mut out, &mut io::stderr().lock()).await?;
            Ok(0)
        }
        Some(Command::Status(args)) => {
            match target().await?.choosing(&args.labels)? {
                Target::Agent(client) => status::run(args, &client, &mut out, coloured).await?,
                Target::Cluster(c) => cluster::status::run(args, &c, &mut out, coloured).await?,
            }
            Ok(0)
        }
        Some(Command::Completion(args)) => {
            completion::run(args, &mut out, &mut io::stderr().lock())?;
            Ok(0)
        }
        Some(Command::Version(args)) => {
            let asked = if args.client { Ok(None) } else { target().await.map(Some) };
            let known = asked.as_ref().ok().and_then(Option::as_ref);
            version::run(args, known, &mut out, &mut io::stderr().lock()).await?;
            // Where nobody is there to be asked, this program's version is told all the same.
            asked?;
            Ok(0)
        }
        None => help(&mut out, ""),
    }
}

/// Explains a policy, a connection or a node.
async fn explain(
    what: &ExplainCommand,
    target: Target,
    out: &mut dyn Write,
    coloured: bool,
) -> anyhow::Result<u8> {
    match what {
        ExplainCommand::Policy(args) => match target {
            Target::Agent(client) => explain::policy::run(args, &client, out, coloured).await?,
            Target::Cluster(c) => cluster::policy::run(args, &c, out, coloured).await?,
        },
        ExplainCommand::Node(args) => match target {
            Target::Agent(client) => explain::node::run(args, &client, out, coloured).await?,
            Target::Cluster(c) => cluster::node::run(args, &c, out, coloured).await?,
        },
        ExplainCommand::Connection(args) => {
            return Ok(u8::from(!explain::connection::run(args, &target, out, coloured).await?));
        }
    }
    Ok(0)
}

/// What the cluster holds, where it is to be checked.
async fn live_policies(
    needed: bool,
    target: impl Future<Output = Result<Target, target::Error>>,
) -> anyhow::Result<Option<validate::Live>> {
    if !needed {
        return Ok(None);
    }
    match target.await {
        Ok(Target::Cluster(cluster)) => Ok(Some(validate::Live::read(&cluster).await?)),
        Ok(Target::Agent(_)) | Err(target::Error::Nobody) => {
            let message = "no files given: name files or folders with -f, a folder of kustomize with -k, -f - for the \
                           standard input, or a cluster with --kubeconfig";
            Err(output::Error::Usage(message.to_owned()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// A command that was not told what to do explains itself.
fn help(out: &mut dyn Write, subcommand: &str) -> anyhow::Result<u8> {
    let mut command = Cli::command();
    command.build();
    let text = match command.find_subcommand_mut(subcommand) {
        Some(command) => command.render_long_help(),
        None => command.render_long_help(),
    };
    write!(out, "{text}")?;
    Ok(0)
}

fn report(error: &anyhow::Error) -> u8 {
    let mut text = error.to_string();
    // Words that users of kubectl know stand as it prints them.
    if !["The connection to the server", "Unable to connect"].iter().any(|known| text.starts_with(known)) {
        text = format!("error: {text}");
    }
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // What was said already without Rust's `(os error 2)` is not said again.
        let bare = cause.split(" (os error").next().unwrap_or_default();
        if !text.contains(bare) {
            text.push_str(&format!(": {cause}"));
        }
    }
    let usage = is_usage(error);
    if usage {
        text.push_str("\n\nFor more information, try '--help'.");
    }
    // There is nowhere left to say that this failed.
    let _ = writeln!(io::stderr(), "{text}");
    if usage { WRONG_USAGE } else { FAILED }
}

/// Is the command line wrong in a way that clap cannot see?
fn is_usage(error: &anyhow::Error) -> bool {
    error.downcast_ref::<top::Error>().is_some_and(top::Error::is_usage)
        || error.downcast_ref::<target::Error>().is_some_and(target::Error::is_usage)
        || error.downcast_ref::<output::Error>().is_some_and(output::Error::is_usage)
}

/// Whoever read the output has had enough of it, as in `... | head`.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Is this a live view: a terminal that can draw, and nothing that asks for printed output?
fn live(args: &TopArgs) -> bool {
    let draws = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != *"dumb");
    draws
        && !args.once
        && args.count.is_none()
        && args.output.is_none()
        && args.fail_if.is_none()
        && args.group_by.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::snapshots;

    #[test]
    fn what_the_help_says() {
        let mut command = Cli::command().term_width(100);
        command.build();
        snapshots().bind(|| {
            insta::assert_snapshot!("top-usage-all", command.render_long_help().to_string());
            for path in [&["top"][..], &["explain"], &["explain", "policy"], &["explain", "connection"]] {
                let mut found = &mut command;
                for name in path {
                    found = found.find_subcommand_mut(name).unwrap();
                }
                let name =
                    path.join("-").replacen("top", "top-usage", 1).replacen("explain", "explain-usage", 1);
                insta::assert_snapshot!(name, found.clone().term_width(100).render_long_help().to_string());
            }
        });
    }

    #[test]
    fn examples_are_not_wrapped() {
        fn check(command: &clap::Command) {
            let after = command.get_after_long_help().or(command.get_after_help());
            for line in after.map(ToString::to_string).unwrap_or_default().lines() {
                assert!(line.chars().count() <= 100, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_told() {
        let status = |args: &[&str]| {
            let all = ["kubectl-balancing"].iter().chain(args);
            Cli::try_parse_from(all).map(|_| ()).map_err(|e| e.exit_code())
        };
        assert_eq!(status(&["top", "--once", "--agent", "unix:/x"]), Ok(()));
        assert_eq!(status(&["--agent", "http://[::1]:80", "--color", "never", "top", "backends"]), Ok(()));
        assert_eq!(status(&["top", "--sort-by", "-redirects", "--interval", "500ms", "-o", "csv"]), Ok(()));
        for wrong in [
            &["top", "pods"][..],
            &["top", "--once", "--count", "2"],
            &["top", "--count", "0"],
            &["top", "--interval", "5"],
            &["top", "--interval", "1ms"],
            &["top", "--interval", "2h"],
            &["top", "--interval", "-1s"],
            &["top", "--interval", "nans"],
            &["top", "-o", "xml"],
            &["--agent", "ftp://x", "top"],
            &["explain", "connection"],
            &["explain", "connection", "--to", "x"],
            &["explain", "policy"],
        ] {
            assert_eq!(status(wrong), Err(2), "{wrong:?}");
        }
    }
}

//! `get`: policies, nodes, frontends and backends as they are now, one a line.

mod format;
mod watch;

use std::{collections::HashSet, fmt, io::Write, str::FromStr, time::Duration};

use balancing_api::{
    cli::{
        BACKEND_LIST, BackendTopItem, FRONTEND_LIST, FrontendTopItem, NODE_LIST, NodeTopItem, POLICY_LIST,
        PolicyTopItem, Top, document,
    },
    overview::Gap,
    policy::PolicyKind,
};
use clap::Args;
use serde::Serialize;

pub use self::format::Format;
use self::format::Formats;
use crate::{
    client::Client,
    cluster::{
        Cluster, Feed, Wanted,
        part::Chosen as Labels,
        read::{LOCAL_REDIRECTS, STATES, gap_text},
        watch::Watcher,
    },
    columns::{Cell, Column, Row, Shown, Sort, order},
    explain::policy::kind_of,
    filter::Filter,
    output::{Error, Listing, json, jsonl, yaml},
    sample::{Board, Sample},
    table, target,
    text::{near, parse_duration, sanitise},
};

/// What `get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Policies, of one kind or both.
    Policies(Option<PolicyKind>),
    /// Nodes.
    Nodes,
    /// What clients dial.
    Frontends,
    /// Where connections end.
    Backends,
}

/// What is to be listed: `policies`, `lr`, `lr/node-local-dns`, `frontends`, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What kind of things.
    pub kind: Kind,
    /// Which of them, where the text says so behind a `/`.
    pub name: Option<String>,
}

/// There is no such kind of thing.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {0:?} to get; there are policies (lr, bl), nodes, frontends (fe) and backends (be), and names behind them: \
     lr/NAME"
)]
pub struct UnknownKind(String);

impl FromStr for Target {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (word, name) = text.split_once('/').map_or((text, None), |(kind, name)| (kind, Some(name)));
        let is_policies = |word: &str| kind_of(word).is_ok();
        let kind = match word.to_ascii_lowercase().as_str() {
            // `lr,bl`, as kubectl lets kinds be listed.
            both if both.contains(',') && both.split(',').all(is_policies) => Kind::Policies(None),
            "policies" | "policy" => Kind::Policies(None),
            "nodes" | "node" | "no" => Kind::Nodes,
            "frontends" | "frontend" | "fe" => Kind::Frontends,
            "backends" | "backend" | "be" => Kind::Backends,
            other => Kind::Policies(Some(kind_of(other).map_err(|_| UnknownKind(word.to_owned()))?)),
        };
        Ok(Self { kind, name: name.filter(|n| !n.is_empty()).map(str::to_owned) })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Policies(None) => "policies",
            Self::Policies(Some(PolicyKind::LocalRedirectPolicy)) => "LocalRedirectPolicies",
            Self::Policies(Some(PolicyKind::BalancingPolicy)) => "BalancingPolicies",
            Self::Nodes => "nodes",
            Self::Frontends => "frontends",
            Self::Backends => "backends",
        })
    }
}

/// Arguments of `get`.
#[derive(Clone, Debug, Args)]
pub struct GetArgs {
    /// What to list: policies (or lr, bl for one kind), nodes, frontends (fe), backends (be); TYPE/NAME for one.
    #[arg(value_name = "TYPE[/NAME]")]
    pub what: Target,
    /// Only these, TYPE/NAME if you like. A frontend or backend is named by its address, ADDRESS:PORT, or
    /// ADDRESS:PORT/PROTOCOL; a backend also by its pod, NAMESPACE/NAME.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Format of the output. custom-columns=NAME:.name,STATE:.state shows what these paths find in a row of -o json.
    #[arg(short, long, value_parser = Formats, default_value = "table", value_name = "FORMAT")]
    pub output: Format,
    /// Sort by this column; - in front of it puts the largest first. An unknown name lists all columns.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort_by: Option<String>,
    /// Show only rows that this holds for, as --filter of top.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
    /// Leave the header of the table out.
    #[arg(long)]
    pub no_headers: bool,
    /// Do not fail where there is nothing of such a name.
    #[arg(long)]
    pub ignore_not_found: bool,
    /// After the list, print every row again that changes, until Ctrl-C. Counters and ages are no change; -o json is an
    /// event a line. Policies and nodes of a cluster are watched; an agent, and the operator for frontends and backends,
    /// are asked every --interval.
    #[arg(short, long)]
    pub watch: bool,
    /// Watch, without the list at first.
    #[arg(long)]
    pub watch_only: bool,
    /// Print ADDED, MODIFIED or DELETED before each row that is watched.
    #[arg(long)]
    pub output_watch_events: bool,
    /// While watching, how often to ask who cannot be watched: an agent, or the operator.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1s")]
    pub interval: Duration,
    /// Which policies and nodes.
    #[command(flatten)]
    pub labels: Labels,
    /// What fingers that know kubectl type; all is what is listed.
    #[arg(short = 'A', long, hide = true)]
    pub all_namespaces: bool,
}

/// What `-n` is answered with.
pub const NO_NAMESPACE: &str =
    "nothing that is listed here is in a namespace: leave out -n, or choose rows with --filter";

/// Asks the agent and prints the list. Answers whether Ctrl-C ended it.
pub async fn run(
    args: &GetArgs,
    target: &target::Target,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, Error> {
    match args.what.kind {
        Kind::Policies(_) => check::<PolicyTopItem>(args)?,
        Kind::Nodes => check::<NodeTopItem>(args)?,
        Kind::Frontends => check::<FrontendTopItem>(args)?,
        Kind::Backends => check::<BackendTopItem>(args)?,
    }
    let watching = args.watch || args.watch_only;
    let mut asked = Asked::new(target, args.what.kind, watching);
    if watching {
        let asked = &mut asked;
        match args.what.kind {
            Kind::Policies(kind) => watch::run(args, asked, out, err, |b| policies(b, kind)).await?,
            Kind::Nodes => watch::run(args, asked, out, err, |b| b.nodes.clone()).await?,
            Kind::Frontends => watch::run(args, asked, out, err, |b| b.frontends.clone()).await?,
            Kind::Backends => watch::run(args, asked, out, err, |b| b.backends.clone()).await?,
        }
        return Ok(true);
    }
    let board = Board::new(asked.sample(args.interval).await?, None);
    let list = list(args, &board)?;
    out.write_all(list.text.as_bytes())?;
    out.flush()?;
    tell_gaps(&board.sample, err)?;
    if !list.missing.is_empty() && !args.ignore_not_found {
        return Err(Error::NotFound(list.missing.join("\n")));
    }
    if list.rows == 0 && !args.output.is_document() {
        writeln!(err, "No {} found.", args.what.kind)?;
    }
    Ok(false)
}

/// Who is asked for what is listed.
enum Asked {
    Agent(Client),
    /// Policies and what nodes say of themselves: the API server has them.
    States(Box<Cluster>, Kind),
    /// The same as it changes.
    Watched(Box<Watcher>, Kind),
    /// Frontends and backends: the operator alone has them.
    Live(Box<Feed>),
}

impl Asked {
    fn new(target: &target::Target, kind: Kind, watching: bool) -> Self {
        match (target, kind) {
            (target::Target::Agent(client), _) => Self::Agent(client.clone()),
            (target::Target::Cluster(cluster), Kind::Policies(_) | Kind::Nodes) if watching => {
                Self::Watched(Box::new(Watcher::new(cluster, wanted(kind))), kind)
            }
            (target::Target::Cluster(cluster), Kind::Policies(_) | Kind::Nodes) => {
                Self::States(cluster.clone(), kind)
            }
            (target::Target::Cluster(cluster), Kind::Frontends | Kind::Backends) => {
                Self::Live(Box::new(Feed::new((**cluster).clone())))
            }
        }
    }

    async fn sample(&mut self, interval: Duration) -> Result<Sample, Error> {
        match self {
            Self::Agent(client) => Ok(Sample::of_one(client.sample().await?)),
            Self::States(cluster, kind) => readable(*kind, cluster.states(wanted(*kind)).await?),
            Self::Watched(watcher, kind) => readable(*kind, watcher.next().await?.uncounted()),
            Self::Live(feed) => {
                let (_, sample) = feed.next(interval.max(Duration::from_secs(1))).await?;
                let facts = sample.cluster.as_deref().filter(|f| f.uncounted.is_some());
                match facts.and_then(|f| f.gaps.last()) {
                    Some(gap) => Err(Error::Gap(Box::new(Gap {
                        missing: "frontends and backends".to_owned(),
                        ..gap.clone()
                    }))),
                    None => Ok(sample),
                }
            }
        }
    }
}

impl Asked {
    /// How long to wait before it is asked again.
    fn wait(&self, interval: Duration) -> Duration {
        match self {
            Self::Agent(_) | Self::States(..) => interval,
            // It tells changes by itself.
            Self::Watched(..) => Duration::ZERO,
            Self::Live(feed) => feed.wait(interval),
        }
    }
}

/// What is asked of the API server to list that.
fn wanted(kind: Kind) -> Wanted {
    Wanted { states: true, pods: kind == Kind::Nodes }
}

/// The sample, if what is to be listed could be read at all.
fn readable(kind: Kind, sample: Sample) -> Result<Sample, Error> {
    let nothing = match kind {
        Kind::Nodes => sample.nodes.is_empty() && sample.stale.is_empty(),
        _ => sample.cluster.as_deref().is_some_and(|f| f.policies.is_none()),
    };
    let what = if kind == Kind::Nodes { STATES.resource() } else { LOCAL_REDIRECTS.resource() };
    match sample.cluster.as_deref().and_then(|f| f.gaps.iter().find(|g| g.resource == what)) {
        Some(gap) if nothing => Err(Error::Gap(Box::new(gap.clone()))),
        _ => Ok(sample),
    }
}

/// What could not be read, on the other stream.
pub(crate) fn tell_gaps(sample: &Sample, err: &mut dyn Write) -> std::io::Result<()> {
    sample.cluster.iter().flat_map(|f| &f.gaps).try_for_each(|gap| tell_gap(gap, err))
}

fn tell_gap(gap: &Gap, err: &mut dyn Write) -> std::io::Result<()> {
    writeln!(err, "warning: {}", sanitise(&gap_text(gap)))
}

fn policies(board: &Board, kind: Option<PolicyKind>) -> Vec<PolicyTopItem> {
    board.policies.iter().filter(|p| kind.is_none_or(|k| k == p.policy.kind)).cloned().collect()
}

fn check<R: Row>(args: &GetArgs) -> Result<(), Error> {
    args.sort_by.as_deref().map(Sort::parse::<R>).transpose()?;
    Filter::parse::<R>(&args.filter)?;
    Ok(())
}

/// What is printed, and names that nothing has.
struct List {
    text: String,
    rows: usize,
    missing: Vec<String>,
}

fn list(args: &GetArgs, board: &Board) -> Result<List, Error> {
    match args.what.kind {
        Kind::Policies(kind) => listed(args, board, &policies(board, kind), POLICY_LIST),
        Kind::Nodes => listed(args, board, &board.nodes, NODE_LIST),
        Kind::Frontends => listed(args, board, &board.frontends, FRONTEND_LIST),
        Kind::Backends => listed(args, board, &board.backends, BACKEND_LIST),
    }
}

/// Something with a name on the command line.
trait Named: Row {
    /// `localredirectpolicy.balancing.elf.io/node-local-dns`, as `-o name` prints it.
    fn full_name(&self) -> String;
    /// Its names, the shortest first.
    fn names(&self) -> Vec<String>;
}

impl Named for PolicyTopItem {
    fn full_name(&self) -> String {
        let kind = self.policy.kind.as_str().to_ascii_lowercase();
        format!("{kind}.{}/{}", balancing_api::names::GROUP, self.policy.name)
    }

    fn names(&self) -> Vec<String> {
        vec![self.policy.name.clone()]
    }
}

impl Named for NodeTopItem {
    fn full_name(&self) -> String {
        format!("node/{}", self.name)
    }

    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Named for FrontendTopItem {
    fn full_name(&self) -> String {
        format!("frontend/{}", self.frontend)
    }

    fn names(&self) -> Vec<String> {
        let (whole, address) = (self.frontend.to_string(), self.frontend.address.to_string());
        let port = whole.split('/').next().unwrap_or_default().to_owned();
        vec![address, port, whole]
    }
}

impl Named for BackendTopItem {
    fn full_name(&self) -> String {
        format!("backend/{}/{}", std::net::SocketAddr::new(self.address, self.port), self.protocol)
    }

    fn names(&self) -> Vec<String> {
        let port = std::net::SocketAddr::new(self.address, self.port).to_string();
        let whole = format!("{port}/{}", self.protocol);
        self.pod.iter().cloned().chain([self.address.to_string(), port, whole]).collect()
    }
}

/// The rows that the command line chooses, in its order, and what it names in vain.
struct Chosen<R> {
    rows: Vec<R>,
    missing: Vec<String>,
}

impl<R: Named + Clone> Chosen<R> {
    fn of(args: &GetArgs, rows: &[R]) -> Result<Self, Error> {
        let sort = args.sort_by.as_deref().map(Sort::parse::<R>).transpose()?;
        let kind = args.what.kind;
        let asked: Vec<&str> =
            args.what.name.iter().chain(&args.names).map(|name| without_kind(kind, name)).collect();
        let missing = asked.iter().filter(|n| !rows.iter().any(|r| is_called(r, n)));
        let missing: Vec<String> = missing.map(|n| not_found(kind, n, rows)).collect();
        let rows = order(rows, &Filter::parse::<R>(&args.filter)?, sort)
            .into_iter()
            .map(|i| &rows[i])
            .filter(|r| asked.is_empty() || asked.iter().any(|n| is_called(*r, n)))
            .cloned()
            .collect();
        Ok(Self { rows, missing })
    }
}

/// `NAME` of `lr/NAME`, where that is the kind that is listed.
fn without_kind(kind: Kind, name: &str) -> &str {
    let same = |target: Target| target.kind == kind;
    match name.split_once('/') {
        Some((word, bare)) if !bare.is_empty() && word.parse::<Target>().is_ok_and(same) => bare,
        _ => name,
    }
}

fn listed<R: Named + Serialize + Clone>(
    args: &GetArgs,
    board: &Board,
    rows: &[R],
    kind: &str,
) -> Result<List, Error> {
    let Chosen { rows, missing } = Chosen::of(args, rows)?;
    let shown: Vec<&R> = rows.iter().collect();
    let top = || document(kind, Top { interval: None, ..board.top(false, shown.clone()) });
    let without_header = |text: String| {
        if args.no_headers { text.split_once('\n').unwrap_or_default().1.to_owned() } else { text }
    };
    let text = match &args.output {
        Format::Custom(_) if shown.is_empty() => String::new(),
        Format::Custom(columns) => {
            let cells: Result<Vec<_>, _> = shown.iter().map(|row| columns.cells(*row)).collect();
            without_header(table::aligned(columns.headers(), cells?))
        }
        Format::Listing(Listing::Json) => json(&top())?,
        Format::Listing(Listing::Jsonl) => jsonl(&top())?,
        Format::Listing(Listing::Yaml) => yaml(&top())?,
        Format::Listing(Listing::Name) => {
            // A backend that several policies or Services lead to is one.
            let mut told = HashSet::new();
            let names = shown.iter().map(|r| sanitise(&r.full_name()).into_owned() + "\n");
            names.filter(|name| told.insert(name.clone())).collect()
        }
        Format::Listing(Listing::Table | Listing::Wide) if shown.is_empty() => String::new(),
        Format::Listing(Listing::Table | Listing::Wide) => {
            let columns = columns(&shown, args.output.is(Listing::Wide), board.is_counted());
            without_header(table::plain(&shown, &columns))
        }
    };
    Ok(List { text, rows: shown.len(), missing })
}

/// The columns of a table of what is now: the name first, and no rates, which one sample does not give.
fn columns<R: Row>(rows: &[&R], wide: bool, counted: bool) -> Vec<&'static Column<R>> {
    const IDENTITIES: [&str; 3] = ["name", "frontend", "backend"];
    // What one sample cannot tell: rates, and when something was last seen to happen.
    let is_rate = |c: &Column<R>| {
        c.meta.key == "lastHit" || rows.first().is_some_and(|r| matches!((c.cell)(r), Cell::Rate(_)))
    };
    let shown = |c: &&'static Column<R>| match c.meta.shown {
        Shown::Always => true,
        Shown::Wide => wide,
        Shown::Cluster => !counted,
        Shown::Live => false,
    };
    // What is not counted, or what the API server says better.
    let useless = |c: &Column<R>| {
        !counted
            && (R::useless_uncounted().contains(&c.meta.key)
                || rows.first().is_some_and(|r| matches!((c.cell)(r), Cell::Count(_))))
    };
    let columns = R::columns().iter().filter(shown).filter(|c| !is_rate(c) && !useless(c));
    let mut columns: Vec<_> = columns.collect();
    // A policy has a frontend column too; its name comes before.
    let identity = IDENTITIES.iter().find_map(|key| columns.iter().position(|c| c.meta.key == *key));
    if let Some(identity) = identity {
        let first = columns.remove(identity);
        columns.insert(0, first);
    }
    columns
}

fn is_called<R: Named>(row: &R, name: &str) -> bool {
    row.names().iter().any(|n| n.eq_ignore_ascii_case(name))
}

fn not_found<R: Named>(kind: Kind, name: &str, rows: &[R]) -> String {
    let one = match kind {
        Kind::Policies(None) => "policy",
        Kind::Policies(Some(kind)) => kind.as_str(),
        Kind::Nodes => "node",
        Kind::Frontends => "frontend",
        Kind::Backends => "backend",
    };
    let names: Vec<String> = rows.iter().flat_map(Named::names).collect();
    let near = near(name, names.iter().map(String::as_str));
    match near.as_slice() {
        [] => format!("{one} {name:?} not found; `kubectl balancing get {kind}` lists all"),
        near => format!("{one} {name:?} not found; did you mean {}?", sanitise(&near.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        fixture::{snapshots, world},
        sample::NodeSample,
    };

    fn args(line: &str) -> GetArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Get(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn board() -> Board {
        let w = world();
        let node = NodeSample { status: w.status, frontends: w.programmed, counters: w.counters };
        Board::new(Sample::of_one(node), None)
    }

    fn get(line: &str) -> List {
        list(&args(line), &board()).unwrap()
    }

    #[test]
    fn tables() {
        snapshots().bind(|| {
            for what in ["policies", "nodes", "frontends", "backends"] {
                insta::assert_snapshot!(format!("get-{what}"), get(&format!("x get {what}")).text);
            }
            insta::assert_snapshot!("get-policies-wide", get("x get policies -o wide").text);
            insta::assert_snapshot!("get-policy-json", get("x get lr/node-local-dns -o json").text);
        });
    }

    #[test]
    fn kinds_and_short_names() {
        assert_eq!(get("x get policies").rows, 8);
        assert_eq!(get("x get lr").rows, 7);
        assert_eq!(get("x get bl").rows, 1);
        assert_eq!(get("x get lr,bl").rows, 8);
        assert_eq!(get("x get localredirectpolicies.balancing.elf.io").rows, 7);
        assert_eq!(get("x get bl/node-local-dns").missing.len(), 1);
        let wrong = Cli::try_parse_from(["x", "get", "pods"]).unwrap_err();
        assert!(wrong.to_string().contains("there is no \"pods\" to get"), "{wrong}");
    }

    #[test]
    fn names_are_those_that_other_commands_print() {
        for what in ["policies", "nodes", "frontends", "backends"] {
            let names = get(&format!("x get {what} -o name")).text;
            for name in names.lines() {
                let found = get(&format!("x get {name}"));
                assert_eq!((found.rows >= 1, found.missing.len()), (true, 0), "{name}");
            }
        }
        assert!(
            get("x get lr -o name").text.contains("localredirectpolicy.balancing.elf.io/node-local-dns\n")
        );
    }

    #[test]
    fn things_are_found_by_any_of_their_names() {
        for (line, rows) in [
            ("x get fe 10.96.0.10", 2),
            ("x get fe 10.96.0.10:53", 2),
            ("x get fe 10.96.0.10:53/udp", 1),
            ("x get fe/[fd00:96::7]:443", 1),
            ("x get be kube-system/coredns-1", 2),
            ("x get be 192.0.2.10 192.0.2.11", 2),
            ("x get policies lost typo", 2),
            ("x get nodes n1", 1),
            ("x get lr/lost lr/typo", 2),
            ("x get localredirectpolicy.balancing.elf.io/lost localredirectpolicy.balancing.elf.io/typo", 2),
        ] {
            let found = get(line);
            assert_eq!((found.rows, found.missing), (rows, vec![]), "{line}");
        }
        let some = get("x get policies lost los other-name-entirely");
        assert_eq!(some.rows, 1);
        assert!(
            some.missing[0].contains("policy \"los\" not found; did you mean lost?"),
            "{:?}",
            some.missing
        );
        assert!(some.missing[1].contains("`kubectl balancing get policies`"), "{:?}", some.missing);
    }

    #[test]
    fn flags_of_kubectl_are_taken() {
        assert_eq!(get("x get lr -A").rows, 7);
        assert_eq!(args("x get lr -l app=x").labels.selector.as_deref(), Some("app=x"));
    }

    #[test]
    fn sorted_filtered_and_without_a_header() {
        let text = get("x get policies --sort-by -name --filter lr --no-headers").text;
        let names: Vec<&str> = text.lines().map(|l| l.split(' ').next().unwrap()).collect();
        assert_eq!(
            names,
            ["zoned", "typo", "shadow-dns", "node-local-dns", "lost", "log-cache", "apiserver-cache"]
        );
    }

    #[test]
    fn columns_of_the_command_line() {
        let text = get("x get lr node-local-dns lost -o custom-columns=NAME:.name,B:.backends.wanted").text;
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["NAME", "B"]);
        assert!(lines[1..].iter().any(|l| l[0] == "node-local-dns" && l[1] == "1"), "{text}");
        assert_eq!(get("x get lr lost --no-headers -o custom-columns=NAME:.name").text, "lost\n");
        for (format, words) in [
            ("jsonpath={.items}", "kubectl get lr -o jsonpath"),
            ("custom-columns=NAME", "HEADER:PATH"),
            ("xml", "possible values: table"),
        ] {
            let wrong = Cli::try_parse_from(["x", "get", "lr", "-o", format]).unwrap_err();
            assert!(wrong.exit_code() == 2 && wrong.to_string().contains(words), "{wrong}");
        }
    }

    #[test]
    fn every_format_says_the_same() {
        let of = |format: &str| get(&format!("x get frontends -o {format}")).text;
        let json: serde_json::Value = serde_json::from_str(&of("json")).unwrap();
        assert_eq!(json["kind"], "FrontendList");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&of("jsonl")).unwrap(), json);
        assert_eq!(serde_yaml::from_str::<serde_json::Value>(&of("yaml")).unwrap(), json);
        assert_eq!(json["items"].as_array().unwrap().len(), of("name").lines().count());
    }
}

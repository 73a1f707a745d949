//! `top` without a terminal: samples, one after the other, as text.

use std::{collections::BTreeMap, ffi::OsStr, io::Write, path::PathBuf, time::Duration};

use balancing_api::cli::{
    BACKEND_TOP, FRONTEND_TOP, GROUP_TOP, GroupTopItem, NODE_TOP, POLICY_TOP, PROBLEM_TOP, document,
};
use clap::{
    Args, ValueEnum,
    builder::{EnumValueParser, PossibleValue, TypedValueParser},
    error::ErrorKind,
};
use serde::Serialize;

pub use crate::rows::What;
use crate::{
    cluster::{Feed, part::Chosen},
    columns::{Row, Shown, Sort, UnknownColumn, order},
    demo::Demo,
    filter::{Filter, FilterError},
    get::Kind,
    problems::places,
    recording::{Recorder, Replay, ReplayError},
    rows::with_rows,
    sample::{Board, Sample},
    scope::{PolicyName, Scope},
    source::{self, Answer, From, Origin, Source},
    table,
    target::{self, Target},
    text::{list, parse_duration, parse_time, plural, sanitise},
    tui::style::Theme,
};

/// `-o` of `top`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// As kubectl prints tables.
    #[default]
    Table,
    /// The same with totals, limits, addresses and messages.
    Wide,
    /// A JSON document; one a line if there are several.
    Json,
    /// A JSON document a line.
    Jsonl,
    /// A YAML document.
    Yaml,
    /// Comma-separated values, every column.
    Csv,
}

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// What to show.
    #[arg(value_parser = Whats, default_value = "policies", value_name = "WHAT")]
    pub what: What,
    /// Show this policy alone, or this node: as --policy or --node.
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Print one table and end. Without a terminal, and with -o, this is the default.
    #[arg(long, conflicts_with = "count")]
    pub once: bool,
    /// Print that many tables, one an interval, and end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Time between two samples, which the rates are made of: 500ms, 2s, 1m. [default: 2s; 1s with --once]
    ///
    /// With --once, 0s takes one sample only: totals without rates.
    #[arg(long, value_name = "DURATION", value_parser = parse_interval)]
    pub interval: Option<Duration>,
    /// Format of the output.
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Sort by this column; - in front of it puts the largest first, as in --sort-by=-redirects.
    ///
    /// policies: state, name, kind, frontend, backends, redirects, qosDrops, fallbacks, refusals, reason, ...;
    /// an unknown name lists them all. [default: what is wrong first, then by name]
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort_by: Option<String>,
    /// Show only these rows: words that they contain, and comparisons of columns.
    ///
    /// 'dns !shadow', 'kind=lr and qosDrops>0', 'name~^edge or not (state=Programmed)': FIELD OP VALUE with = != < <= > >= and
    /// ~ !~ for regular expressions; and, or, not, parentheses. Fields are those of --sort-by.
    #[arg(long, value_name = "EXPR", default_value = "")]
    pub filter: String,
    /// Show this policy alone: NAME, lr/NAME or bl/NAME. Sums, frontends, backends and problems are its own.
    #[arg(long, value_name = "NAME")]
    pub policy: Option<PolicyName>,
    /// Show this node alone; repeat for several. Of a cluster, a recording of many nodes, or the synthetic cluster.
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Which policies and nodes of a cluster.
    #[command(flatten)]
    pub labels: Chosen,
    /// Exit with 1 if a row matches this expression, as in --fail-if 'qosDrops>0'. It is written as --filter is.
    ///
    /// Exit status 2: the expression is wrong, as with every other wrong flag.
    #[arg(long, value_name = "EXPR")]
    pub fail_if: Option<String>,
    /// Show at most so many rows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,
    /// Sum rows that have the same value in this column, as in `top backends --group-by node`.
    #[arg(long, value_name = "COLUMN")]
    pub group_by: Option<String>,
    /// End after that time.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "once")]
    pub duration: Option<Duration>,
    /// Write every sample to this file as well, to be shown again with --replay.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub record: Option<PathBuf>,
    /// Show a recording instead of asking an agent. With --once: its last sample.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["record", "demo"], value_hint = clap::ValueHint::FilePath)]
    pub replay: Option<PathBuf>,
    /// How many times faster a recording is shown.
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = parse_speed, requires = "replay")]
    pub speed: f64,
    /// Show a synthetic cluster instead of asking an agent; everything is marked DEMO DATA.
    #[arg(long)]
    pub demo: bool,
    /// What the synthetic cluster does: the same seed, the same numbers.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "demo")]
    pub seed: u64,
    /// How many nodes the synthetic cluster has.
    #[arg(long, value_name = "N", default_value_t = 12, requires = "demo", value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub nodes: u32,
    /// Colours of the live view.
    #[arg(long, value_enum, default_value_t, value_name = "THEME")]
    pub theme: Theme,
    /// Draw with ASCII characters only, as in a locale that is not UTF-8.
    #[arg(long)]
    pub ascii: bool,
    /// Use the mouse from the start: a row is selected, a header sorted by. The key m gives it back to the terminal.
    #[arg(long)]
    pub mouse: bool,
    /// Time that charts and trends show at first.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "3m")]
    pub window: Duration,
}

/// Reads what to show, and says how one thing alone is shown.
#[derive(Clone, Copy, Debug)]
struct Whats;

impl TypedValueParser for Whats {
    type Value = What;

    fn parse_ref(
        &self,
        cmd: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<What, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        let one = match text.parse::<crate::get::Target>() {
            Ok(crate::get::Target { kind: Kind::Policies(_), name: Some(_) }) => {
                Some(format!("policy {text}"))
            }
            Ok(crate::get::Target { kind: Kind::Nodes, name: Some(name) }) => Some(format!("node {name}")),
            _ => None,
        };
        match one {
            Some(one) => {
                let message = format!(
                    "invalid value {text:?} for '[WHAT]': it is shown by: kubectl balancing top {one}\n"
                );
                Err(clap::Error::raw(ErrorKind::InvalidValue, message).with_cmd(cmd))
            }
            None => EnumValueParser::<What>::new().parse_ref(cmd, arg, value),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(What::value_variants().iter().filter_map(ValueEnum::to_possible_value)))
    }
}

impl TopArgs {
    /// The same, with what is named behind `policy` or `node` as its flag names it.
    ///
    /// # Errors
    /// It is no name, or nothing that has one is shown.
    pub fn named(&self) -> Result<Self, Error> {
        let mut args = self.clone();
        let Some(name) = args.name.take() else { return Ok(args) };
        match args.what {
            What::Policies if args.policy.is_none() => {
                args.policy = Some(name.parse().map_err(|e| Error::Usage(format!("{name:?}: {e}")))?);
            }
            What::Nodes => args.node.push(name),
            What::Policies => {
                return Err(Error::Usage(format!("name one policy: {name}, or that of --policy")));
            }
            other => {
                return Err(Error::Usage(format!(
                    "{} have no names of their own: choose rows with --filter, as in --filter {name:?}",
                    other.name()
                )));
            }
        }
        Ok(args)
    }
}

/// Reads `--interval`.
fn parse_interval(text: &str) -> Result<Duration, String> {
    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(3600);
    let interval = parse_time(text)?;
    if interval > MOST {
        return Err("it must not be longer than 1h".to_owned());
    }
    if !interval.is_zero() && interval < LEAST {
        return Err("it must be 0s, or 100ms at least".to_owned());
    }
    Ok(interval)
}

/// Reads `--speed`.
fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.01..=1000.0).contains(&speed) { Ok(speed) } else { Err("it must be from 0.01 to 1000".to_owned()) }
}

/// Why `top` ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent or the recording did not answer.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// There is nobody to ask.
    #[error(transparent)]
    Target(#[from] target::Error),
    /// The recording cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The recording cannot be written.
    #[error("failed to write the recording {file}: {source}")]
    Record {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// `--sort-by` or `--group-by` names no column.
    #[error(transparent)]
    Column(#[from] UnknownColumn),
    /// `--filter` is none.
    #[error("--filter: {0}")]
    Filter(FilterError),
    /// `--fail-if` is none.
    #[error("--fail-if: {0}")]
    FailIf(FilterError),
    /// An argument is none.
    #[error("{0}")]
    Usage(String),
    /// The recording has no sample.
    #[error("the recording has no sample")]
    Empty,
    /// The output could not be written.
    #[error("failed to write the output: {0}")]
    Write(#[from] std::io::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Json(#[from] serde_json::Error),
    /// The output could not be formed.
    #[error("failed to form the output: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

impl Error {
    /// Is the command line wrong, rather than that what it asks for failed?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Target(error) => error.is_usage(),
            Self::Source(source::Error::Cluster(error)) => error.is_usage(),
            _ => matches!(self, Self::Usage(_) | Self::Column(_) | Self::Filter(_) | Self::FailIf(_)),
        }
    }
}

/// Checks what clap cannot: the columns and expressions that arguments name -> what to sort by.
pub fn check(args: &TopArgs) -> Result<Option<Sort>, Error> {
    fn of<R: Row>(args: &TopArgs, _: &[R]) -> Result<Option<Sort>, Error> {
        Filter::parse::<R>(&args.filter).map_err(Error::Filter)?;
        Filter::parse::<R>(args.fail_if.as_deref().unwrap_or_default()).map_err(Error::FailIf)?;
        if let Some(column) = &args.group_by {
            Sort::parse::<R>(column)?;
        }
        Ok(args.sort_by.as_deref().map(Sort::parse::<R>).transpose()?)
    }
    let (none, events) = (Board::default(), []);
    with_rows!(args.what, none, events, rows => of(args, rows))
}

/// Where the samples come from.
///
/// # Errors
/// The recording cannot be read, or there is nobody to ask.
pub async fn source(
    args: &TopArgs,
    target: impl Future<Output = Result<Target, target::Error>>,
) -> Result<Source, Error> {
    if !args.labels.is_all() && (args.demo || args.replay.is_some()) {
        return Err(target::Error::NoLabels.into());
    }
    let from = match &args.replay {
        Some(path) => From::Replay(Box::new(Replay::open(path, args.speed)?)),
        None if args.demo => From::Demo(Box::new(Demo::new(args.seed, args.nodes))),
        None => match target.await?.choosing(&args.labels)? {
            Target::Agent(client) => From::Agent(client),
            Target::Cluster(cluster) => {
                let only = args.node.first().filter(|_| args.node.len() == 1);
                From::Cluster(Box::new(Feed::of_node(*cluster, only.cloned())))
            }
        },
    };
    Ok(Source::new(from, Scope { policy: args.policy.clone(), nodes: args.node.clone() }))
}

/// The recording that `--record` asks for.
pub fn recorder(args: &TopArgs, source: &Source) -> Result<Option<Recorder>, Error> {
    let Some(path) = &args.record else { return Ok(None) };
    let failed = |source| Error::Record { file: path.display().to_string(), source };
    let file = std::fs::File::create(path).map_err(failed)?;
    Recorder::new(Box::new(file), &source.name(), source.origin().is_demo()).map(Some).map_err(failed)
}

/// Samples, one after the other, each recorded.
struct Samples<'a> {
    args: &'a TopArgs,
    source: Source,
    recorder: Option<Recorder>,
    interval: Duration,
    ticks: tokio::time::Interval,
    /// Lines of a recording that could not be read, to be told.
    torn: Vec<String>,
}

impl<'a> Samples<'a> {
    fn new(args: &'a TopArgs, source: Source, interval: Duration) -> Result<Self, Error> {
        let recorder = recorder(args, &source)?;
        // Ticks at fixed times: what it takes to answer does not make the interval longer.
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ok(Self { args, source, recorder, interval, ticks, torn: Vec::new() })
    }

    /// Says which lines of a recording are left out.
    fn tell_torn(&mut self, err: &mut dyn Write) -> std::io::Result<()> {
        self.torn.drain(..).try_for_each(|line| writeln!(err, "warning: {}", sanitise(&line)))
    }

    /// The next one; none at the end of a recording. An agent is asked an interval after the last time; what has a clock
    /// of its own does not make anybody wait.
    async fn next(&mut self) -> Result<Option<Sample>, Error> {
        if self.source.has_a_clock_of_its_own() {
            tokio::time::sleep(self.source.pause(self.interval)).await;
        } else {
            self.ticks.tick().await;
        }
        loop {
            match self.source.next(self.interval).await? {
                Answer::Gap(error @ source::Error::Torn(_)) => self.torn.push(error.to_string()),
                Answer::Gap(_) => {}
                Answer::End => return Ok(None),
                Answer::Sample(time, sample) => {
                    if let (Some(recorder), Some(path)) = (&mut self.recorder, &self.args.record) {
                        recorder
                            .sample(time, &sample)
                            .map_err(|source| Error::Record { file: path.display().to_string(), source })?;
                    }
                    return Ok(Some(sample));
                }
            }
        }
    }
}

/// Prints one table an interval -> did no row match `--fail-if`? A sample is taken first, so that every table has rates.
pub async fn run(
    args: &TopArgs,
    source: Source,
    out: &mut dyn Write,
    err: &mut dyn Write,
    colour: bool,
) -> Result<bool, Error> {
    let sort = check(args)?;
    let many = args.count.is_some() || args.duration.is_some();
    let count = args.count.unwrap_or(if args.duration.is_some() { u64::MAX } else { 1 });
    let interval = args.interval.unwrap_or(Duration::from_secs(if many { 2 } else { 1 }));
    let is_replay = matches!(source.origin(), Origin::Replay { .. });
    let demo = source.origin().is_demo();
    let until = args.duration.map(|d| tokio::time::Instant::now() + d);
    let mut samples = Samples::new(args, source, interval)?;
    let first = if interval.is_zero() && !is_replay { None } else { samples.next().await? };
    let mut before = first.map(|sample| Board::new(sample, None));
    // What is not counted has no rates, however long one waits.
    if let Some(board) = before.as_ref().filter(|b| !b.is_counted() && !many) {
        return print(args, sort, board, 0, demo, colour, out, err);
    }
    if is_replay && before.is_none() {
        samples.tell_torn(err)?;
        return Err(Error::Empty);
    }
    if is_replay && !many {
        // Of a recording the last sample is shown, with the rates of the last two.
        let mut now = None;
        while let Some(next) = samples.next().await? {
            now = Some(Board::next(next, now.as_ref().or(before.as_ref())));
        }
        let board = now.or(before).unwrap_or_default();
        samples.tell_torn(err)?;
        return print(args, sort, &board, 0, demo, colour, out, err);
    }
    let mut good = true;
    for number in 0..count {
        if until.is_some_and(|until| tokio::time::Instant::now() + interval > until) && number > 0 {
            break;
        }
        let Some(sample) = samples.next().await? else { break };
        let board = Board::next(sample, before.as_ref());
        samples.tell_torn(err)?;
        good &= print(args, sort, &board, number, demo, colour, out, err)?;
        before = Some(board);
    }
    Ok(good)
}

#[expect(clippy::too_many_arguments, reason = "each of them is needed for one table")]
fn print(
    args: &TopArgs,
    sort: Option<Sort>,
    board: &Board,
    number: u64,
    demo: bool,
    colour: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<bool, Error> {
    let text = render(args, sort, board, number, demo, colour)?;
    out.write_all(text.as_bytes())?;
    out.flush()?;
    if number == 0 && matches!(args.output.unwrap_or_default(), Output::Table | Output::Wide) {
        notes(board, args, err)?;
    }
    let Some(expression) = &args.fail_if else { return Ok(true) };
    let found = with_rows!(args.what, board, [], rows => failing(rows, &args.filter, expression)?);
    if found.is_empty() {
        return Ok(true);
    }
    let names: Vec<String> = found.iter().map(|n| sanitise(n).into_owned()).collect();
    writeln!(
        err,
        "error: --fail-if {expression:?}: {}: {}",
        plural(names.len(), "row matches", "rows match"),
        list(&names, 10)
    )?;
    Ok(false)
}

/// Names of the rows that match.
fn failing<R: Row>(rows: &[R], filter: &str, expression: &str) -> Result<Vec<String>, Error> {
    let shown = Filter::parse::<R>(filter).map_err(Error::Filter)?;
    let fails = Filter::parse::<R>(expression).map_err(Error::FailIf)?;
    // The second column is what a row is called.
    let name = |r: &R| R::columns().get(1).map(|c| (c.cell)(r).shown()).unwrap_or_default();
    Ok(rows.iter().filter(|r| shown.matches(*r) && fails.matches(*r)).map(name).collect())
}

/// What a table cannot show, on the other stream.
fn notes(board: &Board, args: &TopArgs, err: &mut dyn Write) -> Result<(), Error> {
    const MOST: usize = 10;
    // The table of problems has them as rows.
    let problems: Vec<_> = board.node_problems().filter(|_| args.what != What::Problems).collect();
    for p in problems.iter().take(MOST) {
        match p.nodes.as_slice() {
            // Of the view itself: what could not be read, and how to ask for the right.
            [] => writeln!(err, "warning: {}; {}", sanitise(&p.message), sanitise(&p.next))?,
            _ => writeln!(err, "warning: node {}: {}", sanitise(&places(p)), sanitise(&p.message))?,
        }
    }
    if problems.len() > MOST {
        writeln!(err, "warning: and {} more: kubectl balancing top problems", problems.len() - MOST)?;
    }
    let what = args.what.name();
    let (all, shown) = with_rows!(args.what, board, [], rows => counts(rows, args)?);
    match (all, shown) {
        (0, _) => writeln!(err, "No {what} found.")?,
        (all, 0) => writeln!(err, "None of {all} {what} matches --filter {:?}.", args.filter)?,
        (all, shown) => {
            if let Some(top) = args.top.map(|n| n as usize).filter(|n| *n < shown) {
                writeln!(err, "{top} of {shown} {what} shown ({all} in all): --top")?;
            }
        }
    }
    Ok(())
}

fn counts<R: Row>(rows: &[R], args: &TopArgs) -> Result<(usize, usize), Error> {
    let filter = Filter::parse::<R>(&args.filter).map_err(Error::Filter)?;
    Ok((rows.len(), order(rows, &filter, None).len()))
}

/// The document of the rows shown, as `-o json` prints it.
pub fn json(
    what: What,
    board: &Board,
    order: &[usize],
    events: &[crate::columns::events::EventRow],
    demo: bool,
) -> Result<String, Error> {
    fn of<T: Serialize>(
        kind: &str,
        rows: &[T],
        order: &[usize],
        board: &Board,
        demo: bool,
    ) -> Result<String, Error> {
        let top = board.top(demo, order.iter().filter_map(|i| rows.get(*i)).collect::<Vec<_>>());
        Ok(serde_json::to_string_pretty(&document(kind, top))? + "\n")
    }
    match what {
        What::Policies => of(POLICY_TOP, &board.policies, order, board, demo),
        What::Nodes => of(NODE_TOP, &board.nodes, order, board, demo),
        What::Frontends => of(FRONTEND_TOP, &board.frontends, order, board, demo),
        What::Backends => of(BACKEND_TOP, &board.backends, order, board, demo),
        What::Problems => of(PROBLEM_TOP, &board.problems, order, board, demo),
        What::Trace => {
            let events: Vec<&balancing_api::agent::Event> = events.iter().map(|e| &e.event).collect();
            of("EventTop", &events, order, board, demo)
        }
    }
}

fn render(
    args: &TopArgs,
    sort: Option<Sort>,
    board: &Board,
    number: u64,
    demo: bool,
    colour: bool,
) -> Result<String, Error> {
    let kind = match args.what {
        What::Policies => POLICY_TOP,
        What::Nodes => NODE_TOP,
        What::Frontends => FRONTEND_TOP,
        What::Backends => BACKEND_TOP,
        What::Problems | What::Trace => PROBLEM_TOP,
    };
    let page = Page { args, sort, board, number, demo, colour };
    match args.what {
        What::Policies => page.rendered(&board.policies, kind),
        What::Nodes => page.rendered(&board.nodes, kind),
        What::Frontends => page.rendered(&board.frontends, kind),
        What::Backends => page.rendered(&board.backends, kind),
        What::Problems | What::Trace => page.rendered(&board.problems, kind),
    }
}

/// One printed table.
struct Page<'a> {
    args: &'a TopArgs,
    sort: Option<Sort>,
    board: &'a Board,
    number: u64,
    demo: bool,
    colour: bool,
}

impl Page<'_> {
    fn rendered<R: Row + Serialize>(&self, rows: &[R], kind: &str) -> Result<String, Error> {
        let filter = Filter::parse::<R>(&self.args.filter).map_err(Error::Filter)?;
        let most = self.args.top.map_or(usize::MAX, |n| n as usize);
        let rows: Vec<&R> =
            order(rows, &filter, self.sort).into_iter().take(most).map(|i| &rows[i]).collect();
        if let Some(column) = &self.args.group_by {
            let groups = grouped(&rows, Sort::parse::<R>(column)?.column);
            return self.groups::<R>(&groups);
        }
        let first = self.number == 0;
        Ok(match self.args.output.unwrap_or_default() {
            // As kubectl: nothing on this stream where there is nothing, the word about it is on the other.
            Output::Table | Output::Wide if rows.is_empty() => String::new(),
            output @ (Output::Table | Output::Wide) => {
                self.page(&table::table(&rows, output == Output::Wide, self.colour, self.board.is_counted()))
            }
            Output::Csv => {
                let header = if first { table::csv_header::<R>() } else { String::new() };
                header + &table::csv(&rows, &self.board.sample.taken_at().to_string())
            }
            _ => self.document(kind, &rows)?,
        })
    }

    fn page(&self, table: &str) -> String {
        let gap = if self.number == 0 { "" } else { "\n" };
        let mark = if self.demo { "DEMO DATA: a synthetic cluster, no agent was asked\n" } else { "" };
        format!("{gap}{table}{mark}")
    }

    fn document<T: Serialize>(&self, kind: &str, items: &[T]) -> Result<String, Error> {
        let top = document(kind, self.board.top(self.demo, items.iter().collect::<Vec<_>>()));
        Ok(match self.args.output.unwrap_or_default() {
            Output::Yaml => format!("---\n{}", serde_yaml::to_string(&top)?),
            Output::Json if self.args.count.is_none() && self.args.duration.is_none() => {
                serde_json::to_string_pretty(&top)? + "\n"
            }
            _ => serde_json::to_string(&top)? + "\n",
        })
    }

    fn groups<R: Row>(&self, groups: &[GroupTopItem]) -> Result<String, Error> {
        let wide = matches!(self.args.output, Some(Output::Wide | Output::Csv));
        let summed = R::columns()
            .iter()
            .map(|c| c.meta)
            .filter(|m| m.summed && (m.shown == Shown::Always || wide && m.shown == Shown::Wide));
        let summed: Vec<_> = summed.collect();
        let cells = |g: &GroupTopItem, exact: bool| {
            let numbers = summed.iter().map(|m| match g.sums.get(m.key).copied().flatten() {
                Some(n) if exact => n.to_string(),
                Some(n) => crate::text::scaled(n),
                None if exact => String::new(),
                None => crate::text::UNKNOWN.to_owned(),
            });
            let mut cells = vec![sanitise(&g.group).into_owned(), g.rows.to_string()];
            cells.extend(numbers);
            cells
        };
        Ok(match self.args.output.unwrap_or_default() {
            Output::Table | Output::Wide if groups.is_empty() => String::new(),
            Output::Table | Output::Wide => {
                let mut header = vec!["GROUP".to_owned(), "ROWS".to_owned()];
                header.extend(summed.iter().map(|m| m.header.to_owned()));
                self.page(&table::aligned(header, groups.iter().map(|g| cells(g, false)).collect()))
            }
            Output::Csv => {
                let time = self.board.sample.taken_at().to_string();
                let keys = ["time", "group", "rows"].into_iter().chain(summed.iter().map(|m| m.key));
                let mut out = String::new();
                if self.number == 0 {
                    out = keys.collect::<Vec<_>>().join(",") + "\n";
                }
                for g in groups {
                    let line: Vec<String> = std::iter::once(time.clone())
                        .chain(cells(g, true))
                        .map(|c| table::quoted(&c))
                        .collect();
                    out.push_str(&(line.join(",") + "\n"));
                }
                out
            }
            _ => self.document(GROUP_TOP, groups)?,
        })
    }
}

/// The rows by their value in a column, with the sums of what can be added up.
fn grouped<R: Row>(rows: &[&R], column: usize) -> Vec<GroupTopItem> {
    let mut groups: BTreeMap<String, GroupTopItem> = BTreeMap::new();
    for row in rows {
        let Some(by) = R::columns().get(column) else { continue };
        let name = (by.cell)(row).shown();
        let group = groups.entry(name.clone()).or_insert_with(|| GroupTopItem {
            group: name,
            rows: 0,
            sums: R::columns()
                .iter()
                .filter(|c| c.meta.summed)
                .map(|c| (c.meta.key.to_owned(), Some(0.0)))
                .collect(),
        });
        group.rows += 1;
        for c in R::columns().iter().filter(|c| c.meta.summed) {
            let value = (c.cell)(row).number();
            if let Some(sum) = group.sums.get_mut(c.meta.key) {
                *sum = sum.zip(value).map(|(a, b)| a + b);
            }
        }
    }
    groups.into_values().collect()
}

#[cfg(test)]
mod tests {
    use balancing_api::cli::{PolicyTopItem, Top};
    use clap::Parser;

    use super::*;
    use crate::{
        cli::{Cli, Command},
        fixture::{World, snapshots, world},
        sample::NodeSample,
    };

    fn args(line: &str) -> TopArgs {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Top(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn board() -> Board {
        let sample = |w: World| {
            Sample::of_one(NodeSample { status: w.status, frontends: w.programmed, counters: w.counters })
        };
        Board::new(sample(world().later(2000)), Some(&sample(world())))
    }

    #[test]
    fn one_thing_is_named_as_elsewhere() {
        let named = |line: &str| {
            let args = args(line).named().map_err(|e| {
                assert!(e.is_usage());
                e.to_string()
            })?;
            Ok::<_, String>((args.policy.map(|p| p.to_string()), args.node))
        };
        assert_eq!(named("x top policy dns"), Ok((Some("dns".to_owned()), vec![])));
        assert_eq!(named("x top lr lr/dns --once"), Ok((Some("lr/dns".to_owned()), vec![])));
        assert_eq!(named("x top node n1 --node n2"), Ok((None, vec!["n2".to_owned(), "n1".to_owned()])));
        assert_eq!(named("x top"), Ok((None, vec![])));
        assert!(named("x top fe 10.0.0.1").unwrap_err().contains("--filter \"10.0.0.1\""));
        assert!(named("x top policy a --policy b").unwrap_err().contains("name one policy"));
        for (line, words) in [
            ("x top lr/dns", "kubectl balancing top policy lr/dns"),
            ("x top node/n1", "kubectl balancing top node n1"),
            ("x top pods", "possible values: policies"),
        ] {
            let wrong = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert!(wrong.exit_code() == 2 && wrong.to_string().contains(words), "{wrong}");
        }
    }

    /// The documents are a contract: a change of these snapshots is a change of it.
    #[test]
    fn documents() {
        snapshots().bind(|| {
            for (what, filter) in
                [("policies", "node-local"), ("frontends", "53/udp"), ("backends", "192.0.2.10")]
            {
                let args = args(&format!("x top {what} --filter {filter} -o json"));
                let text = render(&args, None, &board(), 0, false, false).unwrap();
                insta::assert_snapshot!(format!("top-json-{what}"), text);
            }
        });
    }

    #[test]
    fn every_format_is_what_it_says() {
        let of = |format: &str| {
            render(&args(&format!("x top -o {format}")), None, &board(), 0, false, false).unwrap()
        };
        let json: serde_json::Value = serde_json::from_str(&of("json")).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&of("jsonl")).unwrap(), json);
        assert_eq!(serde_yaml::from_str::<serde_json::Value>(&of("yaml")).unwrap(), json);
        assert_eq!(of("jsonl").lines().count(), 1);
        let top: balancing_api::agent::Document<Top<PolicyTopItem>> =
            serde_json::from_str(&of("json")).unwrap();
        assert_eq!(top.body.items, board().policies);
    }

    #[test]
    fn what_concerns_the_node_is_told_beside_the_table() {
        let mut world = world();
        world.condition("ProgramsAttached", "False", "Detached", "somebody\u{1b}[2J did it");
        let sample = Sample::of_one(NodeSample {
            status: world.status,
            frontends: world.programmed,
            counters: world.counters,
        });
        let mut told = Vec::new();
        notes(&Board::new(sample, None), &args("x top"), &mut told).unwrap();
        let told = String::from_utf8(told).unwrap();
        assert_eq!(told, "warning: node n1: somebody^[[2J did it (ProgramsAttached is False: Detached)\n");
    }
}

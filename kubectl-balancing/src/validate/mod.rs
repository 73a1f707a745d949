//! `validate`: the rules over files, without agent, cluster or network, and where asked for over what a cluster holds.

mod draw;
mod input;
mod live;
mod report;
mod resolve;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    path::PathBuf,
};

use balancing_api::{
    cli::document,
    manifest::{Parsed, parse},
    rules::{
        Examined, RULES, Severity, Suppression, check_files,
        document::{FINDING_LIST, FindingList, Summary},
        page, rule,
    },
};
use clap::{Args, ValueEnum};
use jiff::Timestamp;

pub use self::live::Live;
use self::{
    draw::Painter,
    input::{File, Input},
    report::Report,
    resolve::Resolved,
};
use crate::{
    cluster::read::gap_text,
    text::{list, sanitise},
};

/// Nothing at or over the threshold was found.
const CLEAN: u8 = 0;
/// Something was.
const FINDINGS: u8 = 1;
/// A file could not be read, or there was no object in any of them.
const FAILED: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  # One file
  kubectl balancing validate -f policy.yaml

  # A folder with everything beneath it, warnings count as failures too
  kubectl balancing validate -R -f manifests/ --fail-on warning

  # What kustomize makes of a folder, and what a template makes
  kubectl balancing validate -k overlays/prod
  helm template . | kubectl balancing validate -f -

  # A finding that is meant, for one policy; in its file: annotation balancing.elf.io/suppress
  kubectl balancing validate -f manifests/ -S BAL0306=LocalRedirectPolicy/web

  # All policies of the cluster, and files against what is there
  kubectl balancing validate
  kubectl balancing validate --live -f manifests/

  # Annotations on a pull request, and a report for its code scanning
  kubectl balancing validate -f manifests/ -o github
  kubectl balancing validate -f manifests/ -o sarif > balancing.sarif

  # What a rule is about
  kubectl balancing validate --explain BAL0104

Exit status: 0 nothing found, 1 something found (see --fail-on), 2 a file could not be read, there
is no object of any kind in the files (as in the output of a command that failed), or the command
line is wrong.";

/// Check policies in files, without a cluster, or those of a cluster.
///
/// Looks at every LocalRedirectPolicy and BalancingPolicy in the files, each by itself and all of them together. Objects
/// of other kinds are skipped and counted. With files it needs no cluster, agent or network, unless --live says so;
/// without any it checks the policies of the cluster.
#[derive(Args, Debug, Default)]
#[command(after_help = EXAMPLES)]
pub struct ValidateArgs {
    /// Files and folders to check; - is the standard input. Of a folder: *.yaml, *.yml and *.json
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    pub filename: Vec<PathBuf>,

    /// The same, without -f
    #[arg(value_name = "FILE")]
    pub paths: Vec<PathBuf>,

    /// A folder of kustomize: checks what `kubectl kustomize` makes of it.
    ///
    /// Findings name the object and its path; annotations for code scanning stand at the kustomization. Remote bases are
    /// fetched by kustomize, as they would be on `kubectl apply -k`.
    #[arg(
        short = 'k',
        long = "kustomize",
        value_name = "FOLDER",
        value_hint = clap::ValueHint::DirPath,
        conflicts_with_all = ["filename", "paths", "recursive"]
    )]
    pub kustomize: Option<String>,

    /// Go through the folders inside of folders too
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// How to print findings
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,

    /// Which findings make the exit status 1
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t)]
    pub fail_on: FailOn,

    /// Show findings of this severity and worse; the exit status does not depend on it
    #[arg(long, value_enum, value_name = "SEVERITY", default_value_t)]
    pub output_threshold: Threshold,

    /// Do not report findings of a rule, for one policy (NAME may hold *) or for all; repeat for several
    ///
    /// What keeps a policy from being applied is reported nevertheless. In a file, the annotation
    /// balancing.elf.io/suppress of a policy does the same: codes, separated by commas.
    #[arg(short = 'S', long, value_name = "CODE[=KIND/NAME]", value_delimiter = ',')]
    pub suppress: Vec<Suppression>,

    /// Check the files against the cluster too: its policies, Services and Pods
    ///
    /// What is in a file stands for the policy of that name in the cluster; what is new there is younger than all others.
    /// Without files: all policies of the cluster, which is the default then.
    #[arg(long)]
    pub live: bool,

    /// List all rules
    #[arg(long, conflicts_with_all = ["filename", "paths", "kustomize", "explain"])]
    pub list_rules: bool,

    /// Explain a rule, with examples
    #[arg(long, value_name = "CODE", conflicts_with_all = ["filename", "paths", "kustomize"])]
    pub explain: Option<String>,
}

/// How to print findings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people, with the lines they are about
    #[default]
    Text,
    /// One document, kind FindingList
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Workflow commands that GitHub shows as annotations
    Github,
    /// JUnit XML: a test a policy, which fails as --fail-on says
    Junit,
    /// Names of the objects that findings are about, each once
    Name,
}

/// From which severity on a finding is a failure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FailOn {
    /// Errors alone
    #[default]
    Error,
    /// Warnings too
    #[value(alias = "warn")]
    Warning,
}

/// From which severity on a finding is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Threshold {
    /// Everything
    #[default]
    Info,
    /// Warnings and errors
    #[value(alias = "warn")]
    Warning,
    /// Errors alone
    Error,
}

impl Threshold {
    fn severity(self) -> Severity {
        match self {
            Self::Info => Severity::Info,
            Self::Warning => Severity::Warning,
            Self::Error => Severity::Error,
        }
    }
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            Self::Error => Severity::Error,
            Self::Warning => Severity::Warning,
        }
    }
}

/// Run the command -> its exit status. Findings go to `stdout`; counts, and what could not be read, to `stderr`.
///
/// # Errors
/// The output cannot be written.
pub fn run(
    args: &ValidateArgs,
    live: Option<&Live>,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
    colour: bool,
) -> io::Result<u8> {
    run_with(args, live, &input::kubectl(), &mut io::stdin().lock(), stdout, stderr, colour)
}

impl ValidateArgs {
    /// Is the cluster to be read?
    #[must_use]
    pub fn needs_a_cluster(&self) -> bool {
        let files = !self.filename.is_empty() || !self.paths.is_empty() || self.kustomize.is_some();
        !self.list_rules && self.explain.is_none() && (self.live || !files)
    }
}

fn run_with(
    args: &ValidateArgs,
    live: Option<&Live>,
    kubectl: &OsStr,
    stdin: &mut dyn Read,
    stdout: &mut dyn Write,
    stderr: &mut dyn Write,
    colour: bool,
) -> io::Result<u8> {
    if args.list_rules {
        return list_rules(stdout).map(|()| CLEAN);
    }
    if let Some(code) = &args.explain {
        return explain(code, stdout, stderr);
    }
    let named: Vec<_> = args.filename.iter().chain(&args.paths).cloned().collect();
    let Input { files, mut failures, notes: mut before } = match &args.kustomize {
        Some(folder) => input::kustomized(folder, kubectl),
        None if named.is_empty() && live.is_some() => Input::default(),
        None if named.is_empty() => {
            writeln!(
                stderr,
                "error: no files given: name files or folders with -f, a folder of kustomize with -k, or -f - for the \
                 standard input"
            )?;
            return Ok(FAILED);
        }
        None => input::read(&named, args.recursive, stdin),
    };
    let (named, mut files) = (files.len(), files);
    let Outcome { findings, policies, summary, notes, empty, nothing } =
        examine(&mut files, &args.suppress, live);
    for gap in live.iter().flat_map(|l| &l.gaps) {
        // Without any policy there is nothing to check; without the others less is.
        match live.is_some_and(|l| l.blind) {
            true => failures.push(gap_text(gap)),
            false => before.push(gap_text(gap)),
        }
    }
    if nothing && failures.is_empty() {
        failures.push(nothing_in(&files));
    } else {
        before.extend(empty.iter().map(|name| format!("there is no object in {}", input::called(name))));
    }
    for failure in &failures {
        writeln!(stderr, "error: {}", sanitise(failure))?;
    }
    let failed = findings.iter().any(|f| f.finding.severity >= args.fail_on.severity());
    let threshold = args.output_threshold.severity();
    let shown: Vec<&Resolved> = findings.iter().filter(|f| f.finding.severity >= threshold).collect();
    let report = Report { files: &files, findings: &shown, policies: &policies, failures: &failures };
    match args.output {
        Output::Text => {
            let painter = Painter::new(colour);
            for finding in &shown {
                writeln!(stdout, "{}\n", painter.finding(&files, finding))?;
            }
        }
        Output::Json => {
            let items = shown.iter().map(|f| f.item(&files)).collect();
            let list = document(FINDING_LIST, FindingList { items, summary });
            serde_json::to_writer_pretty(&mut *stdout, &list)?;
            writeln!(stdout)?;
        }
        Output::Sarif => {
            serde_json::to_writer(&mut *stdout, &report.sarif())?;
            writeln!(stdout)?;
        }
        Output::Github => write!(stdout, "{}", report.github())?,
        Output::Junit => write!(stdout, "{}", report.junit(args.fail_on.severity()))?,
        Output::Name => {
            let (names, nameless) = report.names();
            write!(stdout, "{names}")?;
            before.extend(nameless);
        }
    }
    stdout.flush()?;
    if !files.is_empty() {
        for note in before.iter().chain(&notes) {
            writeln!(stderr, "note: {}", sanitise(note))?;
        }
        write!(stderr, "{}", sum_up(&summary, &findings, live.is_some() && named == 0))?;
    }
    Ok(match (failures.is_empty(), failed) {
        (false, _) => FAILED,
        (true, true) => FINDINGS,
        (true, false) => CLEAN,
    })
}

/// What was found in files.
struct Outcome {
    findings: Vec<Resolved>,
    /// Every policy: its file, its document, and what it is called.
    policies: Vec<(usize, usize, String)>,
    summary: Summary,
    /// What is to be said about suppressions.
    notes: Vec<String>,
    /// Names of files that hold nothing.
    empty: Vec<String>,
    /// Is there no object in any of the files, and nothing that is known to be wrong?
    nothing: bool,
}

/// Why there was nothing to check. A pipe that broke, or a page that says "not found", must not look like manifests that
/// are right.
fn nothing_in(files: &[File]) -> String {
    let places: Vec<String> = files.iter().map(|file| input::called(&file.name)).collect();
    let piped = files.iter().any(|file| file.name == "-");
    let hint = if piped { "; did the command before the pipe fail?" } else { "" };
    format!("no objects to validate: there is none in {}{hint}", list(&places, 5))
}

/// Parse and check files.
fn examine(files: &mut Vec<File>, suppressions: &[Suppression], live: Option<&Live>) -> Outcome {
    let mut parsed: Vec<_> = files
        .iter()
        .map(|file| {
            let mut parsed = parse(&file.text);
            if let Some(error) = &file.error {
                parsed.error = Some(error.clone());
            }
            parsed
        })
        .collect();
    let is_empty = |p: &Parsed| p.objects.is_empty() && p.rejected.is_empty() && p.error.is_none();
    let empty: Vec<String> =
        files.iter().zip(&parsed).filter(|(_, p)| is_empty(p)).map(|(f, _)| f.name.clone()).collect();
    let named = files.len();
    if let Some(live) = live {
        live.date(&mut parsed, Timestamp::now());
        let text = live.text(&parsed);
        parsed.push(parse(&text.text));
        parsed.push(live.others());
        files.push(text);
        files.push(File::default());
    }
    let mut examined = check_files(&parsed);
    if let Some(live) = live {
        narrow(&mut examined, live, named);
    }
    let nothing = live.is_none()
        && examined.policies.is_empty()
        && parsed.iter().all(|p| p.objects.is_empty())
        && !examined.findings.iter().any(|f| f.finding.severity == Severity::Error);
    let notes = suppress(&mut examined, suppressions);
    let count = |s| examined.findings.iter().filter(|f| f.finding.severity == s).count();
    let summary = Summary {
        files: named,
        objects: examined.policies.len(),
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        skipped: examined.skipped,
        suppressed: examined.suppressed,
        empty: empty.len(),
    };
    let findings = resolve::resolve(files, examined.findings);
    Outcome { findings, policies: examined.policies, summary, notes, empty, nothing }
}

/// Leaves of what was found together with a cluster what concerns the files; without files, all of it.
fn narrow(examined: &mut Examined, live: &Live, named: usize) {
    examined.skipped = examined.skipped.saturating_sub(live.count_others());
    for found in &mut examined.findings {
        found.finding.message = found.finding.message.replace("in these files", "in the cluster");
    }
    if named > 0 {
        examined.policies.retain(|(file, ..)| *file < named);
        examined
            .findings
            .retain(|f| f.site.file < named || f.other.as_ref().is_some_and(|(site, ..)| site.file < named));
    }
}

/// Take out what is suppressed -> what is to be said about suppressions that do not do what they seem to.
fn suppress(examined: &mut Examined, suppressions: &[Suppression]) -> Vec<String> {
    let mut notes = Vec::new();
    for suppression in suppressions {
        let (about, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut examined.findings).into_iter().partition(|f| suppression.concerns(f));
        let (kept, quiet): (Vec<_>, Vec<_>) = about.into_iter().partition(|f| f.finding.blocks);
        if kept.is_empty() && quiet.is_empty() {
            notes.push(format!("-S {suppression} suppresses nothing"));
        }
        for found in &kept {
            let object = if found.object.is_empty() { "the file" } else { &found.object };
            notes.push(format!(
                "{} of {object} is not suppressed: with it, the policy is not applied",
                found.finding.code
            ));
        }
        examined.suppressed += quiet.len();
        examined.findings = rest;
        examined.findings.extend(kept);
    }
    notes
}

/// The counts in words, and where to read on.
fn sum_up(summary: &Summary, findings: &[Resolved], cluster: bool) -> String {
    let Summary { files, objects, errors, warnings, skipped, suppressed, empty } = *summary;
    let many = |n: usize, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
    let found = match (errors, warnings) {
        _ if objects == 0 && errors == 0 => "no policy found, so nothing was checked".to_owned(),
        (0, 0) => "no problems found".to_owned(),
        _ => format!("{}, {}", many(errors, "error", "errors"), many(warnings, "warning", "warnings")),
    };
    let others = match skipped {
        0 => String::new(),
        n => format!("; {} skipped", many(n, "other object", "other objects")),
    };
    let quiet = match suppressed {
        0 => String::new(),
        n => format!("; {} suppressed", many(n, "finding", "findings")),
    };
    let hollow = match empty {
        0 => String::new(),
        n => format!("; {} without any object", many(n, "file", "files")),
    };
    let place = if cluster { "the cluster".to_owned() } else { many(files, "file", "files") };
    let mut text =
        format!("{place}, {}: {found}{quiet}{others}{hollow}\n", many(objects, "policy", "policies"));
    if let Some(worst) = findings.iter().rev().max_by_key(|f| f.finding.severity) {
        let code = worst.finding.code;
        text.push_str(&format!("For more on a rule: kubectl balancing validate --explain {code}\n"));
    }
    text
}

fn list_rules(stdout: &mut dyn Write) -> io::Result<()> {
    writeln!(stdout, "{:<9}{:<10}RULE", "CODE", "SEVERITY")?;
    for rule in RULES {
        writeln!(stdout, "{:<9}{:<10}{}", rule.code, rule.severity, rule.title)?;
    }
    stdout.flush()
}

fn explain(code: &str, stdout: &mut dyn Write, stderr: &mut dyn Write) -> io::Result<u8> {
    let Some(rule) = rule(code) else {
        let known = "kubectl balancing validate --list-rules shows all";
        writeln!(stderr, "error: there is no rule {}; {known}", sanitise(code))?;
        return Ok(FAILED);
    };
    write!(stdout, "{}", page(rule))?;
    stdout.flush()?;
    Ok(CLEAN)
}

//! `cargo xtask bench`: measures the product beside its floors and peers, and says which targets it reaches.
#![expect(unreachable_pub, reason = "modules of a program")]
#![expect(clippy::print_stdout, reason = "the report goes to stdout")]

mod agree;
mod cluster;
mod control;
mod hold;
mod kernel;
mod loader;
mod page;
mod peers;
mod plan;
mod plot;
mod process;
mod report;
mod stats;
mod subject;
mod sys;
mod top;
mod worker;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use balancing_e2e::run;
use clap::{Parser, ValueEnum};

use kernel::Effort;
use report::BenchReport;

/// Measures the data path and the agent beside their floors and peers.
#[derive(Parser)]
#[command(name = "cargo xtask bench")]
struct Arguments {
    /// Fewer rounds, smaller peers: within two minutes, with wider intervals.
    #[arg(long)]
    quick: bool,
    /// Only these (`M1`, `M13`; `F` is what the features cost, `K1` to `K3` take a control plane).
    ids: Vec<String>,
    /// How the report is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Measures nothing: makes the page of the documentation from the newest full report in that folder.
    #[arg(long)]
    page: bool,
    /// Measures nothing: says of each figure of these reports whether its intervals overlap; fails where a ratio's do not.
    #[arg(long, num_args = 2.., value_name = "REPORT", conflicts_with = "page")]
    agree: Vec<PathBuf>,
    /// The bench of the frames of `top`, built by `cargo xtask bench`.
    #[arg(long, hide = true)]
    frame: Option<PathBuf>,
    /// Where the report of everything is kept as JSON too: a folder.
    #[arg(long)]
    results: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("worker") => {
            worker::main(std::env::args().nth(2).and_then(|cpu| cpu.parse().ok()).unwrap_or(worker::CPU))
        }
        Some("loader") => loader::main(),
        _ => {
            let arguments = Arguments::parse();
            if arguments.page {
                page::write()
            } else if arguments.agree.is_empty() {
                bench(&arguments)
            } else {
                agree::print(&arguments.agree)
            }
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    if let Some(missing) = run::missing() {
        bail!("nothing can be measured here: {missing}");
    }
    run::claim()?;
    run::remove_on_signals(|| {})?;
    let report = measure(arguments);
    run::remove_own();
    let report = report?;
    let json = serde_json::to_string_pretty(&report)? + "\n";
    // A report of a few figures is no record of the machine.
    if let (Some(folder), true) = (&arguments.results, arguments.ids.is_empty()) {
        std::fs::create_dir_all(folder)?;
        let name = format!("{}.json", report.taken_at.replace([':', '-'], ""));
        std::fs::write(folder.join(name), &json)?;
    }
    match arguments.output {
        Output::Json => print!("{json}"),
        Output::Table => {
            println!("{}, Linux {}, {}\n", report.cpu, report.kernel, report.taken_at);
            print!("{}", report::table(&report.metrics));
            report.notes.iter().for_each(|note| println!("\n{note}"));
        }
    }
    Ok(())
}

/// Does one of `ids` ask for a group of figures? None asks for all.
pub fn asked(ids: &[String], group: &[&str]) -> bool {
    ids.is_empty() || ids.iter().any(|id| group.iter().any(|g| id.eq_ignore_ascii_case(g)))
}

fn measure(arguments: &Arguments) -> Result<BenchReport> {
    let effort =
        if arguments.quick { Effort { rounds: 20, loads: 5 } } else { Effort { rounds: 60, loads: 15 } };
    let mut notes = Vec::new();
    let mut metrics = Vec::new();
    worker::pin_to(0);
    if asked(&arguments.ids, &["M1", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M16", "F"]) {
        metrics.extend(kernel::run(effort, &arguments.ids, &mut notes)?);
    }
    if asked(&arguments.ids, &["M9", "M10", "M11"]) {
        metrics.extend(hold::run(arguments.quick, &arguments.ids)?);
    }
    worker::unpin();
    if asked(&arguments.ids, &["TOP"]) {
        metrics.extend(top::run(arguments.frame.as_deref(), effort.loads, &mut notes)?);
    }
    if asked(&arguments.ids, &["M12", "M13", "M14", "M15"]) {
        metrics.extend(control::run(arguments.quick, &arguments.ids, &mut notes)?);
    }
    if arguments.quick && arguments.ids.is_empty() {
        notes.push("no K1, K2, K3 in a quick run: `--quick K1 K2 K3` measures them, smaller".to_owned());
    } else if asked(&arguments.ids, &["K1", "K2", "K3"]) {
        metrics.extend(cluster::run(arguments.quick, &arguments.ids, &mut notes)?);
    }
    metrics.retain(|m| {
        arguments.ids.is_empty() || asked(&arguments.ids, &[m.id.split('-').next().unwrap_or(&m.id)])
    });
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    notes.push(format!(
        "load of the machine over the last 5 minutes: {}",
        load.split(' ').nth(1).unwrap_or("unknown")
    ));
    let taken_at = jiff::Timestamp::now().round(jiff::Unit::Second)?.to_string();
    Ok(BenchReport {
        kind: "BenchReport".to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpu: report::cpu()?,
        taken_at,
        quick: arguments.quick,
        rounds: [effort.rounds, effort.loads],
        notes,
        metrics,
    })
}

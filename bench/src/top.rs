//! TOP: what a frame of `top` costs at 10,000 rows, and the memory that it takes.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{
    report::Metric,
    stats::{Estimate, estimate, paired},
};

/// What a run of `kubectl-balancing/benches/frame.rs` prints with `--json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frames {
    rows: usize,
    frame_ns: f64,
    worst_ns: f64,
    empty_ns: f64,
    sample_ns: f64,
    resident_bytes: f64,
}

fn once(program: &Path) -> Result<Frames> {
    let output = Command::new(program)
        .arg("--json")
        .output()
        .with_context(|| format!("failed to start {}", program.display()))?;
    ensure!(output.status.success(), "the bench of frames ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("the bench of frames said something else than its figures")
}

/// Runs it so many times.
pub fn run(program: Option<&Path>, times: usize, notes: &mut Vec<String>) -> Result<Vec<Metric>> {
    let Some(program) = program else {
        notes.push("no TOP: `cargo xtask bench` builds the bench of frames".to_owned());
        return Ok(Vec::new());
    };
    eprintln!("bench: frames of top");
    let runs = (0..times).map(|_| once(program)).collect::<Result<Vec<_>>>()?;
    let rows = runs.first().context("no run")?.rows;
    let of = |f: fn(&Frames) -> f64| -> Vec<Vec<f64>> { runs.iter().map(|r| vec![f(r)]).collect() };
    let ms = |f: fn(&Frames) -> f64| {
        let e = estimate(&of(f));
        Estimate { value: e.value / 1e6, low: e.low / 1e6, high: e.high / 1e6 }
    };
    let ratio = estimate(&paired(&of(|r| r.frame_ns), &of(|r| r.empty_ns), |a, b| a / b));
    let plain =
        |id: &str, name: &str, e: Estimate, unit: &str| Metric::new(id, name, e.value, unit).within(e);
    let resident = estimate(&of(|r| r.resident_bytes / 1e6));
    Ok(vec![
        Metric::new(
            "TOP",
            &format!("a frame of `top`, {rows} rows, 120 × 40"),
            ms(|r| r.frame_ns).value,
            "ms",
        )
        .against("empty frame", ms(|r| r.empty_ns).value, ratio)
        .at_most(2.0),
        plain("TOP-worst", "the slowest of 500 frames", ms(|r| r.worst_ns), "ms"),
        plain("TOP-sample", "taking a sample of so many rows in", ms(|r| r.sample_ns), "ms"),
        plain("TOP-memory", "resident memory, the samples included", resident, "MB").at_most(50.0),
    ])
}

//! The page of the documentation: its table and its plots are made from a report in `bench/results`, and from nothing else.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{
    plot::{Bar, bars},
    report::{BenchReport, Metric, table},
};

const BEGIN: &str = "<!-- made by `cargo xtask bench --page` from ";
const END: &str = "<!-- end of what is made -->\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page() -> PathBuf {
    root().join("docs/performance.md")
}

fn plots() -> PathBuf {
    root().join("docs/performance")
}

fn read(name: &str) -> Result<BenchReport> {
    let path = root().join("bench/results").join(name);
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
}

/// The newest report of a full run of everything; of a quick one, where there is no other.
fn newest() -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join("bench/results"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".json") {
            continue;
        }
        let report = read(&name)?;
        let whole = ["M1", "M9", "M13"].iter().all(|id| report.metrics.iter().any(|m| m.id == *id));
        if whole {
            found.push((!report.quick, report.taken_at, name));
        }
    }
    found.sort();
    Ok(found.pop().context("no report of a whole run in bench/results: run `cargo xtask bench`")?.2)
}

/// Makes table and plots anew.
pub fn write() -> Result<()> {
    let name = newest()?;
    let report = read(&name)?;
    let text = fs::read_to_string(page()).context("failed to read docs/performance.md")?;
    let (before, after) = parts(&text)?;
    fs::write(page(), format!("{before}{}{after}", section(&name, &report)))?;
    fs::create_dir_all(plots())?;
    for (file, svg) in drawn(&report) {
        fs::write(plots().join(file), svg)?;
    }
    eprintln!("bench: docs/performance.md is made from {name}");
    Ok(())
}

/// What of the page is written by hand: before and after what is made.
fn parts(text: &str) -> Result<(&str, &str)> {
    let begin = text.find(BEGIN).context("docs/performance.md has no mark of what is made")?;
    let end = text.find(END).context("docs/performance.md has no end of what is made")?;
    ensure!(begin < end, "the marks of docs/performance.md are in the wrong order");
    Ok((&text[..begin], &text[end + END.len()..]))
}

fn section(name: &str, report: &BenchReport) -> String {
    let [rounds, loads] = report.rounds;
    let mut text = format!("{BEGIN}{name} -->\n\n");
    text += &format!(
        "{}, Linux {}, {}; {rounds} rounds in each of {loads} loads of everything{}.\n\n",
        report.cpu,
        report.kernel,
        report.taken_at,
        if report.quick { ", a quick run" } else { "" }
    );
    text += &table(&report.metrics);
    for note in &report.notes {
        text += &format!("\n* {note}");
    }
    text += "\n\n![Time in the programs](performance/programs.svg)\n\n![A TCP connection](performance/connect.svg)\n\n";
    text += "![What each feature adds](performance/features.svg)\n\n";
    text + END
}

fn drawn(report: &BenchReport) -> Vec<(&'static str, String)> {
    let of = |prefix: &'static str| report.metrics.iter().filter(move |m| m.id.starts_with(prefix));
    let mut programs = Vec::new();
    for m in report.metrics.iter().filter(|m| m.unit == "ns" && m.ratio.is_some() && !m.id.starts_with("M7"))
    {
        let Some(baseline) = m.baseline else { continue };
        programs.push(Bar {
            label: shortened(m),
            value: m.value,
            series: 0,
            mark: limit(m).map(|l| l * baseline),
        });
        programs.push(Bar { label: String::new(), value: baseline, series: 1, mark: None });
    }
    let mut connect = Vec::new();
    for m in of("M7").filter(|m| m.id != "M7-udp") {
        if let (true, Some(baseline)) = (m.id == "M7", m.baseline) {
            connect.push(Bar {
                label: "no program".to_owned(),
                value: baseline / 1e3,
                series: 1,
                mark: None,
            });
            connect.push(Bar {
                label: "the product, events on".to_owned(),
                value: m.value / 1e3,
                series: 0,
                mark: None,
            });
        } else {
            let label = m.id.trim_start_matches("M7-").to_owned();
            connect.push(Bar { label, value: m.value / 1e3, series: 1, mark: None });
        }
    }
    let features: Vec<Bar> = of("F-")
        .filter(|m| m.ratio.is_none())
        .map(|m| Bar {
            label: m.name.trim_end_matches(": net cost").to_owned(),
            value: m.value,
            series: 0,
            mark: None,
        })
        .collect();
    vec![
        (
            "programs.svg",
            bars(
                "Time in the programs (a red line: the target)",
                "ns",
                &["the product", "beside it"],
                &programs,
            ),
        ),
        (
            "connect.svg",
            bars("TCP on loopback, connect to close", "µs", &["the product", "others"], &connect),
        ),
        ("features.svg", bars("What each feature adds to connect4", "ns", &["net cost"], &features)),
    ]
}

fn shortened(m: &Metric) -> String {
    let name: String = m.name.chars().take(44).collect();
    format!(
        "{} {}",
        m.id.split('-').next().unwrap_or_default(),
        if name.len() < m.name.len() { name + "…" } else { name }
    )
}

/// The limit in a target like `≤ 2×`.
fn limit(m: &Metric) -> Option<f64> {
    m.target.as_ref()?.strip_prefix("≤ ")?.strip_suffix('×')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page says what the report says that it names, and so do the plots.
    #[test]
    fn page_and_report_agree() {
        let text = fs::read_to_string(page()).unwrap();
        let (before, after) = parts(&text).unwrap();
        let named = text[before.len() + BEGIN.len()..].split_once(" -->").unwrap().0;
        let report = read(named).unwrap();
        assert_eq!(
            text,
            format!("{before}{}{after}", section(named, &report)),
            "run `cargo xtask bench --page`"
        );
        for (file, svg) in drawn(&report) {
            assert_eq!(
                fs::read_to_string(plots().join(file)).unwrap(),
                svg,
                "{file}: run `cargo xtask bench --page`"
            );
        }
    }

    /// What is said by hand of how it was before is what the report says that is named there.
    #[test]
    fn figures_of_before_are_of_the_report_that_is_named() {
        let text = fs::read_to_string(page()).unwrap();
        let tried = text.split_once("## What was tried").unwrap().1;
        let named = tried.split_once("`bench/results/").unwrap().1.split_once('`').unwrap().0;
        let report = read(named).unwrap();
        let words: Vec<&str> = tried.split_whitespace().collect();
        let ratios = words.windows(2).filter_map(|pair| {
            let ratio = pair[1].trim_end_matches([',', '.', ':']).strip_suffix('×')?;
            Some((pair[0], ratio))
        });
        let mut seen = 0;
        for (id, ratio) in ratios {
            let m = report.metrics.iter().find(|m| m.id == id).unwrap_or_else(|| panic!("no figure {id}"));
            assert_eq!(format!("{:.2}", m.ratio.unwrap()), ratio, "{id}");
            seen += 1;
        }
        assert_eq!(seen, 5);
    }

    /// Every figure of every committed report is in the shape that others read.
    #[test]
    fn reports_are_of_their_shape() {
        for entry in fs::read_dir(root().join("bench/results")).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if !name.ends_with(".json") {
                continue;
            }
            let report = read(&name).unwrap();
            assert_eq!(report.kind, "BenchReport", "{name}");
            for m in &report.metrics {
                assert_eq!(m.reached.is_some(), m.target.is_some(), "{name}: {}", m.id);
                if let (Some(limit), Some(ratio), Some(reached)) = (limit(m), m.ratio, m.reached) {
                    assert_eq!(reached, ratio <= limit, "{name}: {}", m.id);
                }
                if let (Some([low, high]), Some(ratio)) = (m.interval, m.ratio) {
                    assert!(low <= ratio && ratio <= high, "{name}: {} {ratio} of [{low}, {high}]", m.id);
                }
            }
        }
    }

    #[test]
    fn limits_are_read_from_targets() {
        let mut m = Metric::new("M1", "x", 1.0, "ns");
        m.target = Some("≤ 1.25×".to_owned());
        assert_eq!(limit(&m), Some(1.25));
        m.target = Some("≤ 16 MB".to_owned());
        assert_eq!(limit(&m), None);
    }
}

//! Do several runs agree? The intervals of each ratio have to have something in common.
//!
//! A plain time or difference moves with the machine: whether those agree is told and not judged.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use crate::report::{BenchReport, Metric, number};

/// Prints what of each figure the reports say; an error where ratios do not agree.
pub fn print(files: &[PathBuf]) -> Result<()> {
    let reports = files
        .iter()
        .map(|file| {
            let text =
                fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
            serde_json::from_str::<BenchReport>(&text)
                .with_context(|| format!("{} is no report", file.display()))
        })
        .collect::<Result<Vec<_>>>()?;
    let rows = compared(&reports);
    let width = rows.iter().map(|row| row.id.chars().count()).max().unwrap_or(0);
    for row in &rows {
        let intervals: Vec<String> =
            row.intervals.iter().map(|[low, high]| format!("{}–{}", number(*low), number(*high))).collect();
        println!("{:<width$}  {:<9}  {}", row.id, row.word(), intervals.join("  "));
    }
    let of = |is_ratio: bool| {
        let all = rows.iter().filter(|row| row.is_ratio == is_ratio);
        (all.clone().filter(|row| row.agree).count(), all.count())
    };
    let ((ratios_agree, ratios), (others_agree, others)) = (of(true), of(false));
    println!("\n{ratios_agree} of {ratios} ratios agree, {others_agree} of {others} other figures");
    let apart = ratios - ratios_agree;
    ensure!(apart == 0, "{apart} ratios do not agree within their intervals");
    Ok(())
}

#[derive(Debug, PartialEq)]
struct Row {
    id: String,
    intervals: Vec<[f64; 2]>,
    /// Is it a ratio to something measured beside it?
    is_ratio: bool,
    agree: bool,
}

impl Row {
    const fn word(&self) -> &'static str {
        match (self.agree, self.is_ratio) {
            (true, _) => "agree",
            (false, true) => "DISAGREE",
            (false, false) => "moved",
        }
    }
}

/// The figures that each report has with an interval, in the first one's order.
fn compared(reports: &[BenchReport]) -> Vec<Row> {
    let by_id: Vec<BTreeMap<&str, &Metric>> =
        reports.iter().map(|r| r.metrics.iter().map(|m| (m.id.as_str(), m)).collect()).collect();
    let first = reports.first().map(|r| r.metrics.as_slice()).unwrap_or_default();
    first
        .iter()
        .filter_map(|m| {
            let intervals: Vec<[f64; 2]> =
                by_id.iter().map(|all| all.get(m.id.as_str())?.interval).collect::<Option<_>>()?;
            let low = intervals.iter().map(|i| i[0]).fold(f64::NEG_INFINITY, f64::max);
            let high = intervals.iter().map(|i| i[1]).fold(f64::INFINITY, f64::min);
            Some(Row { id: m.id.clone(), intervals, is_ratio: m.ratio.is_some(), agree: low <= high })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Estimate;

    fn report(metrics: &[(&str, Option<[f64; 2]>)]) -> BenchReport {
        let metric = |(id, interval): &(&str, Option<[f64; 2]>)| {
            let m = Metric::new(id, "x", 1.0, "ns");
            interval.map_or(m.clone(), |[low, high]| m.within(Estimate { value: 1.0, low, high }))
        };
        BenchReport {
            kind: "BenchReport".to_owned(),
            kernel: String::new(),
            cpu: String::new(),
            taken_at: String::new(),
            quick: false,
            rounds: [1, 1],
            notes: Vec::new(),
            metrics: metrics.iter().map(metric).collect(),
        }
    }

    #[test]
    fn all_intervals_have_to_have_something_in_common() {
        let reports = [
            report(&[
                ("chain", Some([1.0, 2.0])),
                ("touch", Some([1.0, 2.0])),
                ("bare", None),
                ("one", Some([1.0, 1.0])),
            ]),
            report(&[("touch", Some([2.0, 3.0])), ("chain", Some([1.9, 3.0])), ("bare", Some([1.0, 1.0]))]),
            report(&[("chain", Some([2.5, 4.0])), ("touch", Some([0.0, 9.0])), ("bare", Some([1.0, 1.0]))]),
        ];
        let rows = compared(&reports);
        let told: Vec<(&str, bool)> = rows.iter().map(|row| (row.id.as_str(), row.agree)).collect();
        // Each neighbour of `chain` overlaps, its ends do not; what one report lacks is not judged.
        assert_eq!(told, [("chain", false), ("touch", true)]);
        assert_eq!(rows[1].intervals, [[1.0, 2.0], [2.0, 3.0], [0.0, 9.0]]);
    }

    #[test]
    fn what_has_nothing_beside_it_may_move() {
        let apart = [report(&[("m", Some([1.0, 2.0]))]), report(&[("m", Some([3.0, 4.0]))])];
        assert_eq!(compared(&apart)[0].word(), "moved");
        let ratios = apart.map(|mut report| {
            report.metrics[0].ratio = Some(1.0);
            report
        });
        assert_eq!(compared(&ratios)[0].word(), "DISAGREE");
        assert_eq!(compared(&[ratios[0].clone(), ratios[0].clone()])[0].word(), "agree");
    }
}

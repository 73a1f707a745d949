//! What a run found: the document, and the table that is made from it.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::stats::Estimate;

/// A run of the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// `BenchReport`.
    pub kind: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the CPU, and how many.
    pub cpu: String,
    /// When, RFC 3339.
    pub taken_at: String,
    /// A short run, with wider intervals.
    pub quick: bool,
    /// How many rounds in how many loads of everything.
    pub rounds: [usize; 2],
    /// What was not measured, and why.
    pub notes: Vec<String>,
    /// The figures.
    pub metrics: Vec<Metric>,
}

/// A figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// `M1` to `M16`, `K1` to `K3`, with a suffix where one id has several figures, or `F-` and a feature.
    pub id: String,
    /// What was measured.
    pub name: String,
    /// The product's figure.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it is compared with.
    pub against: Option<String>,
    /// The figure of that, measured beside it.
    pub baseline: Option<f64>,
    /// Value by baseline, paired by round; with `difference` value less baseline.
    pub ratio: Option<f64>,
    /// 99 % confidence interval of the ratio or, without one, of the value.
    pub interval: Option<[f64; 2]>,
    /// What is asked for, as text.
    pub target: Option<String>,
    /// Is it so?
    pub reached: Option<bool>,
}

impl Metric {
    /// A figure that is not compared with anything.
    #[must_use]
    pub fn new(id: &str, name: &str, value: f64, unit: &str) -> Self {
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            value,
            unit: unit.to_owned(),
            against: None,
            baseline: None,
            ratio: None,
            interval: None,
            target: None,
            reached: None,
        }
    }

    /// Compared with a baseline.
    #[must_use]
    pub fn against(mut self, what: &str, baseline: f64, ratio: Estimate) -> Self {
        self.against = Some(what.to_owned());
        self.baseline = Some(baseline);
        self.ratio = Some(ratio.value);
        self.interval = Some([ratio.low, ratio.high]);
        self
    }

    /// With the interval of the value itself.
    #[must_use]
    pub fn within(mut self, estimate: Estimate) -> Self {
        self.interval = Some([estimate.low, estimate.high]);
        self
    }

    /// The ratio is to be at most this.
    #[must_use]
    pub fn ratio_at_most(mut self, limit: f64) -> Self {
        self.target = Some(format!("≤ {limit}×"));
        self.reached = self.ratio.map(|ratio| ratio <= limit);
        self
    }

    /// The value is to be at most this.
    #[must_use]
    pub fn at_most(mut self, limit: f64) -> Self {
        self.target = Some(format!("≤ {limit} {}", self.unit));
        self.reached = Some(self.value <= limit);
        self
    }
}

/// A number as tables show it: three digits that count.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v == 0.0 || (v >= 100.0) => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

const HEAD: [&str; 7] = ["id", "what", "figure", "beside it", "ratio", "target", "reached"];

fn cells(m: &Metric) -> [String; 7] {
    let interval =
        m.interval.map(|[low, high]| format!(" [{}–{}]", number(low), number(high))).unwrap_or_default();
    let value = format!("{} {}", number(m.value), m.unit);
    [
        m.id.clone(),
        m.name.clone(),
        if m.ratio.is_none() { value + &interval } else { value },
        match (&m.against, m.baseline) {
            (Some(what), Some(baseline)) => format!("{what} {} {}", number(baseline), m.unit),
            (Some(what), None) => what.clone(),
            _ => String::new(),
        },
        m.ratio.map(|ratio| format!("{ratio:.2}×{interval}")).unwrap_or_default(),
        m.target.clone().unwrap_or_default(),
        match m.reached {
            Some(true) => "yes".to_owned(),
            Some(false) => "**no**".to_owned(),
            None => String::new(),
        },
    ]
}

/// The table, in Markdown with aligned columns.
#[must_use]
pub fn table(metrics: &[Metric]) -> String {
    let rows: Vec<[String; 7]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(metrics.iter().map(cells)).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (i, row) in rows.iter().enumerate() {
        text += "|";
        for (cell, width) in row.iter().zip(widths) {
            text += &format!(" {cell:<width$} |");
        }
        text += "\n";
        if i == 0 {
            text += "|";
            for width in widths {
                text += &format!("{}|", "-".repeat(width + 2));
            }
            text += "\n";
        }
    }
    text
}

/// The processor's name and number.
pub fn cpu() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").context("failed to read /proc/cpuinfo")?;
    let model = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    let count = crate::worker::cpus();
    Ok(format!("{} × {count}", model.map_or("unknown", |(_, model)| model.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_three_digits() {
        assert_eq!(
            [0.0, 0.1234, 1.234, 12.34, 123.4, 12345.0].map(number),
            ["0", "0.123", "1.23", "12.3", "123", "12345"]
        );
    }

    #[test]
    fn a_target_is_reached_at_its_limit() {
        let e = Estimate { value: 2.0, low: 1.9, high: 2.1 };
        let m = Metric::new("M1", "x", 200.0, "ns").against("ideal", 100.0, e);
        assert_eq!(m.clone().ratio_at_most(2.0).reached, Some(true));
        assert_eq!(m.clone().ratio_at_most(1.9).reached, Some(false));
        assert_eq!(m.at_most(199.0).reached, Some(false));
    }
}

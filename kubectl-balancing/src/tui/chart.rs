//! Numbers as pictures of characters: trends, charts, bars, gauges. Every one has an ASCII twin. Pure.

use super::fit::{fit, width};
use crate::{columns::Ellipsis, text::scaled};

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN_LEVELS: [char; 8] = ['_', '.', '-', '=', '+', '*', '#', '@'];

/// The largest value; 0 where there is none.
#[must_use]
pub fn largest(values: &[Option<f64>]) -> f64 {
    values.iter().flatten().copied().filter(|v| v.is_finite()).fold(0.0, f64::max)
}

/// One character a value, from 0 to the largest of them; a dot or blank where nothing was measured.
#[must_use]
pub fn sparkline(values: &[Option<f64>], unicode: bool) -> String {
    let most = largest(values);
    let (levels, gap) = if unicode { (LEVELS, '·') } else { (PLAIN_LEVELS, ' ') };
    let mark = |value: &Option<f64>| match value {
        Some(v) if most > 0.0 && *v > 0.0 => levels[((v / most * 7.0).round() as usize).clamp(1, 7)],
        Some(_) => levels[0],
        None => gap,
    };
    values.iter().map(mark).collect()
}

/// A chart of so many rows, one column a value, with the largest value and 0 beside it. What was not measured is empty
/// down to the axis, where a dot says so.
#[must_use]
pub fn chart(values: &[Option<f64>], rows: usize, unicode: bool) -> Vec<String> {
    const LABEL: u16 = 8;
    let most = largest(values);
    // A chart of zeros has an axis that ends somewhere.
    let top = if most > 0.0 { most } else { 1.0 };
    let (corner, line) = if unicode { ("┤", "│") } else { ("+", "|") };
    let mut out = Vec::new();
    for row in 0..rows {
        // Eighths of this row and those below it that a value must reach.
        let below = rows - 1 - row;
        let mark = |value: &Option<f64>| match value {
            None if below == 0 => '·',
            None => ' ',
            Some(v) => {
                let eighths = (v / top * rows as f64 * 8.0).round() as usize;
                match (eighths.saturating_sub(below * 8).min(8), below) {
                    (0, 0) => LEVELS[0],
                    (0, _) => ' ',
                    (n, _) => LEVELS[n - 1],
                }
            }
        };
        let plain = |c: char| match c {
            '·' => '.',
            ' ' => ' ',
            '▁' | '▂' => '_',
            '▃' | '▄' | '▅' => '=',
            _ => '#',
        };
        let bars: String = values.iter().map(mark).map(|c| if unicode { c } else { plain(c) }).collect();
        let (label, axis) = match (row, below) {
            (0, _) => (scaled(top), corner),
            (_, 0) => ("0".to_owned(), corner),
            _ => (String::new(), line),
        };
        out.push(format!("{} {axis}{bars}", fit(&label, LABEL, Ellipsis::Right, true, unicode)));
    }
    out
}

/// Cells that a chart has beside its columns.
pub const CHART_MARGIN: u16 = 10;

/// A bar of so many cells for a part of 1, eighth by eighth.
#[must_use]
pub fn bar(part: f64, cells: u16, unicode: bool) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let part = if part.is_finite() { part.clamp(0.0, 1.0) } else { 0.0 };
    let eighths = (part * f64::from(cells) * 8.0).round() as usize;
    let mut out =
        if unicode { "█".repeat(eighths / 8) + PARTS[eighths % 8] } else { "#".repeat((eighths + 4) / 8) };
    let blanks = usize::from(cells.saturating_sub(width(&out)));
    out.push_str(&" ".repeat(blanks));
    out
}

/// A gauge: how much of something is used.
#[must_use]
pub fn gauge(part: f64, cells: u16, unicode: bool) -> String {
    let filled = bar(part, cells, unicode);
    let track = if unicode { "░" } else { "." };
    format!("[{}] {:>3.0}%", filled.replace(' ', track), part * 100.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn gaps_are_no_zeros() {
        let values = [Some(0.0), Some(1.0), None, Some(7.0)];
        assert_eq!(sparkline(&values, true), "▁▂·█");
        assert_eq!(sparkline(&values, false), "_. @");
        assert_eq!(sparkline(&[None, Some(0.0)], true), "·▁");
    }

    #[test]
    fn a_chart_begins_at_zero_and_names_its_top() {
        let values = [Some(0.0), None, Some(50.0), Some(100.0)];
        assert_eq!(chart(&values, 2, true), ["     100 ┤   █", "       0 ┤▁·██"]);
        assert_eq!(chart(&values, 2, false), ["     100 +   #", "       0 +_.##"]);
        assert_eq!(chart(&[Some(0.0)], 2, true), ["     1.0 ┤ ", "       0 ┤▁"]);
    }

    #[test]
    fn bars_and_gauges() {
        assert_eq!(bar(0.5, 4, true), "██  ");
        assert_eq!(bar(0.53, 4, true), "██▏ ");
        assert_eq!(bar(0.5, 4, false), "##  ");
        assert_eq!(gauge(0.61, 10, true), "[██████▏░░░]  61%");
        assert_eq!(gauge(1.0, 4, false), "[####] 100%");
    }

    proptest! {
        #[test]
        fn pictures_have_the_size_they_should(
            values in prop::collection::vec(prop::option::of(-1e9..1e12f64), 0..80),
            rows in 0usize..20, part in any::<f64>(), cells in 0u16..60, unicode: bool
        ) {
            prop_assert_eq!(sparkline(&values, unicode).chars().count(), values.len());
            let chart = chart(&values, rows, unicode);
            prop_assert_eq!(chart.len(), rows);
            for line in chart {
                prop_assert_eq!(usize::from(width(&line)), values.len() + usize::from(CHART_MARGIN));
            }
            prop_assert_eq!(width(&bar(part, cells, unicode)), cells);
        }
    }
}

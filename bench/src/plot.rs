//! Bar charts as SVG.

use std::fmt::Write as _;

use crate::report::number;

/// A bar: what it stands for, its value, and where a mark lies on it (a target).
#[derive(Clone, Debug)]
pub struct Bar {
    /// Label.
    pub label: String,
    /// Length.
    pub value: f64,
    /// Which series it belongs to.
    pub series: usize,
    /// A target.
    pub mark: Option<f64>,
}

const COLOURS: [&str; 3] = ["#2f6f9f", "#9aa5ad", "#c8843c"];
const LEFT: f64 = 330.0;
const WIDTH: f64 = 430.0;
const ROW: f64 = 22.0;
const TOP: f64 = 64.0;

/// A chart of horizontal bars. Marks are short lines across their bars.
#[must_use]
pub fn bars(title: &str, unit: &str, series: &[&str], bars: &[Bar]) -> String {
    let longest = bars.iter().flat_map(|bar| [bar.value, bar.mark.unwrap_or(0.0)]).fold(1e-9, f64::max);
    let height = TOP + ROW * bars.len() as f64 + 16.0;
    let full = LEFT + WIDTH + 100.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {full:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"22\" font-size=\"15\" font-weight=\"bold\">{}</text>\n",
        escaped(title)
    );
    // Writing to a String cannot fail.
    let mut x = 12.0;
    for (name, colour) in series.iter().zip(COLOURS) {
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"36\" width=\"11\" height=\"11\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"46\">{}</text>",
            x + 16.0,
            escaped(name)
        );
        x += 40.0 + 7.0 * name.chars().count() as f64;
    }
    for (i, bar) in bars.iter().enumerate() {
        let y = TOP + ROW * i as f64;
        let length = bar.value.max(0.0) / longest * WIDTH;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{length:.1}\" height=\"15\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{} {}</text>",
            LEFT - 8.0,
            y + 12.0,
            escaped(&bar.label),
            COLOURS[bar.series % COLOURS.len()],
            LEFT + length.max(bar.mark.unwrap_or(0.0) / longest * WIDTH) + 6.0,
            y + 12.0,
            number(bar.value),
            escaped(unit)
        );
        if let Some(mark) = bar.mark {
            let at = LEFT + mark / longest * WIDTH;
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.0}\" y2=\"{:.0}\" stroke=\"#b03030\" stroke-width=\"2\"/>",
                y - 2.0,
                y + 17.0
            );
        }
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value, mark| Bar { label: "a < b".to_owned(), value, series: 0, mark };
        let svg = bars("t", "ns", &["x"], &[bar(50.0, None), bar(100.0, Some(200.0))]);
        assert!(svg.contains("width=\"107.5\""), "a quarter of 430: {svg}");
        assert!(svg.contains("width=\"215.0\"") && svg.contains("x1=\"760.0\""), "{svg}");
        assert!(svg.contains("a &lt; b") && !svg.contains("a < b"));
    }
}

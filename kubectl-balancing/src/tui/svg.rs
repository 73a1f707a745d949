//! A screen as a picture: the cells of a terminal as SVG, the same bytes for the same cells. Pure.

use std::{collections::HashMap, fmt::Write as _};

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier},
};

use super::{fit::width, style::Theme};

/// Size of a cell, in units of the picture.
const CELL: (f64, f64) = (8.43, 16.3);
/// From the top of a cell to the line that letters stand on.
const BASELINE: f64 = 13.0;
const MARGIN: f64 = 10.0;
/// What the terminal's own colours are in a picture.
#[derive(Clone, Copy)]
struct Paper {
    fore: &'static str,
    back: &'static str,
}

impl Paper {
    fn of(theme: Theme) -> Self {
        match theme {
            Theme::Light => Self { fore: "#24292f", back: "#ffffff" },
            _ => Self { fore: "#d8dee9", back: "#1b1f27" },
        }
    }
}

/// How a run of cells is drawn.
#[derive(Clone, PartialEq)]
struct Look {
    colour: String,
    back: Option<String>,
    modifiers: Modifier,
}

/// The picture.
#[must_use]
pub fn svg(buffer: &Buffer, theme: Theme) -> String {
    let paper = Paper::of(theme);
    format!("{}{}</svg>\n", begin(buffer.area.width, buffer.area.height, paper), cells(buffer, paper))
}

/// What stands before the cells of a picture of so many columns and rows.
fn begin(columns: u16, rows: u16, paper: Paper) -> String {
    let Paper { fore, back } = paper;
    let width = f64::from(columns) * CELL.0 + 2.0 * MARGIN;
    let height = f64::from(rows) * CELL.1 + 2.0 * MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" fill=\"{fore}\">\n{STYLE}\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{back}\"/>\n"
    )
}

const STYLE: &str = "<style>text{font:14px 'DejaVu Sans Mono','Menlo','Consolas',monospace}\
    .b{font-weight:bold}.d{opacity:.6}.u{text-decoration:underline}</style>\n";

/// The cells alone.
fn cells(buffer: &Buffer, paper: Paper) -> String {
    (0..buffer.area.height).map(|row| row_of(buffer, row, MARGIN + f64::from(row) * CELL.1, paper)).collect()
}

/// The cells of a row, at this height of the picture.
fn row_of(buffer: &Buffer, row: u16, y: f64, paper: Paper) -> String {
    let mut runs: Vec<(u16, u16, Look, String)> = Vec::new();
    let mut skip = 0;
    for column in 0..buffer.area.width {
        if skip > 0 {
            skip -= 1;
            continue;
        }
        let Some(cell) = buffer.cell((buffer.area.x + column, buffer.area.y + row)) else { continue };
        let wide = width(cell.symbol()).max(1);
        skip = wide - 1;
        let look = look(cell.fg, cell.bg, cell.modifier, paper);
        match runs.last_mut() {
            Some((_, cells, last, text)) if *last == look => {
                *cells += wide;
                text.push_str(cell.symbol());
            }
            _ => runs.push((column, wide, look, cell.symbol().to_owned())),
        }
    }
    let mut out = String::new();
    for (column, cells, look, text) in runs {
        if let Some(back) = &look.back {
            let (x, wide) = (at(column), f64::from(cells) * CELL.0);
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" fill=\"{back}\"/>",
                CELL.1
            );
        }
        // Not every viewer keeps blanks, so words far apart are texts of their own.
        let mut column = column;
        for part in text.split("  ") {
            word(&mut out, column, y, &look, part, paper);
            column += width(part) + 2;
        }
    }
    out
}

fn at(column: u16) -> f64 {
    MARGIN + f64::from(column) * CELL.0
}

fn word(out: &mut String, column: u16, y: f64, look: &Look, text: &str, paper: Paper) {
    let lead = text.len() - text.trim_start_matches(' ').len();
    let shown = text.trim_matches(' ');
    if shown.is_empty() {
        return;
    }
    let mut class = String::new();
    for (modifier, name) in [(Modifier::BOLD, "b"), (Modifier::DIM, "d"), (Modifier::UNDERLINED, "u")] {
        if look.modifiers.contains(modifier) {
            class.push_str(if class.is_empty() { "" } else { " " });
            class.push_str(name);
        }
    }
    let class = if class.is_empty() { class } else { format!(" class=\"{class}\"") };
    let fill = if look.colour == paper.fore { String::new() } else { format!(" fill=\"{}\"", look.colour) };
    // The length makes every viewer place the cells alike, whatever its font.
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\"{fill} textLength=\"{:.1}\"{class}>{}</text>",
        at(column + lead as u16),
        y + BASELINE,
        f64::from(width(shown)) * CELL.0,
        escaped(shown)
    );
}

fn look(fg: Color, bg: Color, modifiers: Modifier, paper: Paper) -> Look {
    let colour = hex(fg).unwrap_or_else(|| paper.fore.to_owned());
    let back = hex(bg);
    if modifiers.contains(Modifier::REVERSED) {
        let back_was = back.unwrap_or_else(|| paper.back.to_owned());
        return Look { colour: back_was, back: Some(colour), modifiers };
    }
    Look { colour, back, modifiers }
}

/// The colours of a dark terminal; none for its own.
fn hex(colour: Color) -> Option<String> {
    let rgb = match colour {
        Color::Reset => return None,
        Color::Black => (0x1b, 0x1f, 0x27),
        Color::Red => (0xd0, 0x4a, 0x4a),
        Color::Green => (0x6a, 0xa8, 0x4f),
        Color::Yellow => (0xe5, 0xb5, 0x4a),
        Color::Blue => (0x4a, 0x7f, 0xd0),
        Color::Magenta => (0xb0, 0x6a, 0xc0),
        Color::Cyan => (0x4a, 0xb0, 0xb8),
        Color::Gray => (0xc0, 0xc4, 0xcc),
        Color::DarkGray => (0x70, 0x76, 0x82),
        Color::LightRed => (0xff, 0x6b, 0x5e),
        Color::LightGreen => (0x8f, 0xd0, 0x70),
        Color::LightYellow => (0xff, 0xd8, 0x70),
        Color::LightBlue => (0x6c, 0xa8, 0xff),
        Color::LightMagenta => (0xd8, 0x90, 0xe8),
        Color::LightCyan => (0x78, 0xd8, 0xe0),
        Color::White => (0xff, 0xff, 0xff),
        Color::Rgb(r, g, b) => (r, g, b),
        Color::Indexed(i) => indexed(i),
    };
    Some(format!("#{:02x}{:02x}{:02x}", rgb.0, rgb.1, rgb.2))
}

/// The colour cube and the greys of 256-colour terminals.
fn indexed(i: u8) -> (u8, u8, u8) {
    match i {
        0..16 => (0xc0, 0xc4, 0xcc),
        16..232 => {
            let step = |n: u8| if n == 0 { 0 } else { 55 + 40 * n };
            let i = i - 16;
            (step(i / 36), step(i / 6 % 6), step(i % 6))
        }
        232.. => {
            let grey = 8 + 10 * (i - 232);
            (grey, grey, grey)
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Several screens one after the other, each for so many seconds, again and again. A row that many screens have is there
/// once.
#[must_use]
pub fn animation(frames: &[(Buffer, f64)]) -> String {
    let Some((first, _)) = frames.first() else { return String::new() };
    let paper = Paper::of(Theme::Dark);
    let all: f64 = frames.iter().map(|(_, seconds)| seconds).sum();
    let mut rows: Vec<String> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut shown = String::new();
    let mut times = String::from("g{visibility:hidden}#f0{visibility:visible}");
    let mut begun = 0.0;
    for (i, (buffer, seconds)) in frames.iter().enumerate() {
        let (from, to) = (begun / all * 100.0, (begun + seconds) / all * 100.0);
        // The last frame stays to the end, so that there is none without a picture.
        let hide =
            if i + 1 == frames.len() { String::new() } else { format!("{to:.2}%{{visibility:hidden}}") };
        let show = if i == 0 { String::new() } else { "0%{visibility:hidden}".to_owned() };
        let _ = write!(times, "@keyframes f{i}{{{show}{from:.2}%{{visibility:visible}}{hide}}}");
        let _ = write!(times, "#f{i}{{animation:f{i} {all:.1}s step-end infinite}}");
        begun += seconds;
        let _ = writeln!(shown, "<g id=\"f{i}\">");
        for row in 0..buffer.area.height {
            let cells = row_of(buffer, row, 0.0, paper);
            if cells.is_empty() {
                continue;
            }
            let next = rows.len();
            let id = *known.entry(cells.clone()).or_insert(next);
            if id == next {
                rows.push(cells);
            }
            let _ = writeln!(shown, "<use href=\"#r{id}\" y=\"{:.1}\"/>", MARGIN + f64::from(row) * CELL.1);
        }
        shown.push_str("</g>\n");
    }
    let mut out = begin(first.area.width, first.area.height, paper);
    let _ = writeln!(out, "<style>{times}</style>\n<defs>");
    for (id, row) in rows.iter().enumerate() {
        // Not a group: those are hidden.
        let _ = writeln!(out, "<svg id=\"r{id}\" overflow=\"visible\">\n{row}</svg>");
    }
    let _ = writeln!(out, "</defs>\n{shown}</svg>");
    out
}

#[cfg(test)]
mod tests {
    use ratatui::{layout::Rect, style::Style};

    use super::*;

    #[test]
    fn cells_of_one_look_are_one_text_and_nothing_is_markup() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 12, 2));
        buffer.set_string(1, 0, "a<b & c", Style::new().fg(Color::LightRed).add_modifier(Modifier::BOLD));
        buffer.set_string(0, 1, "漢x", Style::new().add_modifier(Modifier::REVERSED));
        let picture = svg(&buffer, Theme::Dark);
        assert!(
            picture.contains("fill=\"#ff6b5e\" textLength=\"59.0\" class=\"b\">a&lt;b &amp; c</text>"),
            "{picture}"
        );
        assert!(picture.contains(">漢x</text>") && picture.contains("textLength=\"25.3\""), "{picture}");
        assert_eq!(picture.matches("<text").count(), 2);
    }

    #[test]
    fn an_animation_has_every_frame_once() {
        let frame = |text: &str| {
            let mut buffer = Buffer::empty(Rect::new(0, 0, 5, 1));
            buffer.set_string(0, 0, text, Style::new());
            buffer
        };
        let picture = animation(&[(frame("one"), 1.0), (frame("two"), 3.0)]);
        assert_eq!((picture.matches(">one<").count(), picture.matches(">two<").count()), (1, 1));
        assert!(
            picture.contains("@keyframes f1{0%{visibility:hidden}25.00%{visibility:visible}}"),
            "{picture}"
        );
    }
}

//! A screen as a picture: the cells of a terminal as SVG, the same bytes for the same cells. Pure.

use std::fmt::Write as _;

use ratatui::{
    buffer::Buffer,
    style::{Color, Modifier},
};

/// Size of a cell, in units of the picture.
const CELL: (f64, f64) = (8.4, 18.0);
const MARGIN: f64 = 10.0;
/// What the terminal's own colours are in a picture.
const FOREGROUND: &str = "#d8dee9";
const BACKGROUND: &str = "#1b1f27";

/// How a run of cells is drawn.
#[derive(Clone, PartialEq)]
struct Look {
    colour: String,
    back: Option<String>,
    modifiers: Modifier,
}

/// The picture.
#[must_use]
pub fn svg(buffer: &Buffer) -> String {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let size = (f64::from(columns) * CELL.0 + 2.0 * MARGIN, f64::from(rows) * CELL.1 + 2.0 * MARGIN);
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.1} {:.1}\" width=\"{:.0}\" height=\"{:.0}\">",
        size.0, size.1, size.0, size.1
    );
    out.push_str(STYLE);
    let _ = writeln!(out, "<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>");
    out.push_str(&cells(buffer));
    out.push_str("</svg>\n");
    out
}

const STYLE: &str = "<style>text{font:14px 'DejaVu Sans Mono','Menlo','Consolas',monospace;white-space:pre}\
    .b{font-weight:bold}.d{opacity:.6}.u{text-decoration:underline}</style>\n";

/// The cells alone, a group that can be one frame of several.
fn cells(buffer: &Buffer) -> String {
    let mut out = String::new();
    for row in 0..buffer.area.height {
        let mut runs: Vec<(u16, u16, Look, String)> = Vec::new();
        let mut skip = 0;
        for column in 0..buffer.area.width {
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let Some(cell) = buffer.cell((buffer.area.x + column, buffer.area.y + row)) else { continue };
            let wide = super::fit::width(cell.symbol()).max(1);
            skip = wide - 1;
            let look = look(cell.fg, cell.bg, cell.modifier);
            match runs.last_mut() {
                Some((_, cells, last, text)) if *last == look => {
                    *cells += wide;
                    text.push_str(cell.symbol());
                }
                _ => runs.push((column, wide, look, cell.symbol().to_owned())),
            }
        }
        for (column, cells, look, text) in runs {
            run(&mut out, row, column, cells, &look, &text);
        }
    }
    out
}

fn run(out: &mut String, row: u16, column: u16, cells: u16, look: &Look, text: &str) {
    let (x, y) = (MARGIN + f64::from(column) * CELL.0, MARGIN + f64::from(row) * CELL.1);
    let width = f64::from(cells) * CELL.0;
    if let Some(back) = &look.back {
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{back}\"/>",
            CELL.1
        );
    }
    let lead = text.len() - text.trim_start_matches(' ').len();
    let shown = text.trim_matches(' ');
    if shown.is_empty() {
        return;
    }
    let x = x + lead as f64 * CELL.0;
    let shown_cells = super::fit::width(shown);
    let mut class = String::new();
    for (modifier, name) in [(Modifier::BOLD, "b"), (Modifier::DIM, "d"), (Modifier::UNDERLINED, "u")] {
        if look.modifiers.contains(modifier) {
            class.push_str(if class.is_empty() { "" } else { " " });
            class.push_str(name);
        }
    }
    let class = if class.is_empty() { class } else { format!(" class=\"{class}\"") };
    // The length makes every viewer place the cells alike, whatever its font.
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{}\" textLength=\"{:.1}\"{class}>{}</text>",
        y + CELL.1 - 5.0,
        look.colour,
        f64::from(shown_cells) * CELL.0,
        escaped(shown)
    );
}

fn look(fg: Color, bg: Color, modifiers: Modifier) -> Look {
    let colour = hex(fg).unwrap_or_else(|| FOREGROUND.to_owned());
    let back = hex(bg);
    if modifiers.contains(Modifier::REVERSED) {
        let back_was = back.unwrap_or_else(|| BACKGROUND.to_owned());
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

/// Several screens one after the other, each for so many seconds, again and again.
#[must_use]
pub fn animation(frames: &[(Buffer, f64)]) -> String {
    let Some((first, _)) = frames.first() else { return String::new() };
    let all: f64 = frames.iter().map(|(_, seconds)| seconds).sum();
    let size = (
        f64::from(first.area.width) * CELL.0 + 2.0 * MARGIN,
        f64::from(first.area.height) * CELL.1 + 2.0 * MARGIN,
    );
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.1} {:.1}\" width=\"{:.0}\" height=\"{:.0}\">",
        size.0, size.1, size.0, size.1
    );
    out.push_str(STYLE);
    out.push_str("<style>g{visibility:hidden}");
    let mut begun = 0.0;
    for (i, (_, seconds)) in frames.iter().enumerate() {
        let (from, to) = (begun / all * 100.0, (begun + seconds) / all * 100.0);
        // The last frame stays to the end, so that there is none without a picture.
        let hide =
            if i + 1 == frames.len() { String::new() } else { format!("{to:.3}%{{visibility:hidden}}") };
        let show = if i == 0 { String::new() } else { "0%{visibility:hidden}".to_owned() };
        let _ = write!(out, "@keyframes f{i}{{{show}{from:.3}%{{visibility:visible}}{hide}}}");
        let _ = write!(out, "#f{i}{{animation:f{i} {all:.1}s step-end infinite}}");
        begun += seconds;
    }
    out.push_str("</style>\n");
    let _ = writeln!(out, "<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>");
    for (i, (buffer, _)) in frames.iter().enumerate() {
        let _ = writeln!(out, "<g id=\"f{i}\">\n{}</g>", cells(buffer));
    }
    out.push_str("</svg>\n");
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
        let picture = svg(&buffer);
        assert!(
            picture.contains("fill=\"#ff6b5e\" textLength=\"58.8\" class=\"b\">a&lt;b &amp; c</text>"),
            "{picture}"
        );
        assert!(picture.contains(">漢x</text>") && picture.contains("textLength=\"25.2\""), "{picture}");
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
            picture.contains("@keyframes f1{0%{visibility:hidden}25.000%{visibility:visible}}"),
            "{picture}"
        );
    }
}

//! What a state looks like. A word stands beside every glyph and colour.

use ratatui::style::{Color, Modifier, Style};

use super::model::Model;
use crate::columns::Tone;

pub(super) fn style(model: &Model, tone: Tone) -> Style {
    let coloured = |c: Color| if model.colour { Style::new().fg(c) } else { Style::new() };
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => coloured(Color::Blue),
        Tone::Warn => coloured(Color::Yellow).add_modifier(Modifier::BOLD),
        Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
    }
}

pub(super) fn glyph(model: &Model, tone: Tone) -> &'static str {
    match (tone, model.unicode) {
        (Tone::Good, true) => "●",
        (Tone::Warn, true) => "▲",
        (Tone::Bad, true) => "✗",
        (Tone::Dim, true) => "◌",
        (Tone::Good, false) => "*",
        (Tone::Warn, false) => "!",
        (Tone::Bad, false) => "x",
        (Tone::Dim, false) => "-",
        (Tone::Plain, _) => " ",
    }
}

pub(super) const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(super) const DIM: Style = Style::new().add_modifier(Modifier::DIM);

pub(super) const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

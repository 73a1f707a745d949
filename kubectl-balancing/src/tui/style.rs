//! What a state looks like. A word stands beside every glyph and colour.

use clap::ValueEnum;
use ratatui::style::{Color, Modifier, Style};

use super::model::Model;
use crate::columns::Tone;

/// `--theme`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Theme {
    /// The terminal's own blue, yellow and red.
    #[default]
    Auto,
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
    /// No colours: weight, underlining and reversal alone.
    Mono,
    /// Blue, orange and vermilion of the palette by Okabe and Ito: told apart by everybody.
    Cb,
}

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

//! What a state looks like. A word stands beside every glyph and colour.

use clap::ValueEnum;
use ratatui::style::{Color, Modifier, Style};

use super::model::Model;
use crate::columns::Tone;

/// `--theme`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Theme {
    /// Light where the terminal says that its background is (COLORFGBG), else dark.
    #[default]
    Auto,
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
    /// No colours: weight, underlining and reversal alone.
    Mono,
    /// Blue, orange and vermilion after Okabe and Ito: told apart by everybody.
    Cb,
}

impl Theme {
    /// What `auto` means on a terminal with this COLORFGBG ("foreground;background").
    #[must_use]
    pub fn settled(self, colorfgbg: Option<&str>) -> Self {
        let background = colorfgbg.and_then(|v| v.rsplit(';').next()).and_then(|b| b.parse::<u8>().ok());
        match (self, background) {
            (Self::Auto, Some(7 | 9..=15)) => Self::Light,
            (Self::Auto, _) => Self::Dark,
            (theme, _) => theme,
        }
    }

    /// The colour of a tone. The first three are of the terminal's own sixteen, so that its palette rules.
    fn colour(self, tone: Tone) -> Option<Color> {
        match (self, tone) {
            (Self::Mono, _) | (_, Tone::Plain | Tone::Dim) => None,
            (Self::Auto | Self::Dark, Tone::Good) => Some(Color::LightBlue),
            (Self::Auto | Self::Dark, Tone::Warn) => Some(Color::Yellow),
            (Self::Auto | Self::Dark, Tone::Bad) => Some(Color::LightRed),
            // Yellow cannot be read on white.
            (Self::Light, Tone::Good) => Some(Color::Blue),
            (Self::Light, Tone::Warn) => Some(Color::Magenta),
            (Self::Light, Tone::Bad) => Some(Color::Red),
            (Self::Cb, Tone::Good) => Some(Color::Indexed(32)),
            (Self::Cb, Tone::Warn) => Some(Color::Indexed(214)),
            (Self::Cb, Tone::Bad) => Some(Color::Indexed(202)),
        }
    }
}

pub(super) fn style(model: &Model, tone: Tone) -> Style {
    let theme = if model.colour { model.theme } else { Theme::Mono };
    let colour = theme.colour(tone);
    let base = colour.map_or_else(Style::new, |c| Style::new().fg(c));
    match tone {
        Tone::Plain | Tone::Good => base,
        Tone::Warn => base.add_modifier(Modifier::BOLD),
        // Without colours a warning and a fault must differ too.
        Tone::Bad if colour.is_none() => base.add_modifier(Modifier::BOLD).add_modifier(Modifier::UNDERLINED),
        Tone::Bad => base.add_modifier(Modifier::BOLD),
        Tone::Dim => base.add_modifier(Modifier::DIM),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_decides_unless_somebody_did() {
        assert_eq!(Theme::Auto.settled(None), Theme::Dark);
        assert_eq!(Theme::Auto.settled(Some("15;0")), Theme::Dark);
        assert_eq!(Theme::Auto.settled(Some("0;default;15")), Theme::Light);
        assert_eq!(Theme::Auto.settled(Some("12;8")), Theme::Dark);
        assert_eq!(Theme::Cb.settled(Some("0;15")), Theme::Cb);
    }

    #[test]
    fn every_theme_tells_tones_apart() {
        for theme in [Theme::Dark, Theme::Light, Theme::Cb] {
            let colours = [Tone::Good, Tone::Warn, Tone::Bad].map(|t| theme.colour(t));
            assert!(colours.iter().all(Option::is_some));
            assert!(colours[0] != colours[1] && colours[1] != colours[2] && colours[0] != colours[2]);
        }
    }
}

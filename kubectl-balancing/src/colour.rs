//! Whether output is coloured: decided once, here, for every crate that writes.

use std::{ffi::OsString, io::IsTerminal};

use clap::ValueEnum;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColourChoice {
    /// Coloured on a terminal, unless NO_COLOR, CLICOLOR, CLICOLOR_FORCE, FORCE_COLOR or TERM say otherwise.
    #[default]
    Auto,
    /// Always coloured.
    Always,
    /// Never coloured.
    Never,
}

/// The rule: `--color=always|never`, then NO_COLOR, then CLICOLOR_FORCE and FORCE_COLOR, then CLICOLOR=0, then
/// TERM=dumb, then whether the stream is a terminal.
#[must_use]
pub fn decide(choice: ColourChoice, terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is = |name: &str, value: &str| variable(name).is_some_and(|v| v == *value);
    let set = |name: &str| variable(name).is_some_and(|v| !v.is_empty());
    match choice {
        ColourChoice::Always => true,
        ColourChoice::Never => false,
        ColourChoice::Auto if set("NO_COLOR") => false,
        ColourChoice::Auto if ["CLICOLOR_FORCE", "FORCE_COLOR"].iter().any(|n| set(n) && !is(n, "0")) => true,
        ColourChoice::Auto => !is("CLICOLOR", "0") && !is("TERM", "dumb") && terminal,
    }
}

/// Decides for standard output and tells crossterm, which would otherwise decide for itself.
#[must_use]
pub fn settle(choice: ColourChoice) -> bool {
    let coloured = decide(choice, std::io::stdout().is_terminal(), |name| std::env::var_os(name));
    crossterm::style::force_color_output(coloured);
    coloured
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(terminal: bool, variables: &[(&str, &str)]) -> bool {
        decide(ColourChoice::Auto, terminal, |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
        })
    }

    #[test]
    fn precedence() {
        assert!(auto(true, &[]));
        assert!(!auto(false, &[]));
        assert!(!auto(true, &[("TERM", "dumb")]));
        assert!(!auto(true, &[("CLICOLOR", "0")]));
        assert!(auto(false, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")]));
        assert!(auto(false, &[("FORCE_COLOR", "1"), ("CLICOLOR", "0")]));
        assert!(!auto(false, &[("FORCE_COLOR", "0")]));
        assert!(!auto(true, &[("NO_COLOR", "1"), ("FORCE_COLOR", "1")]));
        assert!(auto(true, &[("NO_COLOR", "")]));
    }

    #[test]
    fn the_flag_comes_first() {
        let all = |_: &str| Some(OsString::from("1"));
        assert!(decide(ColourChoice::Always, false, all));
        assert!(!decide(ColourChoice::Never, true, |_| None));
    }
}

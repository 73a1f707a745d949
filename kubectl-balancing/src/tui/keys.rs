//! Every key, once: what it does, where, and what help and footer call it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::top::What;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One row or line up.
    Up,
    /// One row or line down.
    Down,
    /// One screen up.
    PageUp,
    /// One screen down.
    PageDown,
    /// The first row.
    Home,
    /// The last row.
    End,
    /// The selected policy's own screen.
    Open,
    /// Back, or away with the filter.
    Back,
    /// One of the tables.
    Show(What),
    /// Sort by the next column.
    SortNext,
    /// Sort by the column before.
    SortPrevious,
    /// Turn the order round.
    Invert,
    /// Type a filter.
    Filter,
    /// Stop asking, or go on.
    Pause,
    /// Ask now.
    Refresh,
    /// Ask less often.
    Slower,
    /// Ask more often.
    Faster,
    /// All keys and columns.
    Help,
    /// Stop the program, to be continued by the shell.
    Suspend,
    /// Draw everything anew.
    Redraw,
    /// Leave.
    Quit,
}

/// Where a key means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// On every screen.
    Any,
    /// On a table.
    Table,
    /// On a policy's screen.
    Policy,
}

/// A key, or several that do the same.
pub struct Binding {
    /// The keys.
    pub keys: &'static [(KeyCode, KeyModifiers)],
    /// What people call them.
    pub label: &'static str,
    /// What they do.
    pub action: Action,
    /// Where.
    pub context: Context,
    /// For the help.
    pub help: &'static str,
    /// For the footer; empty: not there.
    pub footer: &'static str,
}

const NONE: KeyModifiers = KeyModifiers::NONE;
const CTRL: KeyModifiers = KeyModifiers::CONTROL;

const fn key(c: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(c), NONE)
}

const fn ctrl(c: char) -> (KeyCode, KeyModifiers) {
    (KeyCode::Char(c), CTRL)
}

const fn code(code: KeyCode) -> (KeyCode, KeyModifiers) {
    (code, NONE)
}

const fn binding(
    keys: &'static [(KeyCode, KeyModifiers)],
    label: &'static str,
    action: Action,
    context: Context,
    help: &'static str,
    footer: &'static str,
) -> Binding {
    Binding { keys, label, action, context, help, footer }
}

/// The key map. Its order is the order of help and footer.
pub const KEYS: &[Binding] = &[
    binding(&[key('?'), code(KeyCode::F(1))], "?", Action::Help, Context::Any, "this help", "help"),
    binding(
        &[code(KeyCode::Enter)],
        "Enter",
        Action::Open,
        Context::Table,
        "the policy of the selected row: facts, frontends, backends",
        "open",
    ),
    binding(
        &[code(KeyCode::Esc), code(KeyCode::Backspace)],
        "Esc",
        Action::Back,
        Context::Any,
        "back; on a table: show all rows again",
        "",
    ),
    binding(&[key('1')], "1", Action::Show(What::Policies), Context::Any, "policies", ""),
    binding(
        &[key('2')],
        "2",
        Action::Show(What::Frontends),
        Context::Any,
        "frontends: what clients dial",
        "",
    ),
    binding(&[key('3')], "3", Action::Show(What::Backends), Context::Any, "backends: where they end up", ""),
    binding(
        &[key('/')],
        "/",
        Action::Filter,
        Context::Table,
        "show only rows with these words; !word leaves out those with it",
        "filter",
    ),
    binding(
        &[key('s'), code(KeyCode::Right)],
        "s →",
        Action::SortNext,
        Context::Table,
        "sort by the next column",
        "sort",
    ),
    binding(
        &[code(KeyCode::Left)],
        "←",
        Action::SortPrevious,
        Context::Table,
        "sort by the column before",
        "",
    ),
    binding(&[key('i')], "i", Action::Invert, Context::Table, "turn the order round", "invert"),
    binding(&[key(' ')], "Space", Action::Pause, Context::Any, "stop asking the agent, or go on", "pause"),
    binding(&[key('r')], "r", Action::Refresh, Context::Any, "ask now", ""),
    binding(
        &[key('+'), key('=')],
        "+",
        Action::Slower,
        Context::Any,
        "longer interval: 1, 2, 5, 10, 30 s",
        "",
    ),
    binding(&[key('-')], "-", Action::Faster, Context::Any, "shorter interval", ""),
    binding(&[code(KeyCode::Up), key('k')], "↑ k", Action::Up, Context::Any, "up", ""),
    binding(&[code(KeyCode::Down), key('j')], "↓ j", Action::Down, Context::Any, "down", ""),
    binding(&[code(KeyCode::PageUp), ctrl('u')], "PgUp", Action::PageUp, Context::Any, "one screen up", ""),
    binding(
        &[code(KeyCode::PageDown), ctrl('d')],
        "PgDn",
        Action::PageDown,
        Context::Any,
        "one screen down",
        "",
    ),
    binding(&[code(KeyCode::Home), key('g')], "Home g", Action::Home, Context::Any, "first row", ""),
    binding(&[code(KeyCode::End), key('G')], "End G", Action::End, Context::Any, "last row", ""),
    binding(&[ctrl('l')], "Ctrl-L", Action::Redraw, Context::Any, "draw everything anew", ""),
    binding(&[ctrl('z')], "Ctrl-Z", Action::Suspend, Context::Any, "back to the shell; fg returns", ""),
    binding(
        &[key('q'), ctrl('c')],
        "q",
        Action::Quit,
        Context::Any,
        "leave; the last totals stay on the screen",
        "quit",
    ),
];

/// What a key asks for on a table or on a policy's screen.
#[must_use]
pub fn action(event: KeyEvent, context: Context) -> Option<Action> {
    // Shift is in the character already; terminals differ in whether they say it again.
    let modifiers = event.modifiers - KeyModifiers::SHIFT;
    KEYS.iter()
        .filter(|b| b.context == Context::Any || b.context == context)
        .find(|b| b.keys.contains(&(event.code, modifiers)))
        .map(|b| b.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        for (i, a) in KEYS.iter().enumerate() {
            for b in &KEYS[i + 1..] {
                let apart = a.context != b.context && a.context != Context::Any && b.context != Context::Any;
                assert!(apart || !a.keys.iter().any(|k| b.keys.contains(k)), "{} and {}", a.label, b.label);
            }
        }
    }

    #[test]
    fn capital_letters_come_with_and_without_shift() {
        for modifiers in [KeyModifiers::NONE, KeyModifiers::SHIFT] {
            assert_eq!(
                action(KeyEvent::new(KeyCode::Char('G'), modifiers), Context::Table),
                Some(Action::End)
            );
        }
        assert_eq!(action(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::ALT), Context::Table), None);
    }
}

//! Every key, once: what it does, where, and what help and footer call it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::rows::What;

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
    /// The next table.
    NextTable,
    /// Type a filter.
    Filter,
    /// Type what to look for.
    Search,
    /// The next row with it.
    SearchNext,
    /// The row with it before.
    SearchPrevious,
    /// Rows with problems alone, or all.
    Faults,
    /// More columns, or fewer.
    Wide,
    /// Exact numbers, or scaled ones.
    Exact,
    /// Rates over the last interval, smoothed, or since the start.
    Rates,
    /// A shorter time in charts.
    ShorterWindow,
    /// A longer time in charts.
    LongerWindow,
    /// The table alone, or all of the screen.
    Expand,
    /// Let the selection stay on its row, or on its line.
    Follow,
    /// Stop asking, or go on.
    Pause,
    /// Ask now.
    Refresh,
    /// Ask less often.
    Slower,
    /// Ask more often.
    Faster,
    /// Why the selected row's policy is or is not in force.
    Explain,
    /// Every column of the selected row.
    Describe,
    /// The selected row as YAML.
    Yaml,
    /// The live trace of the selected row.
    TraceRow,
    /// Copy the selected row's name.
    Copy,
    /// Save what is shown.
    Save,
    /// Start or stop a recording.
    Record,
    /// Use the mouse, or leave it to the terminal.
    Mouse,
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
    /// On a screen of one thing.
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
        "the selected row's own screen: facts, charts, frontends, backends",
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
    binding(&[key('2')], "2", Action::Show(What::Nodes), Context::Any, "nodes: agents, programs, maps", ""),
    binding(
        &[key('3')],
        "3",
        Action::Show(What::Frontends),
        Context::Any,
        "frontends: what clients dial",
        "",
    ),
    binding(&[key('4')], "4", Action::Show(What::Backends), Context::Any, "backends: where they end up", ""),
    binding(
        &[key('5')],
        "5",
        Action::Show(What::Trace),
        Context::Any,
        "live trace: decisions as they are made",
        "",
    ),
    binding(&[key('6')], "6", Action::Show(What::Problems), Context::Any, "problems, and what to do", ""),
    binding(&[code(KeyCode::Tab)], "Tab", Action::NextTable, Context::Any, "the next of these", ""),
    binding(
        &[key('/')],
        "/",
        Action::Filter,
        Context::Table,
        "show only rows that match: words, !word, ~regex, qosDrops>0, and, or, not, ( )",
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
    binding(&[key('\\')], "\\", Action::Search, Context::Table, "look for text; no row is hidden", ""),
    binding(&[key('n')], "n", Action::SearchNext, Context::Table, "the next row with it", ""),
    binding(&[key('N')], "N", Action::SearchPrevious, Context::Table, "the row with it before", ""),
    binding(&[key('f')], "f", Action::Faults, Context::Table, "rows with problems alone, or all", "faults"),
    binding(&[key('w')], "w", Action::Wide, Context::Table, "more columns, or fewer", "wide"),
    binding(&[key('u')], "u", Action::Exact, Context::Table, "exact numbers, or scaled ones", ""),
    binding(
        &[key('a')],
        "a",
        Action::Rates,
        Context::Any,
        "rates over the last interval, smoothed, or since the start",
        "",
    ),
    binding(
        &[key('[')],
        "[",
        Action::ShorterWindow,
        Context::Any,
        "charts and trends over a shorter time",
        "",
    ),
    binding(&[key(']')], "]", Action::LongerWindow, Context::Any, "a longer time: 1, 3, 10, 30 min", ""),
    binding(&[key('z')], "z", Action::Expand, Context::Any, "the table alone, or all of the screen", ""),
    binding(
        &[key('F')],
        "F",
        Action::Follow,
        Context::Table,
        "the selection stays on its row (at first), or on its line",
        "",
    ),
    binding(
        &[key('e')],
        "e",
        Action::Explain,
        Context::Any,
        "why the policy is or is not in force",
        "explain",
    ),
    binding(&[key('d')], "d", Action::Describe, Context::Table, "every column of the selected row", ""),
    binding(&[key('y')], "y", Action::Yaml, Context::Table, "the selected row as YAML", ""),
    binding(&[key('t')], "t", Action::TraceRow, Context::Any, "live trace of the selected row", ""),
    binding(&[key('c')], "c", Action::Copy, Context::Table, "copy the selected row's name (OSC 52)", ""),
    binding(&[key('S')], "S", Action::Save, Context::Any, "save what is shown: .txt, .json, .svg", ""),
    binding(&[key('R')], "R", Action::Record, Context::Any, "start or stop a recording, for --replay", ""),
    binding(&[key('m')], "m", Action::Mouse, Context::Any, "use the mouse, or leave it to the terminal", ""),
    binding(&[key(' ')], "Space", Action::Pause, Context::Any, "stop asking, or go on", "pause"),
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

/// What the key of an action is called.
#[must_use]
pub fn label_of(action: Action) -> &'static str {
    KEYS.iter().find(|b| b.action == action).map_or("", |b| b.label)
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

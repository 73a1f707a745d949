//! What keys do to the model.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::{
    details,
    grid::visible_columns,
    keys::{self, Action, Context},
    message::{Effect, Screen, Typing, Update},
    model::{FILTER_MOST, Model, WINDOWS, metas},
};
use crate::{columns::Shown, rows::What};

/// Intervals that `+` and `-` walk through, in seconds.
const INTERVALS: [u64; 5] = [1, 2, 5, 10, 30];
impl Model {
    pub(super) fn key(&mut self, key: KeyEvent) -> Update {
        let drawn = Update { effects: Vec::new(), draw: true };
        if self.typing.is_some() && self.type_key(key) {
            return drawn;
        }
        let told = self.notice.take().is_some();
        let context = match self.screen() {
            Screen::Table(_) => Context::Table,
            _ => Context::Policy,
        };
        let Some(action) = keys::action(key, context) else {
            return Update { effects: Vec::new(), draw: told };
        };
        if let Some(reason) = self.refuses(action) {
            self.notice = Some(format!("{}: {reason}", keys::label_of(action)));
            return drawn;
        }
        let before = self.stamp();
        let effects = self.act(action);
        Update { draw: told || before != self.stamp() || !effects.is_empty(), effects }
    }

    /// What a key may change of the screen.
    fn stamp(&self) -> impl PartialEq + use<> {
        let table = self.table(self.what());
        (
            (self.screens.clone(), self.help, self.typing, self.paused, self.interval, self.notice.clone()),
            (
                self.faults,
                self.wide,
                self.exact,
                self.expanded,
                self.follow,
                self.mouse,
                self.rates,
                self.window,
            ),
            (table.index, table.order.len(), table.sort, table.filter.clone(), self.search.clone()),
        )
    }

    fn typed(&mut self) -> &mut String {
        match self.typing {
            Some(Typing::Search) => &mut self.search,
            Some(Typing::Filter) | None => &mut self.table_mut(self.what()).filter,
        }
    }

    /// A key while something is typed. False: it is none of it.
    fn type_key(&mut self, key: KeyEvent) -> bool {
        match (key.code, key.modifiers - KeyModifiers::SHIFT) {
            (KeyCode::Enter, _) if self.typing == Some(Typing::Search) => {
                self.typing = None;
                self.find(true, true);
            }
            (KeyCode::Enter, _) => self.typing = None,
            (KeyCode::Esc, _) => {
                self.typed().clear();
                self.typing = None;
            }
            (KeyCode::Backspace, _) if self.typed().is_empty() => self.typing = None,
            (KeyCode::Backspace, _) => drop(self.typed().pop()),
            (KeyCode::Char('u' | 'w'), KeyModifiers::CONTROL) => self.typed().clear(),
            (KeyCode::Char(c), KeyModifiers::NONE) => self.type_text(c.encode_utf8(&mut [0; 4])),
            (KeyCode::Char(_), _) => return false,
            (KeyCode::Up | KeyCode::Down | KeyCode::PageUp | KeyCode::PageDown, _) => return false,
            _ => {}
        }
        true
    }

    pub(super) fn type_text(&mut self, text: &str) {
        let typed = self.typed();
        let room = FILTER_MOST.saturating_sub(typed.chars().count());
        typed.extend(text.chars().filter(|c| !c.is_control()).take(room));
    }

    fn act(&mut self, action: Action) -> Vec<Effect> {
        let page = isize::from(self.areas().rows().min(1000) as i16 - 1).max(1);
        match action {
            Action::Up => self.step(-1),
            Action::Down => self.step(1),
            Action::PageUp => self.step(-page),
            Action::PageDown => self.step(page),
            Action::Home => self.step(isize::MIN),
            Action::End => self.step(isize::MAX),
            Action::Open => self.open(),
            Action::Back => self.back(),
            Action::Show(what) => self.go(what),
            Action::NextTable => {
                let at = What::ALL.iter().position(|w| *w == self.what()).unwrap_or(0);
                let rest = What::ALL.iter().cycle().skip(at + 1);
                let next = rest.copied().find(|w| self.refuses(Action::Show(*w)).is_none());
                self.go(next.unwrap_or_default());
            }
            Action::SortNext => self.sort(1),
            Action::SortPrevious => self.sort(-1),
            Action::Invert => self.invert(),
            Action::Filter | Action::Search => {
                self.help = None;
                self.typing = Some(if action == Action::Filter { Typing::Filter } else { Typing::Search });
            }
            Action::SearchNext => self.find(true, false),
            Action::SearchPrevious => self.find(false, false),
            Action::Faults => self.faults = !self.faults,
            Action::Wide => {
                self.wide = !self.wide;
                let metas = metas(self.what());
                let more = |i: usize| metas.get(i).is_some_and(|m| m.shown == Shown::Wide);
                if self.wide && !visible_columns(self, self.what()).into_iter().any(more) {
                    self.notice =
                        Some("there is no room for more columns; d shows all of the selected row".to_owned());
                }
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            Action::Exact => {
                self.exact = !self.exact;
                self.tables.iter_mut().for_each(|t| t.widths.clear());
            }
            Action::Rates => {
                self.rates = self.rates.next();
                self.smooth.clone_from(&self.latest);
                self.show();
            }
            Action::ShorterWindow => {
                self.window = WINDOWS.iter().rev().copied().find(|w| *w < self.window).unwrap_or(self.window);
            }
            Action::LongerWindow => {
                self.window = WINDOWS.iter().copied().find(|w| *w > self.window).unwrap_or(self.window);
            }
            Action::Expand => self.expanded = !self.expanded,
            Action::Follow => self.follow = !self.follow,
            Action::Pause => {
                self.paused = !self.paused;
                return vec![Effect::Pause(self.paused)];
            }
            Action::Refresh => return vec![Effect::Refresh],
            Action::Slower => return self.change_interval(true),
            Action::Faster => return self.change_interval(false),
            Action::Explain => self.push(details::explanation(self)),
            Action::Describe => self.push(details::description(self)),
            Action::Yaml => self.push(details::yaml(self)),
            Action::TraceRow => {
                let policy = self.selected_policy();
                let filter = policy.map(|p| format!("policy={}/{}", p.kind.short_name(), p.name));
                self.table_mut(What::Trace).filter = filter.unwrap_or_default();
                self.go(What::Trace);
            }
            Action::Copy => return details::name(self).map(Effect::Copy).into_iter().collect(),
            Action::Save => return vec![Effect::Save],
            Action::Record => return vec![Effect::Record(!self.recording)],
            Action::Mouse => {
                self.mouse = !self.mouse;
                return vec![Effect::Mouse(self.mouse)];
            }
            Action::Help => self.help = if self.help.is_some() { None } else { Some(0) },
            Action::Suspend => return vec![Effect::Suspend],
            Action::Redraw => return vec![Effect::Redraw],
            Action::Quit => return vec![Effect::Quit],
        }
        Vec::new()
    }

    fn go(&mut self, what: What) {
        self.help = None;
        if what == What::Trace {
            self.aim();
        }
        self.screens = vec![Screen::Table(what)];
    }

    fn push(&mut self, screen: Option<Screen>) {
        self.help = None;
        if let Some(screen) = screen {
            // One about the same takes the place of that before.
            if let (Some(Screen::Text { title: a, .. }), Screen::Text { title: b, .. }) =
                (self.screens.last(), &screen)
                && a == b
            {
                self.screens.pop();
            }
            self.screens.push(screen);
        }
    }

    /// The selected row's own screen.
    fn open(&mut self) {
        if self.help.is_some() {
            return;
        }
        let node = self.selected_node();
        let known =
            |name: &String| self.board.as_ref().is_some_and(|b| b.nodes.iter().any(|n| n.name == *name));
        let screen = match (self.selected_policy(), node) {
            (Some(policy), _) => Some(Screen::Policy { policy, scroll: 0 }),
            (None, Some(name)) if known(&name) => Some(Screen::Node { name, scroll: 0 }),
            _ => details::description(self),
        };
        self.push(screen);
    }

    fn back(&mut self) {
        if self.help.take().is_some() {
            return;
        }
        if self.screens.len() > 1 {
            self.screens.pop();
        } else {
            let what = self.what();
            self.table_mut(what).filter.clear();
            self.search.clear();
            self.faults = false;
        }
    }

    /// Moves the selection, or scrolls what has none.
    pub(super) fn step(&mut self, by: isize) {
        let moved = |at: usize| at.saturating_add_signed(by);
        if let Some(scroll) = &mut self.help {
            *scroll = moved(*scroll);
            return;
        }
        match self.screens.last_mut() {
            Some(
                Screen::Policy { scroll, .. } | Screen::Node { scroll, .. } | Screen::Text { scroll, .. },
            ) => {
                *scroll = moved(*scroll);
            }
            _ => {
                let what = self.what();
                let table = self.table_mut(what);
                table.index = moved(table.index).min(table.order.len().saturating_sub(1));
                table.selected = None;
            }
        }
    }

    fn change_interval(&mut self, longer: bool) -> Vec<Effect> {
        let now = self.interval;
        let mut steps = INTERVALS.iter().map(|s| Duration::from_secs(*s));
        let next = if longer { steps.find(|s| *s > now) } else { steps.rev().find(|s| *s < now) };
        match next {
            Some(interval) => {
                self.interval = interval;
                vec![Effect::Interval(interval)]
            }
            None => Vec::new(),
        }
    }
}

//! Draws the model. Pure: the same model gives the same screen.

use std::collections::BTreeSet;

use balancing_api::{
    agent::{PolicyStatus, RungKind},
    cli::{BackendState, FrontendState, FrontendTopItem, PolicyTopItem},
    policy::PolicyKind,
};
use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    keys::{Binding, Context, KEYS},
    layout::{LEAST, too_small},
    model::{Link, Model, Screen, ShownRow, metas, sort_header},
};
use crate::{
    columns::{Column, Ellipsis, Meta, Row, RowId, Shown, Tone, policy_tone, state_word},
    sample::Board,
    text::{NONE, age_at, list, plural, sanitise, scaled, scaled_count},
    top::What,
};

/// Blanks between two columns.
const GAP: u16 = 2;
/// Room for the marker of the selected row and the glyph of the state.
const MARGIN: u16 = 4;

/// Cells that a text takes.
#[must_use]
pub fn width(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The text in so many cells: cut where it is longer, filled where it is shorter.
#[must_use]
pub fn fit(text: &str, cells: u16, ellipsis: Ellipsis, right: bool, unicode: bool) -> String {
    let has = width(text);
    if has <= cells {
        let blanks = " ".repeat(usize::from(cells - has));
        return if right { blanks + text } else { text.to_owned() + &blanks };
    }
    let mark = if unicode { "…" } else { "~" };
    if cells == 0 {
        return String::new();
    }
    let room = cells - 1;
    let head = match ellipsis {
        Ellipsis::Right => room,
        Ellipsis::Middle => room.div_ceil(2),
    };
    let span = Span::raw(text);
    let graphemes: Vec<&str> = span.styled_graphemes(Style::default()).map(|g| g.symbol).collect();
    let front = taken(graphemes.iter().copied(), head);
    let back = taken(graphemes.iter().rev().copied(), room - head);
    let tail: Vec<&str> = back.into_iter().rev().collect();
    let cut = front.concat() + mark + &tail.concat();
    let blanks = " ".repeat(usize::from(cells.saturating_sub(width(&cut))));
    cut + &blanks
}

/// As many graphemes as fit into so many cells.
fn taken<'a>(graphemes: impl Iterator<Item = &'a str>, cells: u16) -> Vec<&'a str> {
    let mut left = cells;
    graphemes
        .take_while(|g| {
            let fits = width(g) <= left;
            left = left.saturating_sub(width(g));
            fits
        })
        .collect()
}

/// The columns that fit, as indices: those of the lowest priority leave first.
#[must_use]
pub fn visible_columns(model: &Model, what: What) -> Vec<usize> {
    fitting(&metas(what), &model.table(what).widths, model.size.0)
}

fn fitting(metas: &[Meta], widths: &[u16], room: u16) -> Vec<usize> {
    let width_of = |i: usize| widths.get(i).copied().unwrap_or(0).max(width(metas[i].header));
    let mut columns: Vec<usize> = (0..metas.len()).collect();
    loop {
        let needed = MARGIN + columns.iter().map(|i| width_of(*i) + GAP).sum::<u16>();
        let leaves = columns
            .iter()
            .copied()
            .filter(|i| metas[*i].priority > 0)
            .max_by_key(|i| (metas[*i].priority, *i));
        match leaves {
            Some(i) if needed.saturating_sub(GAP) > room => columns.retain(|c| *c != i),
            _ => return columns,
        }
    }
}

/// Widths of these columns: as wide as their cells, the widest text column shorter where there is no room.
fn column_widths(model: &Model, what: What, metas: &[Meta], columns: &[usize]) -> Vec<u16> {
    let table = model.table(what);
    let mut widths: Vec<u16> = columns
        .iter()
        .map(|i| table.widths.get(*i).copied().unwrap_or(0).max(width(metas[*i].header)))
        .collect();
    let gaps = GAP * (columns.len() as u16).saturating_sub(1);
    loop {
        let needed = MARGIN + gaps + widths.iter().sum::<u16>();
        let texts = columns.iter().enumerate().filter(|(_, c)| !metas[**c].number).map(|(i, _)| i);
        match texts.max_by_key(|i| widths[*i]) {
            Some(i) if needed > model.size.0 && widths[i] > 4 => {
                widths[i] -= (needed - model.size.0).min(widths[i] - 4)
            }
            _ => return widths,
        }
    }
}

fn style(model: &Model, tone: Tone) -> Style {
    let coloured = |c: Color| if model.colour { Style::new().fg(c) } else { Style::new() };
    match tone {
        Tone::Plain => Style::new(),
        Tone::Good => coloured(Color::Blue),
        Tone::Warn => coloured(Color::Yellow).add_modifier(Modifier::BOLD),
        Tone::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Dim => Style::new().add_modifier(Modifier::DIM),
    }
}

fn glyph(model: &Model, tone: Tone) -> &'static str {
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

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws the whole screen.
pub fn view(model: &Model, frame: &mut Frame<'_>) {
    let size = frame.area();
    if too_small((size.width, size.height)) || too_small(model.size) {
        let text = format!("needs {}x{}, has {}x{}", LEAST.0, LEAST.1, size.width, size.height);
        put(frame, size, 0, &Line::raw(text));
        return;
    }
    let areas = model.areas();
    put(frame, areas.header, 0, &header(model));
    put(frame, areas.tabs, 0, &tabs(model));
    put(frame, areas.totals, 0, &totals(model));
    put(frame, areas.problems, 0, &problems(model));
    if let Some(scroll) = model.help {
        put_all(frame, areas.body, help_lines(model), scroll);
    } else if let Screen::Policy { scroll, .. } = &model.screen {
        put_all(frame, areas.body, policy_lines(model), *scroll);
    } else {
        table(model, frame, areas.body);
    }
    for (i, line) in detail(model, areas.detail).into_iter().enumerate() {
        put(frame, areas.detail, i as u16, &line);
    }
    put(frame, areas.footer, 0, &footer(model));
}

/// Draws one line of an area, if the screen has it.
fn put(frame: &mut Frame<'_>, area: Rect, row: u16, line: &Line<'_>) {
    let area = area.intersection(frame.area());
    if row < area.height && area.width > 0 {
        frame.buffer_mut().set_line(area.x, area.y + row, line, area.width);
    }
}

fn put_all(frame: &mut Frame<'_>, area: Rect, lines: Vec<Line<'_>>, scroll: usize) {
    for (row, line) in lines.into_iter().skip(scroll).take(usize::from(area.height)).enumerate() {
        put(frame, area, row as u16, &line);
    }
}

fn seconds(model: &Model) -> String {
    let s = model.interval.as_secs_f64();
    format!("{s}s")
}

fn as_of(board: &Board) -> String {
    board.sample.taken_at().strftime("%H:%M:%SZ").to_string()
}

fn header(model: &Model) -> Line<'static> {
    let sign = |unicode: &str, ascii: &str| if model.unicode { unicode.to_owned() } else { ascii.to_owned() };
    let time = model.board.as_deref().map(as_of);
    let (state, style) = match (&model.link, model.paused) {
        (_, true) => {
            let data = time.as_ref().map(|t| format!(", data of {t}")).unwrap_or_default();
            (format!(" {} PAUSED{data} ", sign("‖", "||")), REVERSED)
        }
        (Link::Connecting { elapsed }, _) => {
            (format!("{} CONNECTING {elapsed}s", sign("◌", "-")), style(model, Tone::Warn))
        }
        (Link::Live, _) => (format!("{} LIVE {}", sign("●", "*"), seconds(model)), style(model, Tone::Good)),
        (Link::Lost { error, attempt, retry_in }, _) => {
            let when = if *retry_in == 0 { "now".to_owned() } else { format!("in {retry_in}s") };
            let text = format!("{} RECONNECTING {when} ({attempt}): {}", sign("◌", "-"), sanitise(error));
            (text, style(model, Tone::Bad))
        }
    };
    let mut spans = vec![Span::styled(" balancing top  ", BOLD), Span::styled(state, style)];
    match model.board.as_ref().and_then(|b| b.sample.nodes.first().map(|n| (b, n))) {
        Some((board, node)) => {
            let nodes = match board.sample.nodes.len() {
                1 => format!("node {}", sanitise(&node.status.node.name)),
                n => format!("nodes {n}"),
            };
            spans.push(Span::raw(format!("  {nodes}  agent {}", sanitise(&node.status.agent.version))));
        }
        None => spans.push(Span::raw(format!("  {}", sanitise(&model.agent)))),
    }
    if let (Some(time), false) = (time, model.paused) {
        spans.push(Span::raw(format!("  as of {time}")));
    }
    Line::from(spans)
}

fn tabs(model: &Model) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    if let Screen::Policy { policy, from, .. } = &model.screen {
        let path = format!("{} > {}/{}", name(*from), policy.kind.short_name(), sanitise(&policy.name));
        spans.push(Span::styled(path, BOLD));
        spans.push(Span::styled("   Esc back", DIM));
        return Line::from(spans);
    }
    for (key, what) in [("1", What::Policies), ("2", What::Frontends), ("3", What::Backends)] {
        let style = if what == model.what() { BOLD.add_modifier(Modifier::UNDERLINED) } else { DIM };
        spans.push(Span::styled(format!("{key} {} {}", name(what), model.count(what)), style));
        spans.push(Span::raw("  "));
    }
    let table = model.table(model.what());
    if model.typing || !table.filter.is_empty() {
        const SHOWN: usize = 24;
        let filter = sanitise(&table.filter);
        // What is typed now is at the end.
        let tail: String = filter.chars().skip(filter.chars().count().saturating_sub(SHOWN)).collect();
        let cursor = if model.typing { "_" } else { "" };
        let style = if model.typing { REVERSED } else { BOLD };
        spans.push(Span::styled(format!(" /{tail}{cursor} "), style));
        spans.push(Span::raw(format!(" {} shown  ", table.order.len())));
    }
    let sorted = match table.sort {
        Some(s) => format!("{}{}", sort_header(model.what(), s), arrow(model, s.descending)),
        None if model.what() == What::Policies => "problems first".to_owned(),
        None => "by name".to_owned(),
    };
    spans.push(Span::raw(format!(" sort {sorted}")));
    Line::from(spans)
}

fn name(what: What) -> &'static str {
    match what {
        What::Policies => "policies",
        What::Frontends => "frontends",
        What::Backends => "backends",
    }
}

fn arrow(model: &Model, descending: bool) -> &'static str {
    match (descending, model.unicode) {
        (true, true) => "▼",
        (false, true) => "▲",
        (true, false) => " (largest first)",
        (false, false) => " (smallest first)",
    }
}

fn totals(model: &Model) -> Line<'static> {
    let Some(board) = model.board.as_deref() else { return Line::default() };
    let policy = |f: fn(&PolicyTopItem) -> Option<f64>| total(board.policies.iter().map(f));
    let service = total(board.frontends.iter().map(|r| r.rates.map(|x| x.resolved)));
    let refused = total(board.frontends.iter().map(|r| r.rates.map(|x| x.refusals)));
    let parts = [
        ("redirected", policy(|r| r.rates.as_ref().map(|x| x.redirects))),
        ("balanced", policy(|r| r.rates.as_ref().map(|x| x.balanced))),
        ("QoS drops", policy(|r| r.rates.as_ref().map(|x| x.qos_drops))),
        ("fallbacks", policy(|r| r.rates.as_ref().map(|x| x.fallbacks.values().sum()))),
        ("refused", refused),
        ("to Services", service),
    ];
    let mut text = " per second:".to_owned();
    let unknown = if model.unicode { "…" } else { "..." };
    for (name, rate) in parts {
        let part = format!("  {name} {}", rate.map_or(unknown.to_owned(), scaled));
        // Half a number would be a wrong one.
        if width(&text) + width(&part) > model.size.0 {
            break;
        }
        text.push_str(&part);
    }
    Line::raw(text)
}

/// The sum of the rates that are known; none where none is, unless there is nothing to sum.
fn total(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut sum = None;
    let mut any = false;
    for rate in rates {
        any = true;
        if let Some(rate) = rate {
            sum = Some(sum.unwrap_or(0.0) + rate);
        }
    }
    if any { sum } else { Some(0.0) }
}

fn problems(model: &Model) -> Line<'static> {
    let Some(board) = model.board.as_deref() else { return Line::default() };
    let Some(first) = board.problems.first() else { return Line::default() };
    let more = match board.problems.len() {
        1 => String::new(),
        n => format!("(1 of {n}) "),
    };
    let text = format!(
        " {} {more}node {}: {}",
        glyph(model, Tone::Bad),
        sanitise(&first.node),
        sanitise(&first.text)
    );
    let text = fit(&text, model.size.0, Ellipsis::Right, false, model.unicode);
    Line::styled(text.trim_end().to_owned(), style(model, Tone::Bad))
}

fn table(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let what = model.what();
    let metas = metas(what);
    let columns = visible_columns(model, what);
    let widths = column_widths(model, what, &metas, &columns);
    let sort = model.table(what).sort;
    let mut spans = vec![Span::raw("    ")];
    for (i, cells) in columns.iter().zip(&widths) {
        let sorted = sort.is_some_and(|s| sort_header(what, s) == metas[*i].header);
        let text = fit(metas[*i].header, *cells, metas[*i].ellipsis, metas[*i].number, model.unicode);
        spans.push(Span::styled(text, if sorted { BOLD.add_modifier(Modifier::UNDERLINED) } else { BOLD }));
        spans.push(Span::raw("  "));
    }
    put(frame, area, 0, &Line::from(spans));
    if let Some(words) = nothing(model) {
        for (i, line) in words.into_iter().enumerate() {
            put(frame, area, i as u16 + 2, &Line::raw(line));
        }
        return;
    }
    let dim = matches!(model.link, Link::Lost { .. }) && !model.paused;
    for (i, row) in model.shown_rows(what).iter().enumerate() {
        put(frame, area, i as u16 + 1, &row_line(model, row, &metas, &columns, &widths, dim));
    }
    scrollbar(model, frame, area);
}

fn row_line(
    model: &Model,
    row: &ShownRow,
    metas: &[Meta],
    columns: &[usize],
    widths: &[u16],
    dim: bool,
) -> Line<'static> {
    let marker = if row.selected { ">" } else { " " };
    // On the selected row, and where nothing is fresh, one style; else the state alone is coloured.
    let all = match (row.selected, dim) {
        (true, _) => Some(REVERSED.add_modifier(Modifier::BOLD)),
        (false, true) => Some(DIM),
        (false, false) => None,
    };
    let plain = all.unwrap_or_default();
    let toned = all.unwrap_or_else(|| style(model, row.tone));
    let mut spans = vec![
        Span::styled(format!(" {marker}"), plain),
        Span::styled(format!("{} ", glyph(model, row.tone)), toned),
    ];
    for (n, (i, cells)) in columns.iter().zip(widths).enumerate() {
        let meta = &metas[*i];
        let text = row.cells.get(*i).map_or("", String::as_str);
        // Where a rate is not known yet, the screen says so in one cell.
        let text =
            if text == crate::text::UNKNOWN { if model.unicode { "…" } else { "..." } } else { text };
        let text = fit(text, *cells, meta.ellipsis, meta.number, model.unicode);
        spans.push(Span::styled(text, if n == 0 { toned } else { plain }));
        spans.push(Span::styled("  ", plain));
    }
    Line::from(spans)
}

/// What stands in the place of rows where there are none.
fn nothing(model: &Model) -> Option<Vec<String>> {
    let what = model.what();
    let table = model.table(what);
    let text = match (&model.board, model.count(what), table.order.len()) {
        (None, ..) => format!("Asking the agent at {} ...", sanitise(&model.agent)),
        (_, 0, _) if what == What::Policies => "No policies: the agent of this node knows none. Apply a \
             LocalRedirectPolicy or BalancingPolicy, or put its YAML into the folder that the agent's --manifests \
             names; `kubectl balancing validate -f FILE` checks it first."
            .to_owned(),
        (_, 0, _) => format!("No {}: no policy and no Service that this node serves.", name(what)),
        (_, all, 0) => {
            format!("0 of {all} {} match \"{}\"; Esc shows all again.", name(what), sanitise(&table.filter))
        }
        _ => return None,
    };
    let lines = wrapped(&text, model.size.0.saturating_sub(8), 6);
    Some(lines.into_iter().map(|l| format!("    {l}")).collect())
}

fn scrollbar(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let table = model.table(model.what());
    let (all, height) = (table.order.len(), usize::from(area.height.saturating_sub(1)));
    if all <= height || height == 0 || area.width == 0 {
        return;
    }
    let thumb = (height * height / all).max(1);
    let first = table.offset * (height - thumb) / (all - height);
    for row in 0..height {
        let inside = (first..first + thumb).contains(&row);
        let mark = match (inside, model.unicode) {
            (true, true) => "█",
            (false, true) => "│",
            (true, false) => "#",
            (false, false) => "|",
        };
        let area = Rect::new(area.x + area.width - 1, area.y + 1 + row as u16, 1, 1);
        put(frame, area, 0, &Line::styled(mark, DIM));
    }
}

/// The selected row in words: what a narrow table cannot show.
fn detail(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let Some(board) = model.board.as_deref() else { return Vec::new() };
    if model.help.is_some() || matches!(model.screen, Screen::Policy { .. }) {
        return Vec::new();
    }
    let table = model.table(model.what());
    let Some(selected) = table.selected.as_ref().filter(|_| !table.order.is_empty()) else {
        return Vec::new();
    };
    let (tone, text) = match selected {
        RowId::Policy(policy) => {
            let Some(row) = board.policies.iter().find(|r| r.policy == *policy) else { return Vec::new() };
            (policy_tone(row.state), policy_words(board, row))
        }
        RowId::Frontend(frontend) => {
            let Some(row) = board.frontends.iter().find(|r| r.frontend == *frontend) else {
                return Vec::new();
            };
            let policy = row.policy.as_ref().map_or(NONE.to_owned(), ToString::to_string);
            let service = row.service.as_deref().unwrap_or(NONE);
            (row.tone(), format!("{}: {:?}; policy {policy}, Service {service}", row.frontend, row.state))
        }
        RowId::Backend(id) => {
            let Some(row) = board.backends.iter().find(|r| r.id() == *selected) else { return Vec::new() };
            let pod = row.pod.as_deref().unwrap_or(NONE);
            let state = match row.state {
                BackendState::Active => "takes connections",
                BackendState::Standby => "stands by on a lower rung",
                BackendState::Removed => "is no more in the maps",
            };
            let place = std::net::SocketAddr::new(row.address, row.port);
            (row.tone(), format!("{place} of {} {state}; pod {pod}", id.owner))
        }
    };
    let text = sanitise(&text).into_owned();
    let mut lines = wrapped(&text, area.width.saturating_sub(4), usize::from(area.height));
    let first = if lines.is_empty() { String::new() } else { lines.remove(0) };
    let mut out = vec![Line::from(vec![
        Span::styled(format!("  {} ", glyph(model, tone)), style(model, tone)),
        Span::raw(first),
    ])];
    out.extend(lines.into_iter().map(|l| Line::raw(format!("    {l}"))));
    out
}

/// State and reason of a policy in one sentence, and what of its traffic it does not take.
fn policy_words(board: &Board, row: &PolicyTopItem) -> String {
    format!(
        "{}/{} {}: {}",
        row.policy.kind.short_name(),
        row.policy.name,
        state_word(row.state),
        why(board, row)
    )
}

fn why(board: &Board, row: &PolicyTopItem) -> String {
    let mut words = vec![match (row.message.as_str(), row.reason.as_str()) {
        ("", "Programmed") => "its rung is in the maps".to_owned(),
        ("", reason) => reason.to_owned(),
        (message, "Programmed" | "") => message.to_owned(),
        (message, reason) => format!("{message} ({reason})"),
    }];
    let falls_back = |f: &&FrontendTopItem| {
        f.policy.as_ref() == Some(&row.policy)
            && f.state == FrontendState::Fallback
            && row.backends.programmed > 0
    };
    let without: Vec<String> =
        board.frontends.iter().filter(falls_back).map(|f| f.frontend.to_string()).collect();
    if !without.is_empty() {
        words.push(format!("no backend for {}", list(&without, 3)));
    }
    if let Some(rates) = &row.rates {
        if rates.qos_drops > 0.0 {
            words.push(format!(
                "the limit of {}/s is reached: {}/s went on down the ladder",
                row.redirects_per_second,
                scaled(rates.qos_drops)
            ));
        }
        for (reason, rate) in rates.fallbacks.iter().filter(|(_, rate)| **rate > 0.0) {
            words.push(format!("{}/s went on down the ladder: {reason}", scaled(*rate)));
        }
    }
    words.join("; ")
}

/// The text in lines of so many cells, so many at the most; the last says if there is more.
fn wrapped(text: &str, cells: u16, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        let fits = line.is_empty() || width(&line) + 1 + width(word) <= cells;
        if !fits {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    if lines.len() > most && most > 0 {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.push_str(" ...");
        }
    }
    lines
}

fn footer(model: &Model) -> Line<'static> {
    if model.typing {
        return Line::raw(" Enter keep filter   Esc show all   words must all hold, !word leaves out");
    }
    let context = match model.screen {
        Screen::Table(_) => Context::Table,
        Screen::Policy { .. } => Context::Policy,
    };
    let mut spans = vec![Span::raw(" ")];
    for b in
        KEYS.iter().filter(|b| !b.footer.is_empty() && (b.context == Context::Any || b.context == context))
    {
        spans.push(Span::styled(label(model, b), BOLD));
        spans.push(Span::raw(format!(" {}  ", b.footer)));
    }
    Line::from(spans)
}

/// What a key is called, without arrows where the terminal has none.
fn label(model: &Model, binding: &Binding) -> String {
    if model.unicode {
        return binding.label.to_owned();
    }
    binding.label.replace('↑', "Up").replace('↓', "Down").replace('→', "Right").replace('←', "Left")
}

/// Keys, columns of this table, and what the words mean.
#[must_use]
pub fn help_lines(model: &Model) -> Vec<Line<'static>> {
    let scrolls = if model.unicode { "↑ ↓ scroll" } else { "Up, Down scroll" };
    let mut lines =
        vec![Line::from(vec![Span::styled(" Keys", BOLD), Span::styled(format!("   {scrolls}"), DIM)])];
    for b in KEYS {
        let key = fit(&label(model, b), 10, Ellipsis::Right, false, model.unicode);
        lines.push(Line::from(vec![Span::styled(format!("   {key} "), BOLD), Span::raw(b.help)]));
    }
    lines.push(Line::default());
    lines.push(Line::styled(format!(" Columns of {}", name(model.what())), BOLD));
    for meta in metas(model.what()) {
        let header = fit(meta.header, 12, Ellipsis::Right, false, model.unicode);
        lines.push(Line::from(vec![Span::styled(format!("   {header} "), BOLD), Span::raw(meta.help)]));
    }
    lines.push(Line::default());
    for text in [
        " Rates are decisions a second: one connect(), or one datagram on an unconnected socket.",
        " No packets or bytes are counted. The ladder: policy, then Service, then the address dialled.",
    ] {
        lines.push(Line::raw(text));
    }
    lines
}

/// Everything about one policy.
#[must_use]
pub fn policy_lines(model: &Model) -> Vec<Line<'static>> {
    let (Screen::Policy { policy, .. }, Some(board)) = (&model.screen, model.board.as_deref()) else {
        return Vec::new();
    };
    let (Some(row), Some(status)) =
        (board.policies.iter().find(|r| r.policy == *policy), board.status_of(policy))
    else {
        return vec![Line::raw(format!(" {policy} is not on this node any more; Esc goes back"))];
    };
    let mut lines = Vec::new();
    let tone = policy_tone(row.state);
    lines.push(Line::from(vec![
        Span::styled(format!(" {} ", glyph(model, tone)), style(model, tone)),
        Span::styled(state_word(row.state), style(model, tone)),
        Span::raw(format!("  {}", sanitise(&policy.to_string()))),
    ]));
    for (name, value) in facts(board, row, status) {
        for (i, line) in
            wrapped(&sanitise(&value), model.size.0.saturating_sub(14), 6).into_iter().enumerate()
        {
            lines.push(fact(if i == 0 { name } else { "" }, line));
        }
    }
    let frontends: Vec<_> = board.frontends.iter().filter(|f| f.policy.as_ref() == Some(policy)).collect();
    lines.push(Line::default());
    lines.push(Line::styled(format!(" {}", plural(frontends.len(), "FRONTEND", "FRONTENDS")), BOLD));
    lines.extend(rows_as_lines(model, &frontends, &["policy"]));
    let owner = policy.to_string();
    let own: Vec<_> = board.backends.iter().filter(|b| b.owner == owner).collect();
    lines.push(Line::default());
    lines.push(Line::styled(format!(" {}", plural(own.len(), "BACKEND", "BACKENDS")), BOLD));
    lines.extend(rows_as_lines(model, &own, &["owner"]));
    let services: BTreeSet<String> = frontends.iter().filter_map(|f| f.service.as_ref()).cloned().collect();
    for service in services {
        let owner = format!("Service/{service}");
        let beneath: Vec<_> = board.backends.iter().filter(|b| b.owner == owner).collect();
        lines.push(Line::default());
        let title = format!(
            " {} of the Service {}, beneath",
            plural(beneath.len(), "endpoint", "endpoints"),
            sanitise(&service)
        );
        lines.push(Line::styled(title, BOLD));
        lines.extend(rows_as_lines(model, &beneath, &["owner"]));
    }
    let unused: Vec<_> = status.wanted.pods.iter().filter(|p| !p.usable).collect();
    if !unused.is_empty() {
        lines.push(Line::default());
        lines.push(Line::styled(" SELECTED PODS THAT ARE NO BACKENDS", BOLD));
        for pod in unused.iter().take(20) {
            lines.push(Line::raw(format!("    {}  {}", sanitise(&pod.pod), sanitise(&pod.reason))));
        }
    }
    lines.push(Line::default());
    lines.push(Line::styled(
        format!(
            " More: kubectl balancing explain policy {}/{}",
            policy.kind.short_name(),
            sanitise(&policy.name)
        ),
        DIM,
    ));
    lines
}

fn fact(name: &str, value: String) -> Line<'static> {
    Line::from(vec![Span::styled(format!("   {name:9} "), BOLD), Span::raw(value)])
}

/// What there is to say of a policy, by name.
fn facts(board: &Board, row: &PolicyTopItem, status: &PolicyStatus) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("Why", why(board, row)),
        ("Frontend", claimed(row, status)),
        ("Backends", backend_facts(row, status)),
    ];
    if row.policy.kind == PolicyKind::LocalRedirectPolicy {
        let limit = match row.redirects_per_second {
            0 => "no limit".to_owned(),
            n => format!("{n} redirects a second and node; the rest goes on down the ladder"),
        };
        facts.push(("QoS", limit));
        let exempt = status.exempt_callers;
        if exempt.pods > 0 {
            let inactive =
                if exempt.active < exempt.pods { ": no cgroup was found for the others" } else { "" };
            facts.push((
                "Exempt",
                format!("connections of {} of {} backend pods{inactive}", exempt.active, exempt.pods),
            ));
        }
    }
    facts.push(("Totals", totals_of(board, row)));
    facts.push(("Rates", rates_of(row)));
    if let Some(ladder) = ladder(board, row) {
        facts.push(("Ladder", ladder));
    }
    facts
}

fn claimed(row: &PolicyTopItem, status: &PolicyStatus) -> String {
    let what = match (&status.wanted.service, &status.wanted.address) {
        (Some(service), _) => format!("Service {service}"),
        (None, Some(address)) => format!("address {address}"),
        (None, None) => NONE.to_owned(),
    };
    match row.frontends.as_slice() {
        [] => format!("{what}; it holds none here"),
        some => format!("{what}: {}", list(some, 4)),
    }
}

fn backend_facts(row: &PolicyTopItem, status: &PolicyStatus) -> String {
    let wanted = &status.wanted;
    let place =
        if wanted.namespaces.is_empty() { "any namespace".to_owned() } else { list(&wanted.namespaces, 4) };
    let selector = if wanted.selector.is_empty() {
        String::new()
    } else {
        format!("; selector {} in {place}", wanted.selector)
    };
    let otherwise = if wanted.on_no_backend.is_empty() {
        String::new()
    } else {
        format!("; without any: {}", wanted.on_no_backend)
    };
    format!("{} of {} in the maps{selector}{otherwise}", row.backends.programmed, row.backends.wanted)
}

fn totals_of(board: &Board, row: &PolicyTopItem) -> String {
    let since =
        board.sample.nodes.first().map(|n| age_at(n.counters.since, n.counters.taken_at)).unwrap_or_default();
    let reasons: Vec<String> =
        row.fallbacks.iter().map(|(r, n)| format!("{r} {}", scaled_count(*n))).collect();
    let fallbacks = if reasons.is_empty() { "0".to_owned() } else { reasons.join(", ") };
    let (taken, verb) = match row.policy.kind {
        PolicyKind::LocalRedirectPolicy => (row.redirects, "redirects"),
        PolicyKind::BalancingPolicy => (row.balanced, "balanced"),
    };
    format!(
        "{verb} {}, QoS drops {}, fallbacks {fallbacks}, refused {} in {since}",
        scaled_count(taken),
        scaled_count(row.qos_drops),
        scaled_count(row.refusals)
    )
}

fn rates_of(row: &PolicyTopItem) -> String {
    let Some(r) = &row.rates else { return "not known before the second sample".to_owned() };
    let (taken, verb) = match row.policy.kind {
        PolicyKind::LocalRedirectPolicy => (r.redirects, "redirects"),
        PolicyKind::BalancingPolicy => (r.balanced, "balanced"),
    };
    format!(
        "{verb} {}/s, QoS drops {}/s, fallbacks {}/s, refused {}/s",
        scaled(taken),
        scaled(r.qos_drops),
        scaled(r.fallbacks.values().sum()),
        scaled(r.refusals)
    )
}

/// The ladder of the policy's first frontend in one line.
fn ladder(board: &Board, row: &PolicyTopItem) -> Option<String> {
    let mut items = board.sample.nodes.iter().flat_map(|n| &n.frontends.items);
    let item = items.find(|i| row.frontends.contains(&i.frontend))?;
    let rungs = item.rungs.iter().map(|r| {
        let who = match (r.rung, &r.service) {
            (RungKind::Service, Some(service)) => format!("Service {service}"),
            (RungKind::Service, None) => "Service".to_owned(),
            _ => "this policy".to_owned(),
        };
        format!("{who} ({})", plural(r.backends.len(), "backend", "backends"))
    });
    let steps: Vec<String> = rungs.chain([format!("{:?}", item.otherwise).to_lowercase()]).collect();
    Some(steps.join(", then "))
}

/// A small table without selection, as wide as the screen.
fn rows_as_lines<R: Row>(model: &Model, rows: &[&R], without: &[&str]) -> Vec<Line<'static>> {
    const MOST: usize = 500;
    let columns: Vec<&Column<R>> = R::columns()
        .iter()
        .filter(|c| c.meta.shown == Shown::Always && !without.contains(&c.meta.key))
        .collect();
    if rows.is_empty() {
        return vec![Line::raw(format!("    {NONE}"))];
    }
    let metas: Vec<Meta> = columns.iter().map(|c| c.meta).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().take(MOST).map(|r| columns.iter().map(|c| (c.cell)(r).shown()).collect()).collect();
    let widths: Vec<u16> = metas
        .iter()
        .enumerate()
        .map(|(i, m)| cells.iter().map(|r| width(&r[i])).max().unwrap_or(0).min(m.max).max(width(m.header)))
        .collect();
    let shown = fitting(&metas, &widths, model.size.0);
    let shown_widths: Vec<u16> = shown.iter().map(|i| widths[*i]).collect();
    let mut header = vec![Span::raw("    ")];
    for i in &shown {
        header.push(Span::styled(
            fit(metas[*i].header, widths[*i], Ellipsis::Right, metas[*i].number, model.unicode),
            DIM,
        ));
        header.push(Span::raw("  "));
    }
    let mut lines = vec![Line::from(header)];
    for (row, cells) in rows.iter().zip(cells) {
        let shown_row = ShownRow { cells, tone: row.tone(), selected: false };
        lines.push(row_line(model, &shown_row, &metas, &shown, &shown_widths, false));
    }
    if rows.len() > MOST {
        lines.push(Line::raw(format!("    and {} more", rows.len() - MOST)));
    }
    lines
}

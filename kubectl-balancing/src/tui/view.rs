//! Draws the model. Pure: the same model gives the same screen.

use balancing_api::cli::{BackendState, PolicyTopItem};
use ratatui::{
    Frame,
    layout::Rect,
    style::Modifier,
    text::{Line, Span},
};

use super::{
    fit::{fit, width, wrapped},
    grid::{column_widths, row_line, visible_columns},
    keys::{Binding, Context, KEYS},
    layout::{LEAST, too_small},
    model::{Link, Model, Screen, metas, sort_header},
    policy::{policy_lines, policy_words},
    style::{BOLD, DIM, REVERSED, glyph, style},
};
use crate::{
    columns::{Ellipsis, Row, RowId, Tone, policy_tone},
    problems::places,
    sample::Board,
    text::{NONE, sanitise, scaled},
    top::What,
};

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
    what.name()
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
    let all: Vec<_> = board.node_problems().collect();
    let Some(first) = all.first() else { return Line::default() };
    let more = match all.len() {
        1 => String::new(),
        n => format!("(1 of {n}) "),
    };
    let text = format!(
        " {} {more}node {}: {}",
        glyph(model, Tone::Bad),
        sanitise(&places(first)),
        sanitise(&first.message)
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
        RowId::Node(_) | RowId::Problem(..) | RowId::Event(_) => return Vec::new(),
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

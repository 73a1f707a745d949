//! Draws the model. Pure: the same model gives the same screen.

use balancing_api::cli::PolicyTopItem;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

use super::{
    chart::sparkline,
    details,
    fit::{fit, width, wrapped},
    grid::{column_widths, row_line, unknown, visible_columns},
    keys::{Action, Binding, Context, KEYS},
    layout::{LEAST, too_small},
    model::{BANNER_MARGIN, DETAIL_MARGIN, Link, Model, Screen, Typing, metas, sort_header},
    node::node_lines,
    policy::policy_lines,
    style::{BOLD, DIM, REVERSED, glyph, style},
};
use crate::{
    columns::{Ellipsis, Tone},
    history::Measure,
    rows::What,
    sample::Board,
    source::Origin,
    text::{age, plural, sanitise, scaled},
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
    put(frame, areas.trends, 0, &trends(model));
    for (i, line) in problems(model, areas.problems).into_iter().enumerate() {
        put(frame, areas.problems, i as u16, &line);
    }
    match (model.help, model.screen()) {
        (Some(scroll), _) => put_all(frame, areas.body, help_lines(model), scroll),
        (None, Screen::Policy { scroll, .. }) => put_all(frame, areas.body, policy_lines(model), *scroll),
        (None, Screen::Node { scroll, .. }) => put_all(frame, areas.body, node_lines(model), *scroll),
        (None, Screen::Text { lines, scroll, .. }) => {
            let lines = details::text_lines(lines, model.text_width());
            let lines = lines.into_iter().map(|l| Line::raw(format!(" {l}"))).collect();
            put_all(frame, areas.body, lines, *scroll);
        }
        (None, Screen::Table(_)) => table(model, frame, areas.body),
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
    let (state, state_style) = match (&model.link, model.paused, model.origin) {
        (_, true, _) => {
            let data = time.as_ref().map(|t| format!(", data of {t}")).unwrap_or_default();
            (format!(" {} PAUSED{data} ", sign("‖", "||")), REVERSED)
        }
        (Link::Ended, ..) => (format!("{} REPLAY ended", sign("■", "#")), style(model, Tone::Warn)),
        (Link::Connecting { elapsed }, ..) => {
            (format!("{} CONNECTING {elapsed}s", sign("◌", "-")), style(model, Tone::Warn))
        }
        (Link::Live, _, Origin::Replay { speed, .. }) => {
            (format!("{} REPLAY {speed}{}", sign("▶", ">"), sign("×", "x")), style(model, Tone::Good))
        }
        (Link::Live, ..) => (format!("{} LIVE {}", sign("●", "*"), seconds(model)), style(model, Tone::Good)),
        (Link::Lost { error, .. }, _, Origin::Replay { speed, .. }) => {
            let text = format!("{} REPLAY {speed}{}: {}", sign("▶", ">"), sign("×", "x"), sanitise(error));
            (text, style(model, Tone::Bad))
        }
        (Link::Lost { error, attempt, retry_in, .. }, ..) => {
            let word = if model.board.is_some() { "RECONNECTING" } else { "CONNECTING again" };
            let when = if *retry_in == 0 { "now".to_owned() } else { format!("in {retry_in}s") };
            let text = format!("{} {word} {when} ({attempt}): {}", sign("◌", "-"), sanitise(error));
            (text, style(model, Tone::Bad))
        }
    };
    let mut spans = vec![Span::styled(" balancing top  ", BOLD), Span::styled(state, state_style)];
    if model.origin.is_demo() {
        spans.push(Span::raw("  "));
        spans.push(Span::styled(" DEMO DATA ", REVERSED.add_modifier(Modifier::BOLD)));
    }
    for part in &model.scope {
        spans.push(Span::styled(format!("  only {}", sanitise(part)), BOLD));
    }
    if model.recording {
        spans.push(Span::styled(format!("  {} REC", sign("●", "*")), style(model, Tone::Bad)));
    }
    match model.board.as_deref() {
        Some(board) => spans.extend(coverage(model, board)),
        None => spans.push(Span::raw(format!("  {}", sanitise(&model.agent)))),
    }
    if let (Some(time), false) = (time, model.paused) {
        let old = match model.link {
            Link::Lost { since, .. } if since > 0 => format!(", {} ago", age(since as i64)),
            _ => String::new(),
        };
        spans.push(Span::raw(format!("  as of {time}{old}")));
    }
    whole(spans, 2, model.size.0)
}

/// The parts as far as there is room for whole ones: half a number would be a wrong one. The first ones are there always.
fn whole(spans: Vec<Span<'static>>, always: usize, room: u16) -> Line<'static> {
    let mut used = 0;
    let mut shown = Vec::new();
    for (i, span) in spans.into_iter().enumerate() {
        used += width(&span.content);
        if i >= always && used > room {
            break;
        }
        shown.push(span);
    }
    Line::from(shown)
}

/// Of which nodes the numbers speak.
fn coverage(model: &Model, board: &Board) -> Vec<Span<'static>> {
    let sample = &board.sample;
    let all = sample.nodes.len() + sample.stale.len() + sample.coverage.missing.len();
    if let ([node], 1) = (sample.nodes.as_slice(), all) {
        let (name, version) = (sanitise(&node.status.node.name), sanitise(&node.status.agent.version));
        return vec![Span::raw(format!("  node {name}  agent {version}"))];
    }
    let mut spans = vec![Span::raw(format!("  sum of {}/{all} nodes", sample.nodes.len()))];
    let mut count = |n: usize, word: &str, tone: Tone| {
        if n > 0 {
            spans.push(Span::styled(format!("  {} {n} {word}", glyph(model, tone)), style(model, tone)));
        }
    };
    count(sample.stale.len(), "stale", Tone::Warn);
    count(sample.coverage.missing.len(), "missing", Tone::Bad);
    spans
}

fn tabs(model: &Model) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    if model.screens.len() > 1 {
        let path: Vec<String> = model.screens.iter().map(crumb).collect();
        spans.push(Span::styled(path.join(" > "), BOLD));
        spans.push(Span::styled("   Esc back", DIM));
        return Line::from(spans);
    }
    let narrow = model.size.0 < 100;
    let state = table_state(model);
    let cells = |spans: &[Span<'_>]| spans.iter().map(|s| width(&s.content)).sum::<u16>();
    let all: Vec<_> = What::ALL.into_iter().flat_map(|what| tab(model, what, narrow)).collect();
    // What is typed and told of the table comes before the names of others.
    if state.len() > 1 && cells(&all) + cells(&state) >= model.size.0 {
        spans.extend(tab(model, model.what(), narrow));
    } else {
        spans.extend(all);
    }
    spans.extend(state);
    whole(spans, 1, model.size.0)
}

/// The name of a table.
fn tab(model: &Model, what: What, narrow: bool) -> [Span<'static>; 2] {
    let here = what == model.what();
    let style = if here { BOLD.add_modifier(Modifier::UNDERLINED) } else { DIM };
    let count = match what {
        What::Trace => String::new(),
        _ if model.board.is_none() => String::new(),
        // Where there is no room for all counts, that of the problems is the one to know.
        What::Problems if model.count(what) > 0 => format!(" {}", model.count(what)),
        _ if narrow && !here => String::new(),
        _ => format!(" {}", model.count(what)),
    };
    let name = if narrow && !here { short(what) } else { name(what) };
    let text = format!("{} {name}{count}", what as usize + 1);
    [Span::styled(text, style), Span::raw(if narrow { " " } else { "  " })]
}

/// Filter, search, sort and modes of the table.
fn table_state(model: &Model) -> Vec<Span<'static>> {
    let mut spans = Vec::new();
    let table = model.table(model.what());
    let typing = model.typing == Some(Typing::Filter);
    if typing || !table.filter.is_empty() {
        let style = if typing { REVERSED } else { BOLD };
        spans.push(Span::styled(typed("/", &table.filter, typing), style));
        spans.push(Span::raw(format!(" {} shown ", table.order.len())));
    }
    if model.typing == Some(Typing::Search) || !model.search.is_empty() {
        let typing = model.typing == Some(Typing::Search);
        let style = if typing { REVERSED } else { BOLD };
        spans.push(Span::styled(typed("\\", &model.search, typing), style));
    }
    if model.faults {
        spans.push(Span::styled(" faults only ", BOLD));
    }
    if !model.follow {
        spans.push(Span::raw(" selection by line "));
    }
    if !model.rates.name().is_empty() {
        spans.push(Span::styled(format!(" {} ", model.rates.name()), BOLD));
    }
    if model.what() == What::Trace {
        spans.extend(model.traced_node().map(|n| Span::raw(format!(" node {} ", sanitise(n)))));
        if model.trace_error.is_some() && !model.events.is_empty() {
            spans.push(Span::styled(" NOT LIVE ", style(model, Tone::Bad)));
        }
        if model.events_lost > 0 {
            let text = format!(" LOST {} ", model.events_lost);
            spans.push(Span::styled(text, style(model, Tone::Bad)));
        }
        return spans;
    }
    let sorted = match table.sort {
        Some(s) => format!("{}{}", sort_header(model.what(), s), arrow(model, s.descending)),
        None if matches!(model.what(), What::Policies | What::Problems | What::Nodes) => {
            "problems first".to_owned()
        }
        None => "by name".to_owned(),
    };
    spans.push(Span::raw(format!(" sort {sorted}")));
    spans
}

/// What is typed, with its end, which is where typing goes on.
fn typed(key: &str, text: &str, typing: bool) -> String {
    const SHOWN: usize = 40;
    let text = sanitise(text);
    let tail: String = text.chars().skip(text.chars().count().saturating_sub(SHOWN)).collect();
    let cursor = if typing { "_" } else { "" };
    format!(" {key}{tail}{cursor} ")
}

/// A screen in the breadcrumb.
fn crumb(screen: &Screen) -> String {
    match screen {
        Screen::Table(what) => name(*what).to_owned(),
        Screen::Policy { policy, .. } => format!("{}/{}", policy.kind.short_name(), sanitise(&policy.name)),
        Screen::Node { name, .. } => sanitise(name).into_owned(),
        Screen::Text { title, .. } => sanitise(title).into_owned(),
    }
}

/// A name for a narrow screen.
fn short(what: What) -> &'static str {
    match what {
        What::Policies => "pol",
        What::Nodes => "node",
        What::Frontends => "front",
        What::Backends => "back",
        What::Trace => "trace",
        What::Problems => "prob",
    }
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
    let unknown = unknown(model);
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

/// Totals over time.
fn trends(model: &Model) -> Line<'static> {
    let parts = [
        ("redirect", Measure::Taken),
        ("QoS drops", Measure::QosDrops),
        ("fallback", Measure::Fallbacks),
        ("refused", Measure::Refusals),
    ];
    let end = format!("  last {}", window(model.window));
    let names: u16 = parts.iter().map(|(n, _)| width(n) + 3).sum();
    let room = model.size.0.saturating_sub(names + width(&end) + 3) / parts.len() as u16;
    let mut spans = vec![Span::raw(" ")];
    for (name, measure) in parts {
        let values = model.history.total(measure, model.window as f64, usize::from(room.min(40)));
        spans.push(Span::styled(format!(" {name} "), DIM));
        let tone = if measure == Measure::Taken { Tone::Good } else { Tone::Plain };
        spans.push(Span::styled(sparkline(&values, model.unicode) + " ", style(model, tone)));
    }
    spans.push(Span::styled(end, DIM));
    Line::from(spans)
}

/// `3m`.
#[must_use]
pub(super) fn window(seconds: u64) -> String {
    format!("{}m", seconds / 60)
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

/// What concerns whole nodes: the worst of it.
fn problems(model: &Model, area: Rect) -> Vec<Line<'static>> {
    let Some(text) = model.banner.as_ref().filter(|_| area.height > 0) else { return Vec::new() };
    let lines = wrapped(text, area.width.saturating_sub(BANNER_MARGIN), usize::from(area.height));
    let mark = |i| if i == 0 { glyph(model, Tone::Bad) } else { " " };
    let line = |(i, text): (usize, String)| {
        let text = format!(" {} {text}", mark(i));
        let text = fit(&text, area.width, Ellipsis::Right, false, model.unicode);
        Line::styled(text.trim_end().to_owned(), style(model, Tone::Bad))
    };
    lines.into_iter().enumerate().map(line).collect()
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
        (None, ..) => waiting(model),
        (_, 0, _) => no_rows(model, what),
        (_, all, 0) if model.faults => {
            format!("None of {all} {} has a problem{}; f shows all.", name(what), and_matches(&table.filter))
        }
        (_, all, 0) => {
            format!("0 of {all} {} match \"{}\"; Esc shows all again.", name(what), sanitise(&table.filter))
        }
        _ => return None,
    };
    let lines = wrapped(&text, model.size.0.saturating_sub(8), 8);
    Some(lines.into_iter().map(|l| format!("    {l}")).collect())
}

/// What there is to say before the first answer.
fn waiting(model: &Model) -> String {
    let agent = sanitise(&model.agent);
    match &model.link {
        Link::Lost { error, .. } if model.origin != Origin::Live => {
            format!("There is nothing of {agent} in the recording yet: {}.", sanitise(error))
        }
        Link::Lost { error, attempt, retry_in, .. } if model.cluster => format!(
            "No answer of {agent} yet: {}. It was asked {}, again {}. Does `kubectl get nodes` answer? --context names another \
             one. `kubectl balancing top --demo` shows this view without any.",
            sanitise(error),
            plural(*attempt as usize, "time", "times"),
            if *retry_in == 0 { "now".to_owned() } else { format!("in {retry_in}s") },
        ),
        Link::Lost { error, attempt, retry_in, .. } => format!(
            "No answer yet: {}. The agent is asked at {agent}, {} so far, again {}. Does balancing-agent run on this machine, \
             and may you read its socket? --agent names another one. `kubectl balancing top --demo` shows this view without any.",
            sanitise(error),
            plural(*attempt as usize, "time", "times"),
            if *retry_in == 0 { "now".to_owned() } else { format!("in {retry_in}s") },
        ),
        _ if model.cluster => format!("Asking {agent} ..."),
        _ => format!("Asking the agent at {agent} ..."),
    }
}

fn and_matches(filter: &str) -> String {
    if filter.is_empty() { String::new() } else { format!(" and matches \"{}\"", sanitise(filter)) }
}

fn no_rows(model: &Model, what: What) -> String {
    match what {
        What::Policies if model.cluster => "No policies: apply a LocalRedirectPolicy or BalancingPolicy; `kubectl balancing \
             validate -f FILE` checks it first. `kubectl balancing top --demo` shows what it looks like."
            .to_owned(),
        What::Policies => "No policies: the agent of this node knows none. Apply a LocalRedirectPolicy or \
             BalancingPolicy, or put its YAML into the folder that the agent's --manifests names; `kubectl balancing \
             validate -f FILE` checks it first. `kubectl balancing top --demo` shows what it looks like."
            .to_owned(),
        What::Problems => "No problems: every policy that applies is in force, every node reports, no map is \
             nearly full."
            .to_owned(),
        What::Trace => match (&model.trace_error, model.origin) {
            (Some(error), _) => format!("No trace: {}", sanitise(error)),
            (None, Origin::Live) if model.cluster && model.traced_node().is_none() => {
                "Of which node? Decisions are asked of one node at a time: 2 shows the nodes, t the trace of the selected \
                 one."
                    .to_owned()
            }
            (None, Origin::Live) => {
                "Waiting for decisions: one line for each connect() and each datagram on an unconnected socket that \
                 meets a frontend."
                    .to_owned()
            }
            (None, Origin::Replay { .. }) => {
                "No trace: a recording holds samples, not single decisions. `kubectl balancing trace -o json` prints those \
                 of a running agent, to be kept beside it."
                    .to_owned()
            }
            (None, Origin::Demo) => {
                "No trace: the synthetic cluster has numbers alone, nobody dials anything. With an agent there is one line \
                 for each connect() and each datagram that meets a frontend."
                    .to_owned()
            }
        },
        What::Nodes => "No nodes: nobody reports.".to_owned(),
        What::Frontends | What::Backends if model.cluster => {
            format!("No {}: no node tells of any to the operator.", name(what))
        }
        What::Frontends | What::Backends => {
            format!("No {}: no policy and no Service that this node serves.", name(what))
        }
    }
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

/// The selected row in words.
fn detail(model: &Model, area: Rect) -> Vec<Line<'static>> {
    if area.height == 0 {
        return Vec::new();
    }
    let Some((tone, text)) = details::words(model) else { return Vec::new() };
    let mut lines = wrapped(&text, area.width.saturating_sub(DETAIL_MARGIN), usize::from(area.height));
    let first = if lines.is_empty() { String::new() } else { lines.remove(0) };
    let mut out = vec![Line::from(vec![
        Span::styled(format!("  {} ", glyph(model, tone)), style(model, tone)),
        Span::raw(first),
    ])];
    out.extend(lines.into_iter().map(|l| Line::raw(format!("    {l}"))));
    out
}

fn footer(model: &Model) -> Line<'static> {
    if let Some(notice) = &model.notice {
        return Line::styled(format!(" {}", sanitise(notice)), style(model, Tone::Warn));
    }
    let table = model.table(model.what());
    if let (Some(typing), 0) = (model.typing, model.areas().tabs.height) {
        let (key, text) = match typing {
            Typing::Filter => ("/", &table.filter),
            Typing::Search => ("\\", &model.search),
        };
        return Line::styled(typed(key, text, true), REVERSED);
    }
    match (model.typing, &table.filter_error) {
        (Some(Typing::Search), _) => {
            return Line::raw(" Enter looks for it   Esc leaves   n, N next and previous");
        }
        (_, Some(error)) => {
            return Line::styled(format!(" filter: {}", sanitise(error)), style(model, Tone::Warn));
        }
        (Some(Typing::Filter), None) => {
            return Line::raw(
                " Enter keep filter   Esc show all   word  !word  ~regex  qosDrops>0  and or not ( )",
            );
        }
        (None, None) => {}
    }
    let context = match model.screen() {
        Screen::Table(_) => Context::Table,
        _ => Context::Policy,
    };
    let last = KEYS.iter().find(|b| b.action == Action::Quit);
    let cells = |b: &Binding| width(&label(model, b)) + width(b.footer) + 3;
    let mut room = model.size.0.saturating_sub(1 + last.map_or(0, cells));
    let shown = KEYS.iter().filter(|b| {
        let here = b.context == Context::Any || b.context == context;
        !b.footer.is_empty() && here && b.action != Action::Quit
    });
    let mut spans = vec![Span::raw(" ")];
    // How to leave is always there.
    let fitting = shown.take_while(|b| {
        let fits = cells(b) <= room;
        room = room.saturating_sub(cells(b));
        fits
    });
    for b in fitting.chain(last) {
        let refused = model.refuses(b.action).is_some();
        spans.push(Span::styled(label(model, b), if refused { DIM } else { BOLD }));
        spans.push(Span::styled(format!(" {}  ", b.footer), if refused { DIM } else { Style::new() }));
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

/// A key or column, and what it does; what finds no room goes on beneath.
fn help_line(model: &Model, key: &str, key_style: Style, text: &str, style: Style) -> Vec<Line<'static>> {
    let room = model.size.0.saturating_sub(width(key)).max(20);
    let parts = details::text_lines(&[text.to_owned()], room);
    let mut lead = Span::styled(key.to_owned(), key_style);
    let mut lines = Vec::new();
    for part in parts {
        lines.push(Line::from(vec![lead, Span::styled(part, style)]));
        lead = Span::raw(" ".repeat(usize::from(width(key))));
    }
    lines
}

/// Keys, columns of this table, and what the words mean.
#[must_use]
pub fn help_lines(model: &Model) -> Vec<Line<'static>> {
    let scrolls = if model.unicode { "↑ ↓ scroll" } else { "Up, Down scroll" };
    let mut lines =
        vec![Line::from(vec![Span::styled(" Keys", BOLD), Span::styled(format!("   {scrolls}"), DIM)])];
    for b in KEYS {
        let key = fit(&label(model, b), 10, Ellipsis::Right, false, model.unicode);
        // What can do nothing now says why.
        let (key_style, style, text) = match model.refuses(b.action) {
            None => (BOLD, Style::new(), b.help.to_owned()),
            Some(reason) => (DIM, DIM, format!("{} ({reason})", b.help)),
        };
        lines.extend(help_line(model, &format!("   {key} "), key_style, &text, style));
    }
    lines.push(Line::default());
    lines.push(Line::styled(format!(" Columns of {}", name(model.what())), BOLD));
    for meta in metas(model.what()) {
        let header = fit(meta.header, 12, Ellipsis::Right, false, model.unicode);
        lines.extend(help_line(model, &format!("   {header} "), BOLD, meta.help, Style::new()));
    }
    lines.push(Line::default());
    for text in [
        "Rates are decisions a second: one connect(), or one datagram on an unconnected socket.",
        "No packets or bytes are counted. The ladder: policy, then Service, then the address dialled.",
    ] {
        lines.extend(help_line(model, " ", Style::new(), text, Style::new()));
    }
    lines
}

//! Everything about one policy, in lines.

use std::collections::{BTreeMap, BTreeSet};

use balancing_api::{
    agent::{BackendCount, PolicyStatus, RungKind},
    cli::{BackendTopItem, FrontendState, FrontendTopItem, PolicyTopItem},
    policy::{PolicyKind, PolicyRef},
};
use ratatui::text::{Line, Span};

use super::{
    chart::{CHART_MARGIN, bar, chart, largest},
    fit::{fit, wrapped},
    grid::rows_as_lines,
    model::{Model, Screen},
    style::{BOLD, DIM, glyph, style},
    view::window,
};
use crate::{
    columns::{Ellipsis, Row, Tone, state_word},
    history::Measure,
    sample::{Board, severity},
    text::{NONE, age_at, list, plural, sanitise, scaled, scaled_count},
};

/// State and reason of a policy in one sentence, and what of its traffic it does not take.
pub(super) fn policy_words(board: &Board, row: &PolicyTopItem) -> String {
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

/// Everything about one policy.
#[must_use]
pub fn policy_lines(model: &Model) -> Vec<Line<'static>> {
    let (Screen::Policy { policy, .. }, Some(board)) = (model.screen(), model.board.as_deref()) else {
        return Vec::new();
    };
    let (Some(row), Some(status)) =
        (board.policies.iter().find(|r| r.policy == *policy), board.status_of(policy))
    else {
        return vec![Line::raw(format!(" {policy} is not on this node any more; Esc goes back"))];
    };
    let mut lines = Vec::new();
    let tone = row.tone();
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
    lines.extend(charts(model, policy));
    lines.extend(places_of(model, board, policy));
    let frontends: Vec<_> = board.frontends.iter().filter(|f| f.policy.as_ref() == Some(policy)).collect();
    lines.push(Line::default());
    lines.push(Line::styled(format!(" {}", plural(frontends.len(), "FRONTEND", "FRONTENDS")), BOLD));
    lines.extend(rows_as_lines(model, &frontends, &["policy"]));
    let owner = policy.to_string();
    let own: Vec<_> = board.backends.iter().filter(|b| b.owner == owner).collect();
    lines.push(Line::default());
    lines.push(Line::styled(format!(" {}", plural(own.len(), "BACKEND", "BACKENDS")), BOLD));
    lines.extend(rows_as_lines(model, &own, &["owner"]));
    lines.extend(shares(model, &own));
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

/// Rates over time, two charts side by side where there is room.
fn charts(model: &Model, policy: &PolicyRef) -> Vec<Line<'static>> {
    const MOST: u16 = 90;
    let width = model.size.0.saturating_sub(6 + 2 * CHART_MARGIN);
    let parts = usize::from((width / 2).min(MOST));
    if parts < 15 || model.size.1 < 20 {
        return Vec::new();
    }
    let rows = usize::from((model.size.1 / 8).clamp(2, 6));
    let of = |measure, name: &str| {
        let values = model.history.policy(policy, measure, model.window as f64, parts);
        let title = format!("{name}, at most {}/s", scaled(largest(&values)));
        let mut lines = vec![format!("{:10}{title}", "")];
        lines.extend(chart(&values, rows, model.unicode));
        lines
    };
    let left = of(Measure::Taken, "to its backends");
    let right = match policy.kind {
        PolicyKind::LocalRedirectPolicy => of(Measure::QosDrops, "QoS drops"),
        PolicyKind::BalancingPolicy => of(Measure::Fallbacks, "fallbacks"),
    };
    let mut lines = vec![Line::default(), Line::styled(format!(" LAST {}", window(model.window)), BOLD)];
    let cells = parts as u16 + CHART_MARGIN;
    for (i, (a, b)) in left.into_iter().zip(right).enumerate() {
        let a = fit(&a, cells, Ellipsis::Right, false, model.unicode);
        let (good, warn) = match i {
            0 => (DIM, DIM),
            _ => (style(model, Tone::Good), style(model, Tone::Warn)),
        };
        lines.push(Line::from(vec![
            Span::raw("  "),
            Span::styled(a, good),
            Span::raw("  "),
            Span::styled(b, warn),
        ]));
    }
    lines
}

/// On which nodes it is in which state; equal ones folded into one line.
fn places_of(model: &Model, board: &Board, policy: &PolicyRef) -> Vec<Line<'static>> {
    let mut states: BTreeMap<(u8, String, String), Vec<&str>> = BTreeMap::new();
    let mut counts: BTreeMap<(u8, String, String), BackendCount> = BTreeMap::new();
    for node in &board.sample.nodes {
        let is = |p: &&PolicyStatus| p.kind == policy.kind && p.name == policy.name;
        let Some(p) = node.status.policies.iter().find(is) else { continue };
        let key = (severity(p.state), state_word(p.state), p.reason.clone());
        states.entry(key.clone()).or_default().push(&node.status.node.name);
        let sum = counts.entry(key).or_default();
        sum.wanted += p.backends.wanted;
        sum.programmed += p.backends.programmed;
    }
    let all: usize = states.values().map(Vec::len).sum();
    if all < 2 {
        return Vec::new();
    }
    let mut lines = vec![Line::default(), Line::styled(format!(" {all} NODES"), BOLD)];
    for (key, nodes) in &states {
        let tone = match key.0 {
            5 => Tone::Good,
            6 => Tone::Dim,
            3 | 4 => Tone::Warn,
            _ => Tone::Bad,
        };
        let names: Vec<String> = nodes.iter().map(|n| sanitise(n).into_owned()).collect();
        let backends = counts.get(key).copied().unwrap_or_default();
        let reason = if key.2 == key.1 { String::new() } else { format!(" {}", sanitise(&key.2)) };
        let text = format!(
            "{}{reason}  backends {}/{}  {}: {}",
            key.1,
            backends.programmed,
            backends.wanted,
            plural(nodes.len(), "node", "nodes"),
            list(&names, 4)
        );
        lines.push(Line::from(vec![
            Span::styled(format!("  {} ", glyph(model, tone)), style(model, tone)),
            Span::raw(fit(&text, model.size.0.saturating_sub(5), Ellipsis::Right, false, model.unicode)),
        ]));
    }
    lines
}

/// What each backend has of the whole, as bars.
fn shares(model: &Model, backends: &[&BackendTopItem]) -> Vec<Line<'static>> {
    const MOST: usize = 12;
    const BAR: u16 = 30;
    let mut shown: Vec<&&BackendTopItem> = backends.iter().filter(|b| b.share.is_some()).collect();
    if shown.len() < 2 || model.size.0 < 60 {
        return Vec::new();
    }
    shown.sort_by(|a, b| b.selected.cmp(&a.selected).then(a.address.cmp(&b.address)));
    let mut lines = vec![Line::default(), Line::styled(" SHARE OF EACH BACKEND", BOLD)];
    let rest = shown.len().saturating_sub(MOST);
    for b in shown.into_iter().take(MOST) {
        let share = b.share.unwrap_or_default();
        let place = format!("{}/{}", std::net::SocketAddr::new(b.address, b.port), b.protocol);
        lines.push(Line::from(vec![
            Span::raw(format!("    {} ", fit(&place, 24, Ellipsis::Middle, false, model.unicode))),
            Span::styled(bar(share, BAR.min(model.size.0 / 3), model.unicode), style(model, Tone::Good)),
            Span::raw(format!(" {:5.1}%  {}", share * 100.0, scaled_count(b.selected))),
        ]));
    }
    if rest > 0 {
        lines.push(Line::raw(format!("    and {rest} more")));
    }
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
    let steps: Vec<String> = rungs.chain([sanitise(item.otherwise.as_str()).into_owned()]).collect();
    Some(steps.join(", then "))
}

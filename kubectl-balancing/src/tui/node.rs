//! Everything about one node, in lines.

use balancing_api::agent::ProgramInfo;
use ratatui::text::{Line, Span};

use super::{
    chart::gauge,
    fit::{fit, wrapped},
    model::{Model, Screen},
    style::{BOLD, DIM, glyph, style},
};
use crate::{
    columns::{Ellipsis, Row, Tone, policy_tone, state_word},
    text::{age, age_at, list, sanitise, scaled, scaled_count},
};

/// A map fuller than this is pointed out.
const NEARLY_FULL: f64 = 0.8;

/// Everything about the node.
#[must_use]
pub fn node_lines(model: &Model) -> Vec<Line<'static>> {
    let (Screen::Node { name, .. }, Some(board)) = (model.screen(), model.board.as_deref()) else {
        return Vec::new();
    };
    let Some(row) = board.nodes.iter().find(|n| n.name == *name) else {
        return vec![Line::raw(format!(" node {} is not there any more; Esc goes back", sanitise(name)))];
    };
    let tone = row.tone();
    let mut lines = vec![Line::from(vec![
        Span::styled(format!(" {} {:?}", glyph(model, tone), row.state), style(model, tone)),
        Span::raw(format!("  node {}", sanitise(name))),
    ])];
    let mut said = board.sample.nodes.iter().chain(&board.sample.stale);
    let Some(node) = said.find(|n| n.status.node.name == *name) else {
        lines.extend(fact(model, "Why", &row.message));
        return lines;
    };
    let status = &node.status;
    let now = node.counters.taken_at;
    if !row.message.is_empty() || !row.reason.is_empty() {
        lines.extend(fact(model, "Why", &format!("{} ({})", row.message, row.reason)));
    }
    let old = row.age.filter(|a| *a >= 1.0).map(|a| format!("; its numbers are {} old", age(a as i64)));
    let agent = format!(
        "version {}, started {} ago{}",
        status.agent.version,
        age_at(status.agent.started_at, now),
        old.unwrap_or_default()
    );
    lines.extend(fact(model, "Agent", &agent));
    let features = [
        ("ECONNREFUSED for refused clients", status.kernel.features.set_retval),
        ("socket storage", status.kernel.features.socket_storage),
        ("destroys stale sockets", status.kernel.features.socket_destroy),
    ];
    let features: Vec<String> =
        features.iter().map(|(name, has)| format!("{name}: {}", if *has { "yes" } else { "no" })).collect();
    lines.extend(fact(model, "Kernel", &format!("{}; {}", status.kernel.release, features.join(", "))));
    lines.extend(fact(model, "Addresses", &list(&status.node.addresses, 4)));
    lines.extend(fact(model, "Programs", &programs(&status.datapath.programs)));
    let rates = match &row.rates {
        None => "not known before the second sample".to_owned(),
        Some(r) => format!(
            "to backends {}/s, QoS drops {}/s, fallbacks {}/s, refused {}/s, events lost {}/s",
            scaled(r.redirects + r.balanced),
            scaled(r.qos_drops),
            scaled(r.fallbacks),
            scaled(r.refusals),
            scaled(r.lost)
        ),
    };
    lines.extend(fact(model, "Rates", &rates));
    let totals = format!(
        "to backends {}, QoS drops {}, fallbacks {}, refused {} in {}",
        scaled_count(row.redirects + row.balanced),
        scaled_count(row.qos_drops),
        scaled_count(row.fallbacks),
        scaled_count(row.refusals),
        age_at(node.counters.since, now)
    );
    lines.extend(fact(model, "Totals", &totals));

    lines.push(Line::default());
    lines.push(Line::styled(" MAPS", BOLD));
    for map in &status.datapath.maps {
        let part = if map.capacity == 0 { 0.0 } else { map.entries as f64 / map.capacity as f64 };
        let tone = if part >= NEARLY_FULL { Tone::Warn } else { Tone::Good };
        let cells = (model.size.0 / 4).clamp(8, 40);
        lines.push(Line::from(vec![
            Span::raw(format!(
                "    {} ",
                fit(&sanitise(&map.name), 16, Ellipsis::Middle, false, model.unicode)
            )),
            Span::styled(gauge(part, cells, model.unicode), style(model, tone)),
            Span::raw(format!("  {} of {}", map.entries, map.capacity)),
        ]));
    }

    lines.push(Line::default());
    lines.push(Line::styled(" CONDITIONS", BOLD));
    for c in &status.conditions {
        let tone = match c.status.as_str() {
            "True" => Tone::Good,
            "Unknown" => Tone::Warn,
            _ => Tone::Bad,
        };
        let since = age_at(c.last_transition_time, now);
        let text = format!("{} {} {}, for {since}  {}", c.type_, c.status, c.reason, c.message);
        lines.push(toned(model, tone, &text));
    }

    lines.push(Line::default());
    lines.push(Line::styled(" POLICIES", BOLD));
    let mut policies: Vec<_> = status.policies.iter().collect();
    policies.sort_by_key(|p| (crate::sample::severity(p.state), &p.name));
    for p in policies {
        let why =
            if p.message.is_empty() { p.reason.clone() } else { format!("{} ({})", p.message, p.reason) };
        let text = format!("{} {}/{}  {why}", state_word(p.state), p.kind.short_name(), p.name);
        lines.push(toned(model, policy_tone(p.state), &text));
    }
    lines.push(Line::default());
    lines.push(Line::styled(format!(" More: kubectl balancing explain node {}", sanitise(name)), DIM));
    lines
}

fn toned(model: &Model, tone: Tone, text: &str) -> Line<'static> {
    let text = fit(&sanitise(text), model.size.0.saturating_sub(5), Ellipsis::Right, false, model.unicode);
    Line::from(vec![
        Span::styled(format!("  {} ", glyph(model, tone)), style(model, tone)),
        Span::raw(text.trim_end().to_owned()),
    ])
}

fn fact(model: &Model, name: &str, value: &str) -> Vec<Line<'static>> {
    let lines = wrapped(&sanitise(value), model.size.0.saturating_sub(14), 6);
    let label = |i: usize| if i == 0 { format!("   {name:9} ") } else { " ".repeat(13) };
    let line = |(i, text)| Line::from(vec![Span::styled(label(i), BOLD), Span::raw(text)]);
    lines.into_iter().enumerate().map(line).collect()
}

fn programs(programs: &[ProgramInfo]) -> String {
    let missing: Vec<&str> = programs.iter().filter(|p| !p.attached).map(|p| p.hook.as_str()).collect();
    let others: u32 = programs.iter().map(|p| p.others).sum();
    let others =
        if others > 0 { format!("; {others} of somebody else on the same hooks") } else { String::new() };
    match missing.as_slice() {
        [] => format!("all {} attached{others}", programs.len()),
        some => format!("detached: {}{others}", some.join(", ")),
    }
}

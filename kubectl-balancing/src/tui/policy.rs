//! Everything about one policy, in lines.

use std::collections::BTreeSet;

use balancing_api::{
    agent::{PolicyStatus, RungKind},
    cli::{FrontendState, FrontendTopItem, PolicyTopItem},
    policy::PolicyKind,
};
use ratatui::text::{Line, Span};

use super::{
    fit::wrapped,
    grid::rows_as_lines,
    model::{Model, Screen},
    style::{BOLD, DIM, glyph, style},
};
use crate::{
    columns::{policy_tone, state_word},
    sample::Board,
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
    let steps: Vec<String> = rungs.chain([sanitise(item.otherwise.as_str()).into_owned()]).collect();
    Some(steps.join(", then "))
}

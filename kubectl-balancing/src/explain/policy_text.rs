//! An explained policy for people.

use balancing_api::{
    agent::{Counters, PolicyState, RungKind},
    cli::{
        Check, CheckStatus, Effective, ExplainedFrontend, ExplainedLadder, FrontendState, PolicyExplanation,
    },
    policy::PolicyKind,
};
use owo_colors::OwoColorize;

use super::{backend_cells, columns, field, state_of_frontend};
use crate::{
    columns::{Tone, policy_tone, state_word},
    table::tone_colour,
    text::{NONE, age_at, list, plural, sanitise},
};

/// Where connections to a frontend end, with the Service that serves them where the policy does not.
fn destination(f: &ExplainedFrontend, ladder: Option<&ExplainedLadder>) -> String {
    let Some(state) = f.state else { return "not in the maps".to_owned() };
    let service =
        ladder.and_then(|l| l.rungs.iter().find(|r| r.rung == RungKind::Service && !r.backends.is_empty()));
    match (state, service) {
        (FrontendState::Redirected | FrontendState::Balanced, _) if !f.effective => {
            "in the maps, but no program is attached that asks them".to_owned()
        }
        (FrontendState::Fallback, Some(rung)) => format!(
            "falls back to the Service {} ({})",
            sanitise(rung.service.as_deref().unwrap_or_default()),
            plural(rung.backends.len(), "endpoint", "endpoints")
        ),
        (FrontendState::Fallback, None) => {
            "left untouched: the policy has no backend here, and nothing is beneath".to_owned()
        }
        (state, _) => state_of_frontend(state).to_owned(),
    }
}

/// The explanation for people.
#[must_use]
pub fn text(e: &PolicyExplanation, counters: &Counters, colour: bool) -> String {
    let mut out = String::new();
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    if is_kept(e) {
        out.push_str(&paint(
            "KEPT: the maps of this node still hold what this policy said before",
            Tone::Warn,
        ));
        out.push_str(
            "\n  so that nothing breaks while it cannot be applied; mend the policy or delete it, and they follow\n\n",
        );
    } else if !e.backends.missing.is_empty() || !e.backends.surplus.is_empty() {
        out.push_str(&paint(
            "DIFFERS: the maps of this node do not hold what its objects ask for",
            Tone::Bad,
        ));
        let reached = |c: &&Check| c.code == "Programmed" && c.status != CheckStatus::NotReached;
        let said = e.checks.iter().find(reached).map_or(e.summary.as_str(), |c| &c.observed);
        out.push_str(&format!("\n  {}\n\n", sanitise(said)));
    }
    field(&mut out, "Name", &sanitise(&e.policy.name));
    field(&mut out, "Kind", &format!("{}   Id: {}   Generation: {}", e.policy.kind, id(e.id), e.generation));
    field(&mut out, "Node", &sanitise(&e.node));
    let (word, tone) = match e.effective {
        Effective::Yes => ("Yes", Tone::Good),
        Effective::Partly => ("Partly", Tone::Warn),
        Effective::No => ("No", Tone::Bad),
    };
    field(&mut out, "Effective", &format!("{}: {}", paint(word, tone), sanitise(&e.summary)));
    let state = if e.reason == state_word(e.state) || e.reason.is_empty() {
        state_word(e.state)
    } else {
        format!("{} ({})", state_word(e.state), sanitise(&e.reason))
    };
    field(&mut out, "State", &paint(&state, policy_tone(e.state)));
    if !e.message.is_empty() && e.message != e.summary {
        field(&mut out, "Message", &sanitise(&e.message));
    }
    field(&mut out, "Frontend", &claimed(e));
    let rows: Vec<Vec<String>> = e
        .frontends
        .iter()
        .map(|f| {
            let ladder = e.ladder.iter().find(|l| l.frontend == f.frontend);
            let kept = if f.kept { ", as before" } else { "" };
            vec![format!("  {}", f.frontend), destination(f, ladder) + kept]
        })
        .collect();
    out.push_str(&columns(&rows));
    field(&mut out, "Ladder", &ladder_text(e));
    backends_text(&mut out, e);
    field(&mut out, "QoS", &qos_text(e));
    field(&mut out, "Activity", &activity_text(e, counters));
    out.push_str("Checks:\n");
    for check in &e.checks {
        check_text(&mut out, check, &paint);
    }
    out.push_str("Note:        connections that were open before the policy was programmed are not moved\n");
    out
}

/// Does the agent keep what the policy said before, because it cannot be understood as it is now?
fn is_kept(e: &PolicyExplanation) -> bool {
    e.state == PolicyState::Invalid && e.frontends.iter().any(|f| f.kept)
}

pub(crate) fn id(id: u32) -> String {
    if id == 0 { NONE.to_owned() } else { id.to_string() }
}

fn claimed(e: &PolicyExplanation) -> String {
    match (&e.service, &e.address) {
        (Some(service), _) => format!("Service {}", sanitise(service)),
        (None, Some(address)) => format!("address {}", sanitise(address)),
        (None, None) => NONE.to_owned(),
    }
}

fn ladder_text(e: &PolicyExplanation) -> String {
    let Some(ladder) = e.ladder.first() else {
        return "the policy has no rung here".to_owned();
    };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (i, r) in ladder.rungs.iter().enumerate() {
        let kind = sanitise(r.rung.as_str()).into_owned();
        let who = match (&r.policy, &r.service) {
            (Some(p), _) if *p == e.policy => "this policy".to_owned(),
            (Some(p), _) => sanitise(&p.to_string()).into_owned(),
            (None, Some(service)) => sanitise(service).into_owned(),
            (None, None) => NONE.to_owned(),
        };
        rows.push(vec![format!("{} {kind}", i + 1), who, plural(r.backends.len(), "backend", "backends")]);
    }
    rows.push(vec!["otherwise".to_owned(), sanitise(ladder.otherwise.as_str()).into_owned()]);
    let mut text = columns(&rows);
    if e.ladder.len() > 1 {
        text.push_str(&format!("(of {}; -o json has all {})\n", ladder.frontend, e.ladder.len()));
    }
    text
}

fn backends_text(out: &mut String, e: &PolicyExplanation) {
    const MOST: usize = 20;
    let b = &e.backends;
    let kept = is_kept(e);
    let mut what = format!("{} wanted, {} programmed", b.wanted.len(), b.programmed.len());
    if !b.selector.is_empty() {
        let namespaces =
            if b.namespaces.is_empty() { "any namespace".to_owned() } else { list(&b.namespaces, 5) };
        what = format!("{what}; selector {} in {}", sanitise(&b.selector), sanitise(&namespaces));
    }
    field(out, "Backends", &what);
    let mut rows: Vec<Vec<String>> = Vec::new();
    for backend in b.programmed.iter().take(MOST) {
        let word = match b.surplus.contains(backend) {
            true if kept => "  kept",
            true => "  left over",
            false => "  programmed",
        };
        let mut cells = vec![word.to_owned()];
        cells.extend(backend_cells(backend));
        rows.push(cells);
    }
    for backend in b.missing.iter().take(MOST) {
        let mut cells = vec!["  MISSING".to_owned()];
        cells.extend(backend_cells(backend));
        rows.push(cells);
    }
    out.push_str(&columns(&rows));
    if b.programmed.len() > MOST {
        out.push_str(&format!("  and {} more\n", b.programmed.len() - MOST));
    }
    let pods: Vec<Vec<String>> = b
        .pods
        .iter()
        .filter(|p| !p.usable)
        .take(MOST)
        .map(|p| {
            vec![
                "  not used".to_owned(),
                format!("pod {}", sanitise(&p.pod)),
                sanitise(&p.reason).into_owned(),
            ]
        })
        .collect();
    out.push_str(&columns(&pods));
}

fn qos_text(e: &PolicyExplanation) -> String {
    if e.policy.kind == PolicyKind::BalancingPolicy {
        return "not applied: limits only redirects of a LocalRedirectPolicy".to_owned();
    }
    match (e.qos.redirects_per_second, e.qos.now) {
        (0, _) => "no limit".to_owned(),
        (limit, now) => {
            let used = now.map(|n| format!("{} used in this second, ", n.used)).unwrap_or_default();
            format!("{limit} redirects a second on this node, {used}{} drops so far", e.qos.qos_drops)
        }
    }
}

fn activity_text(e: &PolicyExplanation, counters: &Counters) -> String {
    let a = &e.activity;
    let mut parts = vec![match e.policy.kind {
        PolicyKind::LocalRedirectPolicy => format!("{} redirects", a.redirects),
        PolicyKind::BalancingPolicy => format!("{} balanced", a.balanced),
    }];
    for (reason, count) in &a.fallbacks {
        let word = if *count == 1 { "fallback" } else { "fallbacks" };
        parts.push(format!("{count} {word} ({})", sanitise(reason)));
    }
    if a.refusals > 0 {
        parts.push(format!("{} refusals", a.refusals));
    }
    format!("{} in {}", parts.join(", "), age_at(counters.since, counters.taken_at))
}

pub(crate) fn check_text(out: &mut String, check: &Check, paint: &dyn Fn(&str, Tone) -> String) {
    const INDENT: &str = "                              ";
    let (word, tone) = match check.status {
        CheckStatus::Passed => ("ok    ", Tone::Good),
        CheckStatus::Failed => ("FAILED", Tone::Bad),
        CheckStatus::Warning => ("warn  ", Tone::Warn),
        CheckStatus::NotReached => ("-     ", Tone::Dim),
    };
    let observed = match check.status {
        CheckStatus::NotReached => "not reached".into(),
        _ => sanitise(&check.observed),
    };
    out.push_str(&format!("  {}  {:20}{observed}\n", paint(word, tone), check.code));
    for (label, value) in [("expected: ", &check.expected), ("next:     ", &check.next)] {
        if !value.is_empty() {
            out.push_str(&format!("{INDENT}{label}{}\n", sanitise(value)));
        }
    }
}

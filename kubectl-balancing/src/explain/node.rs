//! `explain node`: the same facts as of policies, by node: what works on it, what does not, and why.

use std::{
    collections::{BTreeSet, HashMap},
    io::Write,
};

use balancing_api::{
    agent::{
        Condition, Counters, FrontendCounters, FrontendInfo, FrontendList, NodeStatus, PolicyCounters,
        PolicyState,
    },
    cli::{Check, CheckStatus, document},
    names::condition,
    net::Frontend,
    node::{ExplainedPolicy, NODE_EXPLANATION, NodeActivity, NodeExplanation, Works},
    policy::PolicyRef,
};
use clap::Args;
use jiff::Timestamp;
use owo_colors::OwoColorize;

use super::{Error, columns, field, policy_text::check_text};
use crate::{
    client::{self, Client, View},
    columns::{Tone, policy_tone},
    output::Page,
    problems::FULL,
    sample::severity,
    status::{agent_text, gauge, kernel_text, sources_text},
    table::tone_colour,
    text::{NONE, age_at, list, moment, near, plural, sanitise},
    unread,
};

/// Arguments of `explain node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Name of the node. [default: the node of the agent that is asked]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Format of the output.
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Page,
}

/// Asks the agent and prints the explanation.
pub async fn run(args: &NodeArgs, client: &Client, out: &mut dyn Write, colour: bool) -> Result<(), Error> {
    let (status, (programmed, desired), counters) =
        tokio::try_join!(client.status(), views(client), client.counters())?;
    if let Some(name) = args.name.as_deref().filter(|n| *n != status.node.name) {
        let own = sanitise(&status.node.name).into_owned();
        let hint = if near(name, [own.as_str()]).is_empty() {
            "name its agent with --agent"
        } else {
            "did you mean that?"
        };
        return Err(Error::NotFound(format!(
            "node {name:?} not found: this agent is that of node {own}; {hint}"
        )));
    }
    let explanation = explain(&status, &programmed, &desired, &counters);
    let document = document(NODE_EXPLANATION, &explanation);
    let text = args.output.render(&document, || text(&explanation, &counters, colour))?;
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Both views of the frontends, the programmed one first. Where they differ, they are asked for once more: a change may
/// be on its way.
pub(crate) async fn views(client: &Client) -> Result<(FrontendList, FrontendList), client::Error> {
    let ask =
        || async { tokio::try_join!(client.frontends(View::Programmed), client.frontends(View::Desired)) };
    let (programmed, desired) = ask().await?;
    if unlike(&programmed, &desired).is_empty() { Ok((programmed, desired)) } else { ask().await }
}

/// Does the node work, and the answer in one sentence: what `status` and `explain node` say.
pub(crate) fn judge(status: &NodeStatus, counters: &Counters, differing: &[Frontend]) -> (Works, String) {
    judged(status, &checks(status, differing, &activity(counters)))
}

fn judged(status: &NodeStatus, checks: &[Check]) -> (Works, String) {
    let failed: Vec<&Check> = checks.iter().filter(|c| c.status == CheckStatus::Failed).collect();
    let works = if status.datapath.programs.iter().any(|p| p.attached) { Works::Partly } else { Works::No };
    let Some(first) = failed.first() else {
        // A condition that this version has no check for.
        if let Some(c) = crate::nodes::unmet(status).next() {
            return (works, worded(c));
        }
        let warned = checks.iter().find(|c| c.status == CheckStatus::Warning);
        let summary = warned.map_or_else(
            || "everything works".to_owned(),
            |c| format!("all is attached and programmed; {}", c.observed),
        );
        return (Works::Yes, summary);
    };
    let more = match failed.len() - 1 {
        0 => String::new(),
        n => format!("; and {}", plural(n, "more check fails", "more checks fail")),
    };
    (works, format!("{}{more}", first.observed))
}

/// `Partly: 1 of 9 files cannot be read`
pub(crate) fn works_text(works: Works, summary: &str, paint: &dyn Fn(&str, Tone) -> String) -> String {
    let (word, tone) = match works {
        Works::Yes => ("Yes", Tone::Good),
        Works::Partly => ("Partly", Tone::Warn),
        Works::No => ("No", Tone::Bad),
    };
    format!("{}: {}", paint(word, tone), sanitise(summary))
}

/// What an agent says about its node, with what follows from it.
fn explain(
    status: &NodeStatus,
    programmed: &FrontendList,
    desired: &FrontendList,
    counters: &Counters,
) -> NodeExplanation {
    let differing = differing(status, programmed, desired);
    let activity = activity(counters);
    let checks = checks(status, &differing, &activity);
    let (works, summary) = judged(status, &checks);
    let policies = explained_policies(status);
    NodeExplanation {
        name: status.node.name.clone(),
        healthy: works == Works::Yes,
        works,
        summary,
        addresses: status.node.addresses.clone(),
        source: status.node.source.clone(),
        agent: status.agent.clone(),
        kernel: status.kernel.clone(),
        datapath: status.datapath.clone(),
        conditions: status.conditions.clone(),
        sources: status.sources.clone(),
        source_errors: status.source_errors.clone(),
        policies,
        differing,
        activity,
        checks,
    }
}

/// Frontends whose ladder is another in the maps than it should be. What is kept of a policy that cannot be understood is
/// as it should be: the file is what is wrong, and is told as such.
pub(crate) fn differing(
    status: &NodeStatus,
    programmed: &FrontendList,
    desired: &FrontendList,
) -> Vec<Frontend> {
    let invalid = |r: &PolicyRef| {
        status
            .policies
            .iter()
            .any(|p| p.state == PolicyState::Invalid && (p.kind, &p.name) == (r.kind, &r.name))
    };
    let kept: BTreeSet<Frontend> = programmed
        .items
        .iter()
        .filter(|i| i.rungs.iter().filter_map(|r| r.policy.as_ref()).any(invalid))
        .map(|i| i.frontend)
        .collect();
    unlike(programmed, desired).into_iter().filter(|f| !kept.contains(f)).collect()
}

/// Frontends whose ladder is another in the two, or is in one of them alone.
fn unlike(programmed: &FrontendList, desired: &FrontendList) -> Vec<Frontend> {
    let ladders = |list: &FrontendList| -> HashMap<(Frontend, String), FrontendInfo> {
        let sorted = list.items.iter().cloned().map(|mut info| {
            info.rungs.iter_mut().for_each(|r| r.backends.sort());
            ((info.frontend, info.scope.clone()), info)
        });
        sorted.collect()
    };
    let (programmed, desired) = (ladders(programmed), ladders(desired));
    let keys: BTreeSet<&(Frontend, String)> = programmed.keys().chain(desired.keys()).collect();
    let differ = keys.into_iter().filter(|k| programmed.get(k) != desired.get(k));
    let differ: BTreeSet<Frontend> = differ.map(|(frontend, _)| *frontend).collect();
    differ.into_iter().collect()
}

fn activity(counters: &Counters) -> NodeActivity {
    let policies = |of: fn(&PolicyCounters) -> u64| counters.policies.iter().map(of).sum();
    let frontends = |of: fn(&FrontendCounters) -> u64| counters.frontends.iter().map(of).sum();
    NodeActivity {
        since: counters.since,
        redirects: policies(|c| c.redirects),
        balanced: policies(|c| c.balanced),
        resolved: frontends(|c| c.resolved),
        qos_drops: policies(|c| c.qos_drops),
        fallbacks: policies(|c| c.fallbacks.values().sum()),
        refusals: frontends(|c| c.refusals),
        events_lost: counters.events.lost,
    }
}

fn check(code: &str, status: CheckStatus, observed: String, expected: &str, next: &str) -> Check {
    let (expected, next) = match status {
        CheckStatus::Passed => (String::new(), String::new()),
        _ => (expected.to_owned(), next.to_owned()),
    };
    Check { code: code.to_owned(), status, observed, expected, next }
}

fn checks(status: &NodeStatus, differing: &[Frontend], activity: &NodeActivity) -> Vec<Check> {
    vec![
        programs_attached(status),
        sources_synced(status),
        maps_have_room(status),
        policies_programmed(status),
        maps_as_intended(status, differing),
        policies_effective(status),
        exemptions_active(status),
        errno_fidelity(status),
        events_complete(activity),
        traffic_seen(activity),
    ]
}

fn programs_attached(status: &NodeStatus) -> Check {
    let code = "ProgramsAttached";
    let root = &status.datapath.cgroup_root;
    let attached = |hook: &str| status.datapath.programs.iter().any(|p| p.hook == hook && p.attached);
    let missing: Vec<&str> = balancing_datapath::HOOKS.into_iter().filter(|h| !attached(h)).collect();
    if !missing.is_empty() {
        let observed = format!("no program at {}: such calls are not decided here", list(&missing, 10));
        let next =
            "restart the agent: it attaches its programs anew; bpftool cgroup tree shows what is attached";
        return check(code, CheckStatus::Failed, observed, "a program of the agent on every hook", next);
    }
    let others: Vec<&str> =
        status.datapath.programs.iter().filter(|p| p.others > 0).map(|p| p.hook.as_str()).collect();
    let attached =
        format!("{} attached to {root}", plural(status.datapath.programs.len(), "program", "programs"));
    if others.is_empty() {
        return check(code, CheckStatus::Passed, attached, "", "");
    }
    let observed = format!("{attached}; somebody else has programs on {}", list(&others, 10));
    let next =
        format!("bpftool cgroup show {root} names them; another service proxy's socket load balancing?");
    check(code, CheckStatus::Warning, observed, "no program that may rewrite what these decided", &next)
}

/// The message of a condition that is not met.
fn unmet<'a>(status: &'a NodeStatus, type_: &str) -> Option<&'a balancing_api::agent::Condition> {
    status.conditions.iter().find(|c| c.type_ == type_ && c.status != "True")
}

fn worded(c: &balancing_api::agent::Condition) -> String {
    if c.message.is_empty() { c.reason.clone() } else { format!("{}: {}", c.reason, c.message) }
}

fn sources_synced(status: &NodeStatus) -> Check {
    let code = "SourcesSynced";
    let expected = "every object read; what was read last stays in force until then";
    if let Some(e) = status.source_errors.first() {
        let place = if e.line > 0 { format!("{}:{}", e.file, e.line) } else { e.file.clone() };
        let more = match status.source_errors.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let next = unread::next(status, e);
        return check(code, CheckStatus::Failed, format!("{place}: {}{more}", e.message), expected, &next);
    }
    if let Some(c) = unmet(status, condition::SOURCES_SYNCED) {
        return check(code, CheckStatus::Failed, worded(c), expected, "look at the log of the agent");
    }
    check(code, CheckStatus::Passed, format!("all of {} was read", status.node.source), "", "")
}

fn maps_have_room(status: &NodeStatus) -> Check {
    let fill = |m: &balancing_api::agent::MapInfo| m.entries as f64 / (m.capacity.max(1)) as f64;
    let fullest = status.datapath.maps.iter().max_by(|a, b| fill(a).total_cmp(&fill(b)));
    let Some(map) = fullest else {
        return check("MapsHaveRoom", CheckStatus::Passed, "no map is bounded".to_owned(), "", "");
    };
    let observed =
        format!("the fullest map, {}, holds {} of {} entries", map.name, map.entries, map.capacity);
    let found = match fill(map) {
        f if f >= 1.0 => CheckStatus::Failed,
        f if f >= FULL => CheckStatus::Warning,
        _ => CheckStatus::Passed,
    };
    let next = format!("restart the agent with a larger --max-{}: what is in the maps stays", map.name);
    check(
        "MapsHaveRoom",
        found,
        observed,
        "room for what is to come: a full map leaves new entries out",
        &next,
    )
}

fn names(status: &NodeStatus, of: impl Fn(PolicyState) -> bool) -> Vec<String> {
    let chosen = status.policies.iter().filter(|p| of(p.state));
    chosen.map(|p| format!("{}/{} ({})", p.kind.short_name(), p.name, p.reason)).collect()
}

fn policies_programmed(status: &NodeStatus) -> Check {
    let code = "PoliciesProgrammed";
    let expected = "every policy that applies here in the maps";
    if let Some(c) = unmet(status, condition::POLICIES_PROGRAMMED) {
        return check(code, CheckStatus::Failed, worded(c), expected, "look at the log of the agent");
    }
    let count = names(status, |s| s == PolicyState::Programmed).len();
    check(code, CheckStatus::Passed, format!("{} in the maps", plural(count, "policy", "policies")), "", "")
}

fn maps_as_intended(status: &NodeStatus, differing: &[Frontend]) -> Check {
    let code = "MapsAsIntended";
    if differing.is_empty() {
        let observed = match status.source_errors.is_empty() {
            true => "the maps hold what the objects ask for",
            false => "the maps hold what the objects ask for, and of those in error what they said before",
        };
        return check(code, CheckStatus::Passed, observed.to_owned(), "", "");
    }
    let observed = format!(
        "{} not as intended: {}",
        plural(differing.len(), "frontend", "frontends"),
        list(differing, 5)
    );
    let next = "ask again: a change may be on its way; if it stays, the log of the agent says what failed";
    check(code, CheckStatus::Failed, observed, "maps that hold what the objects ask for", next)
}

fn policies_effective(status: &NodeStatus) -> Check {
    let code = "PoliciesEffective";
    let idle = names(status, |s| !matches!(s, PolicyState::Programmed | PolicyState::NotSelected));
    if idle.is_empty() {
        return check(code, CheckStatus::Passed, "every policy of this node is in force".to_owned(), "", "");
    }
    let observed = format!("{} not in force: {}", plural(idle.len(), "policy", "policies"), list(&idle, 5));
    let next = "kubectl balancing explain policy NAME";
    check(
        code,
        CheckStatus::Warning,
        observed,
        "policies that are in force; without, connections go where they went before",
        next,
    )
}

fn exemptions_active(status: &NodeStatus) -> Check {
    let code = "ExemptionsActive";
    let inactive: Vec<String> = status
        .policies
        .iter()
        .filter(|p| p.exempt_callers.active < p.exempt_callers.pods)
        .map(|p| format!("{}/{}", p.kind.short_name(), p.name))
        .collect();
    if inactive.is_empty() {
        return check(
            code,
            CheckStatus::Passed,
            "backend pods are not redirected to themselves".to_owned(),
            "",
            "",
        );
    }
    let observed = format!("no cgroup was found for some backend pods of {}", list(&inactive, 5));
    let next = "is --cgroup-root the root of the hierarchy that the pods are in?";
    check(
        code,
        CheckStatus::Warning,
        observed,
        "the cgroup of every backend pod, lest its own calls come back to it",
        next,
    )
}

fn errno_fidelity(status: &NodeStatus) -> Check {
    let code = "ErrnoFidelity";
    match unmet(status, condition::ERRNO_FIDELITY) {
        None => check(code, CheckStatus::Passed, "refused clients get ECONNREFUSED".to_owned(), "", ""),
        Some(c) => check(
            code,
            CheckStatus::Warning,
            format!("refused clients get EPERM ({})", c.reason),
            "ECONNREFUSED, which clients expect where nothing serves",
            "use a kernel of 6.1 or later, if programs mind",
        ),
    }
}

fn events_complete(activity: &NodeActivity) -> Check {
    match activity.events_lost {
        0 => check("EventsComplete", CheckStatus::Passed, "no event was lost".to_owned(), "", ""),
        n => check(
            "EventsComplete",
            CheckStatus::Warning,
            format!("{n} events found no room; counters are exact all the same"),
            "no event lost",
            "narrower filters for trace make no difference here: the kernel makes more than the agent can read",
        ),
    }
}

fn traffic_seen(activity: &NodeActivity) -> Check {
    let a = activity;
    let all = a.redirects + a.balanced + a.resolved + a.qos_drops + a.fallbacks + a.refusals;
    match all {
        0 => check(
            "TrafficSeen",
            CheckStatus::Warning,
            format!("no connection met a frontend since {}", moment(a.since)),
            "connections of processes beneath the agent's cgroup",
            "are the clients in cgroups beneath --cgroup-root?",
        ),
        _ => check("TrafficSeen", CheckStatus::Passed, "connections met frontends".to_owned(), "", ""),
    }
}

/// The explanation for people.
fn text(e: &NodeExplanation, counters: &Counters, colour: bool) -> String {
    let now = counters.taken_at;
    let paint = |text: &str, tone: Tone| match tone_colour(tone) {
        Some(c) if colour => text.color(c).bold().to_string(),
        _ => text.to_owned(),
    };
    let mut out = String::new();
    field(&mut out, "Name", &sanitise(&e.name));
    field(&mut out, "Works", &works_text(e.works, &e.summary, &paint));
    field(
        &mut out,
        "Addresses",
        &if e.addresses.is_empty() { NONE.to_owned() } else { list(&e.addresses, 8) },
    );
    field(&mut out, "Agent", &agent_text(&e.agent, now));
    field(&mut out, "Kernel", &kernel_text(&e.kernel));
    let hooks: Vec<String> = e
        .datapath
        .programs
        .iter()
        .map(|p| {
            if p.attached { format!("{} ({})", p.hook, p.program_id) } else { format!("{} MISSING", p.hook) }
        })
        .collect();
    field(&mut out, "Programs", &sanitise(&format!("{} at {}", list(&hooks, 16), e.datapath.cgroup_root)));
    field(
        &mut out,
        "Maps",
        &sanitise(&format!("layout {} in {}", e.datapath.layout_version, e.datapath.bpffs)),
    );
    let maps: Vec<Vec<String>> = e
        .datapath
        .maps
        .iter()
        .map(|m| {
            let fill = m.entries as f64 / m.capacity.max(1) as f64;
            vec![format!("  {}", sanitise(&m.name)), gauge(fill), format!("{} of {}", m.entries, m.capacity)]
        })
        .collect();
    out.push_str(&columns(&maps));
    let sources = sources_text(&e.source, &e.sources, e.source_errors.len(), now);
    field(&mut out, "Sources", &sanitise(&sources));
    policies_text(&mut out, e, &paint);
    let a = &e.activity;
    let counted = format!(
        "redirected {}, balanced {}, to Services {}, QoS drops {}, fallbacks {}, refused {} in {}",
        a.redirects,
        a.balanced,
        a.resolved,
        a.qos_drops,
        a.fallbacks,
        a.refusals,
        age_at(a.since, now)
    );
    field(&mut out, "Activity", &counted);
    out.push_str("Checks:\n");
    for check in &e.checks {
        check_text(&mut out, check, &paint);
    }
    out.push_str("Conditions:\n");
    let conditions = condition_rows(&e.conditions, now);
    out.push_str(&columns(&conditions));
    out
}

/// The rows of a table of conditions: type, status, since when, reason, message.
pub(crate) fn condition_rows(conditions: &[Condition], now: Timestamp) -> Vec<Vec<String>> {
    let row = |c: &Condition| {
        let since = age_at(c.last_transition_time, now);
        [format!("  {}", c.type_), c.status.clone(), since, c.reason.clone(), c.message.clone()]
            .iter()
            .map(|cell| sanitise(cell).into_owned())
            .collect()
    };
    conditions.iter().map(row).collect()
}

/// What a node says of its policies, the worst first.
pub(crate) fn explained_policies(status: &NodeStatus) -> Vec<ExplainedPolicy> {
    let mut policies: Vec<ExplainedPolicy> = status
        .policies
        .iter()
        .map(|p| ExplainedPolicy {
            policy: PolicyRef::new(p.kind, p.name.clone()),
            state: p.state,
            reason: p.reason.clone(),
            message: p.message.clone(),
            backends: p.backends,
        })
        .collect();
    policies.sort_by(|a, b| (severity(a.state), &a.policy).cmp(&(severity(b.state), &b.policy)));
    policies
}

pub(crate) fn policies_text(out: &mut String, e: &NodeExplanation, paint: &dyn Fn(&str, Tone) -> String) {
    const MOST: usize = 30;
    out.push_str(&format!("Policies:    {}\n", e.policies.len()));
    let width =
        e.policies.iter().take(MOST).map(|p| p.policy.name.chars().count()).max().unwrap_or(0).min(63);
    for p in e.policies.iter().take(MOST) {
        let state = format!("{:11}", p.state.to_string());
        let name = format!("{}/{}", p.policy.kind.short_name(), sanitise(&p.policy.name));
        let why = if p.message.is_empty() { &p.reason } else { &p.message };
        let backends = format!("{}/{}", p.backends.programmed, p.backends.wanted);
        let line = format!(
            "  {}  {name:width$}  {backends:5}  {}",
            paint(&sanitise(&state), policy_tone(p.state)),
            sanitise(why),
            width = width + 3
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    if e.policies.len() > MOST {
        out.push_str(&format!("  and {} more: kubectl balancing get policies\n", e.policies.len() - MOST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{World, snapshots, world};

    fn explained(w: &World) -> NodeExplanation {
        explain(&w.status, &w.programmed, &w.desired, &w.counters)
    }

    fn of<'a>(e: &'a NodeExplanation, code: &str) -> &'a Check {
        e.checks.iter().find(|c| c.code == code).unwrap()
    }

    /// A node on which all is well.
    fn healthy() -> World {
        let mut w = world();
        w.status.policies.retain(|p| p.state == PolicyState::Programmed);
        w
    }

    #[test]
    fn a_node_that_works() {
        let e = explained(&healthy());
        assert!(e.healthy && e.checks.iter().all(|c| c.status == CheckStatus::Passed), "{:#?}", e.checks);
        snapshots().bind(|| {
            insta::assert_snapshot!("explain-node", text(&e, &healthy().counters, false));
        });
    }

    #[test]
    fn each_way_to_fail_is_named() {
        let mut w = world();
        w.condition("ProgramsAttached", "False", "Detached", "");
        w.condition("PoliciesProgrammed", "False", "MapFull", "the map of frontends is full");
        w.condition("ErrnoFidelity", "False", "KernelUnsupported", "");
        w.status.datapath.programs[0].attached = false;
        w.status.datapath.maps[0].entries = 65_536;
        w.source_error("20-policy.yaml", 7, "LocalRedirectPolicy/x", "no\u{1b}[2J such field");
        w.programmed.items[2].rungs[0].backends.clear();
        w.policy("edge-proxy").exempt_callers.pods = 2;
        w.counters.events.lost = 3;
        let e = explained(&w);
        for (code, status) in [
            ("ProgramsAttached", CheckStatus::Failed),
            ("SourcesSynced", CheckStatus::Failed),
            ("MapsHaveRoom", CheckStatus::Failed),
            ("PoliciesProgrammed", CheckStatus::Failed),
            ("MapsAsIntended", CheckStatus::Failed),
            ("PoliciesEffective", CheckStatus::Warning),
            ("ExemptionsActive", CheckStatus::Warning),
            ("ErrnoFidelity", CheckStatus::Warning),
            ("EventsComplete", CheckStatus::Warning),
            ("TrafficSeen", CheckStatus::Passed),
        ] {
            let check = of(&e, code);
            assert_eq!(check.status, status, "{code}: {}", check.observed);
            assert_eq!(
                check.status == CheckStatus::Passed,
                check.next.is_empty(),
                "{code} says what to do next"
            );
        }
        assert_eq!(e.differing, [w.programmed.items[2].frontend]);
        let text = text(&e, &w.counters, false);
        assert!(!text.contains('\u{1b}'));
        snapshots().bind(|| insta::assert_snapshot!("explain-node-bad", text));
    }

    #[test]
    fn the_order_of_backends_is_no_difference() {
        let mut w = world();
        w.programmed.items[1].rungs[1].backends.reverse();
        assert_eq!(explained(&w).differing, []);
        w.desired.items.remove(0);
        assert_eq!(
            explained(&w).differing,
            [w.programmed.items[0].frontend],
            "what is in one of the two alone"
        );
    }

    #[test]
    fn a_filling_map_and_programs_of_others_are_told_before_they_hurt() {
        let mut w = healthy();
        w.status.datapath.maps[0].entries = 60_000;
        w.status.datapath.programs[1].others = 1;
        w.counters.policies.clear();
        w.counters.frontends.clear();
        let e = explained(&w);
        assert!(e.healthy);
        for code in ["MapsHaveRoom", "ProgramsAttached", "TrafficSeen"] {
            assert_eq!(of(&e, code).status, CheckStatus::Warning, "{code}");
        }
    }

    #[test]
    fn the_document() {
        let json = crate::output::json(&document(NODE_EXPLANATION, &explained(&healthy()))).unwrap();
        snapshots().bind(|| insta::assert_snapshot!("explain-node-json", json));
    }
}

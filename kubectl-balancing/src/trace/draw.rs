//! Events as lines.

use balancing_api::{
    agent::{Event, EventOutcome},
    cli::document,
    trace::{EVENT, LOST_EVENTS, LostEvents, TracedEvent},
};
use owo_colors::OwoColorize;

use crate::{
    columns::Tone,
    table::tone_colour,
    text::{NONE, plural, sanitise},
};

/// Cells of a column that later lines are aligned with; what is longer stands out of its line alone.
const WIDEST: usize = 60;
const HEADER: [&str; 8] = ["TIME", "NODE", "OUTCOME", "FROM", "TO", "CHOSEN", "BY", "WHY"];
/// What the columns have in common from the first line on: most values fit.
const FIRST: [usize; 8] = [12, 0, 8, 24, 20, 21, 18, 0];
/// Which of them is about the node, and which is coloured.
const NODE: usize = 1;
const OUTCOME: usize = 2;

/// Text lines whose columns remember how wide they were, as kubectl's do while it watches.
#[derive(Debug)]
pub(super) struct Table {
    widths: [usize; 8],
    colour: bool,
    /// Are there several nodes?
    nodes: bool,
}

impl Table {
    /// Of events of these nodes. Of one its name is not told again and again.
    pub(super) fn new(colour: bool, nodes: &[&str]) -> Self {
        let mut widths = FIRST;
        widths[NODE] = nodes.iter().map(|n| n.chars().count()).filter(|n| *n <= WIDEST).max().unwrap_or(0);
        Self { widths, colour, nodes: nodes.len() > 1 }
    }

    pub(super) fn header(&mut self) -> String {
        self.line(&HEADER.map(str::to_owned), Tone::Plain)
    }

    pub(super) fn event(&mut self, node: &str, event: &Event) -> String {
        self.line(&cells(node, event), tone(event.outcome))
    }

    pub(super) fn lost(&self, node: &str, lost: u64) -> String {
        let node = if self.nodes { format!("{}: ", sanitise(node)) } else { String::new() };
        let text = format!(
            "-- {node}{} not shown here: lost, or more than --rate lets through --",
            plural(usize::try_from(lost).unwrap_or(usize::MAX), "event", "events")
        );
        match tone_colour(Tone::Bad) {
            Some(c) if self.colour => format!("{}\n", text.color(c)),
            _ => text + "\n",
        }
    }

    fn line(&mut self, cells: &[String; 8], tone: Tone) -> String {
        let mut line = String::new();
        for (i, cell) in cells.iter().enumerate().filter(|(i, _)| self.nodes || *i != NODE) {
            let length = cell.chars().count();
            if length <= WIDEST {
                self.widths[i] = self.widths[i].max(length);
            }
            let blanks = self.widths[i].saturating_sub(length) + 3;
            match tone_colour(tone) {
                Some(c) if self.colour && i == OUTCOME => line.push_str(&cell.color(c).to_string()),
                _ => line.push_str(cell),
            }
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

fn cells(node: &str, e: &Event) -> [String; 8] {
    let process = format!("{}[{}]", sanitise(&e.process.comm), e.process.pid);
    let from = match &e.pod {
        Some(pod) => format!("{} {process}", sanitise(pod)),
        None => process,
    };
    let chosen = e.chosen.map(|c| std::net::SocketAddr::new(c.address, c.port).to_string());
    let policy = e.policy.as_ref().map(|p| format!("{}/{}", p.kind.short_name(), sanitise(&p.name)));
    let service = e.service.as_ref().map(|s| format!("svc/{}", sanitise(s)));
    // The one that decided comes first.
    let by: Vec<String> = match e.outcome {
        EventOutcome::Service => service.into_iter().collect(),
        _ => policy.or(service).into_iter().collect(),
    };
    [
        e.time.strftime("%H:%M:%S%.3f").to_string(),
        sanitise(node).into_owned(),
        sanitise(e.outcome.as_str()).into_owned(),
        from,
        e.to.to_string(),
        chosen.unwrap_or_else(|| NONE.to_owned()),
        by.into_iter().next().unwrap_or_else(|| NONE.to_owned()),
        sanitise(e.failure.as_deref().unwrap_or_default()).into_owned(),
    ]
}

fn tone(outcome: EventOutcome) -> Tone {
    match outcome {
        EventOutcome::Redirect | EventOutcome::Balance => Tone::Good,
        EventOutcome::Service => Tone::Plain,
        EventOutcome::QosDrop | EventOutcome::Fallback | EventOutcome::Other(_) => Tone::Warn,
        EventOutcome::Refuse | EventOutcome::Failure => Tone::Bad,
    }
}

/// The event as a line of JSON.
pub(super) fn json_event(node: &str, event: Event) -> Result<String, serde_json::Error> {
    let traced = TracedEvent { node: node.to_owned(), event };
    Ok(serde_json::to_string(&document(EVENT, traced))? + "\n")
}

/// A gap as a line of JSON.
pub(super) fn json_lost(node: &str, lost: u64) -> Result<String, serde_json::Error> {
    let gap = LostEvents { node: node.to_owned(), lost };
    Ok(serde_json::to_string(&document(LOST_EVENTS, gap))? + "\n")
}

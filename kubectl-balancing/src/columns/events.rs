//! The columns of the live trace.

use balancing_api::agent::{Event, EventOutcome};

use super::{Cell, Column, Row, RowId, Tone, column};

/// A line of the trace.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Counts up as events arrive.
    pub number: u64,
    /// What it says.
    pub event: Event,
}

impl Row for EventRow {
    fn columns() -> &'static [Column<Self>] {
        const COLUMNS: &[Column<EventRow>] = &[
            column("outcome", "OUTCOME", "what was decided", |r: &EventRow| {
                Cell::text(r.event.outcome.as_str())
            })
            .max(9)
            .end_cut(),
            column("time", "TIME", "when, in UTC", |r: &EventRow| {
                Cell::text(r.event.time.strftime("%H:%M:%S%.3f").to_string())
            })
            .priority(1),
            column("to", "TO", "what was dialled", |r: &EventRow| Cell::text(r.event.to.to_string())).max(52),
            column("chosen", "CHOSEN", "the backend it was sent to", |r: &EventRow| {
                Cell::optional(
                    r.event.chosen.map(|c| std::net::SocketAddr::new(c.address, c.port).to_string()),
                )
            })
            .max(46),
            column("policy", "POLICY", "the policy of the frontend", |r: &EventRow| {
                Cell::optional(r.event.policy.as_ref().map(|p| format!("{}/{}", p.kind.short_name(), p.name)))
            })
            .priority(2),
            column("service", "SERVICE", "the Service of the frontend", |r: &EventRow| {
                Cell::optional(r.event.service.clone())
            })
            .priority(5),
            column("process", "PROCESS", "who called", |r: &EventRow| {
                Cell::text(format!("{}[{}]", r.event.process.comm, r.event.process.pid))
            })
            .priority(3),
            column("pod", "POD", "its pod, where known", |r: &EventRow| Cell::optional(r.event.pod.clone()))
                .priority(4),
            column("failure", "WHY", "why the policy's rung was not taken", |r: &EventRow| {
                Cell::optional(r.event.failure.clone())
            })
            .priority(2)
            .end_cut(),
            column("hook", "HOOK", "the program that decided", |r: &EventRow| {
                Cell::text(r.event.hook.as_str())
            })
            .wide(),
        ];
        COLUMNS
    }

    fn id(&self) -> RowId {
        RowId::Event(self.number)
    }

    fn tone(&self) -> Tone {
        match self.event.outcome {
            EventOutcome::Redirect | EventOutcome::Balance => Tone::Good,
            EventOutcome::Service => Tone::Plain,
            EventOutcome::QosDrop | EventOutcome::Fallback | EventOutcome::Other(_) => Tone::Warn,
            EventOutcome::Refuse | EventOutcome::Failure => Tone::Bad,
        }
    }
}

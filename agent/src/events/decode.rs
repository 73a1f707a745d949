//! Makes the document of an event from the bytes that the kernel wrote.

use std::mem::offset_of;

use balancing_api::{
    agent::{BackendAddress, Event, EventOutcome, EventSource, Process},
    names::{event_failure, rung_reason},
    net::{Frontend, Protocol},
    policy::PolicyRef,
};
use balancing_datapath::{
    Addr, EVENT_BALANCE, EVENT_UNRECORDED, Event as Raw, FrontendKey, HOOKS, Outcome, PolicyReason,
    ip_from_addr,
};
use jiff::{SignedDuration, Timestamp};

/// What an event's numbers stand for.
pub trait Resolve {
    /// The policy with that index in the maps.
    fn policy(&self, index: u32) -> Option<PolicyRef>;
    /// `namespace/name` of the pod, and the container, that a process belongs to.
    fn caller(&self, cgroup: u64, pid: u32) -> (Option<String>, Option<String>);
    /// `namespace/name` of the Service that has the frontend.
    fn service(&self, frontend: &Frontend) -> Option<String>;
    /// The time of day at a time of `CLOCK_MONOTONIC`, in nanoseconds.
    fn time(&self, monotonic: u64) -> Timestamp;
}

/// Both clocks, read at the same moment.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    monotonic: i128,
    wall: Timestamp,
}

impl WallClock {
    /// Both clocks as they are now. Read anew now and then: the time of day may be set.
    #[must_use]
    pub fn now() -> Self {
        let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let monotonic = i128::from(clock.tv_sec) * 1_000_000_000 + i128::from(clock.tv_nsec);
        Self { monotonic, wall: Timestamp::now() }
    }

    /// The time of day at a time of `CLOCK_MONOTONIC`, in nanoseconds. A time that cannot be one is the present.
    #[must_use]
    pub fn at(&self, monotonic: u64) -> Timestamp {
        let distance = SignedDuration::from_nanos_i128(i128::from(monotonic) - self.monotonic);
        self.wall.checked_add(distance).unwrap_or(self.wall)
    }
}

/// Bytes that are no event: the programs and this agent do not have the same layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not the size of an event.
    #[error("an event of {0} bytes, and an event has {size}", size = size_of::<Raw>())]
    Size(usize),
    /// A number without a meaning.
    #[error("an event with {field} {value}, which has no meaning")]
    Value {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u8,
    },
}

/// Fields of the bytes of an event.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    /// The bytes at an offset. The size was checked, and the offsets are those of the layout.
    fn at<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(field) = self.0.get(offset..offset + N) {
            bytes.copy_from_slice(field);
        }
        bytes
    }

    fn byte(&self, offset: usize) -> u8 {
        self.at::<1>(offset)[0]
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.at(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.at(offset))
    }

    fn addr(&self, offset: usize) -> Addr {
        [self.u64(offset), self.u64(offset + 8)]
    }

    fn key(&self) -> FrontendKey {
        let offset = offset_of!(Raw, key);
        FrontendKey {
            addr: self.addr(offset + offset_of!(FrontendKey, addr)),
            meta: self.u64(offset + offset_of!(FrontendKey, meta)),
        }
    }
}

/// The event that the kernel wrote as `bytes`.
///
/// # Errors
/// The bytes are not an event of this layout.
pub fn decode(bytes: &[u8], resolve: &impl Resolve) -> Result<Event, DecodeError> {
    if bytes.len() != size_of::<Raw>() {
        return Err(DecodeError::Size(bytes.len()));
    }
    let raw = Fields(bytes);
    let unknown = |field, value| DecodeError::Value { field, value };

    let hook = raw.byte(offset_of!(Raw, hook));
    let hook = HOOKS.get(usize::from(hook)).ok_or_else(|| unknown("hook", hook))?;
    let key = raw.key();
    let protocol =
        Protocol::from_number(key.protocol()).ok_or_else(|| unknown("protocol", key.protocol()))?;
    let to = Frontend::new(ip_from_addr(&key.addr), u16::from_be(key.port()), protocol);
    let number = raw.byte(offset_of!(Raw, outcome));
    let outcome = outcome_of(number).ok_or_else(|| unknown("outcome", number))?;
    let number = raw.byte(offset_of!(Raw, reason));
    let reason = reason_of(number).ok_or_else(|| unknown("reason", number))?;
    let flags = raw.byte(offset_of!(Raw, flags));
    let (outcome, failure) = what_happened(outcome, reason, flags);

    let backend = raw.addr(offset_of!(Raw, backend));
    let chosen = (backend != [0, 0]).then(|| BackendAddress {
        address: ip_from_addr(&backend),
        port: u16::from_be_bytes(raw.at(offset_of!(Raw, backend_port))),
    });
    let cgroup_id = raw.u64(offset_of!(Raw, cgroup));
    let pid = raw.u32(offset_of!(Raw, pid));
    let (pod, container) = resolve.caller(cgroup_id, pid);
    let policy = raw.u32(offset_of!(Raw, policy));
    Ok(Event {
        time: resolve.time(raw.u64(offset_of!(Raw, time))),
        outcome,
        hook: (*hook).to_owned(),
        process: Process { pid, comm: text(&raw.at::<16>(offset_of!(Raw, comm))) },
        cgroup_id,
        pod,
        container,
        from: EventSource { netns: raw.u64(offset_of!(Raw, netns)) },
        to,
        chosen,
        policy: if policy == 0 { None } else { resolve.policy(policy) },
        service: resolve.service(&to),
        failure: failure.map(str::to_owned),
    })
}

fn outcome_of(number: u8) -> Option<Outcome> {
    [Outcome::Untouched, Outcome::Policy, Outcome::Service, Outcome::Refuse]
        .into_iter()
        .find(|o| *o as u8 == number)
}

fn reason_of(number: u8) -> Option<PolicyReason> {
    let all = [
        PolicyReason::None,
        PolicyReason::Taken,
        PolicyReason::NoBackend,
        PolicyReason::ExemptCaller,
        PolicyReason::AgentStale,
        PolicyReason::QosLimit,
    ];
    all.into_iter().find(|r| *r as u8 == number)
}

/// What an event reports, and why. What the client feels most comes first: an error, then a wrong address in its
/// answers, then a policy that was not followed.
fn what_happened(outcome: Outcome, reason: PolicyReason, flags: u8) -> (EventOutcome, Option<&'static str>) {
    let balance = flags & EVENT_BALANCE != 0;
    let not_taken = match reason {
        PolicyReason::None | PolicyReason::Taken => None,
        PolicyReason::NoBackend if balance => Some(rung_reason::NO_BACKEND),
        PolicyReason::NoBackend => Some(rung_reason::NO_LOCAL_BACKEND),
        PolicyReason::ExemptCaller => Some(rung_reason::EXEMPT_CALLER),
        PolicyReason::AgentStale => Some(rung_reason::AGENT_STALE),
        PolicyReason::QosLimit => Some(rung_reason::QOS_LIMIT),
    };
    match (outcome, reason) {
        (Outcome::Refuse, _) => (EventOutcome::Refuse, not_taken.or(Some(rung_reason::NO_BACKEND))),
        _ if flags & EVENT_UNRECORDED != 0 => (EventOutcome::Failure, Some(event_failure::UNRECORDED)),
        (_, PolicyReason::QosLimit) => (EventOutcome::QosDrop, not_taken),
        (_, PolicyReason::NoBackend | PolicyReason::ExemptCaller | PolicyReason::AgentStale) => {
            (EventOutcome::Fallback, not_taken)
        }
        (Outcome::Policy, _) if balance => (EventOutcome::Balance, None),
        (Outcome::Policy, _) => (EventOutcome::Redirect, None),
        (Outcome::Service, _) => (EventOutcome::Service, None),
        (Outcome::Untouched, _) => (EventOutcome::Fallback, None),
    }
}

/// The text before the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

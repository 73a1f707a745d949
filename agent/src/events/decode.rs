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

#[cfg(test)]
mod tests {
    use balancing_api::policy::PolicyKind;
    use balancing_datapath::{HOOK_SENDMSG6, SCOPE_ANY, TCP, UDP, addr_from_ip};
    use proptest::prelude::*;

    use super::*;

    /// Names of a node with one policy, one pod and one Service.
    struct Names;

    impl Resolve for Names {
        fn policy(&self, index: u32) -> Option<PolicyRef> {
            (index == 3).then(|| PolicyRef::new(PolicyKind::LocalRedirectPolicy, "x"))
        }

        fn caller(&self, cgroup: u64, pid: u32) -> (Option<String>, Option<String>) {
            let mine = (cgroup, pid) == (77, 4242);
            (mine.then(|| "ns/p".to_owned()), mine.then(|| "c".to_owned()))
        }

        fn service(&self, frontend: &Frontend) -> Option<String> {
            (frontend.port == 53).then(|| "kube-system/kube-dns".to_owned())
        }

        fn time(&self, monotonic: u64) -> Timestamp {
            Timestamp::from_nanosecond(i128::from(monotonic)).unwrap()
        }
    }

    fn raw() -> Raw {
        let vip = addr_from_ip([10, 96, 0, 10].into());
        Raw {
            time: 1_500_000_000,
            cgroup: 77,
            netns: 5,
            key: FrontendKey::new(vip, 53u16.to_be(), UDP, SCOPE_ANY),
            backend: addr_from_ip([10, 244, 1, 7].into()),
            backend_port: 5353u16.to_be(),
            hook: HOOK_SENDMSG6,
            outcome: Outcome::Policy as u8,
            reason: PolicyReason::Taken as u8,
            flags: 0,
            spare: 0,
            policy: 3,
            pid: 4242,
            comm: *b"dig\0rest of it\0\0",
        }
    }

    /// The bytes as the kernel lays them out, field after field: the layout has no padding.
    fn bytes(raw: &Raw) -> Vec<u8> {
        let mut bytes = Vec::new();
        let [key, more_key] = raw.key.addr;
        let [backend, more_backend] = raw.backend;
        for word in [raw.time, raw.cgroup, raw.netns, key, more_key, raw.key.meta, backend, more_backend] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(raw.backend_port.to_ne_bytes());
        bytes.extend([raw.hook, raw.outcome, raw.reason, raw.flags]);
        bytes.extend(raw.spare.to_ne_bytes());
        bytes.extend(raw.policy.to_ne_bytes());
        bytes.extend(raw.pid.to_ne_bytes());
        bytes.extend(raw.comm);
        bytes
    }

    fn decoded(raw: &Raw) -> Event {
        decode(&bytes(raw), &Names).unwrap()
    }

    #[test]
    fn every_field_is_where_the_layout_has_it() {
        assert_eq!(
            decoded(&raw()),
            Event {
                time: "1970-01-01T00:00:01.5Z".parse().unwrap(),
                outcome: EventOutcome::Redirect,
                hook: "sendmsg6".to_owned(),
                process: Process { pid: 4242, comm: "dig".to_owned() },
                cgroup_id: 77,
                pod: Some("ns/p".to_owned()),
                container: Some("c".to_owned()),
                from: EventSource { netns: 5 },
                to: Frontend::new([10, 96, 0, 10].into(), 53, Protocol::Udp),
                chosen: Some(BackendAddress { address: [10, 244, 1, 7].into(), port: 5353 }),
                policy: Some(PolicyRef::new(PolicyKind::LocalRedirectPolicy, "x")),
                service: Some("kube-system/kube-dns".to_owned()),
                failure: None,
            }
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let v6 = "fd00::1".parse().unwrap();
        let event = decoded(&Raw {
            cgroup: 1,
            policy: 9,
            key: FrontendKey::new(addr_from_ip(v6), 80u16.to_be(), TCP, SCOPE_ANY),
            backend: [0, 0],
            outcome: Outcome::Untouched as u8,
            reason: PolicyReason::NoBackend as u8,
            comm: [b'n'; 16],
            ..raw()
        });
        assert_eq!(event.to, Frontend::new(v6, 80, Protocol::Tcp));
        assert_eq!(
            (event.pod, event.container, event.policy, event.service, event.chosen),
            (None, None, None, None, None)
        );
        assert_eq!(event.process.comm, "nnnnnnnnnnnnnnnn");
    }

    #[test]
    fn outcomes_and_their_reasons() {
        use EventOutcome as E;
        use PolicyReason as R;
        let balance = EVENT_BALANCE;
        let unrecorded = EVENT_UNRECORDED;
        for (outcome, reason, flags, wanted, failure) in [
            (Outcome::Policy, R::Taken, 0, E::Redirect, None),
            (Outcome::Policy, R::Taken, balance, E::Balance, None),
            (Outcome::Service, R::None, 0, E::Service, None),
            (Outcome::Service, R::QosLimit, 0, E::QosDrop, Some("QosLimit")),
            (Outcome::Untouched, R::QosLimit, 0, E::QosDrop, Some("QosLimit")),
            (Outcome::Service, R::ExemptCaller, 0, E::Fallback, Some("ExemptCaller")),
            (Outcome::Service, R::AgentStale, 0, E::Fallback, Some("AgentStale")),
            (Outcome::Service, R::NoBackend, 0, E::Fallback, Some("NoLocalBackend")),
            (Outcome::Untouched, R::NoBackend, balance, E::Fallback, Some("NoBackend")),
            (Outcome::Refuse, R::None, 0, E::Refuse, Some("NoBackend")),
            (Outcome::Refuse, R::NoBackend, 0, E::Refuse, Some("NoLocalBackend")),
            (Outcome::Refuse, R::NoBackend, balance, E::Refuse, Some("NoBackend")),
            (Outcome::Refuse, R::QosLimit, 0, E::Refuse, Some("QosLimit")),
            (Outcome::Policy, R::Taken, unrecorded, E::Failure, Some("Unrecorded")),
            (Outcome::Service, R::QosLimit, unrecorded | balance, E::Failure, Some("Unrecorded")),
        ] {
            let event = decoded(&Raw { outcome: outcome as u8, reason: reason as u8, flags, ..raw() });
            assert_eq!(
                (event.outcome, event.failure.as_deref()),
                (wanted, failure),
                "{outcome:?} {reason:?} {flags}"
            );
        }
    }

    #[test]
    fn bytes_of_another_layout_are_refused() {
        let decode = |bytes: &[u8]| decode(bytes, &Names).unwrap_err();
        assert_eq!(decode(&[]), DecodeError::Size(0));
        assert_eq!(decode(&[0; 97]).to_string(), "an event of 97 bytes, and an event has 96");
        let value = |field, value| DecodeError::Value { field, value };
        assert_eq!(decode(&bytes(&Raw { hook: 9, ..raw() })), value("hook", 9));
        assert_eq!(decode(&bytes(&Raw { outcome: 4, ..raw() })), value("outcome", 4));
        assert_eq!(decode(&bytes(&Raw { reason: 6, ..raw() })), value("reason", 6));
        let sctp = FrontendKey::new([0, 0], 1, 132, SCOPE_ANY);
        assert_eq!(decode(&bytes(&Raw { key: sctp, ..raw() })), value("protocol", 132));
    }

    #[test]
    fn times_are_counted_from_now() {
        let clock = WallClock { monotonic: 10_000_000_000, wall: "2026-01-02T03:04:05Z".parse().unwrap() };
        assert_eq!(clock.at(10_000_000_000).to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(clock.at(8_500_000_000).to_string(), "2026-01-02T03:04:03.5Z");
        assert_eq!(clock.at(11_000_000_000).to_string(), "2026-01-02T03:04:06Z");
        let far = clock.at(u64::MAX);
        assert_eq!(far.to_string(), "2610-07-24T02:38:28.709551615Z");
        let now = WallClock::now();
        assert!(now.at(u64::try_from(now.monotonic).unwrap()) == now.wall);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fall_over(bytes in proptest::collection::vec(any::<u8>(), 90..100)) {
            let _ = decode(&bytes, &Names);
        }

        #[test]
        fn addresses_and_ports_come_through(vip: std::net::IpAddr, port: u16, to: std::net::IpAddr, to_port: u16) {
            let event = decoded(&Raw {
                key: FrontendKey::new(addr_from_ip(vip), port.to_be(), TCP, SCOPE_ANY),
                backend: addr_from_ip(to),
                backend_port: to_port.to_be(),
                ..raw()
            });
            prop_assert_eq!(event.to, Frontend::new(vip, port, Protocol::Tcp));
            let chosen = BackendAddress { address: to.to_canonical(), port: to_port };
            let unspecified = addr_from_ip(to) == [0, 0];
            prop_assert_eq!(event.chosen, (!unspecified).then_some(chosen));
        }
    }
}

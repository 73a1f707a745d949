//! Who of the replicas writes: the holder of a Lease.
//!
//! Who holds it believes so for a shorter time than the others wait: it counts from before it asked for a renewal, they
//! from when they first saw one, each by a clock of its own that never goes back. So a holder that is not heard any
//! longer has stopped before another begins. A write that was sent in time may still be carried out a moment later:
//! each is such that this does no harm.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::owner::Owner;

/// How often a replica that does not hold the lease looks at it.
const LOOK: Duration = Duration::from_secs(2);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How long a request may take. A holder does not wait beyond the end of its lease.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the lease may take to be given back.
const RELEASE: Duration = Duration::from_secs(3);
/// How often the same failure is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Which lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the lease.
    pub lease: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// How long the lease outlives the last sign of life, in seconds.
    pub duration: u64,
    /// The Deployment that this replica is of, if it is of one.
    pub deployment: Option<String>,
    /// Whose the lease is; it is found before the lease is asked for, so that whoever leads knows it.
    pub owner: Owner,
}

impl Candidate {
    fn duration(&self) -> Duration {
        Duration::from_secs(self.duration)
    }

    /// How long a holder believes in a renewal.
    fn belief(&self) -> Duration {
        self.duration() * 4 / 5
    }

    /// How long a holder waits before it asks for the next.
    fn pause(&self) -> Duration {
        self.duration() / 4
    }

    /// Its duration, as the lease says it.
    fn seconds(&self) -> i32 {
        i32::try_from(self.duration).unwrap_or(i32::MAX)
    }
}

/// Nobody looks after the lease any longer.
#[derive(Debug, thiserror::Error)]
#[error("failed to look after the lease: its task ended")]
pub struct LeaderError;

/// What one replica knows of the lease. Pure.
#[derive(Debug)]
struct Race {
    candidate: Candidate,
    /// The lease as it was read last, and when it was first read so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Race {
    fn new(candidate: Candidate) -> Self {
        Self { candidate, seen: None }
    }

    /// The lease as it is to be written over the one that was read; nothing where another holds it. `clock` is for people.
    fn claim(&mut self, read: &LeaseSpec, now: Instant, clock: Timestamp) -> Option<LeaseSpec> {
        let since = match &self.seen {
            Some((seen, since)) if seen == read => *since,
            _ => {
                self.seen = Some((read.clone(), now));
                now
            }
        };
        let holder = read.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        let ours = holder == Some(&self.candidate.identity);
        let lasts = read.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let lasts = lasts.map_or(self.candidate.duration(), Duration::from_secs);
        if holder.is_some() && !ours && now < since + lasts {
            return None;
        }
        Some(LeaseSpec {
            holder_identity: Some(self.candidate.identity.clone()),
            lease_duration_seconds: Some(self.candidate.seconds()),
            acquire_time: read.acquire_time.clone().filter(|_| ours).or(Some(MicroTime(clock))),
            renew_time: Some(MicroTime(clock)),
            lease_transitions: Some(read.lease_transitions.unwrap_or(0).saturating_add(i32::from(!ours))),
            ..read.clone()
        })
    }

    /// The lease as it was read last. One that somebody deleted is its holder's until it would have ended: the holder
    /// does not know yet.
    fn last(&self) -> LeaseSpec {
        self.seen.as_ref().map(|(seen, _)| seen.clone()).unwrap_or_default()
    }

    /// The lease without a holder; nothing where another holds it.
    fn surrender(&self, read: &LeaseSpec) -> Option<LeaseSpec> {
        (read.holder_identity.as_deref() == Some(&self.candidate.identity)).then(|| LeaseSpec {
            holder_identity: None,
            acquire_time: None,
            renew_time: None,
            lease_duration_seconds: None,
            ..read.clone()
        })
    }
}

/// The part of a replica in the race for the lease.
#[derive(Debug)]
pub struct Leadership {
    term: Term,
    task: JoinHandle<()>,
    api: Api<Lease>,
    candidate: Candidate,
}

/// Until when this replica holds the lease.
#[derive(Clone, Debug)]
pub struct Term(watch::Receiver<Option<Instant>>);

impl Term {
    /// Does it hold the lease at this moment?
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }
}

/// Enters the race, for as long as what is returned lives.
#[must_use]
pub fn campaign(client: &Client, candidate: &Candidate) -> Leadership {
    let api: Api<Lease> = Api::namespaced(client.clone(), &candidate.namespace);
    let (term, held) = watch::channel(None);
    let task = tokio::spawn(run(client.clone(), api.clone(), candidate.clone(), term));
    Leadership { term: Term(held), task, api, candidate: candidate.clone() }
}

impl Leadership {
    /// Until when this replica holds the lease, for whoever writes.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Waits until this replica holds the lease, or where it does (`leading`) until it does no longer.
    ///
    /// # Errors
    /// Nobody looks after the lease any longer.
    pub async fn turned(&mut self, leading: bool) -> Result<(), LeaderError> {
        let held = &mut self.term.0;
        loop {
            let until = *held.borrow_and_update();
            let until = until.filter(|until| Instant::now() < *until);
            if until.is_some() != leading {
                return Ok(());
            }
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = held.changed() => changed.map_err(|_| LeaderError)?,
                () = over => {}
            }
        }
    }

    /// Gives the lease back where this replica holds it, so that another need not wait for its end.
    pub async fn release(mut self) {
        let held = self.term.holds();
        self.task.abort();
        // It is aborted, or it has ended.
        let _ = (&mut self.task).await;
        if !held {
            return;
        }
        match timeout(RELEASE, give_back(&self.api, &self.candidate)).await {
            Ok(Ok(())) => tracing::info!("the lease is given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "failed to give the lease back; another replica waits for its end");
            }
            Err(_) => {
                tracing::warn!("failed to give the lease back in time; another replica waits for its end")
            }
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: Client, api: Api<Lease>, candidate: Candidate, term: watch::Sender<Option<Instant>>) {
    find_owner(&client, &candidate).await;
    let mut race = Race::new(candidate);
    let mut told: Option<(String, Instant)> = None;
    loop {
        let until = *term.borrow();
        let sent = Instant::now();
        // Where the end of the lease is past, another request is as good as any.
        let patience = until.map(|until| until - sent).filter(|left| !left.is_zero()).unwrap_or(PATIENCE);
        let pause = match timeout(patience.min(PATIENCE), attempt(&api, &mut race)).await {
            Ok(Ok(true)) => {
                term.send_replace(Some(sent + race.candidate.belief()));
                told = None;
                race.candidate.pause()
            }
            Ok(Ok(false)) => {
                term.send_replace(None);
                told = None;
                LOOK
            }
            failed => {
                let why = match failed {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the API server does not answer".to_owned(),
                };
                if told.as_ref().is_none_or(|(what, when)| *what != why || sent > *when + TELL_AGAIN) {
                    let Candidate { lease, namespace, .. } = &race.candidate;
                    tracing::warn!(
                        lease,
                        namespace,
                        error = why,
                        "failed to take or renew the lease; trying again"
                    );
                    told = Some((why, sent));
                }
                RETRY.min(race.candidate.pause())
            }
        };
        sleep(pause).await;
    }
}

/// Tries until the API server answers.
async fn find_owner(client: &Client, candidate: &Candidate) {
    let Candidate { deployment: Some(deployment), namespace, owner, .. } = candidate else { return };
    let mut told = false;
    loop {
        let why = match timeout(PATIENCE, owner.find(client, namespace, deployment)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server does not answer".to_owned(),
        };
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                deployment,
                namespace,
                error = why,
                "failed to look for the operator's Deployment; trying again"
            );
        }
        sleep(LOOK).await;
    }
}

/// Takes or renews the lease: `false` where another holds it.
async fn attempt(api: &Api<Lease>, race: &mut Race) -> Result<bool, kube::Error> {
    let name = race.candidate.lease.clone();
    let params = PostParams { field_manager: Some("balancing-operator".to_owned()), ..PostParams::default() };
    let there = api.get_opt(&name).await?;
    let read = match &there {
        Some(lease) => lease.spec.clone().unwrap_or_default(),
        None => race.last(),
    };
    let Some(spec) = race.claim(&read, Instant::now(), Timestamp::now()) else { return Ok(false) };
    let (exists, metadata) = match there {
        // With the version that was read: what another has written meanwhile is not overwritten. Whose it is stays: in
        // some clusters that takes the right to delete it.
        Some(lease) => (true, lease.metadata),
        None => {
            let owner_references = race.candidate.owner.references();
            (false, ObjectMeta { name: Some(name.clone()), owner_references, ..ObjectMeta::default() })
        }
    };
    let lease = Lease { metadata, spec: Some(spec) };
    match exists {
        true => api.replace(&name, &params, &lease).await?,
        false => api.create(&params, &lease).await?,
    };
    Ok(true)
}

async fn give_back(api: &Api<Lease>, candidate: &Candidate) -> Result<(), kube::Error> {
    let race = Race::new(candidate.clone());
    loop {
        let Some(lease) = api.get_opt(&candidate.lease).await? else { return Ok(()) };
        let Some(spec) = race.surrender(lease.spec.as_ref().unwrap_or(&LeaseSpec::default())) else {
            return Ok(());
        };
        let given = Lease { spec: Some(spec), ..lease };
        match api.replace(&candidate.lease, &PostParams::default(), &given).await {
            // A renewal that was under way: it is read again.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(identity: &str, duration: u64) -> Candidate {
        Candidate {
            lease: "l".into(),
            namespace: "ns".into(),
            identity: identity.into(),
            duration,
            deployment: None,
            owner: Owner::default(),
        }
    }

    fn clock() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn at(began: Instant, ms: u64) -> Instant {
        began + Duration::from_millis(ms)
    }

    #[test]
    fn a_free_lease_is_taken_and_a_held_one_when_it_was_silent_for_its_time() {
        let began = Instant::now();
        let (mut a, mut b) = (Race::new(candidate("a", 15)), Race::new(candidate("b", 3)));
        let first = a.claim(&LeaseSpec::default(), began, clock()).expect("nobody has it");
        assert_eq!((first.holder_identity.as_deref(), first.lease_transitions), (Some("a"), Some(1)));
        // What counts is the time that the holder wrote down, from when it was seen, not what its clock says.
        assert_eq!(b.claim(&first, at(began, 20_000), clock()), None);
        assert_eq!(b.claim(&first, at(began, 34_999), clock()), None);
        let taken = b.claim(&first, at(began, 35_000), clock()).expect("it was silent for its time");
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(2)));
        // A sign of life between is one.
        let renewed = a.claim(&first, at(began, 30_000), "2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!((renewed.lease_transitions, &renewed.acquire_time), (Some(1), &first.acquire_time));
        assert_eq!(b.claim(&renewed, at(began, 36_000), clock()), None);
    }

    #[test]
    fn a_lease_that_somebody_deleted_is_its_holders_for_its_time() {
        let began = Instant::now();
        let (mut a, mut b) = (Race::new(candidate("a", 15)), Race::new(candidate("b", 15)));
        assert_eq!(b.last(), LeaseSpec::default(), "of one that was never there nobody knows");
        let held = a.claim(&LeaseSpec::default(), began, clock()).unwrap();
        assert_eq!(b.claim(&held, began, clock()), None);
        assert!(a.claim(&held, at(began, 1_000), clock()).is_some());
        assert_eq!(b.claim(&b.last(), at(began, 14_999), clock()), None);
        assert!(a.claim(&a.last(), at(began, 4_000), clock()).is_some(), "it makes it anew at once");
        assert!(b.claim(&b.last(), at(began, 15_000), clock()).is_some());
    }

    #[test]
    fn a_lease_is_given_back_by_its_holder_alone_and_is_free_then() {
        let began = Instant::now();
        let (mut a, mut b) = (Race::new(candidate("a", 15)), Race::new(candidate("b", 15)));
        let held = a.claim(&LeaseSpec::default(), began, clock()).unwrap();
        assert_eq!(b.surrender(&held), None);
        let free = a.surrender(&held).unwrap();
        assert_eq!(b.claim(&free, began, clock()).unwrap().holder_identity.as_deref(), Some("b"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_is_not_heard_stops_by_itself() {
        let candidate = candidate("a", 15);
        let (sender, held) = watch::channel(Some(Instant::now() + candidate.belief()));
        let config = kube::Config::new("http://192.0.2.1".parse().unwrap());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = Api::namespaced(Client::try_from(config).unwrap(), "ns");
        let task = tokio::spawn(std::future::pending());
        let mut leadership = Leadership { term: Term(held), task, api, candidate };
        let began = Instant::now();
        assert!(leadership.term().holds());
        leadership.turned(false).await.unwrap();
        // Nobody says anything; the other replicas wait for 15 s.
        leadership.turned(true).await.unwrap();
        assert!(!leadership.term().holds());
        assert_eq!(began.elapsed().as_secs(), 12);
        drop(sender);
        assert!(leadership.turned(false).await.is_err(), "nobody looks after it");
    }

    /// What one replica is about.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        /// It reads the lease.
        Read,
        /// What it wrote arrives at the API server.
        Arrive,
        /// It hears that it was written.
        Hear,
    }

    /// A replica, as far as the race goes.
    struct Replica {
        race: Race,
        sent: Option<Instant>,
        /// A write under way, over this version.
        writing: Option<(LeaseSpec, u64)>,
        /// Did it arrive, and was it taken?
        taken: Option<bool>,
        until: Option<Instant>,
    }

    proptest! {
        /// However long reads, writes and answers take: never do two believe that they hold it.
        #[test]
        fn one_at_a_time(acts in prop::collection::vec((0usize..3, 0u8..3, prop_oneof![4 => 0u64..100, 1 => 500u64..6000]), 1..400)) {
            let began = Instant::now();
            let mut now = began;
            let (mut stored, mut version) = (LeaseSpec::default(), 0u64);
            let mut replicas: Vec<Replica> = [("a", 15), ("b", 3), ("c", 7)]
                .map(|(name, duration)| Replica {
                    race: Race::new(candidate(name, duration)), sent: None, writing: None, taken: None, until: None,
                })
                .into();
            let mut terms = 0;
            for (who, act, passes) in acts {
                now += Duration::from_millis(passes);
                let replica = &mut replicas[who];
                let act = [Act::Read, Act::Arrive, Act::Hear][usize::from(act)];
                match act {
                    Act::Read if replica.sent.is_none() => {
                        let clock = clock() + (now - began);
                        match replica.race.claim(&stored, now, clock) {
                            Some(spec) => {
                                replica.sent = Some(now);
                                replica.writing = Some((spec, version));
                            }
                            None => replica.until = None,
                        }
                    }
                    Act::Arrive => if let Some((spec, over)) = replica.writing.take() {
                        let taken = over == version;
                        if taken {
                            (stored, version) = (spec, version + 1);
                        }
                        replica.taken = Some(taken);
                    }
                    Act::Hear => if let Some(taken) = replica.taken.take() {
                        let sent = replica.sent.take().unwrap();
                        if taken {
                            replica.until = Some(sent + replica.race.candidate.belief());
                            terms += 1;
                        }
                    }
                    Act::Read => {}
                }
                let holders = replicas.iter().filter(|r| r.until.is_some_and(|until| now < until)).count();
                prop_assert!(holders <= 1, "{holders} at once after {terms} terms");
            }
        }
    }
}

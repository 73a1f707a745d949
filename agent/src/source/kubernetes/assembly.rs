//! What all watches say together: what changed, what is wrong, whether everything was read. No I/O, no clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use balancing_api::{
    agent::{SourceError, SourceProgress},
    records::{Object, ObjectKey},
};
use jiff::Timestamp;

use super::{apiserver::ApiServerEndpoints, kinds::Kind, read::Read, watch::News};
use crate::{
    snapshot::ObjectChange,
    source::{Batch, Touch},
};

/// Where errors of the API server's objects are reported, in the place of a file's name.
const PLACE: &str = "API server";
/// A watch that fails for so long is no hiccup of a restart.
const OUT_OF_TOUCH_AFTER: i64 = 2;

/// How much of a kind is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Nothing.
    #[default]
    Unheard,
    /// The first list was empty, which is to be confirmed.
    EmptyOnce,
    /// All.
    Listed,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Its record is in force.
    Known,
    /// Its record says that it breaks a rule.
    Invalid,
    /// It was never understood.
    Unknown,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    objects: HashMap<ObjectKey, Standing>,
    absent: bool,
    /// Since when it fails, and why now.
    failing: Option<(Timestamp, String)>,
    last_progress: Option<Timestamp>,
}

/// Follows the news of all kinds.
#[derive(Debug)]
pub(super) struct Assembly {
    kinds: BTreeMap<Kind, State>,
    pending: BTreeMap<ObjectKey, Option<Object>>,
    errors: BTreeMap<ObjectKey, SourceError>,
    api_server: ApiServerEndpoints,
    /// Everything was read once: from then on changes are told.
    complete: bool,
    told: Option<Told>,
}

/// What the last batch said besides changes.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    errors: Vec<SourceError>,
    unread: Vec<String>,
    touch: Touch,
    notes: Vec<String>,
}

impl Assembly {
    pub(super) fn new() -> Self {
        Self {
            kinds: Kind::ALL.into_iter().map(|kind| (kind, State::default())).collect(),
            pending: BTreeMap::new(),
            errors: BTreeMap::new(),
            api_server: ApiServerEndpoints::default(),
            complete: false,
            told: None,
        }
    }

    /// Takes a piece of news of a kind, heard at `now`.
    pub(super) fn take(&mut self, kind: Kind, news: News<Read>, now: Timestamp) {
        let state = self.kinds.entry(kind).or_default();
        match &news {
            News::Failing(why) => {
                let since = state.failing.as_ref().map_or(now, |(since, _)| *since);
                state.failing = Some((since, why.clone()));
                return;
            }
            // What is empty in this moment is not what is wanted to be known.
            News::EmptyOnce => {}
            _ => state.last_progress = Some(now),
        }
        state.failing = None;
        match news {
            News::Listed(reads) => {
                (state.phase, state.absent) = (Phase::Listed, false);
                let listed: BTreeSet<&ObjectKey> = reads.iter().map(|read| &read.key).collect();
                let gone: Vec<ObjectKey> =
                    state.objects.keys().filter(|key| !listed.contains(key)).cloned().collect();
                for key in gone {
                    self.remove(kind, key);
                }
                for read in reads {
                    self.set(kind, read, now);
                }
            }
            News::Absent => {
                (state.phase, state.absent) = (Phase::Listed, true);
                let gone: Vec<ObjectKey> = state.objects.keys().cloned().collect();
                for key in gone {
                    self.remove(kind, key);
                }
            }
            News::EmptyOnce if state.phase == Phase::Unheard => state.phase = Phase::EmptyOnce,
            News::Set(read) => self.set(kind, read, now),
            News::Gone(read) => self.remove(kind, read.key),
            News::EmptyOnce | News::Alive | News::Failing(_) => {}
        }
    }

    fn set(&mut self, kind: Kind, read: Read, now: Timestamp) {
        let Read { key, what } = read;
        let objects = &mut self.kinds.entry(kind).or_default().objects;
        let before = objects.get(&key).copied();
        let kept = before == Some(Standing::Known);
        let invalid = match &what {
            Ok(Object::Policy(policy)) => policy.spec.as_ref().err().map(ToString::to_string),
            _ => None,
        };
        let (standing, fault) = match (&what, invalid) {
            (Ok(_), None) => (Standing::Known, None),
            // What it said before stays in force, as a file's last good state does.
            (Ok(_), Some(why)) => (if kept { Standing::Known } else { Standing::Invalid }, Some(why)),
            (Err(why), _) => (before.unwrap_or(Standing::Unknown), Some(why.clone())),
        };
        objects.insert(key.clone(), standing);
        let good = fault.is_none();
        match fault {
            Some(why) => {
                let message = if kept { format!("{why}: what it said before stays in force") } else { why };
                let since = self.errors.get(&key).filter(|e| e.message == message).map_or(now, |e| e.since);
                let object = key.to_string();
                let error =
                    SourceError { file: PLACE.to_owned(), line: 0, column: 0, object, message, since };
                self.errors.insert(key.clone(), error);
            }
            None => {
                self.errors.remove(&key);
            }
        }
        if let Ok(object) = what
            && (good || !kept)
        {
            self.change(key, Some(object));
        }
    }

    fn remove(&mut self, kind: Kind, key: ObjectKey) {
        self.kinds.entry(kind).or_default().objects.remove(&key);
        self.errors.remove(&key);
        self.change(key, None);
    }

    fn change(&mut self, key: ObjectKey, object: Option<Object>) {
        for (key, object) in self.api_server.change(key, object) {
            self.pending.insert(key, object);
        }
    }

    /// Was everything read once?
    pub(super) fn is_complete(&self) -> bool {
        let read = |(kind, state): (&Kind, &State)| match state.phase {
            Phase::Listed => true,
            // Without its Node the agent would be none of the cluster.
            Phase::EmptyOnce => *kind != Kind::Node,
            Phase::Unheard => false,
        };
        self.complete || self.kinds.iter().all(read)
    }

    /// What is new since the last call, if anything is. `seen`: when the first of it was.
    pub(super) fn batch(&mut self, seen: Instant, now: Timestamp) -> Option<Batch> {
        self.complete = self.is_complete();
        let told = Told {
            errors: self.errors.values().cloned().collect(),
            unread: self.unread(),
            touch: self.touch(now),
            notes: self.notes(),
        };
        let changes: Vec<ObjectChange> = if self.complete {
            let pending = std::mem::take(&mut self.pending);
            pending.into_iter().map(|(key, object)| ObjectChange { key, object }).collect()
        } else {
            Vec::new()
        };
        if changes.is_empty() && self.told.as_ref() == Some(&told) {
            return None;
        }
        self.log(&told);
        self.told = Some(told.clone());
        let Told { errors, unread, touch, notes } = told;
        Some(Batch { changes, errors, unread, skipped: 0, seen, touch, notes })
    }

    fn log(&self, now: &Told) {
        let known = self.told.as_ref().map(|told| told.errors.as_slice()).unwrap_or_default();
        for e in now.errors.iter().filter(|e| !known.contains(e)) {
            tracing::error!(object = %e.object, "{}", e.message);
        }
        for e in known.iter().filter(|e| !now.errors.contains(e)) {
            tracing::info!(object = %e.object, "no longer wrong: {}", e.message);
        }
        let known = self.told.as_ref().map(|told| told.notes.as_slice()).unwrap_or_default();
        for note in now.notes.iter().filter(|note| !known.contains(note)) {
            tracing::warn!("{note}");
        }
    }

    /// What is not known: kinds that may not be empty after all, and objects that were never understood.
    fn unread(&self) -> Vec<String> {
        let kinds = self.kinds.iter().filter(|(_, state)| state.phase != Phase::Listed);
        let kinds = kinds.map(|(kind, _)| kind.plural().to_owned());
        let unknown = |(key, standing): (&ObjectKey, &Standing)| {
            (*standing == Standing::Unknown).then(|| key.to_string())
        };
        let mut objects: Vec<String> =
            self.kinds.values().flat_map(|state| &state.objects).filter_map(unknown).collect();
        objects.sort();
        kinds.chain(objects).collect()
    }

    fn touch(&self, now: Timestamp) -> Touch {
        let failing = || self.kinds.values().filter_map(|state| state.failing.as_ref());
        if !self.complete {
            let missing = self.kinds.iter().filter(|(_, state)| state.phase == Phase::Unheard);
            let missing: Vec<&str> = missing.map(|(kind, _)| kind.plural()).collect();
            return Touch::Waiting(match failing().next() {
                Some((_, why)) => why.clone(),
                None if missing.is_empty() => "looking twice for what seems empty".to_owned(),
                None => format!("waiting for the first list of {}", missing.join(", ")),
            });
        }
        let lasting = |since: Timestamp| now.as_second() - since.as_second() >= OUT_OF_TOUCH_AFTER;
        match failing().find(|(since, _)| lasting(*since)) {
            Some((_, why)) => Touch::Lost(why.clone()),
            None => Touch::Live,
        }
    }

    fn notes(&self) -> Vec<String> {
        let absent = self.kinds.iter().filter(|(_, state)| state.absent).map(|(kind, _)| {
            format!("the API server has no {}: install the CustomResourceDefinitions", kind.plural())
        });
        absent.chain(self.api_server.note()).collect()
    }

    /// When each kind was last heard of; `start` stands for never.
    pub(super) fn progress(&self, start: Timestamp) -> Vec<SourceProgress> {
        let progress = |(kind, state): (&Kind, &State)| SourceProgress {
            name: kind.plural().to_owned(),
            synced: state.phase == Phase::Listed,
            last_progress: state.last_progress.unwrap_or(start),
        };
        self.kinds.iter().map(progress).collect()
    }
}

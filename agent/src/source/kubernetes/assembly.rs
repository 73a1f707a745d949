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
        let Read { key, what, remark } = read;
        let objects = &mut self.kinds.entry(kind).or_default().objects;
        let before = objects.get(&key).copied();
        let kept = before == Some(Standing::Known);
        let invalid = match &what {
            Ok(Object::Policy(policy)) => policy.spec.as_ref().err().map(ToString::to_string),
            _ => None,
        };
        // What it said before stays in force where it makes no sense now.
        let stays = kept && (what.is_err() || invalid.is_some());
        let (standing, fault) = match (&what, invalid) {
            (Ok(_), None) => (Standing::Known, remark),
            (Ok(_), Some(why)) => (if kept { Standing::Known } else { Standing::Invalid }, Some(why)),
            (Err(why), _) => (before.unwrap_or(Standing::Unknown), Some(why.clone())),
        };
        objects.insert(key.clone(), standing);
        match fault {
            Some(why) => {
                let message = if stays { format!("{why}: what it said before stays in force") } else { why };
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
            && !stays
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
            // Without its Node the agent would be none of the cluster, to which other policies apply.
            Phase::Listed => *kind != Kind::Node || !state.objects.values().any(|s| *s == Standing::Unknown),
            Phase::EmptyOnce => *kind != Kind::Node,
            Phase::Unheard => false,
        };
        self.complete || self.kinds.iter().all(read)
    }

    /// What is new since the last call, if anything is. `seen`: when the first of it was.
    pub(super) fn batch(&mut self, seen: Instant, now: Timestamp) -> Option<Batch> {
        self.complete = self.is_complete();
        let told = self.telling(now);
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

    fn telling(&self, now: Timestamp) -> Told {
        Told {
            errors: self.errors.values().cloned().collect(),
            unread: self.unread(),
            touch: self.touch(now),
            notes: self.notes(),
        }
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
        if let Some(why) = self.hindrance(now) {
            tracing::warn!("{why}: until that is read nothing is programmed, and what is pinned goes on");
        }
    }

    /// Why not everything was read once, where that is a failure and was not told yet.
    fn hindrance<'n>(&self, now: &'n Told) -> Option<&'n str> {
        let fails = !self.complete && self.kinds.values().any(|state| state.failing.is_some());
        match &now.touch {
            Touch::Waiting(why) if fails && self.told.as_ref().is_none_or(|told| told.touch != now.touch) => {
                Some(why)
            }
            _ => None,
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
                None if missing.is_empty() && !self.errors.is_empty() => {
                    self.errors.values().next().map(ToString::to_string).unwrap_or_default()
                }
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

#[cfg(test)]
mod tests {
    use balancing_api::{policy::PolicyKind, records::Converter};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::source::kubernetes::{item::Item, read::read};

    const LRP: Kind = Kind::Policies(PolicyKind::LocalRedirectPolicy);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// A pod whose address tells its version.
    fn pod(name: u8, version: u8) -> Read {
        let object = json!({
            "metadata": {"name": format!("p{name}"), "namespace": "team", "uid": "u"},
            "status": {"podIP": format!("10.0.{name}.{version}")},
        });
        read(Kind::Pods, Item::new(object), &mut Converter::default())
    }

    fn broken(name: u8) -> Read {
        Read { what: Err("spec.x: wrong".to_owned()), ..pod(name, 0) }
    }

    fn policy(generation: i64, valid: bool) -> Read {
        let port = if valid { "80" } else { "no" };
        let object = json!({
            "metadata": {"name": "x", "generation": generation},
            "spec": {
                "frontend": {"addressMatcher": {"ip": "10.9.9.9", "toPorts": [{"port": port, "protocol": "TCP"}]}},
                "backend": {"endpointSelector": {}, "toPorts": [{"port": "80", "protocol": "TCP"}]},
            },
        });
        let read = read(LRP, Item::new(object), &mut Converter::default());
        let Ok(Object::Policy(policy)) = &read.what else { panic!("no policy") };
        assert_eq!(policy.spec.is_ok(), valid, "{:?}", policy.spec);
        read
    }

    /// Everything was listed and told.
    fn complete() -> Assembly {
        let mut assembly = Assembly::new();
        for kind in Kind::ALL {
            assembly.take(kind, News::Listed(Vec::new()), at(0));
        }
        let first = batch(&mut assembly, 0).unwrap();
        assert_eq!((first.touch, first.unread), (Touch::Live, Vec::<String>::new()));
        assembly
    }

    fn batch(assembly: &mut Assembly, second: i64) -> Option<Batch> {
        assembly.batch(Instant::now(), at(second))
    }

    fn changes(batch: &Batch) -> Vec<String> {
        let shown = |c: &ObjectChange| format!("{}{}", if c.object.is_some() { "+" } else { "-" }, c.key);
        batch.changes.iter().map(shown).collect()
    }

    #[test]
    fn nothing_is_told_before_every_list_is_in() {
        let mut assembly = Assembly::new();
        assembly.take(Kind::Pods, News::Listed(vec![pod(1, 1)]), at(0));
        for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Pods | Kind::Node)) {
            assembly.take(kind, News::EmptyOnce, at(0));
        }
        let waiting = batch(&mut assembly, 1).unwrap();
        assert_eq!(changes(&waiting), [""; 0]);
        assert_eq!(waiting.touch, Touch::Waiting("waiting for the first list of nodes".to_owned()));
        assembly.take(Kind::Node, News::Failing("failed to list nodes: forbidden".to_owned()), at(1));
        let waiting = batch(&mut assembly, 1).unwrap();
        assert_eq!(waiting.touch, Touch::Waiting("failed to list nodes: forbidden".to_owned()));
        // An empty answer about its own Node would make it none of the cluster's.
        assembly.take(Kind::Node, News::EmptyOnce, at(2));
        assert!(matches!(batch(&mut assembly, 2).unwrap().touch, Touch::Waiting(_)));
        assembly.take(Kind::Node, News::Listed(Vec::new()), at(5));
        let first = batch(&mut assembly, 5).unwrap();
        assert_eq!((changes(&first), first.touch), (vec!["+Pod/team/p1".to_owned()], Touch::Live));
        // What was empty once may yet turn out to be full: pinned entries are kept.
        assert_eq!(
            first.unread,
            ["services", "endpointslices", "localredirectpolicies", "balancingpolicies"]
        );
        assembly.take(Kind::Services, News::Listed(Vec::new()), at(6));
        assert_eq!(batch(&mut assembly, 6).unwrap().unread.len(), 3);
        assert_eq!(batch(&mut assembly, 7), None);
    }

    #[test]
    fn what_keeps_the_first_lists_away_is_logged_once() {
        let mut assembly = Assembly::new();
        let hindered = |assembly: &Assembly| assembly.hindrance(&assembly.telling(at(1))).map(str::to_owned);
        assert_eq!(hindered(&assembly), None, "it is only not there yet");
        for why in ["failed to list nodes: forbidden", "failed to list nodes: connection refused"] {
            assembly.take(Kind::Node, News::Failing(why.to_owned()), at(1));
            assert_eq!(hindered(&assembly).as_deref(), Some(why));
            assert!(assembly.batch(Instant::now(), at(1)).is_some());
            assert_eq!(hindered(&assembly), None, "it was told");
        }
        let mut complete = complete();
        complete.take(Kind::Node, News::Failing("failed to watch nodes".to_owned()), at(1));
        assert_eq!(hindered(&complete), None, "the condition tells that");
    }

    #[test]
    fn a_node_that_nobody_understands_is_not_taken_for_none() {
        let mut assembly = Assembly::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Node) {
            assembly.take(kind, News::Listed(Vec::new()), at(0));
        }
        let node = |addresses: serde_json::Value| {
            let object = json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}});
            read(Kind::Node, Item::new(object), &mut Converter::default())
        };
        assembly.take(Kind::Node, News::Listed(vec![node(json!(7))]), at(0));
        let waiting = batch(&mut assembly, 0).unwrap();
        let Touch::Waiting(why) = waiting.touch else { panic!("{waiting:?}") };
        assert!(why.starts_with("API server: Node/n1: status.addresses: invalid type"), "{why}");
        assembly.take(Kind::Node, News::Set(node(json!([]))), at(1));
        assert_eq!(changes(&batch(&mut assembly, 1).unwrap()), ["+Node/n1"]);
        // A remark is an error that takes nothing away.
        let remarked = Read {
            remark: Some("odd".to_owned()),
            ..node(json!([{"type": "InternalIP", "address": "192.0.2.1"}]))
        };
        assembly.take(Kind::Node, News::Set(remarked), at(2));
        let told = batch(&mut assembly, 2).unwrap();
        assert_eq!((changes(&told).len(), told.errors[0].message.as_str()), (1, "odd"));
    }

    #[test]
    fn a_resource_that_is_absent_is_remarked_and_empty() {
        let mut assembly = complete();
        assembly.take(LRP, News::Set(policy(1, true)), at(1));
        batch(&mut assembly, 1).unwrap();
        assembly.take(LRP, News::Absent, at(2));
        let absent = batch(&mut assembly, 2).unwrap();
        assert_eq!(changes(&absent), ["-LocalRedirectPolicy/x"]);
        assert_eq!(absent.touch, Touch::Live);
        assert!(absent.notes[0].contains("localredirectpolicies"), "{:?}", absent.notes);
        assembly.take(LRP, News::Listed(vec![policy(1, true)]), at(3));
        let there = batch(&mut assembly, 3).unwrap();
        assert_eq!((changes(&there), there.notes), (vec!["+LocalRedirectPolicy/x".to_owned()], vec![]));
    }

    #[test]
    fn what_cannot_be_understood_keeps_its_last_good_state() {
        let mut assembly = complete();
        assembly.take(Kind::Pods, News::Set(pod(1, 1)), at(1));
        batch(&mut assembly, 1).unwrap();
        assembly.take(Kind::Pods, News::Set(broken(1)), at(2));
        assembly.take(Kind::Pods, News::Listed(vec![broken(1), broken(2)]), at(3));
        let bad = batch(&mut assembly, 3).unwrap();
        assert_eq!(changes(&bad), [""; 0]);
        let told: Vec<_> = bad.errors.iter().map(|e| (e.to_string(), e.since)).collect();
        assert_eq!(
            told,
            [
                (
                    "API server: Pod/team/p1: spec.x: wrong: what it said before stays in force".to_owned(),
                    at(2)
                ),
                ("API server: Pod/team/p2: spec.x: wrong".to_owned(), at(3)),
            ]
        );
        assert_eq!(bad.unread, ["Pod/team/p2"], "of the other it is known what it was");
        assembly.take(Kind::Pods, News::Set(pod(2, 1)), at(4));
        assembly.take(Kind::Pods, News::Gone(broken(1)), at(4));
        let good = batch(&mut assembly, 4).unwrap();
        assert_eq!(changes(&good), ["-Pod/team/p1", "+Pod/team/p2"]);
        assert_eq!((good.errors, good.unread), (vec![], vec![]));
    }

    #[test]
    fn a_policy_that_breaks_a_rule_keeps_what_it_said_before() {
        let mut assembly = complete();
        assembly.take(LRP, News::Set(policy(1, false)), at(1));
        let first = batch(&mut assembly, 1).unwrap();
        assert_eq!(
            (changes(&first).len(), first.errors.len()),
            (1, 1),
            "it is known, and known to be invalid"
        );
        assembly.take(LRP, News::Set(policy(2, true)), at(2));
        assert_eq!(batch(&mut assembly, 2).unwrap().errors, []);
        assembly.take(LRP, News::Set(policy(3, false)), at(3));
        let edited = batch(&mut assembly, 3).unwrap();
        assert_eq!(changes(&edited), [""; 0]);
        assert!(edited.errors[0].message.ends_with("what it said before stays in force"));
        assembly.take(LRP, News::Gone(policy(3, false)), at(4));
        assembly.take(LRP, News::Set(policy(1, false)), at(4));
        let anew = batch(&mut assembly, 4).unwrap();
        let Some(Object::Policy(invalid)) = &anew.changes[0].object else { panic!("{anew:?}") };
        assert!(invalid.spec.is_err(), "another one under the same name");
    }

    #[test]
    fn a_failure_counts_when_it_lasts_and_ends_with_the_next_sign_of_life() {
        let mut assembly = complete();
        let failing = || News::Failing("failed to watch pods: connection refused".to_owned());
        assembly.take(Kind::Pods, failing(), at(10));
        assert_eq!(batch(&mut assembly, 11), None, "API servers restart");
        assembly.take(Kind::Pods, failing(), at(12));
        let lost = batch(&mut assembly, 12).unwrap();
        assert_eq!(lost.touch, Touch::Lost("failed to watch pods: connection refused".to_owned()));
        assert_eq!(batch(&mut assembly, 13), None);
        let progress = assembly.progress(at(0));
        assert_eq!(progress.iter().find(|p| p.name == "pods").unwrap().last_progress, at(0));
        assembly.take(Kind::Pods, News::Alive, at(20));
        assert_eq!(batch(&mut assembly, 20).unwrap().touch, Touch::Live);
        let progress = assembly.progress(at(0));
        assert_eq!(progress.iter().find(|p| p.name == "pods").unwrap().last_progress, at(20));
    }

    /// What happens to the objects of one kind at the API server, and what is heard of it.
    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, u8),
        Remove(u8),
        /// The same, and the watch does not hear of it.
        SetUnheard(u8, u8),
        RemoveUnheard(u8),
        List,
        Fail,
        Alive,
        Tell,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 1..4u8).prop_map(|(name, version)| Step::Set(name, version)),
            (0..4u8).prop_map(Step::Remove),
            (0..4u8, 1..4u8).prop_map(|(name, version)| Step::SetUnheard(name, version)),
            (0..4u8).prop_map(Step::RemoveUnheard),
            Just(Step::List),
            Just(Step::Fail),
            Just(Step::Alive),
            Just(Step::Tell),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_heard_in_between_the_end_is_the_plain_set(steps in proptest::collection::vec(step(), 0..60)) {
            let mut assembly = Assembly::new();
            let mut there: BTreeMap<u8, u8> = BTreeMap::new();
            let mut known: BTreeMap<ObjectKey, Object> = BTreeMap::new();
            let mut tell = |assembly: &mut Assembly| {
                for change in batch(assembly, 0).map(|b| b.changes).unwrap_or_default() {
                    match change.object {
                        Some(object) => known.insert(change.key, object),
                        None => known.remove(&change.key),
                    };
                }
            };
            let list = |there: &BTreeMap<u8, u8>| News::Listed(there.iter().map(|(n, v)| pod(*n, *v)).collect());
            for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pods) {
                assembly.take(kind, News::Listed(Vec::new()), at(0));
            }
            for step in steps {
                let news = match step {
                    Step::Set(name, version) => {
                        there.insert(name, version);
                        News::Set(pod(name, version))
                    }
                    Step::Remove(name) => match there.remove(&name) {
                        Some(version) => News::Gone(pod(name, version)),
                        None => News::Alive,
                    },
                    Step::SetUnheard(name, version) => {
                        there.insert(name, version);
                        continue;
                    }
                    Step::RemoveUnheard(name) => {
                        there.remove(&name);
                        continue;
                    }
                    Step::List if there.is_empty() => News::EmptyOnce,
                    Step::List => list(&there),
                    Step::Fail => News::Failing("x".to_owned()),
                    Step::Alive => News::Alive,
                    Step::Tell => {
                        tell(&mut assembly);
                        continue;
                    }
                };
                assembly.take(Kind::Pods, news, at(0));
            }
            assembly.take(Kind::Pods, list(&there), at(0));
            tell(&mut assembly);
            let wanted: BTreeMap<ObjectKey, Object> =
                there.iter().map(|(n, v)| { let read = pod(*n, *v); (read.key, read.what.unwrap()) }).collect();
            prop_assert_eq!(known, wanted);
        }
    }
}

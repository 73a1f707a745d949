//! What the API server says of a cluster as it happens: lists, then watches that go on where they broke off.
//!
//! It is written out here, as the agent's is, because of what kube's `watcher` keeps to itself: that a watch stands again
//! after an outage, and that something may be listed and not watched.

use std::{collections::BTreeMap, time::Duration};

use balancing_api::overview::Gap;
use futures_util::StreamExt;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Cluster, Wanted,
    facts::Read,
    part::{Chosen, List, Part, Parts},
    read::{FORBIDDEN, Failure, Unreachable},
};

/// What comes within this time is told together.
const TOGETHER: Duration = Duration::from_millis(50);
/// Shortest pause after a failure. It doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause: whoever watches sees at once that the API server is there again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often something is listed that may not be watched, or cannot be listed.
const RELIST: Duration = Duration::from_secs(5);
/// A watch in which not even a bookmark came for so long is made anew: the connection may be dead.
const SILENCE: Duration = Duration::from_secs(100);
/// A watch that stood for so long was none that failed at once.
const STOOD: Duration = Duration::from_secs(10);
/// Messages that wait to be taken in.
const WAITING: usize = 256;

/// What a list and its watch have to tell.
#[derive(Debug)]
enum News {
    /// A complete list.
    Listed(Vec<Value>),
    /// An object is new, or changed.
    Set(Value),
    /// An object is gone.
    Gone(Value),
    /// A watch has begun, or goes on.
    Stands,
    /// Neither.
    Failed(Failure),
}

/// Follows the lists of a cluster. Dropping it ends that.
pub struct Watcher {
    news: mpsc::Receiver<(Part, News)>,
    known: Known,
    _tasks: JoinSet<()>,
}

impl Watcher {
    /// Begins to follow what is wanted of the cluster.
    #[must_use]
    pub fn new(cluster: &Cluster, wanted: Wanted) -> Self {
        let (tell, news) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        let parts = Part::of(wanted, &cluster.chosen);
        for part in &parts {
            tasks.spawn(follow(cluster.clone(), *part, tell.clone()));
        }
        Self { news, known: Known::new(&cluster.namespace, &cluster.chosen, parts), _tasks: tasks }
    }

    /// What is known once all lists are in, then after every change, and after an outage.
    ///
    /// # Errors
    /// The API server cannot be reached since the last answer. It goes on once there is one again.
    pub async fn next(&mut self) -> Result<Read, Unreachable> {
        loop {
            let first = self.news.recv().await;
            sleep(TOGETHER).await;
            let mut more = std::iter::from_fn(|| self.news.try_recv().ok());
            for (part, news) in first.into_iter().chain(&mut more) {
                self.known.take(part, news)?;
            }
            if let Some(answer) = self.known.told() {
                return answer;
            }
        }
    }
}

/// Everything that was told so far. Pure.
struct Known {
    namespace: String,
    chosen: Chosen,
    wanted: Vec<Part>,
    parts: Parts,
    gaps: BTreeMap<Part, Gap>,
    failing: BTreeMap<Part, Unreachable>,
    /// Was it said that the API server cannot be reached?
    away: bool,
    changed: bool,
}

impl Known {
    fn new(namespace: &str, chosen: &Chosen, wanted: Vec<Part>) -> Self {
        Self {
            namespace: namespace.to_owned(),
            chosen: chosen.clone(),
            wanted,
            parts: Parts::default(),
            gaps: BTreeMap::new(),
            failing: BTreeMap::new(),
            away: false,
            changed: false,
        }
    }

    fn take(&mut self, part: Part, news: News) -> Result<(), Unreachable> {
        match news {
            News::Listed(objects) => {
                self.parts.put(part, &objects);
                // Where it may not be watched, that is still so.
                if self.gaps.get(&part).is_some_and(|g| g.verb != "watch") {
                    self.gaps.remove(&part);
                }
                self.failing.remove(&part);
                self.changed = true;
            }
            News::Set(object) => {
                self.parts.set(part, &object);
                self.changed = true;
            }
            News::Gone(object) => {
                self.parts.remove(part, &object);
                self.changed = true;
            }
            News::Stands => {
                self.changed |= self.gaps.remove(&part).is_some();
                self.failing.remove(&part);
            }
            News::Failed(Failure::Unreachable(error)) => {
                self.failing.insert(part, error);
            }
            News::Failed(failure) => {
                let gap = part.gap(&self.chosen, failure)?;
                self.failing.remove(&part);
                self.changed |= self.gaps.insert(part, gap.clone()) != Some(gap);
            }
        }
        Ok(())
    }

    /// What there is to say now.
    fn told(&mut self) -> Option<Result<Read, Unreachable>> {
        if let Some(error) = self.failing.values().next() {
            return (!std::mem::replace(&mut self.away, true)).then(|| Err(error.clone()));
        }
        let known = self.wanted.iter().all(|p| self.parts.holds(*p) || self.gaps.contains_key(p));
        if !known || !(self.changed || self.away) {
            return None;
        }
        (self.changed, self.away) = (false, false);
        let gaps = self.gaps.values().cloned().collect();
        Some(Ok(self.parts.read(&self.namespace, &self.chosen, gaps)))
    }
}

/// Pauses after failures.
struct Pauses(Duration);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    fn reset(&mut self) {
        self.0 = SHORTEST_PAUSE;
    }
}

/// Why a watch ended.
enum Ended {
    /// The API server ended it, or it was silent for too long.
    Over,
    /// The version to go on from is too old.
    Expired,
    Failed(Failure),
}

/// Lists and watches until nobody listens.
async fn follow(cluster: Cluster, part: Part, tell: mpsc::Sender<(Part, News)>) {
    let mut pauses = Pauses(SHORTEST_PAUSE);
    loop {
        let List { missing, kind, namespace, query } = part.list(&cluster);
        let mut version = match cluster.connection.listed(missing, kind, namespace, &query).await {
            Ok((objects, version)) => {
                if tell.send((part, News::Listed(objects))).await.is_err() {
                    return;
                }
                version
            }
            Err(failure) => {
                let pause = if matches!(failure, Failure::Gap(_)) { RELIST } else { pauses.next() };
                if tell.send((part, News::Failed(failure))).await.is_err() {
                    return;
                }
                sleep(pause).await;
                continue;
            }
        };
        loop {
            let began = Instant::now();
            let ended = watch(&cluster, part, &mut version, &tell).await;
            if began.elapsed() >= STOOD {
                pauses.reset();
            }
            let relist = match ended {
                Ended::Over => {
                    if began.elapsed() < STOOD {
                        sleep(pauses.next()).await;
                    }
                    false
                }
                Ended::Expired => {
                    sleep(pauses.next()).await;
                    true
                }
                Ended::Failed(failure) => {
                    let gap = matches!(failure, Failure::Gap(_));
                    if tell.send((part, News::Failed(failure))).await.is_err() {
                        return;
                    }
                    sleep(if gap { RELIST } else { pauses.next() }).await;
                    gap
                }
            };
            if tell.is_closed() {
                return;
            }
            if relist {
                break;
            }
        }
    }
}

/// Follows what happens after a version, and moves it on.
async fn watch(
    cluster: &Cluster,
    part: Part,
    version: &mut String,
    tell: &mpsc::Sender<(Part, News)>,
) -> Ended {
    let List { missing, kind, namespace, query } = part.list(cluster);
    let missing_here = format!("{missing} as they change, which are listed every {} s", RELIST.as_secs());
    let begun = cluster.connection.watched(&missing_here, kind, namespace, &query, version).await;
    let mut events = match begun {
        Ok(events) => events,
        Err(Failure::Gap(gap)) if gap.reason != FORBIDDEN && gap.message.contains(" 410: ") => {
            return Ended::Expired;
        }
        Err(failure) => return Ended::Failed(failure),
    };
    let mut news = News::Stands;
    loop {
        if tell.send((part, news)).await.is_err() {
            return Ended::Over;
        }
        news = match timeout(SILENCE, events.next()).await {
            Err(_) | Ok(None) => return Ended::Over,
            Ok(Some(Err(error))) => return ended(cluster, &error),
            Ok(Some(Ok(WatchEvent::Error(status)))) if status.code == 410 => return Ended::Expired,
            Ok(Some(Ok(WatchEvent::Error(status)))) => return ended(cluster, &kube::Error::Api(status)),
            Ok(Some(Ok(WatchEvent::Bookmark(bookmark)))) => {
                *version = bookmark.metadata.resource_version;
                News::Stands
            }
            Ok(Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)))) => {
                version_of(&object).clone_into(version);
                News::Set(object)
            }
            Ok(Some(Ok(WatchEvent::Deleted(object)))) => {
                version_of(&object).clone_into(version);
                News::Gone(object)
            }
        };
    }
}

fn version_of(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// A watch that broke in the middle: the next one says whether there is more to it.
fn ended(cluster: &Cluster, error: &kube::Error) -> Ended {
    match error {
        kube::Error::Api(status) if status.code == 410 => Ended::Expired,
        kube::Error::Api(status) => {
            let text = format!("the watch ended: {}", status.message);
            Ended::Failed(Unreachable::Failed(text).into())
        }
        other => {
            let host = cluster.connection.server.split("://").last().unwrap_or_default();
            let text = format!("{host}: {}", super::connect::chain(other));
            Ended::Failed(Unreachable::Failed(text).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str) -> Value {
        json!({"metadata": {"name": name, "generation": 1}})
    }

    fn known() -> Known {
        Known::new("elf", &Chosen::default(), Part::of(Wanted::default(), &Chosen::default()))
    }

    fn names(answer: Option<Result<Read, Unreachable>>) -> Vec<String> {
        let read = answer.expect("something to tell").expect("an answer");
        read.policies.into_iter().flatten().map(|p| p.policy.name).collect()
    }

    fn refused() -> News {
        News::Failed(Unreachable::Refused("one:6443".to_owned()).into())
    }

    fn forbidden(verb: &str) -> News {
        News::Failed(Failure::Gap(Box::new(Gap {
            missing: "x".to_owned(),
            verb: verb.to_owned(),
            resource: "y".to_owned(),
            namespace: None,
            reason: FORBIDDEN.to_owned(),
            message: String::new(),
            next: String::new(),
        })))
    }

    #[test]
    fn nothing_is_told_before_every_list_is_in() {
        let mut known = known();
        known.take(Part::Redirects, News::Listed(vec![policy("a")])).unwrap();
        assert!(known.told().is_none());
        known.take(Part::Balancings, News::Listed(vec![policy("b")])).unwrap();
        assert_eq!(names(known.told()), ["a", "b"]);
        known.take(Part::Balancings, News::Stands).unwrap();
        assert!(known.told().is_none(), "nothing has changed");
        known.take(Part::Redirects, News::Set(policy("c"))).unwrap();
        known.take(Part::Redirects, News::Gone(policy("a"))).unwrap();
        assert_eq!(names(known.told()), ["c", "b"]);
    }

    #[test]
    fn what_may_not_be_read_does_not_hold_up_the_rest() {
        let mut known = known();
        known.take(Part::Redirects, News::Listed(vec![policy("a")])).unwrap();
        known.take(Part::Balancings, forbidden("list")).unwrap();
        assert_eq!(names(known.told()), ["a"]);
        known.take(Part::Balancings, forbidden("list")).unwrap();
        assert!(known.told().is_none(), "the same again is nothing new");
        known.take(Part::Balancings, News::Listed(vec![policy("b")])).unwrap();
        assert_eq!(names(known.told()), ["a", "b"]);
        // What may be listed and not watched stays a gap until a watch stands.
        known.take(Part::Balancings, forbidden("watch")).unwrap();
        assert_eq!(known.told().unwrap().unwrap().gaps.len(), 1);
        known.take(Part::Balancings, News::Listed(vec![policy("d")])).unwrap();
        let read = known.told().unwrap().unwrap();
        assert_eq!((read.gaps.len(), read.policies.unwrap().len()), (1, 2));
        known.take(Part::Balancings, News::Stands).unwrap();
        assert_eq!(known.told().unwrap().unwrap().gaps.len(), 0);
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let mut known = known();
        known.take(Part::Redirects, News::Listed(vec![policy("a")])).unwrap();
        known.take(Part::Balancings, News::Listed(vec![])).unwrap();
        assert_eq!(names(known.told()), ["a"]);
        known.take(Part::Redirects, refused()).unwrap();
        assert!(matches!(known.told(), Some(Err(Unreachable::Refused(_)))));
        known.take(Part::Balancings, refused()).unwrap();
        known.take(Part::Redirects, refused()).unwrap();
        assert!(known.told().is_none());
        known.take(Part::Redirects, News::Stands).unwrap();
        assert!(known.told().is_none(), "one of them is still away");
        known.take(Part::Balancings, News::Stands).unwrap();
        assert_eq!(names(known.told()), ["a"], "what was known is known still");
        assert!(known.told().is_none());
    }
}

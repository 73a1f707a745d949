//! One list and watch, for ever: plain requests that any API server understands, and news of what became of them.
//!
//! It is written out here because of what kube's `watcher` keeps to itself: that a watch stands again after an outage,
//! and the bookmarks by which a quiet resource shows that it is heard from.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use futures_util::{StreamExt, pin_mut};
use kube::{
    Api,
    api::{ListParams, WatchEvent, WatchParams},
    core::ApiResource,
};
use tokio::time::{Instant, sleep, timeout};

use super::{door::Door, item::Item};

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// An API server has so long for a page of a list, and for beginning a watch.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// A watch in which not even a bookmark came for so long is made anew: the connection may be dead. API servers send one
/// about every minute; where one sends none, the new watch goes on where the old one was.
const SILENCE: Duration = Duration::from_secs(100);
/// Seconds after which the API server ends a watch; up to a quarter is taken off, so that they do not all end at once.
const WATCH_SECONDS: u32 = 290;
/// An empty answer is believed when the second one says the same, so much later.
const CONFIRM_AFTER: Duration = Duration::from_secs(3);
/// How often a resource that is not served is asked for again.
const ABSENT_RETRY: Duration = Duration::from_secs(10);
/// Shortest pause after a failure. It doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Pause after a watch that the API server ended early.
const BETWEEN_SHORT_WATCHES: Duration = Duration::from_millis(250);
/// A watch that stood for so long was none that failed at once.
const STOOD: Duration = Duration::from_secs(10);

/// What a list and watch has to tell.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News<T> {
    /// A complete list: what is not in it does not exist.
    Listed(Vec<T>),
    /// A list was empty. What was known before is kept until a second list says the same.
    EmptyOnce,
    /// The API server has no such resource: as good as an empty list, confirmed by a second answer.
    Absent,
    /// An object appeared or changed.
    Set(T),
    /// An object is gone.
    Gone(T),
    /// The API server was heard from.
    Alive,
    /// It cannot be listed or watched at present, and why.
    Failing(String),
}

/// What is listed and watched.
pub(super) struct Watched {
    pub resource: ApiResource,
    /// Its namespace, where not all.
    pub namespace: Option<String>,
    /// Which of its objects, where not all.
    pub fields: Option<String>,
}

impl Watched {
    fn api(&self, door: &Door) -> Api<Item> {
        match &self.namespace {
            Some(namespace) => Api::namespaced_with(door.client(), namespace, &self.resource),
            None => Api::all_with(door.client(), &self.resource),
        }
    }
}

/// Why a request or a watch ended.
enum Failure {
    /// The version to go on from is too old: list again.
    Expired,
    /// The resource is not served.
    Absent,
    /// The credentials are not accepted, or give no right to it, in words.
    Refused(String),
    /// Anything else, for people.
    Other(String),
}

impl Failure {
    fn new(doing: &str, error: &kube::Error) -> Self {
        let words = || format!("failed to {doing}: {}", describe(error));
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) if status.code == 404 => Self::Absent,
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Refused(words()),
            _ => Self::Other(words()),
        }
    }
}

/// An error in words: the API server's own, where it said any.
pub(crate) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => format!("status {}", status.code),
        kube::Error::Api(status) => status.message.clone(),
        _ => {
            let mut causes: Vec<String> = Vec::new();
            let mut cause: Option<&dyn std::error::Error> = match error {
                // Its own words say nothing that its cause does not.
                kube::Error::Service(_) | kube::Error::HyperError(_) => std::error::Error::source(error),
                _ => Some(error),
            };
            while let Some(error) = cause {
                let text = error.to_string();
                // Many errors name what caused them themselves.
                if !causes.iter().any(|before| before.contains(&text)) {
                    causes.push(text);
                }
                cause = error.source();
            }
            causes.join(": ")
        }
    }
}

/// A number below `end`, different each time. Good enough to spread requests.
pub(crate) fn below(end: u64) -> u64 {
    RandomState::new().build_hasher().finish() % end.max(1)
}

/// Pauses after failures.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Pauses {
    pub(crate) const fn new() -> Self {
        Self(SHORTEST_PAUSE)
    }

    /// The next pause, half of it by chance.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        let half = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX);
        Duration::from_millis(half + below(half))
    }

    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Lists and watches. Ends only by being dropped. `read` is called at the edge, so that no object as a whole is kept;
/// a version is what the API server calls `resourceVersion`.
pub(super) async fn follow<T>(
    watched: &Watched,
    door: &Door,
    mut read: impl FnMut(Item) -> T,
    mut tell: impl FnMut(News<T>),
) {
    let mut pauses = Pauses::new();
    let mut empty = Empty::default();
    loop {
        let listed = list(watched, door, &mut read, || tell(News::Alive)).await;
        let mut version = match listed {
            Ok((objects, _)) if objects.is_empty() && !empty.confirmed() => {
                tell(News::EmptyOnce);
                sleep(CONFIRM_AFTER).await;
                continue;
            }
            Ok((objects, version)) => {
                empty.listed(objects.len());
                tell(News::Listed(objects));
                version
            }
            Err(Failure::Absent) => {
                if empty.confirmed() {
                    tell(News::Absent);
                    sleep(ABSENT_RETRY + Duration::from_millis(below(1000))).await;
                } else {
                    tell(News::EmptyOnce);
                    sleep(CONFIRM_AFTER).await;
                }
                continue;
            }
            Err(Failure::Expired) => {
                // Pages of a list have to be of one version.
                sleep(pauses.next()).await;
                continue;
            }
            Err(Failure::Other(why)) => {
                tell(News::Failing(why));
                sleep(pauses.next()).await;
                continue;
            }
            Err(Failure::Refused(why)) => {
                tell(News::Failing(why));
                door.renew().await;
                sleep(pauses.next()).await;
                continue;
            }
        };
        loop {
            let began = Instant::now();
            let ended = watch(watched, door, &mut version, &mut read, |news| {
                empty.heard(&news);
                tell(news);
            })
            .await;
            if began.elapsed() >= STOOD {
                pauses.reset();
            }
            match ended {
                // Something on the way may end idle connections early: that is no failure, and changes do not wait for it.
                Ok(()) if began.elapsed() < STOOD => {
                    sleep(BETWEEN_SHORT_WATCHES + Duration::from_millis(below(250))).await;
                }
                Ok(()) => {}
                Err(Failure::Expired | Failure::Absent) => {
                    sleep(pauses.next()).await;
                    break;
                }
                Err(Failure::Other(why)) => {
                    tell(News::Failing(why));
                    sleep(pauses.next()).await;
                }
                Err(Failure::Refused(why)) => {
                    tell(News::Failing(why));
                    door.renew().await;
                    sleep(pauses.next()).await;
                }
            }
        }
    }
}

/// Is an empty answer to be believed?
#[derive(Debug, Default)]
struct Empty {
    /// The answer before was empty too.
    once: bool,
    /// Something was known to exist, or nothing was known yet.
    surprising: Option<bool>,
}

impl Empty {
    /// An empty answer came: is it the second, or was nothing else known anyway?
    fn confirmed(&mut self) -> bool {
        let believed = self.once || self.surprising == Some(false);
        self.once = !believed;
        if believed {
            self.surprising = Some(false);
        }
        believed
    }

    fn listed(&mut self, count: usize) {
        self.once = false;
        self.surprising = Some(count > 0);
    }

    fn heard<T>(&mut self, news: &News<T>) {
        if matches!(news, News::Set(_)) {
            self.surprising = Some(true);
        }
    }
}

async fn within<T>(doing: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(ANSWER_WITHIN, request).await {
        Ok(result) => result.map_err(|error| Failure::new(doing, &error)),
        Err(_) => Err(Failure::Other(format!("failed to {doing}: no answer within {ANSWER_WITHIN:?}"))),
    }
}

/// All objects and the version of the list, page by page.
async fn list<T>(
    watched: &Watched,
    door: &Door,
    read: &mut impl FnMut(Item) -> T,
    mut alive: impl FnMut(),
) -> Result<(Vec<T>, String), Failure> {
    let doing = format!("list {}", watched.resource.plural);
    let mut params = ListParams::default().limit(PAGE);
    params.field_selector.clone_from(&watched.fields);
    let mut objects = Vec::new();
    loop {
        let api = watched.api(door);
        let page = within(&doing, api.list(&params)).await?;
        alive();
        objects.extend(page.items.into_iter().map(&mut *read));
        let version = page.metadata.resource_version.filter(|v| !v.is_empty());
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        match (&params.continue_token, version) {
            (Some(_), _) => {}
            (None, Some(version)) => return Ok((objects, version)),
            (None, None) => {
                return Err(Failure::Other(format!("failed to {doing}: the answer has no resourceVersion")));
            }
        }
    }
}

/// Follows what happens after a version, and moves it on. `Ok`: the API server ended it, or it was silent for too long.
async fn watch<T>(
    watched: &Watched,
    door: &Door,
    version: &mut String,
    read: &mut impl FnMut(Item) -> T,
    mut tell: impl FnMut(News<T>),
) -> Result<(), Failure> {
    let doing = format!("watch {}", watched.resource.plural);
    let seconds = WATCH_SECONDS - u32::try_from(below(u64::from(WATCH_SECONDS / 4))).unwrap_or(0);
    let mut params = WatchParams::default().timeout(seconds);
    params.field_selector.clone_from(&watched.fields);
    let api = watched.api(door);
    let events = within(&doing, api.watch(&params, version)).await?;
    tell(News::Alive);
    pin_mut!(events);
    while let Ok(Some(event)) = timeout(SILENCE, events.next()).await {
        let (object, gone) = match event.map_err(|error| Failure::new(&doing, &error))? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                *version = bookmark.metadata.resource_version;
                tell(News::Alive);
                continue;
            }
            WatchEvent::Error(status) => {
                return Err(Failure::new(&doing, &kube::Error::Api(status)));
            }
        };
        let Some(at) = object.version() else { return Err(Failure::Expired) };
        at.clone_into(version);
        let object = read(object);
        tell(if gone { News::Gone(object) } else { News::Set(object) });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

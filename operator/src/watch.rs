//! The watches: each object becomes a compact record at once, and nothing else of it is kept.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use balancing_api::{
    node_state::NodeBalancingState,
    placement::Placement,
    policy::{PolicyKind, PolicyRef},
    records::{Converter, Name},
};
use futures_util::StreamExt;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::DynamicObject,
    core::{ApiResource, DeserializeGuard},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use crate::{
    check::AGENTS,
    objects::{self, Change},
    reconcile::apply::{LABEL_MANAGED_BY, MANAGED_BY, resource},
};

/// How often the same trouble of a watch is told.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// Records made between two clean-ups of shared strings.
const SHRINK: usize = 4096;

/// Shortest pause of a watch after a failure. It doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause. An outage of the API server is often followed by another failure, a version that is too old: kube's own
/// pauses, up to 30 s each, would leave the operator blind for a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A failure after so long a time without any begins with the shortest pause again.
const WELL: Duration = Duration::from_secs(20);

/// Pauses of a watch after failures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pauses {
    next: Duration,
    /// When the last began.
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: SHORTEST_PAUSE, last: None }
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.is_some_and(|last| now > last + WELL) {
            self.next = SHORTEST_PAUSE;
        }
        let pause = self.next;
        (self.next, self.last) = ((pause * 2).min(LONGEST_PAUSE), Some(now));
        Some(pause)
    }
}

impl Backoff for Pauses {
    /// Called for every event, and that a list is begun is one: it says nothing of how that ends. Time alone counts.
    fn reset(&mut self) {}
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// LocalRedirectPolicies.
    LocalRedirectPolicies,
    /// BalancingPolicies.
    BalancingPolicies,
    /// Services.
    Services,
    /// Nodes.
    Nodes,
    /// NodeBalancingStates.
    States,
    /// EndpointSlices of the operator.
    Slices,
    /// The DaemonSet of the agents.
    DaemonSets,
    /// Pods; only where a policy needs them.
    Pods,
}

impl Source {
    /// Those that are always watched.
    pub const ALWAYS: [Self; 7] = [
        Self::LocalRedirectPolicies,
        Self::BalancingPolicies,
        Self::Services,
        Self::Nodes,
        Self::States,
        Self::Slices,
        Self::DaemonSets,
    ];

    /// Does it go without? Where the DaemonSet is not to be seen every node may have an agent.
    #[must_use]
    pub const fn is_optional(self) -> bool {
        matches!(self, Self::DaemonSets)
    }

    /// Its name: the resource's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalRedirectPolicies => "localredirectpolicies",
            Self::BalancingPolicies => "balancingpolicies",
            Self::Services => "services",
            Self::Nodes => "nodes",
            Self::States => "nodebalancingstates",
            Self::Slices => "endpointslices",
            Self::DaemonSets => "daemonsets",
            Self::Pods => "pods",
        }
    }
}

/// What a watch says.
#[derive(Debug)]
pub enum News {
    /// Objects changed.
    Changes(Vec<Change>),
    /// All objects that there are have been told.
    Synced(Source),
    /// The watch does not come through; `None`: it does again.
    Trouble(Source, Option<String>),
    /// There is no right to look, or no such kind: nothing is to wait for it. Said of those alone without which it goes.
    Withheld(Source),
}

/// Begins to watch what is always watched: slices and the DaemonSet of the agents in this namespace, the others in the
/// whole cluster. The watches end when nobody receives any longer.
pub fn follow(client: &Client, namespace: &str, news: &mpsc::Sender<News>, tasks: &mut JoinSet<()>) {
    for kind in [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy] {
        let source = match kind {
            PolicyKind::LocalRedirectPolicy => Source::LocalRedirectPolicies,
            PolicyKind::BalancingPolicy => Source::BalancingPolicies,
        };
        let watch = Watch::<DynamicObject>::new(
            source,
            Api::all_with(client.clone(), &resource(kind)),
            watcher::Config::default(),
        );
        let set = move |object: DynamicObject| {
            let policy = objects::Policy::new(kind, object.metadata, object.data);
            Ok(Change::Policy(policy.reference.clone(), Some(Box::new(policy))))
        };
        let gone = move |_: &str, name: &str| Change::Policy(PolicyRef::new(kind, name), None);
        tasks.spawn(watch.run(news.clone(), set, gone));
    }

    let mut converter = Shrinking::default();
    let watch = Watch::new(
        Source::Services,
        Api::<DeserializeGuard<Service>>::all(client.clone()),
        watcher::Config::default(),
    );
    let set = move |object: Service| {
        let service = converter.next().service(&object).map_err(|e| e.to_string())?;
        Ok(Change::Service(service.name.clone(), Some(Arc::new(service))))
    };
    tasks.spawn(
        watch.run(news.clone(), set, |namespace, name| Change::Service(Name::new(namespace, name), None)),
    );

    let mut converter = Shrinking::default();
    let watch = Watch::new(
        Source::Nodes,
        Api::<DeserializeGuard<Node>>::all(client.clone()),
        watcher::Config::default(),
    );
    let set = move |object: Node| {
        let (node, wrong) = objects::node(converter.next(), &object).map_err(|e| e.to_string())?;
        if let Some(error) = wrong {
            tracing::warn!(node = %node.node.name, %error, "a Node has a proxy address that is none");
        }
        Ok(Change::Node(Arc::clone(&node.node.name), Some(Arc::new(node))))
    };
    tasks.spawn(watch.run(news.clone(), set, |_, name| Change::Node(name.into(), None)));

    let (mut converter, mut references) = (Shrinking::default(), HashSet::new());
    let all = Api::<DeserializeGuard<NodeBalancingState>>::all(client.clone());
    let watch = Watch::new(Source::States, all, watcher::Config::default());
    let set = move |object: NodeBalancingState| {
        let state = objects::state(converter.next(), &mut references, &object);
        if converter.just_shrunk() {
            references.retain(|reference| Arc::strong_count(reference) > 1);
        }
        Ok(Change::State(Arc::clone(&state.node), Some(Box::new(state))))
    };
    tasks.spawn(watch.run(news.clone(), set, |_, name| Change::State(name.into(), None)));

    let own = watcher::Config::default().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let all = Api::<DeserializeGuard<EndpointSlice>>::namespaced(client.clone(), namespace);
    let watch = Watch::new(Source::Slices, all, own);
    let set = |object: EndpointSlice| {
        let slice = objects::slice(&object);
        Ok(Change::Slice(slice.name.clone(), Some(Box::new(slice))))
    };
    tasks.spawn(watch.run(news.clone(), set, |_, name| Change::Slice(name.to_owned(), None)));

    let kind = ApiResource::erase::<DaemonSet>(&());
    let own = watcher::Config::default().fields(&format!("metadata.name={AGENTS}"));
    let watch = Watch::<DynamicObject>::new(
        Source::DaemonSets,
        Api::namespaced_with(client.clone(), namespace, &kind),
        own,
    );
    let set = |object: DynamicObject| {
        Ok(Change::Agents(Some(Box::new(Placement::of(&object.data["spec"]["template"]["spec"])))))
    };
    tasks.spawn(watch.run(news.clone(), set, |_, _| Change::Agents(None)));
}

/// Begins to watch Pods.
pub fn follow_pods(client: &Client, news: &mpsc::Sender<News>, tasks: &mut JoinSet<()>) {
    let mut converter = Shrinking::default();
    let watch = Watch::new(
        Source::Pods,
        Api::<DeserializeGuard<Pod>>::all(client.clone()),
        watcher::Config::default(),
    );
    let set = move |object: Pod| {
        let pod = converter.next().pod(&object).map_err(|e| e.to_string())?;
        Ok(Change::Pod(pod.name.clone(), Some(Arc::new(pod))))
    };
    tasks
        .spawn(watch.run(news.clone(), set, |namespace, name| Change::Pod(Name::new(namespace, name), None)));
}

/// A converter that forgets strings nobody holds.
#[derive(Default)]
struct Shrinking {
    converter: Converter,
    made: usize,
}

impl Shrinking {
    fn next(&mut self) -> &mut Converter {
        self.made += 1;
        if self.just_shrunk() {
            self.converter.strings.shrink();
        }
        &mut self.converter
    }

    fn just_shrunk(&self) -> bool {
        self.made.is_multiple_of(SHRINK)
    }
}

/// Namespace and name.
type Key = (String, String);

/// Which objects there are: what a list does not name any longer is gone.
#[derive(Debug, Default)]
struct Known {
    all: HashSet<Key>,
    listed: Option<HashSet<Key>>,
}

impl Known {
    fn begin(&mut self) {
        self.listed = Some(HashSet::new());
    }

    fn seen(&mut self, key: Key) {
        if let Some(listed) = &mut self.listed {
            listed.insert(key.clone());
        }
        self.all.insert(key);
    }

    fn gone(&mut self, key: &Key) {
        self.all.remove(key);
    }

    /// Those that the list did not name.
    fn end(&mut self) -> Vec<Key> {
        let Some(listed) = self.listed.take() else { return Vec::new() };
        let gone: Vec<_> = self.all.difference(&listed).cloned().collect();
        self.all = listed;
        gone
    }
}

struct Watch<K> {
    source: Source,
    api: Api<DeserializeGuard<K>>,
    config: watcher::Config,
    known: Known,
    broken: HashMap<Key, String>,
}

fn key_of(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    K::DynamicType: Clone,
{
    fn new(source: Source, api: Api<DeserializeGuard<K>>, config: watcher::Config) -> Self {
        Self { source, api, config, known: Known::default(), broken: HashMap::new() }
    }

    /// Watches until nobody receives. An object that cannot be read keeps its last good state.
    async fn run(
        mut self,
        news: mpsc::Sender<News>,
        mut set: impl FnMut(K) -> Result<Change, String> + Send,
        gone: impl Fn(&str, &str) -> Change + Send,
    ) {
        let events = watcher::watcher(self.api.clone(), self.config.clone()).backoff(Pauses::default());
        let mut events = std::pin::pin!(events);
        let mut told: Option<(String, Instant)> = None;
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                // The version to go on from is too old, as after an outage: the watcher lists again.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => continue,
                Err(error) => {
                    let text = describe(self.source, &error);
                    let now = Instant::now();
                    if told.as_ref().is_none_or(|(what, when)| *what != text || now > *when + TELL_AGAIN) {
                        tracing::warn!(
                            source = self.source.name(),
                            error = text,
                            "failed to watch; trying again"
                        );
                        told = Some((text.clone(), now));
                    }
                    if news.send(News::Trouble(self.source, Some(text))).await.is_err() {
                        return;
                    }
                    let withheld = self.source.is_optional() && is_withheld(&error);
                    if withheld && news.send(News::Withheld(self.source)).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            // That a list is begun, again and again where it fails, is no sign that it comes through.
            let through = !matches!(event, Event::Init);
            if through && told.take().is_some() && news.send(News::Trouble(self.source, None)).await.is_err()
            {
                return;
            }
            let mut synced = false;
            let changes: Vec<Change> = match event {
                Event::Init => {
                    self.known.begin();
                    Vec::new()
                }
                Event::InitApply(object) | Event::Apply(object) => {
                    self.take(object, &mut set).into_iter().collect()
                }
                Event::Delete(object) => {
                    let key = key_of(object.meta());
                    self.known.gone(&key);
                    self.broken.remove(&key);
                    vec![gone(&key.0, &key.1)]
                }
                Event::InitDone => {
                    synced = true;
                    let left = self.known.end();
                    for key in &left {
                        self.broken.remove(key);
                    }
                    left.iter().map(|(namespace, name)| gone(namespace, name)).collect()
                }
            };
            if !changes.is_empty() && news.send(News::Changes(changes)).await.is_err() {
                return;
            }
            if synced && news.send(News::Synced(self.source)).await.is_err() {
                return;
            }
        }
    }

    fn take(
        &mut self,
        object: DeserializeGuard<K>,
        set: &mut impl FnMut(K) -> Result<Change, String>,
    ) -> Option<Change> {
        let key = key_of(object.meta());
        self.known.seen(key.clone());
        let change = object.0.map_err(|e| e.error).and_then(|mut object| {
            *object.managed_fields_mut() = Vec::new();
            set(object)
        });
        match change {
            Ok(change) => {
                self.broken.remove(&key);
                Some(change)
            }
            Err(error) => {
                if self.broken.get(&key) != Some(&error) {
                    let (namespace, name) = (&key.0, &key.1);
                    tracing::warn!(
                        source = self.source.name(),
                        namespace,
                        name,
                        error,
                        "failed to read an object; its last good state is kept"
                    );
                    self.broken.insert(key, error);
                }
                None
            }
        }
    }
}

/// Is it for the API server's lasting word that there is no list? Anything else may pass.
fn is_withheld(error: &watcher::Error) -> bool {
    let watcher::Error::InitialListFailed(kube::Error::Api(status)) = error else { return false };
    matches!(status.code, 403 | 404)
}

/// What is wrong, and where it is clear what to do, that.
fn describe(source: Source, error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404 => {
            format!("the API server has no {}: install the CustomResourceDefinitions", source.name())
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_installed_is_named() {
        let failed = |code: u16| {
            let status = kube::core::Status::failure("404 page not found", "Failed to parse").with_code(code);
            watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
        };
        assert_eq!(
            describe(Source::States, &failed(404)),
            "the API server has no nodebalancingstates: install the CustomResourceDefinitions"
        );
        assert!(describe(Source::States, &failed(403)).contains("404 page not found"));
        assert_eq!([403, 404, 429, 500].map(|code| is_withheld(&failed(code))), [true, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_longest_and_begin_anew_after_a_good_time() {
        let mut pauses = Pauses::default();
        let mut told = Vec::new();
        for _ in 0..7 {
            let pause = pauses.next().unwrap();
            told.push(pause.as_millis());
            tokio::time::advance(pause).await;
            // The list is begun anew.
            pauses.reset();
        }
        assert_eq!(told, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        tokio::time::advance(WELL).await;
        assert_eq!(pauses.next(), Some(SHORTEST_PAUSE));
    }
}

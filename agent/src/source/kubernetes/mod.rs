//! An API server as the source: what concerns the node is listed and watched, and whole objects are never kept.

mod apiserver;
mod assembly;
mod daemonset;
mod door;
mod item;
mod kinds;
mod read;
mod watch;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use balancing_api::{
    agent::SourceProgress,
    node_state::NodeBalancingState,
    records::{Converter, Text},
};
use jiff::Timestamp;
use kube::{
    Api,
    api::DeleteParams,
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;
use tokio::{
    runtime,
    sync::{mpsc, watch as watched},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Batch;
use crate::report::Place;
use assembly::Assembly;
use daemonset::{Answer, DaemonSet, Seen};
pub(crate) use door::Door;
pub use door::{Access, DoorError};
use item::Item;
use kinds::Kind;
use read::{Read, read};
use watch::{News, Watched, follow};
pub(crate) use watch::{Pauses, below, describe};

/// Name of the source in documents.
pub const NAME: &str = "kubernetes";

/// How often it is looked whether a failure has lasted.
const LOOK: Duration = Duration::from_secs(1);
/// At the end the API server has so long to say what became of the DaemonSet.
const LAST_ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// What to watch, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How the API server is found.
    pub access: Access,
    /// Host and port to dial instead.
    pub server: Option<(String, u16)>,
    /// Name of the agent's node.
    pub node: Text,
    /// Namespace of the operator, whose EndpointSlices hold backends of policies.
    pub namespace: Text,
    /// Name of the agent's own DaemonSet, in the operator's namespace, if it is of one.
    pub daemonset: Option<String>,
}

/// The API server cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WatchError {
    /// It cannot even be asked.
    #[error(transparent)]
    Door(#[from] DoorError),
    /// There is no thread to watch it.
    #[error("failed to start the watch of the API server")]
    Thread(#[source] io::Error),
}

/// What the watches leave for others to read.
#[derive(Default)]
struct Board {
    progress: Mutex<Vec<SourceProgress>>,
    daemonset: Mutex<Seen>,
    /// The namespace of that.
    namespace: Mutex<Seen>,
    /// `metadata` of the agent's Node; null where there is none.
    node: Mutex<Value>,
    /// Where the leading replica of the operator listens.
    operator: watched::Sender<Option<Place>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An API server that is being watched. Dropping it ends that.
pub struct Kubernetes {
    settings: Settings,
    door: Arc<Door>,
    board: Arc<Board>,
    runtime: runtime::Handle,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Kubernetes {
    /// Watches on a thread of its own. The API server need not be there yet.
    ///
    /// # Errors
    /// The credentials cannot be used, or there is no thread.
    pub fn watch(settings: Settings, sink: impl FnMut(Batch) + Send + 'static) -> Result<Self, WatchError> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(WatchError::Thread)?;
        let door = runtime.block_on(Door::open(settings.access.clone(), settings.server.clone()))?;
        let (board, stop) = (Arc::new(Board::default()), CancellationToken::new());
        let handle = runtime.handle().clone();
        let watches =
            Watches { settings: settings.clone(), door: Arc::clone(&door), board: Arc::clone(&board) };
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(NAME.to_owned())
            .spawn(move || runtime.block_on(watches.run(stopped, sink)))
            .map_err(WatchError::Thread)?;
        Ok(Self { settings, door, board, runtime: handle, stop, thread: Some(thread) })
    }

    /// When each kind of object was last heard of.
    #[must_use]
    pub fn progress(&self) -> Vec<SourceProgress> {
        locked(&self.board.progress).clone()
    }

    /// `metadata.uid` of the agent's Node, if there is one.
    #[must_use]
    pub fn node_uid(&self) -> Option<String> {
        locked(&self.board.node)["uid"].as_str().map(str::to_owned)
    }

    /// Where the leading replica of the operator listens.
    #[must_use]
    pub fn operator(&self) -> watched::Receiver<Option<Place>> {
        self.board.operator.subscribe()
    }

    /// Clients of the same API server.
    pub(crate) fn door(&self) -> Arc<Door> {
        Arc::clone(&self.door)
    }

    /// Runs something beside the watches, and no longer than they do.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// At the end of the process: is the agent to leave the node with all that it attached, since its DaemonSet was
    /// deleted or selects the node no more? Its state goes then, too. Waits a few seconds at most.
    #[must_use]
    pub fn leaves_node(&self) -> bool {
        let Some(name) = self.settings.daemonset.clone() else { return false };
        let (send, receive) = std::sync::mpsc::channel();
        let (door, namespace) = (Arc::clone(&self.door), Arc::clone(&self.settings.namespace));
        let labels = locked(&self.board.node)["labels"].clone();
        let node = Arc::clone(&self.settings.node);
        self.runtime.spawn(async move {
            let daemonsets: Api<Item> =
                Api::namespaced_with(door.client(), &namespace, &daemonset_resource());
            let answer = match timeout(LAST_ANSWER_WITHIN, daemonsets.get(&name)).await {
                Ok(Ok(found)) => Answer::Found(DaemonSet::new(&found, &node, &labels)),
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => Answer::NotFound,
                Ok(Err(error)) => {
                    tracing::warn!(
                        "failed to ask for DaemonSet {namespace}/{name}: {}",
                        watch::describe(&error)
                    );
                    Answer::Unknown
                }
                Err(_) => Answer::Unknown,
            };
            // Whoever asked has gone only where this took too long.
            let _ = send.send(answer);
        });
        let answer = receive.recv_timeout(LAST_ANSWER_WITHIN * 2).unwrap_or(Answer::Unknown);
        let seen = *locked(&self.board.daemonset);
        let namespace = *locked(&self.board.namespace);
        let leaves = seen.leaves(answer, namespace);
        tracing::info!(?seen, ?answer, ?namespace, leaves, "asked what became of the DaemonSet");
        if leaves {
            self.forget_node();
        }
        leaves
    }

    /// Deletes the node's state, which nobody will write any more. An uninstall may have taken the right to it first:
    /// then it stays, as the last that was heard.
    fn forget_node(&self) {
        let (send, receive) = std::sync::mpsc::channel();
        let (door, node) = (Arc::clone(&self.door), Arc::clone(&self.settings.node));
        self.runtime.spawn(async move {
            let states: Api<NodeBalancingState> = Api::all(door.client());
            let _ =
                send.send(timeout(LAST_ANSWER_WITHIN, states.delete(&node, &DeleteParams::default())).await);
        });
        match receive.recv_timeout(LAST_ANSWER_WITHIN * 2) {
            Ok(Ok(Ok(_))) => tracing::info!("deleted the NodeBalancingState"),
            Ok(Ok(Err(error))) => {
                tracing::info!("the NodeBalancingState stays: {}", watch::describe(&error));
            }
            Ok(Err(_)) | Err(_) => {
                tracing::info!("the NodeBalancingState stays: the API server gave no answer")
            }
        }
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was logged when it happened.
            let _ = thread.join();
        }
    }
}

fn daemonset_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("apps", "v1", "DaemonSet"), "daemonsets")
}

struct Watches {
    settings: Settings,
    door: Arc<Door>,
    board: Arc<Board>,
}

/// News of a kind, and when it was heard.
type Heard = (Kind, News<Read>, Instant);

impl Watches {
    async fn run(self, stop: CancellationToken, mut sink: impl FnMut(Batch)) {
        let (send, mut heard) = mpsc::unbounded_channel::<Heard>();
        let operator = Some(Arc::clone(&self.settings.namespace));
        let converter =
            Arc::new(Mutex::new(Converter { operator, container_ids: true, ..Converter::default() }));
        for kind in Kind::ALL {
            tokio::spawn(self.objects(kind, Arc::clone(&converter), send.clone()));
        }
        if let Some(name) = &self.settings.daemonset {
            tokio::spawn(self.daemonset(name));
            tokio::spawn(self.namespace());
        }
        let start = Timestamp::now();
        let mut assembly = Assembly::new();
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
        let mut strings = 0;
        loop {
            let mut seen = None;
            let first = tokio::select! {
                () = stop.cancelled() => return,
                news = heard.recv() => news,
                _ = look.tick() => None,
            };
            let mut next = first;
            while let Some((kind, news, at)) = next {
                seen.get_or_insert(at);
                assembly.take(kind, news, Timestamp::now());
                next = heard.try_recv().ok();
            }
            *locked(&self.board.progress) = assembly.progress(start);
            // At first the objects are worth waiting for; why they do not come is told a little later.
            if seen.is_some() && !assembly.is_complete() {
                continue;
            }
            if let Some(batch) = assembly.batch(seen.unwrap_or_else(Instant::now), Timestamp::now()) {
                sink(batch);
                let mut converter = locked(&converter);
                if converter.strings.len() > 2 * strings + 1000 {
                    converter.strings.shrink();
                    strings = converter.strings.len();
                }
            }
        }
    }

    fn objects(
        &self,
        kind: Kind,
        converter: Arc<Mutex<Converter>>,
        send: mpsc::UnboundedSender<Heard>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (door, board) = (Arc::clone(&self.door), Arc::clone(&self.board));
        let operator = Arc::clone(&self.settings.namespace);
        let watched =
            Watched { resource: kind.resource(), namespace: None, fields: kind.fields(&self.settings.node) };
        async move {
            let note = |item: &Item| {
                if kind == Kind::Node {
                    *locked(&board.node) = item.value["metadata"].clone();
                }
                // Where it was last is as good a guess as any once the slice is gone.
                if kind == Kind::Slices
                    && item.namespace() == &*operator
                    && let Some(place) = Place::of(&item.value)
                {
                    board.operator.send_if_modified(|held| {
                        let other = held.as_ref() != Some(&place);
                        *held = Some(place);
                        other
                    });
                }
            };
            let reading = |item: Item| {
                note(&item);
                read(kind, item, &mut locked(&converter))
            };
            let telling = |news: News<Read>| {
                let none = matches!(&news, News::Gone(_) | News::Absent)
                    || matches!(&news, News::Listed(all) if all.is_empty());
                if kind == Kind::Node && none {
                    *locked(&board.node) = Value::Null;
                }
                // Nobody listens any more only at the end.
                let _ = send.send((kind, news, Instant::now()));
            };
            follow(&watched, &door, reading, telling).await;
        }
    }

    fn daemonset(&self, name: &str) -> impl Future<Output = ()> + Send + use<> {
        let (door, board) = (Arc::clone(&self.door), Arc::clone(&self.board));
        let namespace = self.settings.namespace.to_string();
        let full_name = format!("{namespace}/{name}");
        let watched = Watched {
            resource: daemonset_resource(),
            namespace: Some(namespace),
            fields: Some(format!("metadata.name={name}")),
        };
        async move {
            let mut failing = false;
            let telling = |news: News<DaemonSet>| {
                let mut seen = locked(&board.daemonset);
                *seen = seen.after(&news);
                match &news {
                    News::Failing(why) if !failing => {
                        tracing::warn!("{why}: an uninstall may leave this node as it is");
                    }
                    News::Listed(_) if *seen == Seen::Never => tracing::warn!(
                        "there is no DaemonSet {full_name}: an uninstall will leave this node as it is (see --daemonset)"
                    ),
                    _ => {}
                }
                failing = matches!(news, News::Failing(_));
            };
            follow(&watched, &door, |item| DaemonSet::new(&item, "", &Value::Null), telling).await;
        }
    }

    /// Is the DaemonSet's namespace being deleted? Without the right to look nothing is known of it, as before.
    fn namespace(&self) -> impl Future<Output = ()> + Send + use<> {
        let (door, board) = (Arc::clone(&self.door), Arc::clone(&self.board));
        let watched = Watched {
            resource: ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("", "v1", "Namespace"),
                "namespaces",
            ),
            namespace: None,
            fields: Some(format!("metadata.name={}", self.settings.namespace)),
        };
        async move {
            let telling = |news: News<DaemonSet>| {
                let mut seen = locked(&board.namespace);
                *seen = seen.after(&news);
            };
            follow(&watched, &door, |item| DaemonSet::new(&item, "", &Value::Null), telling).await;
        }
    }
}

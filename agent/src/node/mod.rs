//! One node: wires the sources, the compiler, the kernel and the agent API together.

mod addresses;
mod core;
mod documents;
mod first;
mod pace;
mod report;
mod ring;
mod state;
mod view;
mod worker;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use balancing_api::agent::{KernelFeatures, KernelInfo, NodeInfo, ProgramInfo};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    cgroups,
    compile::{self, NodeContext},
    config::{self, Places, RunConfig, ServiceResolution},
    events::EventHub,
    http,
    kernel::{self, Attachment, Grace, Programmer, Room, Sizes},
    metrics::Metrics,
    source::{
        Batch, Source,
        kubernetes::{self, Access, Kubernetes},
        manifests::Manifests,
    },
};
use core::Core;

/// The agent cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel side cannot be set up.
    #[error(transparent)]
    Load(#[from] kernel::LoadError),
    /// The maps cannot be read.
    #[error(transparent)]
    Store(#[from] kernel::StoreError),
    /// An address of the agent API cannot be served.
    #[error(transparent)]
    Bind(#[from] http::BindError),
    /// The folder of manifests cannot be watched.
    #[error("failed to watch the manifests")]
    Manifests(#[source] io::Error),
    /// The API server cannot be watched.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::WatchError),
    /// The cgroups cannot be watched.
    #[error(transparent)]
    Cgroups(#[from] cgroups::WatchError),
    /// A thread, a signal handler or the like could not be had.
    #[error("failed to start {what}")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The thread that programs the maps ended by itself.
    #[error("the programming thread ended: see the log before this line")]
    WorkerEnded,
}

/// What the programming thread is told.
enum Message {
    /// A source has something to tell.
    Batch(Batch),
    /// Pods' cgroups appeared or went.
    Cgroups(cgroups::Changes),
    /// A grace period is over.
    Grace,
    /// Larger maps were made, or could not be.
    Grown(Box<Result<kernel::Grown, kernel::LoadError>>),
    /// The agent ends.
    End,
}

/// What all threads share.
struct Shared {
    core: Mutex<Core>,
    attachment: Mutex<Attachment>,
    view: kernel::View,
    hub: EventHub,
    metrics: Metrics,
    node: String,
    started_at: Timestamp,
    source_name: &'static str,
    release: String,
    features: KernelFeatures,
    places: Places,
    layout: u32,
    callers: cgroups::Callers,
    source: Mutex<Option<Source>>,
    /// What the node says of itself may have changed.
    changed: tokio::sync::Notify,
}

impl Shared {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attachment(&self) -> MutexGuard<'_, Attachment> {
        self.attachment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `metadata.uid` of the node's object, if the agent is a node of a cluster.
    fn node_uid(&self) -> Option<String> {
        let source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        source.as_ref().and_then(Source::node_uid)
    }

    fn programs(&self) -> Vec<ProgramInfo> {
        self.attachment().programs()
    }

    fn kernel_info(&self) -> KernelInfo {
        KernelInfo { release: self.release.clone(), features: self.features }
    }

    fn node_info(&self, core: &Core) -> NodeInfo {
        let of_object = core.snapshot.node(&self.node).map(|node| node.addresses.clone());
        let addresses = of_object.unwrap_or_else(addresses::own);
        NodeInfo { name: self.node.clone(), addresses, source: self.source_name.to_owned() }
    }
}

/// What is left to do when the agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: the programs stay attached, and the data path goes on.
    Stay,
    /// A cleanup: nobody will come after this agent.
    Leave,
}

/// Serves the node until SIGTERM or SIGINT. Nothing is detached.
pub fn run(config: &RunConfig, layout: u32) -> Result<Ending, RunError> {
    let most = Room { frontends: config.max_frontends, backends: config.max_backends };
    let places = &config.places;
    // First: an address that is taken leaves nothing behind in the kernel.
    let bound = http::bind(&config.api)?;
    let (send, receive) = mpsc::channel();
    // The source is read while the programs load.
    let source = watch(config, send.clone())?;
    // New maps get the size that the first objects need; those that are pinned have theirs.
    let (first, need) = if kernel::has_maps(&places.bpffs, layout) {
        (None, Room::default())
    } else {
        first::objects(&receive)
    };
    let sizes = Sizes::fitting(need, most, kernel::possible_cpus());
    let opened = kernel::open(&places.bpffs, &places.cgroup_root, layout, sizes)?;

    let passed = send.clone();
    // Its receiver is gone only when the agent ends.
    let grace = Grace::start(move || drop(passed.send(Message::Grace)));
    let grace = Arc::new(grace.map_err(|source| RunError::Start { what: "the grace periods", source })?);
    let mut programmer = Programmer::take_over(Arc::clone(&opened.store), Arc::clone(&grace))?.up_to(most);
    let context = context(config)?;
    let own = &context.own_cgroups;
    let exempt = [programmer.exempt(own), opened.attachment.exempt_before(own)];
    for error in exempt.into_iter().filter_map(Result::err) {
        let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
        tracing::warn!(%error, cause, "failed to exempt the agent itself from the policies that are in force");
    }
    let metrics = Metrics::new(option_env!("BALANCING_REVISION").unwrap_or("unknown"));
    let core = Core::new(context, programmer, Arc::clone(&opened.store), grace, most, metrics.clone());
    let shared = Arc::new(Shared {
        core: Mutex::new(core),
        features: opened.attachment.features(),
        attachment: Mutex::new(opened.attachment),
        view: kernel::View::new(Arc::clone(&opened.store)),
        hub: EventHub::default(),
        metrics,
        node: config.node_name.clone(),
        started_at: Timestamp::now(),
        source_name: source.name(),
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        places: places.clone(),
        layout,
        callers: cgroups::Callers::new(&places.cgroup_root)
            .map_err(|source| RunError::Start { what: "looking at the cgroups", source })?,
        source: Mutex::new(Some(source)),
        changed: tokio::sync::Notify::new(),
    });

    let shutdown = CancellationToken::new();
    let worker = worker::start(
        Arc::clone(&shared),
        Arc::clone(&opened.store),
        (send.clone(), receive),
        first,
        worker::Settings { lease: config.policy_lease, fresh: opened.fresh, levels: levels(places)? },
    )?;
    if config.node_status
        && let Some(Source::Kubernetes(kubernetes)) =
            &*shared.source.lock().unwrap_or_else(PoisonError::into_inner)
    {
        report::start(&shared, kubernetes);
    }
    let events = ring::start(Arc::clone(&shared), opened.store, opened.events, shutdown.clone())?;
    let watcher = watch_cgroups(places, &send)?;

    let reports = reports(&shared, config);
    let ended = serve(bound, Arc::clone(&shared), reports, &shutdown, &worker);
    shutdown.cancel();
    let source = shared.source.lock().unwrap_or_else(PoisonError::into_inner).take();
    let leaves = ended.is_ok() && source.as_ref().is_some_and(Source::leaves_node);
    drop((source, watcher));
    let _ = send.send(Message::End);
    // After these nobody holds the maps any more.
    let panicked = worker.join().is_err() | events.join().is_err();
    ended?;
    if panicked {
        return Err(RunError::WorkerEnded);
    }
    Ok(if leaves { Ending::Leave } else { Ending::Stay })
}

/// Watches the source; what it says goes to the programming thread, whose end is that of the agent.
fn watch(config: &RunConfig, send: mpsc::Sender<Message>) -> Result<Source, RunError> {
    let sink = move |batch| drop(send.send(Message::Batch(batch)));
    let access = match &config.source {
        config::Source::Manifests(folder) => {
            return Manifests::watch(folder, sink).map(Source::Manifests).map_err(RunError::Manifests);
        }
        config::Source::Kubeconfig(path) => Access::Kubeconfig(path.clone()),
        config::Source::InCluster => Access::InCluster,
    };
    let settings = kubernetes::Settings {
        access,
        server: config.api_server.clone(),
        node: config.node_name.as_str().into(),
        namespace: config.namespace.as_str().into(),
        daemonset: config.daemonset.clone(),
    };
    Ok(Source::Kubernetes(Kubernetes::watch(settings, sink)?))
}

fn context(config: &RunConfig) -> Result<NodeContext, RunError> {
    let own = cgroups::own_cgroup(&config.places.cgroup_root)
        .map_err(|source| RunError::Start { what: "looking at the agent's own cgroup", source })?;
    Ok(NodeContext {
        node: config.node_name.as_str().into(),
        namespace: config.namespace.as_str().into(),
        resolution: match config.service_resolution {
            ServiceResolution::All => compile::ServiceResolution::All,
            ServiceResolution::Policies => compile::ServiceResolution::Policies,
            ServiceResolution::Off => compile::ServiceResolution::Off,
        },
        default_limit: config.default_redirects_per_second,
        cluster: !matches!(config.source, config::Source::Manifests(_)),
        api_server: config.api_server.as_ref().and_then(|(host, port)| Some((host.parse().ok()?, *port))),
        own_cgroups: own.iter().map(|cgroup| cgroup.id).collect(),
        ..NodeContext::default()
    })
}

/// The levels at which exempt callers may be: those of the agent's own cgroup to begin with.
fn levels(places: &Places) -> Result<worker::Levels, RunError> {
    let failed = |source| RunError::Start { what: "looking at the agent's own cgroup", source };
    let root = cgroups::root_level(&places.cgroup_root).map_err(failed)?;
    let own = cgroups::own_cgroup(&places.cgroup_root).map_err(failed)?;
    let mut levels = worker::Levels::new(root);
    levels.widen(own.iter().map(|cgroup| cgroup.level));
    Ok(levels)
}

fn watch_cgroups(places: &Places, send: &mpsc::Sender<Message>) -> Result<cgroups::Watch, RunError> {
    let (found, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let watch = cgroups::watch(&places.cgroup_root, found)?;
    let send = send.clone();
    thread::Builder::new()
        .name("cgroups".to_owned())
        .spawn(move || {
            while let Some(changes) = changes.blocking_recv() {
                if send.send(Message::Cgroups(changes)).is_err() {
                    return;
                }
            }
        })
        .map_err(|source| RunError::Start { what: "following the pods' cgroups", source })?;
    Ok(watch)
}

/// How to report to the operator, if there is a cluster.
fn reports(shared: &Shared, config: &RunConfig) -> Option<crate::report::Settings> {
    let source = shared.source.lock().unwrap_or_else(PoisonError::into_inner);
    let place = source.as_ref()?.operator()?;
    let (namespace, token) = (config.namespace.clone(), config.operator_token.clone());
    Some(crate::report::Settings { namespace, token, place })
}

/// Serves the agent API until a signal, or until the programming thread is gone.
fn serve(
    bound: Vec<http::Bound>,
    shared: Arc<Shared>,
    reports: Option<crate::report::Settings>,
    shutdown: &CancellationToken,
    worker: &thread::JoinHandle<()>,
) -> Result<(), RunError> {
    let started = |what| move |source| RunError::Start { what, source };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(started("the runtime"))?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(started("the signal handlers"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(started("the signal handlers"))?;
        if let Some(reports) = reports {
            tokio::spawn(crate::report::run(Arc::clone(&shared), reports, shutdown.clone()));
        }
        let serving = tokio::spawn(http::serve(bound, shared, shutdown.clone()));
        let mut alive = tokio::time::interval(std::time::Duration::from_secs(1));
        let result = loop {
            tokio::select! {
                _ = terminate.recv() => break Ok(()),
                _ = interrupt.recv() => break Ok(()),
                _ = alive.tick() => if worker.is_finished() {
                    break Err(RunError::WorkerEnded);
                },
            }
        };
        tracing::info!("ending");
        shutdown.cancel();
        match serving.await {
            Ok(Err(source)) => Err(RunError::Start { what: "the agent API", source }),
            _ => result,
        }
    })
}

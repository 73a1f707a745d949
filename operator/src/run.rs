//! The loop: watches in, writes out. A thin shell around [`Core`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use balancing_api::records::Text;
use jiff::Timestamp;
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    sync::{Semaphore, mpsc, watch as shared},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Question,
    core::{Core, Outcome, Task, Write},
    health::Health,
    leader::{self, Candidate, LeaderError, Leadership, Term},
    metrics::{Metrics, SourceLabel},
    objects::Change,
    owner::Owner,
    reconcile::{apply, update_status},
    watch::{self, News, Source},
};

/// Changes on their way from the watches.
const NEWS: usize = 1024;
/// News that are taken in at once.
const BATCH: usize = 256;
/// Writes at once.
const WRITES: usize = 8;
/// How long a write may take.
const WRITE: Duration = Duration::from_secs(15);
/// How long the Events of a write may take.
const TELLING: Duration = Duration::from_secs(5);
/// How long writes may take that are under way at the end.
const END: Duration = Duration::from_secs(5);
/// How often the loop turns where nothing happens.
const TURN: Duration = Duration::from_secs(5);

/// How often the states of agents and policies are counted, which costs a look at each.
const NOTE: Duration = Duration::from_secs(1);

/// A write that is overtaken so often in a row is told.
const TELL: u32 = 5;

/// What the loop needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the published slices, and of the DaemonSet of the agents.
    pub namespace: String,
    /// Which lease, and who wants it.
    pub candidate: Candidate,
    /// Shortest time between two writes of one policy's status.
    pub status_interval: Duration,
}

/// What ties the loop to the ports.
#[derive(Debug)]
pub struct Ties {
    /// Questions of the webhook.
    pub questions: mpsc::Receiver<Question>,
    /// Does this replica hold the lease?
    pub leading: shared::Sender<bool>,
    /// The names of all Nodes that have an agent or may get one, sorted.
    pub nodes: shared::Sender<Arc<[Text]>>,
}

/// A write that was made, or not.
struct Done {
    task: Task,
    write: Write,
    outcome: Outcome,
}

/// Runs until `end`. While this replica holds the lease it writes; otherwise it only knows.
///
/// # Errors
/// Nobody looks after the lease any longer.
pub async fn run(
    client: Client,
    settings: Settings,
    health: Arc<Health>,
    metrics: Metrics,
    ties: Ties,
    end: CancellationToken,
) -> Result<(), LeaderError> {
    let (sender, news) = mpsc::channel(NEWS);
    let mut watches = JoinSet::new();
    watch::follow(&client, &settings.namespace, &sender, &mut watches);
    let reporter = Reporter {
        controller: "balancing-operator".to_owned(),
        instance: Some(settings.candidate.identity.clone()),
    };
    let (done, finished) = mpsc::unbounded_channel();
    let mut leadership = leader::campaign(&client, &settings.candidate);
    let mut run = Loop {
        core: Core::new(settings.status_interval),
        missing: Source::ALWAYS.into_iter().collect(),
        troubled: BTreeMap::new(),
        pods: false,
        leading: false,
        nodes: false,
        ties,
        writer: Writer {
            recorder: Recorder::new(client.clone(), reporter),
            namespace: settings.namespace.clone(),
            owner: settings.candidate.owner.clone(),
            room: Arc::new(Semaphore::new(WRITES)),
            metrics: metrics.clone(),
            client: client.clone(),
            term: leadership.term(),
            over: CancellationToken::new(),
            done,
        },
        client: client.clone(),
        health,
        metrics,
        sender,
        watches,
        under_way: 0,
    };
    let ended = run.turn(news, finished, &mut leadership, &end).await;
    run.finish().await;
    leadership.release().await;
    ended
}

struct Loop {
    core: Core,
    /// Watches that have not yet told everything.
    missing: BTreeSet<Source>,
    troubled: BTreeMap<Source, String>,
    /// Are Pods watched?
    pods: bool,
    leading: bool,
    /// Which nodes have an agent, or may get one, may have changed.
    nodes: bool,
    ties: Ties,
    writer: Writer,
    client: Client,
    health: Arc<Health>,
    metrics: Metrics,
    sender: mpsc::Sender<News>,
    watches: JoinSet<()>,
    under_way: usize,
}

impl Loop {
    async fn turn(
        &mut self,
        mut news: mpsc::Receiver<News>,
        mut finished: mpsc::UnboundedReceiver<Done>,
        leadership: &mut Leadership,
        end: &CancellationToken,
    ) -> Result<(), LeaderError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut noted = Instant::now();
        loop {
            self.health.turned();
            let next = self.core.next().filter(|_| self.writes()).map(tokio::time::Instant::from_std);
            let turn = tokio::time::Instant::now() + if noted.elapsed() < NOTE { NOTE } else { TURN };
            tokio::select! {
                () = end.cancelled() => return Ok(()),
                turned = leadership.turned(self.leading) => {
                    turned?;
                    self.lead(!self.leading);
                }
                _ = news.recv_many(&mut batch, BATCH) => {
                    for one in batch.drain(..) {
                        self.take(one);
                    }
                    self.need_pods();
                }
                Some(question) = self.ties.questions.recv() => {
                    self.core.answer(question, self.missing.is_empty());
                }
                Some(done) = finished.recv() => {
                    self.under_way -= 1;
                    let overtaken = done.outcome == Outcome::Overtaken;
                    let times = self.core.done(&done.task, &done.write, done.outcome, Instant::now());
                    if overtaken && times.is_multiple_of(TELL) {
                        tracing::warn!(task = ?done.task, times, "a write is overtaken again and again; trying on");
                    }
                }
                () = tokio::time::sleep_until(next.unwrap_or(turn).min(turn)) => {}
            }
            if self.writes() {
                self.look();
            }
            if noted.elapsed() >= NOTE {
                noted = Instant::now();
                self.metrics.note(self.core.agents(), self.core.policies_ready());
                if std::mem::take(&mut self.nodes) {
                    let names: Arc<[Text]> = self.core.node_names().into();
                    self.ties.nodes.send_if_modified(|told| {
                        let changed = *told != names;
                        *told = names;
                        changed
                    });
                }
            }
        }
    }

    /// This replica leads from now on, or does so no longer.
    fn lead(&mut self, leads: bool) {
        self.leading = leads;
        self.ties.leading.send_replace(leads);
        self.metrics.leader.set(i64::from(leads));
        if leads {
            tracing::info!("this replica holds the lease: it writes from now on");
            self.core.look_at_everything(Instant::now());
        } else {
            tracing::warn!("this replica holds the lease no longer: it writes nothing until it has it again");
        }
    }

    /// Does this replica write now? Not before it knows everything: what it does not know would look gone.
    fn writes(&self) -> bool {
        self.leading && self.missing.is_empty()
    }

    fn look(&mut self) {
        let began = Instant::now();
        let writes = self.core.look(began, Timestamp::now());
        self.metrics.look_seconds.observe(began.elapsed().as_secs_f64());
        for (task, write) in writes {
            self.under_way += 1;
            tokio::spawn(self.writer.clone().make(task, write));
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Changes(changes) => {
                self.metrics.changes.inc_by(changes.len() as u64);
                let now = Instant::now();
                for change in changes {
                    self.nodes |= matches!(change, Change::Node(..) | Change::State(..) | Change::Agents(_));
                    self.core.apply(change, now);
                }
            }
            News::Synced(source) => {
                self.missing.remove(&source);
                self.metrics.note_synced(source, true);
                self.health.source(source, None);
            }
            News::Trouble(source, Some(why)) => {
                self.metrics.watch_errors.get_or_create(&SourceLabel { source: source.name() }).inc();
                // Once it has told everything it works on the last good state.
                if self.missing.contains(&source) {
                    self.health.source(source, Some(why.clone()));
                }
                self.troubled.insert(source, why);
            }
            News::Withheld(source) => {
                self.missing.remove(&source);
                self.health.source(source, None);
            }
            News::Trouble(source, None) => {
                if self.troubled.remove(&source).is_some() {
                    tracing::info!(source = source.name(), "the watch comes through again");
                }
            }
        }
    }

    /// Pods are watched from the first policy on that has any behind it, for good: beginning anew costs more.
    fn need_pods(&mut self) {
        if self.pods || !self.core.needs_pods() {
            return;
        }
        self.pods = true;
        self.missing.insert(Source::Pods);
        self.health.source(Source::Pods, Some("not yet listed".to_owned()));
        watch::follow_pods(&self.client, &self.sender, &mut self.watches);
    }

    /// Waits a little for writes that are under way; those that have not begun are another replica's.
    async fn finish(mut self) {
        self.writer.over.cancel();
        self.watches.abort_all();
        self.metrics.leader.set(0);
        self.ties.leading.send_replace(false);
        let all = u32::try_from(WRITES).unwrap_or(u32::MAX);
        if self.under_way > 0 && tokio::time::timeout(END, self.writer.room.acquire_many(all)).await.is_err()
        {
            tracing::warn!("writes are still under way at the end; another replica makes them again");
        }
    }
}

/// Makes writes, a few at once.
#[derive(Clone)]
struct Writer {
    client: Client,
    recorder: Recorder,
    namespace: String,
    owner: Owner,
    room: Arc<Semaphore>,
    metrics: Metrics,
    /// Until when this replica may write.
    term: Term,
    /// Nothing is to be written any longer.
    over: CancellationToken,
    done: mpsc::UnboundedSender<Done>,
}

impl Writer {
    async fn make(self, task: Task, write: Write) {
        let Ok(_place) = self.room.acquire().await else { return };
        if self.over.is_cancelled() || !self.term.holds() {
            let _ = self.done.send(Done { task, write, outcome: Outcome::Overtaken });
            return;
        }
        let began = Instant::now();
        let (outcome, result) = match tokio::time::timeout(WRITE, self.send(&write)).await {
            Ok(Ok(version)) => (Outcome::Made(version), "made"),
            Ok(Err(error)) => judge(&task, &error),
            Err(_) => {
                tracing::warn!(task = ?task, "a write took too long; trying again");
                (Outcome::Failed, "timeout")
            }
        };
        self.metrics.wrote(&task, result, began.elapsed().as_secs_f64());
        if let (Write::Status(status), Outcome::Made(_)) = (&write, &outcome) {
            // Events are worth no wait: what follows from the write is not held up by them.
            let _ = tokio::time::timeout(TELLING, update_status::tell(&self.recorder, status)).await;
        }
        // At the end nobody listens any more.
        let _ = self.done.send(Done { task, write, outcome });
    }

    async fn send(&self, write: &Write) -> Result<String, kube::Error> {
        match write {
            Write::PolicyId { policy, uid, version, id } => {
                tracing::info!(%policy, id, "assigning a serviceId");
                apply::policy_id(&self.client, policy, uid, version, *id).await
            }
            Write::NodeId { node, uid, version, id } => {
                tracing::info!(node, id, "assigning a nodeId");
                apply::node_id(&self.client, node, uid, version, *id).await
            }
            Write::Slices(_, writes) => apply::slices(&self.client, &self.namespace, &self.owner, writes)
                .await
                .map(|()| String::new()),
            Write::Status(write) => update_status::write(&self.client, write).await,
        }
    }
}

/// What a failure means: gone or changed meanwhile is no trouble, the watch tells more.
fn judge(task: &Task, error: &kube::Error) -> (Outcome, &'static str) {
    // A slice is made where it is not: what is not found then is the namespace.
    let makes = matches!(task, Task::Nodes | Task::Backends(_));
    match error {
        kube::Error::Api(status) if status.code == 409 || (status.code == 404 && !makes) => {
            tracing::debug!(task = ?task, %error, "overtaken");
            (Outcome::Overtaken, "overtaken")
        }
        error => {
            tracing::warn!(task = ?task, %error, "failed to write; trying again");
            (Outcome::Failed, "failed")
        }
    }
}

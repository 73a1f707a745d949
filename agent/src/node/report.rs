//! Writes the node's NodeBalancingState: when something changed, and never more often than a cluster can bear.

use std::{sync::Arc, time::Duration};

use balancing_api::{
    names::{API_VERSION, FIELD_MANAGER_AGENT},
    node_state::{NodeBalancingState, NodeBalancingStateStatus},
};
use jiff::Timestamp;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    Shared,
    pace::Pace,
    state::{state, urgency},
};
use crate::{
    http::NodeView,
    source::kubernetes::{Door, Kubernetes, Pauses, below, describe},
};

/// Changes come in groups: the first waits for the others.
const SETTLE: Duration = Duration::from_secs(1);
/// Where the first sync does not come, the state says after so long why it does not.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// Without being told of a change one looks all the same.
const LOOK: Duration = Duration::from_secs(60);
/// The API server has so long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const NO_ANSWER: &str = "the API server gave no answer within 30 s";

/// Writes for as long as the source is watched.
pub(super) fn start(shared: &Arc<Shared>, kubernetes: &Kubernetes) {
    let resource = ApiResource::erase::<NodeBalancingState>(&());
    let writer = Writer {
        name: shared.node.clone(),
        shared: Arc::clone(shared),
        door: kubernetes.door(),
        resource,
        written: None,
        read: false,
        pace: Pace::default(),
    };
    kubernetes.spawn(writer.run());
}

/// What is known to stand in the cluster.
struct Written {
    /// The uid of the Node that owns it.
    owner: String,
    status: NodeBalancingStateStatus,
}

struct Writer {
    name: String,
    shared: Arc<Shared>,
    door: Arc<Door>,
    resource: ApiResource,
    written: Option<Written>,
    /// What stood there at the start has been read.
    read: bool,
    pace: Pace,
}

impl Writer {
    async fn run(mut self) {
        let begun = Instant::now();
        let mut pauses = Pauses::new();
        let mut trouble = None;
        let mut look = begun + FIRST_AFTER;
        loop {
            tokio::select! {
                () = self.shared.changed.notified() => {
                    sleep(SETTLE + Duration::from_millis(below(500))).await;
                }
                () = sleep_until(look) => {}
            }
            // While changes go on and on, one does not even look more often than one may write.
            sleep_until(self.pace.free(Instant::now())).await;
            let usual = Instant::now() + if self.written.is_none() { FIRST_AFTER } else { LOOK };
            // Without its Node the agent is none of the cluster's, and says nothing there.
            let owner = self.shared.node_uid();
            let too_soon = !self.shared.core().synced_once() && begun.elapsed() < FIRST_AFTER;
            let (Some(owner), false) = (owner, too_soon) else {
                look = usual;
                continue;
            };
            match self.attempt(&owner).await {
                Ok(kept_back) => {
                    if trouble.take().is_some() {
                        tracing::info!("the NodeBalancingState is written again");
                    }
                    pauses.reset();
                    look = kept_back.map_or(usual, |until| until.min(usual));
                }
                Err(why) => {
                    if trouble.as_ref() != Some(&why) {
                        tracing::warn!("failed to write the NodeBalancingState: {why}");
                    }
                    trouble = Some(why);
                    look = Instant::now() + pauses.next() * 4;
                    sleep_until(look).await;
                }
            }
        }
    }

    async fn attempt(&mut self, owner: &str) -> Result<Option<Instant>, String> {
        if !self.read {
            self.read().await?;
            self.read = true;
        }
        self.write(owner).await
    }

    fn api(&self) -> Api<DynamicObject> {
        Api::all_with(self.door.client(), &self.resource)
    }

    /// What an agent before left: it need not be written again.
    async fn read(&mut self) -> Result<(), String> {
        let found = answered(self.api().get_opt(&self.name)).await?;
        self.written = found.and_then(|object| {
            let owner = object.metadata.owner_references?.into_iter().find(|o| o.kind == "Node")?.uid;
            // A state of another version that cannot be understood is written anew.
            let status = serde_json::from_value(object.data.get("status")?.clone()).ok()?;
            Some(Written { owner, status })
        });
        Ok(())
    }

    /// Writes what is not written. Answers until when it is kept back, if it is.
    async fn write(&mut self, owner: &str) -> Result<Option<Instant>, String> {
        let shared = Arc::clone(&self.shared);
        // It waits for the programming thread, which may be busy.
        let status = tokio::task::spawn_blocking(move || shared.status()).await;
        let status = status.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let before = self.written.as_ref().filter(|written| written.owner == owner);
        let shared = Arc::clone(&self.shared);
        let uid = move |policy: &_| {
            shared.core().snapshot.policy(policy).map(|p| p.uid.to_string()).unwrap_or_default()
        };
        let new = state(&status, uid, before.map(|written| &written.status), Timestamp::now());
        let now = Instant::now();
        match self.pace.next(urgency(before.map(|written| &written.status), &new), now) {
            None => return Ok(None),
            Some(at) if at > now => return Ok(Some(at)),
            Some(_) => {}
        }
        let params = PatchParams::apply(FIELD_MANAGER_AGENT).force();
        if before.is_none() {
            let owner = json!({"apiVersion": "v1", "kind": "Node", "name": self.name, "uid": owner});
            let object = json!({
                "apiVersion": API_VERSION, "kind": self.resource.kind,
                "metadata": {"name": self.name, "ownerReferences": [owner]},
            });
            answered(self.api().patch(&self.name, &params, &Patch::Apply(object))).await?;
        }
        let object = json!({
            "apiVersion": API_VERSION, "kind": self.resource.kind,
            "metadata": {"name": self.name}, "status": new,
        });
        let status = self.api();
        match timeout(ANSWER_WITHIN, status.patch_status(&self.name, &params, &Patch::Apply(object))).await {
            Ok(Ok(_)) => {
                self.written = Some(Written { owner: owner.to_owned(), status: new });
                self.pace.wrote(Instant::now());
                Ok(None)
            }
            Ok(Err(error)) => {
                if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                    // It has gone, with its Node or by hand.
                    self.written = None;
                }
                Err(describe(&error))
            }
            Err(_) => Err(NO_ANSWER.to_owned()),
        }
    }
}

async fn answered<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(ANSWER_WITHIN, request).await {
        Ok(result) => result.map_err(|error| describe(&error)),
        Err(_) => Err(NO_ANSWER.to_owned()),
    }
}

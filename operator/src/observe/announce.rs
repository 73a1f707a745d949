//! Says where the leader listens, and by whom its certificate is signed: an EndpointSlice, which agents watch anyway, and
//! by which the other replicas find the leader too.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use balancing_api::names::{ANNOTATION_CA, ANNOTATION_LEADS_SINCE, LABEL_LEADER, LEADER_SLICE};
use futures_util::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    owner::Owner,
    reconcile::apply::{LABEL_MANAGED_BY, MANAGED_BY},
    watch::Pauses,
};

/// Who writes it.
const FIELD_MANAGER: &str = "balancing-operator/leader";
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How soon after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Who announces, and what.
#[derive(Debug)]
pub struct Announcer {
    /// Namespace of the operator.
    pub namespace: String,
    /// Where agents reach this replica, if they do.
    pub own: Option<SocketAddr>,
    /// The name of its pod, for whoever has a port forwarded to it.
    pub pod: Option<String>,
    /// Does this replica lead?
    pub leading: watch::Receiver<bool>,
    /// By whom the certificate is signed.
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Whose the slice is.
    pub owner: Owner,
    /// Where the leader listens, as the slice says.
    pub leader: watch::Sender<Option<SocketAddr>>,
}

/// The slice of a leader that leads since `since`, and is this pod.
#[must_use]
pub fn slice(
    namespace: &str,
    (at, pod): (SocketAddr, Option<&str>),
    since: &str,
    bundle: &str,
) -> EndpointSlice {
    let pod = pod.map(|name| ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        ..ObjectReference::default()
    });
    let labels = [(LABEL_LEADER, "true"), (LABEL_MANAGED_BY, MANAGED_BY)];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(LEADER_SLICE.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            annotations: Some(BTreeMap::from([
                (ANNOTATION_CA.to_owned(), bundle.to_owned()),
                (ANNOTATION_LEADS_SINCE.to_owned(), since.to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        address_type: if at.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![at.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            target_ref: pod,
            ..Endpoint::default()
        }],
        ports: Some(vec![EndpointPort {
            name: Some("observe".to_owned()),
            port: Some(i32::from(at.port())),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    }
}

/// Where a slice says that the leader listens.
#[must_use]
pub fn place(slice: &EndpointSlice) -> Option<SocketAddr> {
    let address = slice.endpoints.first()?.addresses.first()?.parse().ok()?;
    let port = slice.ports.as_ref()?.first()?.port?;
    Some(SocketAddr::new(address, u16::try_from(port).ok()?))
}

fn annotation<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a str> {
    slice.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Do both lead agents to the same leader?
fn says_the_same(one: &EndpointSlice, other: &EndpointSlice) -> bool {
    let names = [ANNOTATION_CA, ANNOTATION_LEADS_SINCE];
    let pod = |s: &EndpointSlice| s.endpoints.first().and_then(|e| e.target_ref.as_ref()?.name.clone());
    place(one) == place(other)
        && pod(one) == pod(other)
        && names.iter().all(|name| annotation(one, name) == annotation(other, name))
}

impl Announcer {
    /// Announces this replica where it leads, and follows who does, until `end`.
    pub async fn run(mut self, client: Client, end: CancellationToken) {
        let all: Api<EndpointSlice> = Api::namespaced(client, &self.namespace);
        let slices = watcher::watch_object(all.clone(), LEADER_SLICE).backoff(Pauses::default());
        pin_mut!(slices);
        let (mut seen, mut known, mut failing) = (None, false, false);
        let mut since: Option<String> = None;
        loop {
            let retry = async {
                match failing {
                    true => tokio::time::sleep(RETRY).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end.cancelled() => return,
                Some(told) = slices.next() => match told {
                    Ok(slice) => {
                        (seen, known) = (slice, true);
                        self.leader.send_replace(seen.as_ref().and_then(place));
                    }
                    Err(error) => tracing::debug!(%error, "failed to watch where the leader is; trying again"),
                },
                Ok(()) = self.leading.changed() => {}
                Ok(()) = self.bundle.changed() => {}
                () = retry => {}
            }
            let leads = *self.leading.borrow_and_update();
            let bundle = self.bundle.borrow_and_update().clone();
            if !leads {
                (since, failing) = (None, false);
            }
            let (true, true, Some(own), Some(bundle)) = (leads, known, self.own, bundle) else { continue };
            let since = since.get_or_insert_with(|| Timestamp::now().to_string());
            let right = slice(&self.namespace, (own, self.pod.as_deref()), since, &bundle);
            if seen.as_ref().is_some_and(|seen| says_the_same(seen, &right)) {
                continue;
            }
            let announced = tokio::time::timeout(PATIENCE, self.announce(&all, seen.as_ref(), right)).await;
            match announced.unwrap_or_else(|late| Err(kube::Error::Service(late.into()))) {
                Ok(slice) => {
                    tracing::info!(%own, "agents dial this replica from now on");
                    (seen, failing) = (Some(slice), false);
                }
                Err(error) => {
                    tracing::warn!(%error, slice = LEADER_SLICE, "failed to say where the leader is; trying again");
                    failing = true;
                }
            }
        }
    }

    async fn announce(
        &self,
        all: &Api<EndpointSlice>,
        seen: Option<&EndpointSlice>,
        mut slice: EndpointSlice,
    ) -> Result<EndpointSlice, kube::Error> {
        slice.metadata.owner_references = self.owner.references();
        // The family of a slice never changes.
        if seen.is_some_and(|s| s.address_type != slice.address_type) {
            all.delete(LEADER_SLICE, &kube::api::DeleteParams::default()).await?;
        }
        all.patch(LEADER_SLICE, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(slice)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_says_where_and_whom_to_trust() {
        for at in ["10.0.0.1:5821", "[fd00::1]:5821"] {
            let at: SocketAddr = at.parse().unwrap();
            let slice = slice("elf", (at, Some("op-1")), "2026-11-25T00:00:00Z", "PEM");
            assert_eq!((place(&slice), annotation(&slice, ANNOTATION_CA)), (Some(at), Some("PEM")));
            assert_eq!(balancing_api::published::Published::of(&slice.metadata), None);
            // As agents and the plugin read it.
            let leader = balancing_api::leader::Leader::of(&serde_json::to_value(&slice).unwrap()).unwrap();
            assert_eq!((leader.address, leader.pod.as_deref()), (at, Some("op-1")));
        }
        assert_eq!(place(&EndpointSlice::default()), None);
        let at = "10.0.0.1:5821".parse().unwrap();
        let one = slice("elf", (at, None), "2026-11-25T00:00:00Z", "PEM");
        assert!(says_the_same(&one, &one.clone()));
        for (since, bundle) in [("2026-11-25T00:00:01Z", "PEM"), ("2026-11-25T00:00:00Z", "PEM2")] {
            assert!(!says_the_same(&one, &slice("elf", (at, None), since, bundle)), "{since} {bundle}");
        }
        assert!(!says_the_same(&one, &slice("elf", (at, Some("op-2")), "2026-11-25T00:00:00Z", "PEM")));
    }
}

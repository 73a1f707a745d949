//! Says where the leader listens, and by whom its certificate is signed: an EndpointSlice, which agents watch anyway, and
//! by which the other replicas find the leader too.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use balancing_api::names::{ANNOTATION_CA, LABEL_LEADER};
use futures_util::{StreamExt, pin_mut};
use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::apply::{LABEL_MANAGED_BY, MANAGED_BY};

/// Name of the slice.
pub const NAME: &str = "balancing-operator-leader";
/// Who writes it.
const FIELD_MANAGER: &str = "balancing-operator/leader";
/// How soon after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Who announces, and what.
#[derive(Debug)]
pub struct Announcer {
    /// Namespace of the operator.
    pub namespace: String,
    /// Where agents reach this replica, if they do.
    pub own: Option<SocketAddr>,
    /// Does this replica lead?
    pub leading: watch::Receiver<bool>,
    /// By whom the certificate is signed.
    pub bundle: watch::Receiver<Option<Arc<str>>>,
    /// Where the leader listens, as the slice says.
    pub leader: watch::Sender<Option<SocketAddr>>,
}

/// The slice of a leader.
#[must_use]
pub fn slice(namespace: &str, at: SocketAddr, bundle: &str) -> EndpointSlice {
    let labels = [(LABEL_LEADER, "true"), (LABEL_MANAGED_BY, MANAGED_BY)];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            annotations: Some(BTreeMap::from([(ANNOTATION_CA.to_owned(), bundle.to_owned())])),
            ..ObjectMeta::default()
        },
        address_type: if at.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: vec![Endpoint {
            addresses: vec![at.ip().to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
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

fn annotation(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.annotations.as_ref()?.get(ANNOTATION_CA).map(String::as_str)
}

impl Announcer {
    /// Announces this replica where it leads, and follows who does, until `end`.
    pub async fn run(mut self, client: Client, end: CancellationToken) {
        let all: Api<EndpointSlice> = Api::namespaced(client, &self.namespace);
        let slices = watcher::watch_object(all.clone(), NAME).default_backoff();
        pin_mut!(slices);
        let (mut seen, mut known, mut failing) = (None, false, false);
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
            let (true, true, Some(own), Some(bundle)) = (leads, known, self.own, bundle) else { continue };
            let right = |s: &EndpointSlice| place(s) == Some(own) && annotation(s) == Some(&*bundle);
            if seen.as_ref().is_some_and(right) {
                continue;
            }
            match self.announce(&all, seen.as_ref(), own, &bundle).await {
                Ok(slice) => {
                    tracing::info!(%own, "agents dial this replica from now on");
                    (seen, failing) = (Some(slice), false);
                }
                Err(error) => {
                    tracing::warn!(%error, slice = NAME, "failed to say where the leader is; trying again");
                    failing = true;
                }
            }
        }
    }

    async fn announce(
        &self,
        all: &Api<EndpointSlice>,
        seen: Option<&EndpointSlice>,
        own: SocketAddr,
        bundle: &str,
    ) -> Result<EndpointSlice, kube::Error> {
        let slice = slice(&self.namespace, own, bundle);
        // The family of a slice never changes.
        if seen.is_some_and(|s| s.address_type != slice.address_type) {
            all.delete(NAME, &kube::api::DeleteParams::default()).await?;
        }
        all.patch(NAME, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(slice)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slice_says_where_and_whom_to_trust() {
        for at in ["10.0.0.1:5821", "[fd00::1]:5821"] {
            let at: SocketAddr = at.parse().unwrap();
            let slice = slice("elf", at, "PEM");
            assert_eq!((place(&slice), annotation(&slice)), (Some(at), Some("PEM")));
            assert_eq!(balancing_api::published::Published::of(&slice.metadata), None);
        }
        assert_eq!(place(&EndpointSlice::default()), None);
    }
}

//! Keeps the certificates: every replica serves what the Secret holds, the leader renews it and tells the API server whom
//! to trust. Client; what is to be done is said by [`rotation`].

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        core::v1::Secret,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Certificates, Identity, rotation, stored};
use crate::{owner::Owner, watch::Pauses};

/// Who says in the webhook configurations whom to trust.
const FIELD_MANAGER: &str = "balancing-operator/webhook";
/// How often it is looked whether a step is due: by the wall clock, which goes on while a machine sleeps.
const LOOK: Duration = Duration::from_secs(60);
/// How long all that is due may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// What is kept, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the Secret.
    pub secret: String,
    /// Name of both webhook configurations, where there are any.
    pub webhooks: Option<String>,
    /// Names that the certificate is made out to.
    pub names: Vec<String>,
    /// Whose a new Secret is.
    pub owner: Owner,
}

/// A webhook of a configuration and whom it trusts.
type Trust = Vec<(String, Option<Vec<u8>>)>;

/// Which configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Validating,
    Mutating,
}

enum Told {
    Secret(Option<Box<Secret>>),
    Webhooks(Kind, Option<Trust>),
}

/// A step cannot be taken.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Issue(#[from] super::IssueError),
    #[error("failed to write the certificates as a Secret")]
    Json(#[from] serde_json::Error),
    #[error("failed to write Secret {0}")]
    Secret(String, #[source] kube::Error),
    #[error("failed to write caBundle of the {0:?} webhook configuration")]
    Webhooks(Kind, #[source] kube::Error),
    #[error("the API server does not answer")]
    Silent,
}

/// Keeps the certificates of a replica.
pub struct Keeper {
    client: Client,
    settings: Settings,
    identity: Arc<Identity>,
    bundle: watch::Sender<Option<Arc<str>>>,
    /// The Secret as it was seen last; `None`: not yet.
    seen: Option<Option<(String, Certificates)>>,
    /// The version of a Secret that cannot be read.
    broken: Option<String>,
    /// Whose the Secret is that was seen last: that stays.
    owners: Option<Vec<OwnerReference>>,
    validating: Option<Trust>,
    mutating: Option<Trust>,
}

impl Keeper {
    /// A keeper whose certificate is served by `identity`; the other end says whom readers are to trust.
    #[must_use]
    pub fn new(
        client: Client,
        settings: Settings,
        identity: Arc<Identity>,
    ) -> (Self, watch::Receiver<Option<Arc<str>>>) {
        let (bundle, receiver) = watch::channel(None);
        let keeper = Self {
            client,
            settings,
            identity,
            bundle,
            seen: None,
            broken: None,
            owners: None,
            validating: None,
            mutating: None,
        };
        (keeper, receiver)
    }

    /// Keeps them until `end`.
    pub async fn run(mut self, mut leading: watch::Receiver<bool>, end: CancellationToken) {
        let (sender, mut told) = mpsc::channel(16);
        let mut watches = JoinSet::new();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let secret = |s: Option<Secret>| Told::Secret(s.map(Box::new));
        watches.spawn(follow(secrets, self.settings.secret.clone(), sender.clone(), secret));
        if let Some(name) = self.settings.webhooks.clone() {
            let all: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
            let trust = |c: Option<ValidatingWebhookConfiguration>| {
                let hooks = c.map(|c| c.webhooks.unwrap_or_default().into_iter());
                let one =
                    hooks.map(|h| h.map(|h| (h.name, h.client_config.ca_bundle.map(|b| b.0))).collect());
                Told::Webhooks(Kind::Validating, one)
            };
            watches.spawn(follow(all, name.clone(), sender.clone(), trust));
            let all: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
            let trust = |c: Option<MutatingWebhookConfiguration>| {
                let hooks = c.map(|c| c.webhooks.unwrap_or_default().into_iter());
                let one =
                    hooks.map(|h| h.map(|h| (h.name, h.client_config.ca_bundle.map(|b| b.0))).collect());
                Told::Webhooks(Kind::Mutating, one)
            };
            watches.spawn(follow(all, name, sender.clone(), trust));
        }
        drop(sender);
        let mut wait = LOOK;
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                Some(told) = told.recv() => self.take(told),
                Ok(()) = leading.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = LOOK;
            if *leading.borrow_and_update()
                && let Err(error) = timeout(PATIENCE, self.keep()).await.unwrap_or(Err(KeepError::Silent))
            {
                let cause = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                tracing::warn!(%error, cause, "failed to keep the certificates; trying again");
                wait = RETRY;
            }
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            // One that could not be read is gone too: there is nothing to replace.
            Told::Secret(None) => (self.seen, self.broken) = (Some(None), None),
            Told::Secret(Some(secret)) => {
                self.owners.clone_from(&secret.metadata.owner_references);
                let version = secret.metadata.resource_version.clone().unwrap_or_default();
                match stored::read(&secret) {
                    Ok(certificates) => self.serve(version, certificates),
                    Err(error) => {
                        let cause =
                            std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                        tracing::error!(
                            secret = self.settings.secret, %error, cause,
                            "the certificates in the Secret cannot be used; the leader makes new ones"
                        );
                        (self.seen, self.broken) = (Some(None), Some(version));
                    }
                }
            }
            Told::Webhooks(Kind::Validating, trust) => self.validating = trust,
            Told::Webhooks(Kind::Mutating, trust) => self.mutating = trust,
        }
    }

    fn serve(&mut self, version: String, certificates: Certificates) {
        if let Err(error) = self.identity.set(&certificates) {
            tracing::error!(%error, "failed to serve the certificates");
            return;
        }
        let bundle: Arc<str> = certificates.bundle().into();
        self.bundle.send_if_modified(|held| {
            let other = held.as_ref() != Some(&bundle);
            *held = Some(Arc::clone(&bundle));
            other
        });
        (self.seen, self.broken) = (Some(Some((version, certificates))), None);
    }

    /// Takes the steps that are due, and tells the API server whom to trust.
    async fn keep(&mut self) -> Result<(), KeepError> {
        let Some(there) = self.seen.clone() else { return Ok(()) };
        let (mut version, mut there) = there.map_or((self.broken.clone(), None), |(v, c)| (Some(v), Some(c)));
        let now = Timestamp::now();
        while let Some(step) = rotation::due(there.as_ref(), &self.settings.names, now) {
            let new = rotation::take(there, step, &self.settings.names, now)?;
            let (made, ends) = (new.serving.made, new.serving.ends);
            tracing::info!(?step, %made, %ends, "renewing the certificates");
            let Some(written) = self.write(version.clone(), &new).await? else { return Ok(()) };
            self.serve(written.clone(), new.clone());
            (version, there) = (Some(written), Some(new));
        }
        self.tell_trust().await
    }

    /// Writes the Secret; the version it got, or nothing where another replica was faster: the watch brings that.
    async fn write(
        &mut self,
        version: Option<String>,
        certificates: &Certificates,
    ) -> Result<Option<String>, KeepError> {
        let (namespace, name) = (&self.settings.namespace, &self.settings.secret);
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let replaces = version.is_some();
        let mut secret = stored::write(namespace, name, version, certificates)?;
        secret.metadata.owner_references =
            if replaces { self.owners.clone() } else { self.settings.owner.references() };
        let params =
            PostParams { field_manager: Some("balancing-operator".to_owned()), ..PostParams::default() };
        let written = if replaces {
            secrets.replace(name, &params, &secret).await
        } else {
            secrets.create(&params, &secret).await
        };
        match written {
            Ok(secret) => {
                self.owners = secret.metadata.owner_references;
                Ok(Some(secret.metadata.resource_version.unwrap_or_default()))
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            Err(error) => Err(KeepError::Secret(format!("{namespace}/{name}"), error)),
        }
    }

    async fn tell_trust(&mut self) -> Result<(), KeepError> {
        let (Some(name), Some(bundle)) = (self.settings.webhooks.clone(), self.bundle.borrow().clone())
        else {
            return Ok(());
        };
        for kind in [Kind::Validating, Kind::Mutating] {
            let trust = match kind {
                Kind::Validating => &mut self.validating,
                Kind::Mutating => &mut self.mutating,
            };
            let Some(trust) = trust else { continue };
            let right = |b: &Option<Vec<u8>>| b.as_deref() == Some(bundle.as_bytes());
            if trust.iter().all(|(_, b)| right(b)) {
                continue;
            }
            let names: Vec<_> = trust.iter().map(|(name, _)| name.clone()).collect();
            trust_in(&self.client, kind, &name, &names, &bundle)
                .await
                .map_err(|error| KeepError::Webhooks(kind, error))?;
            tracing::info!(?kind, name, "told the API server whom to trust");
            trust.iter_mut().for_each(|(_, b)| *b = Some(bundle.as_bytes().to_vec()));
        }
        Ok(())
    }
}

/// Writes `caBundle` of each webhook, and nothing else.
async fn trust_in(
    client: &Client,
    kind: Kind,
    name: &str,
    webhooks: &[String],
    bundle: &str,
) -> Result<(), kube::Error> {
    let bundle = ByteString(bundle.as_bytes().to_vec());
    let webhooks: Vec<_> =
        webhooks.iter().map(|w| json!({"name": w, "clientConfig": {"caBundle": bundle}})).collect();
    let object = |kind: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": webhooks,
        })
    };
    let params = PatchParams::apply(FIELD_MANAGER).force();
    match kind {
        Kind::Validating => {
            let all: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
            all.patch(name, &params, &Patch::Apply(object("ValidatingWebhookConfiguration"))).await.map(drop)
        }
        Kind::Mutating => {
            let all: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
            all.patch(name, &params, &Patch::Apply(object("MutatingWebhookConfiguration"))).await.map(drop)
        }
    }
}

/// Follows one object until nobody listens.
async fn follow<K>(
    api: Api<K>,
    name: String,
    told: mpsc::Sender<Told>,
    make: impl Fn(Option<K>) -> Told + Send,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    let kind = K::kind(&()).into_owned();
    let objects = watcher::watch_object(api, &name).backoff(Pauses::default());
    pin_mut!(objects);
    let mut failing = false;
    while let Some(object) = objects.next().await {
        match object {
            Ok(object) => {
                failing = false;
                if told.send(make(object)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(kind, name, %error, "failed to watch; trying again");
                }
                failing = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_broken_secret_is_replaced_and_one_that_is_gone_is_made_anew() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://192.0.2.1".parse().unwrap());
        let settings = Settings {
            namespace: "elf".to_owned(),
            secret: "x".to_owned(),
            webhooks: None,
            names: vec!["localhost".to_owned()],
            owner: Owner::default(),
        };
        let client = Client::try_from(config).unwrap();
        let (mut keeper, _bundle) = Keeper::new(client, settings, Arc::default());
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some("7".to_owned());
        keeper.take(Told::Secret(Some(Box::new(secret))));
        assert_eq!((keeper.seen.clone(), keeper.broken.as_deref()), (Some(None), Some("7")));
        // Whoever sees that takes it away, so that the operator makes another.
        keeper.take(Told::Secret(None));
        assert_eq!((keeper.seen, keeper.broken), (Some(None), None));
    }
}

//! Whose the objects are that the operator makes for itself: its Deployment's, so that they go with it.

use std::sync::{Arc, OnceLock};

use k8s_openapi::{
    api::apps::v1::Deployment,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client};

/// The owner, once it is known. It is looked for before the lease is, so whoever leads has it, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Owner(Arc<OnceLock<OwnerReference>>);

impl Owner {
    /// Looks for the Deployment. Where there is none, or it may not be read, objects have no owner and stay.
    ///
    /// # Errors
    /// The API server does not answer.
    pub async fn find(&self, client: &Client, namespace: &str, deployment: &str) -> Result<(), kube::Error> {
        let all: Api<Deployment> = Api::namespaced(client.clone(), namespace);
        let found = match all.get_metadata(deployment).await {
            Ok(found) => reference(found.metadata),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                tracing::warn!(
                    deployment,
                    namespace,
                    error = status.message,
                    "failed to read the operator's own Deployment: what it makes for itself outlives it"
                );
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(found) = found {
            // Whoever was here before found the same.
            let _ = self.0.set(found);
        }
        Ok(())
    }

    /// The owner, as an object names it.
    #[must_use]
    pub fn references(&self) -> Option<Vec<OwnerReference>> {
        self.0.get().map(|owner| vec![owner.clone()])
    }
}

/// One that a deletion does not wait for.
fn reference(meta: ObjectMeta) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: meta.name?,
        uid: meta.uid?,
        controller: None,
        block_owner_deletion: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_owns_what_no_deployment_runs() {
        let owner = Owner::default();
        assert_eq!(owner.references(), None);
        let meta = |uid: Option<&str>| ObjectMeta {
            name: Some("balancing-operator".to_owned()),
            uid: uid.map(str::to_owned),
            ..ObjectMeta::default()
        };
        assert_eq!(reference(meta(None)), None);
        owner.0.set(reference(meta(Some("u1"))).unwrap()).unwrap();
        let [one] = &owner.references().unwrap()[..] else { panic!("one owner") };
        assert_eq!(
            (one.kind.as_str(), one.uid.as_str(), one.block_owner_deletion),
            ("Deployment", "u1", None)
        );
    }
}

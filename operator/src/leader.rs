//! Who of the replicas writes: the holder of a Lease.
//!
//! The lease's crate is used here alone. It goes on saying that the lease is held while the API server does not answer,
//! so two replicas may write for a moment: every write is such that this does no harm.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle};

/// How long a lease that is given back may take.
const RELEASE: Duration = Duration::from_secs(3);
/// How long to wait between attempts to see the lease at all.
const RETRY: Duration = Duration::from_secs(2);

/// Which lease, and who wants it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Name of the lease.
    pub lease: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// How long the lease outlives the last sign of life, in seconds.
    pub duration: u64,
}

/// The lease was lost, or nobody looks after it any longer.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Another replica has it.
    #[error("the lease was lost to another replica")]
    Lost,
    /// The task that renews it ended.
    #[error("failed to look after the lease")]
    Ended(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The race for the lease.
#[derive(Debug)]
pub struct Leadership {
    held: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

/// Enters the race; tries until the API server answers.
pub async fn campaign(client: &Client, candidate: &Candidate) -> Leadership {
    let manager = loop {
        let builder = LeaseManagerBuilder::new(client.clone(), &candidate.lease)
            .with_namespace(&candidate.namespace)
            .with_identity(&candidate.identity)
            .with_duration(candidate.duration)
            .with_grace((candidate.duration / 3).max(1))
            .with_field_manager(format!("balancing-operator/{}", candidate.identity));
        match builder.build().await {
            Ok(manager) => break manager,
            Err(error) => {
                tracing::warn!(lease = candidate.lease, namespace = candidate.namespace, %error,
                    "failed to read or create the lease; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let (held, task) = manager.watch().await;
    Leadership { held, task }
}

impl Leadership {
    /// Waits until this replica holds the lease, or where it does already (`leading`) until it does no longer.
    ///
    /// # Errors
    /// It is lost, or nobody looks after it.
    pub async fn turned(&mut self, leading: bool) -> Result<(), LeaderError> {
        tokio::select! {
            turned = self.held.wait_for(|held| *held != leading) => match turned {
                Ok(_) if leading => Err(LeaderError::Lost),
                Ok(_) => Ok(()),
                Err(error) => Err(LeaderError::Ended(error.into())),
            },
            ended = &mut self.task => Err(why(ended)),
        }
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub async fn release(self) {
        drop(self.held);
        match tokio::time::timeout(RELEASE, self.task).await {
            Ok(Ok(Ok(_))) => tracing::info!("the lease is given back"),
            _ => tracing::warn!("failed to give the lease back; another replica waits for its end"),
        }
    }
}

fn why(ended: Result<Result<LeaseManager, LeaseManagerError>, tokio::task::JoinError>) -> LeaderError {
    LeaderError::Ended(match ended {
        Ok(Ok(_)) => "its task ended".into(),
        Ok(Err(error)) => error.into(),
        Err(error) => error.into(),
    })
}

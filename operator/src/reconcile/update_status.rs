//! Writes a policy's status, and tells of its conditions that changed as Events. Client.

use balancing_api::{
    names::{API_VERSION, condition},
    policy::PolicyRef,
};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder},
};
use serde_json::json;

use super::{apply::policies, build::transitions};
use crate::core::StatusWrite;

/// Who writes statuses.
pub const FIELD_MANAGER: &str = "balancing-operator/status";
/// Bytes of an Event's note, at most (Kubernetes).
const MAX_NOTE: usize = 1024;

/// Writes the status, if the policy is still the same.
///
/// # Errors
/// The API server does not take it.
pub async fn write(client: &Client, write: &StatusWrite) -> Result<String, kube::Error> {
    let policy = &write.policy;
    let object = json!({
        "apiVersion": API_VERSION,
        "kind": policy.kind.as_str(),
        "metadata": {"name": policy.name, "uid": write.uid},
        "status": write.new,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written =
        policies(client, policy.kind).patch_status(&policy.name, &params, &Patch::Apply(object)).await?;
    Ok(written.metadata.resource_version.unwrap_or_default())
}

/// The Events of a write: of each condition that turned. That a new policy is in order so far is no news.
#[must_use]
pub fn events(write: &StatusWrite) -> Vec<Event> {
    let new = write.old.conditions.is_empty();
    let (turned, gone): (Vec<_>, Vec<_>) =
        transitions(&write.old, &write.new).into_iter().partition(|(_, condition)| condition.is_some());
    let bad = |c: &Condition| (c.status == "True") == (c.type_ == condition::CONFLICTED);
    let told = turned.into_iter().filter_map(|(_, c)| c).filter(|c| {
        let summary = c.type_ == condition::READY || c.type_ == condition::PROGRAMMED;
        !new || (bad(c) && !summary && c.type_ != condition::EFFECTIVE)
    });
    let turned = told.map(|c| Event {
        type_: if bad(c) { EventType::Warning } else { EventType::Normal },
        reason: c.reason.clone(),
        note: Some(note(&c.message)),
        action: c.type_.clone(),
        secondary: None,
    });
    let gone = gone.into_iter().map(|(type_, _)| Event {
        type_: EventType::Normal,
        reason: format!("Not{type_}"),
        note: Some("it holds all its frontends now".to_owned()),
        action: type_.to_owned(),
        secondary: None,
    });
    turned.chain(gone).collect()
}

fn note(text: &str) -> String {
    let mut end = text.len().min(MAX_NOTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Tells of a write. An Event that is lost is not worth a second try: the status says it all.
pub async fn tell(recorder: &Recorder, write: &StatusWrite) {
    let regarding = reference(&write.policy, &write.uid);
    for event in events(write) {
        if let Err(error) = recorder.publish(&event, &regarding).await {
            tracing::debug!(policy = %write.policy, %error, "failed to publish an event");
        }
    }
}

fn reference(policy: &PolicyRef, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.to_owned()),
        kind: Some(policy.kind.as_str().to_owned()),
        name: Some(policy.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::policy::{PolicyKind, PolicyObjectStatus};
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn status(conditions: &[(&str, &str, &str)]) -> PolicyObjectStatus {
        let condition = |(type_, status, reason): &(&str, &str, &str)| Condition {
            type_: (*type_).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "why".to_owned(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        };
        PolicyObjectStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() }
    }

    fn told(old: &[(&str, &str, &str)], new: &[(&str, &str, &str)]) -> Vec<String> {
        let write = StatusWrite {
            policy: PolicyRef::new(PolicyKind::LocalRedirectPolicy, "x"),
            uid: "u".to_owned(),
            old: status(old),
            new: status(new),
        };
        events(&write).iter().map(|e| format!("{:?} {} {}", e.type_, e.action, e.reason)).collect()
    }

    #[test]
    fn what_turned_is_told() {
        let good = [("Accepted", "True", "Accepted"), ("Ready", "True", "Ready")];
        let lost = [("Accepted", "False", "FrontendConflict"), ("Ready", "False", "FrontendConflict")];
        assert_eq!(
            told(&good, &lost),
            ["Warning Accepted FrontendConflict", "Warning Ready FrontendConflict"]
        );
        assert_eq!(told(&lost, &good), ["Normal Accepted Accepted", "Normal Ready Ready"]);
        assert_eq!(told(&good, &good), Vec::<String>::new());
        let mut partly = good.to_vec();
        partly.push(("Conflicted", "True", "ConflictOnSomeNodes"));
        assert_eq!(told(&good, &partly), ["Warning Conflicted ConflictOnSomeNodes"]);
        assert_eq!(told(&partly, &good), ["Normal Conflicted NotConflicted"]);
    }

    #[test]
    fn of_a_new_policy_only_what_its_author_can_mend() {
        let new = [
            ("Accepted", "False", "FrontendConflict"),
            ("ResolvedRefs", "True", "ResolvedRefs"),
            ("Programmed", "False", "NodesPending"),
            ("Effective", "False", "NoLocalBackend"),
            ("Ready", "False", "FrontendConflict"),
        ];
        assert_eq!(told(&[], &new), ["Warning Accepted FrontendConflict"]);
    }
}

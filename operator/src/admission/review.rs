//! The API server's question and the answer to it (`admission.k8s.io/v1`).

use balancing_api::{names::ANNOTATION_SERVICE_ID, policy::PolicyKind};
use k8s_openapi::ByteString;
use serde::Deserialize;
use serde_json::{Value, json};

/// Warnings that are told; the API server cuts them off at 4 KiB.
const WARNINGS: usize = 8;
/// Characters of a warning that are told.
const WARNING: usize = 256;

/// A question that is none.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// It does not read.
    #[error("failed to read the AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// It is about nothing.
    #[error("the AdmissionReview has no request")]
    Empty,
    /// It is about something else.
    #[error("this webhook is asked about {0:?}, and knows LocalRedirectPolicy and BalancingPolicy")]
    Kind(String),
}

#[derive(Deserialize)]
struct Envelope {
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Goes back with the answer.
    pub uid: String,
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// The policy as it would be; null where it is deleted.
    pub object: Value,
    /// The policy as it is; null where it is created.
    pub old: Value,
}

impl Review {
    /// Reads a question.
    ///
    /// # Errors
    /// It is none about a policy.
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let envelope: Envelope = serde_json::from_slice(body)?;
        let request = envelope.request.ok_or(ReviewError::Empty)?;
        let kind = [PolicyKind::LocalRedirectPolicy, PolicyKind::BalancingPolicy]
            .into_iter()
            .find(|kind| kind.as_str() == request.kind.kind)
            .ok_or(ReviewError::Kind(request.kind.kind))?;
        let object = if request.operation == "DELETE" { Value::Null } else { request.object };
        Ok(Self { uid: request.uid, kind, object, old: request.old_object })
    }
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Why it is refused, if it is.
    pub refused: Option<String>,
    /// What is to be told to whoever made the change.
    pub warnings: Vec<String>,
    /// The number that the policy is given.
    pub number: Option<u32>,
}

impl Verdict {
    /// The answer as the API server reads it.
    #[must_use]
    pub fn write(&self, review: &Review) -> Value {
        let mut response = json!({"uid": review.uid, "allowed": self.refused.is_none()});
        if let Some(why) = &self.refused {
            response["status"] = json!({"code": 422, "reason": "Invalid", "message": why});
        }
        if !self.warnings.is_empty() {
            let told = self.warnings.iter().take(WARNINGS).map(|w| cut(w));
            let more = self.warnings.len().saturating_sub(WARNINGS);
            let more = (more > 0).then(|| format!("and {more} more: see the policy's status"));
            response["warnings"] = told.chain(more).collect();
        }
        if let Some(number) = self.number {
            let patch = patch(&review.object, number).to_string();
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(ByteString(patch.into_bytes()));
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}

fn patch(object: &Value, number: u32) -> Value {
    let number = number.to_string();
    if object.pointer("/metadata/annotations").is_some_and(Value::is_object) {
        let path = format!("/metadata/annotations/{}", ANNOTATION_SERVICE_ID.replace('/', "~1"));
        json!([{"op": "add", "path": path, "value": number}])
    } else {
        let mut annotations = json!({});
        annotations[ANNOTATION_SERVICE_ID] = json!(number);
        json!([{"op": "add", "path": "/metadata/annotations", "value": annotations}])
    }
}

/// A warning of bounded length and on one line.
fn cut(text: &str) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WARNING).collect();
    if text.chars().nth(WARNING).is_some() {
        line.pop();
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(object: Value) -> Review {
        Review { uid: "u".into(), kind: PolicyKind::LocalRedirectPolicy, object, old: Value::Null }
    }

    #[test]
    fn a_question_is_read() {
        let body = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "kind": {"group": "balancing.elf.io", "version": "v1beta1", "kind": "BalancingPolicy"},
                "operation": "UPDATE", "object": {"a": 1}, "oldObject": {"a": 0}, "dryRun": true,
            },
        });
        let read = Review::read(body.to_string().as_bytes()).unwrap();
        assert_eq!(
            (read.kind, read.object, read.old),
            (PolicyKind::BalancingPolicy, json!({"a": 1}), json!({"a": 0}))
        );
        let wrong = |body: Value| Review::read(body.to_string().as_bytes()).unwrap_err().to_string();
        assert!(wrong(json!({})).contains("no request"));
        assert!(wrong(json!({"request": {"uid": "u", "kind": {"kind": "Pod"}}})).contains("\"Pod\""));
        assert!(wrong(json!([])).contains("failed to read"));
    }

    #[test]
    fn an_answer_is_written() {
        let object = review(json!({"metadata": {"name": "x"}}));
        assert_eq!(
            Verdict::default().write(&object),
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": "u", "allowed": true}})
        );
        let refused = Verdict { refused: Some("no".into()), ..Verdict::default() }.write(&object);
        assert_eq!(refused["response"]["allowed"], false);
        assert_eq!(refused["response"]["status"]["message"], "no");
        let many = Verdict { warnings: vec!["a\nb".into(); 10], ..Verdict::default() }.write(&object);
        let told = many["response"]["warnings"].as_array().unwrap();
        assert_eq!(
            (told.len(), told[0].as_str(), told[8].as_str().unwrap().starts_with("and 2 more")),
            (9, Some("a b"), true)
        );
        let long = Verdict { warnings: vec!["ä".repeat(400)], ..Verdict::default() }.write(&object);
        assert_eq!(long["response"]["warnings"][0].as_str().unwrap().chars().count(), WARNING);
    }

    #[test]
    fn a_number_is_a_patch_of_the_annotation() {
        let of = |object: Value| {
            let answer = Verdict { number: Some(7), ..Verdict::default() }.write(&review(object));
            let patch: ByteString = serde_json::from_value(answer["response"]["patch"].clone()).unwrap();
            serde_json::from_slice::<Value>(&patch.0).unwrap()[0].clone()
        };
        assert_eq!(
            of(json!({"metadata": {}})),
            json!({"op": "add", "path": "/metadata/annotations", "value": {"balancing.elf.io/serviceId": "7"}})
        );
        assert_eq!(
            of(json!({"metadata": {"annotations": {"a": "b"}}})),
            json!({"op": "add", "path": "/metadata/annotations/balancing.elf.io~1serviceId", "value": "7"})
        );
    }
}

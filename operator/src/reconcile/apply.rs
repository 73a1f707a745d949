//! Writes what follows from policies, pods and nodes: numbers and EndpointSlices. Client.

use std::collections::BTreeMap;

use balancing_api::{
    names::{ANNOTATION_NODE_ID, ANNOTATION_SERVICE_ID, API_VERSION},
    policy::{PolicyKind, PolicyRef},
    published::Published,
};
use k8s_openapi::{
    api::{
        core::v1::{Node, ObjectReference},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    objects::{self, Slice},
    owner::Owner,
    publish::SliceWrite,
};

/// Who makes these writes.
pub const FIELD_MANAGER: &str = "balancing-operator";
/// Label of objects that a controller manages, on EndpointSlices (Kubernetes).
pub const LABEL_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, as the value of that label.
pub const MANAGED_BY: &str = "balancing-operator";

/// The resource of a kind of policy.
#[must_use]
pub fn resource(kind: PolicyKind) -> ApiResource {
    let (group, version) = API_VERSION.split_once('/').unwrap_or_default();
    let plural = match kind {
        PolicyKind::LocalRedirectPolicy => "localredirectpolicies",
        PolicyKind::BalancingPolicy => "balancingpolicies",
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind.as_str()), plural)
}

/// The policies of a kind.
#[must_use]
pub fn policies(client: &Client, kind: PolicyKind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

/// Gives a policy its number, if it is still as it was seen.
///
/// # Errors
/// The API server does not take it.
pub async fn policy_id(
    client: &Client,
    policy: &PolicyRef,
    uid: &str,
    version: &str,
    id: u32,
) -> Result<String, kube::Error> {
    let patch = numbered(uid, version, ANNOTATION_SERVICE_ID, id);
    let written =
        policies(client, policy.kind).patch_metadata(&policy.name, &params(), &Patch::Merge(patch)).await?;
    Ok(written.metadata.resource_version.unwrap_or_default())
}

/// Gives a Node its number, if it is still as it was seen: somebody may have given it one meanwhile.
///
/// # Errors
/// The API server does not take it.
pub async fn node_id(
    client: &Client,
    node: &str,
    uid: &str,
    version: &str,
    id: u32,
) -> Result<String, kube::Error> {
    let patch = numbered(uid, version, ANNOTATION_NODE_ID, id);
    let nodes: Api<Node> = Api::all(client.clone());
    let written = nodes.patch_metadata(node, &params(), &Patch::Merge(patch)).await?;
    Ok(written.metadata.resource_version.unwrap_or_default())
}

/// A number in an annotation, if the object is still this one, and as it was seen.
fn numbered(uid: &str, version: &str, annotation: &str, id: u32) -> Value {
    let mut patch = json!({"metadata": {"uid": uid, "resourceVersion": version, "annotations": {}}});
    patch["metadata"]["annotations"][annotation] = json!(id.to_string());
    patch
}

/// Writes slices, in their order.
///
/// # Errors
/// The API server does not take one; those before it are written.
pub async fn slices(
    client: &Client,
    namespace: &str,
    owner: &Owner,
    writes: &[SliceWrite],
) -> Result<(), kube::Error> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    for write in writes {
        match write {
            SliceWrite::Apply(slice) => {
                let object = slice_object(namespace, owner, slice);
                api.patch(&slice.name, &params().force(), &Patch::Apply(object)).await?;
            }
            SliceWrite::Delete(name) => match api.delete(name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            },
        }
    }
    Ok(())
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER)
}

/// The object of a slice. A policy's goes with the policy, others with the operator.
#[must_use]
pub fn slice_object(namespace: &str, operator: &Owner, slice: &Slice) -> EndpointSlice {
    let labels = slice.published.iter().flat_map(Published::labels);
    let managed = [(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned())];
    let owner = match &slice.published {
        Some(Published::Backends { policy, uid }) => Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: policy.kind.as_str().to_owned(),
            name: policy.name.clone(),
            uid: uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        _ => operator.references(),
    };
    let port = |p: &objects::Port| EndpointPort {
        name: Some(format!("{}-{}", p.protocol.as_str().to_ascii_lowercase(), p.number)),
        port: Some(i32::from(p.number)),
        protocol: Some(p.protocol.as_str().to_owned()),
        app_protocol: None,
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(slice.name.clone()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels.chain(managed).collect::<BTreeMap<_, _>>()),
            owner_references: owner,
            ..ObjectMeta::default()
        },
        address_type: if slice.v4 { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: slice.endpoints.iter().map(endpoint).collect(),
        ports: Some(slice.ports.iter().map(port).collect()),
    }
}

fn endpoint(e: &objects::Endpoint) -> Endpoint {
    let pod = e.pod.as_deref().and_then(|pod| pod.split_once('/'));
    Endpoint {
        addresses: vec![e.address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(e.ready), ..EndpointConditions::default() }),
        node_name: e.node.as_deref().map(str::to_owned),
        target_ref: pod.map(|(namespace, name)| ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

//! From an object of the API server to its record, by the code that the folder of manifests uses.

use balancing_api::{
    manifest::decode_value,
    names::API_VERSION,
    policy::{PolicyKind, PolicyRef},
    records::{Converter, Name, Node, Object, ObjectKey, Policy},
    rules,
};
use k8s_openapi::api::{core::v1, discovery::v1 as discovery};
use serde_json::{Value, json};

use super::{item::Item, kinds::Kind};

/// What an object says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    /// Which object.
    pub key: ObjectKey,
    /// Its record, or why there is none. A policy that breaks a rule has a record that says so.
    pub what: Result<Object, String>,
    /// What was left out of the record because it makes no sense.
    pub remark: Option<String>,
}

/// Reads an object of that kind.
pub(super) fn read(kind: Kind, item: Item, converter: &mut Converter) -> Read {
    let key = key(kind, &item, converter);
    let mut remark = None;
    let what = match kind {
        Kind::Policies(kind) => Ok(Object::Policy(policy(kind, item.value).into())),
        _ if item.name().is_empty() => Err("metadata.name is missing".to_owned()),
        Kind::Node => node(&item.value, converter, &mut remark).map(|r| Object::Node(r.into())),
        Kind::Services => {
            record(&item.value, |s: v1::Service| converter.service(&s)).map(|r| Object::Service(r.into()))
        }
        Kind::Slices => record(&item.value, |s: discovery::EndpointSlice| converter.slice(&s))
            .map(|r| Object::Slice(r.into())),
        Kind::Pods => record(&item.value, |p: v1::Pod| converter.pod(&p)).map(|r| Object::Pod(r.into())),
    };
    Read { key, what, remark }
}

/// Which object it is.
pub(super) fn key(kind: Kind, item: &Item, converter: &mut Converter) -> ObjectKey {
    let mut name = || Name { namespace: converter.strings.text(item.namespace()), name: item.name().into() };
    match kind {
        Kind::Node => ObjectKey::Node(item.name().into()),
        Kind::Services => ObjectKey::Service(name()),
        Kind::Slices => ObjectKey::Slice(name()),
        Kind::Pods => ObjectKey::Pod(name()),
        Kind::Policies(kind) => ObjectKey::Policy(PolicyRef::new(kind, item.name())),
    }
}

fn record<T: serde::de::DeserializeOwned, R, E: std::fmt::Display>(
    value: &Value,
    convert: impl FnOnce(T) -> Result<R, E>,
) -> Result<R, String> {
    let object = decode_value::<T>(value).map_err(|e| e.to_string())?;
    convert(object).map_err(|e| e.to_string())
}

/// A slip in an annotation, which anybody may make, does not take the node from the agent.
fn node(value: &Value, converter: &mut Converter, remark: &mut Option<String>) -> Result<Node, String> {
    let mut node = decode_value::<v1::Node>(value).map_err(|e| e.to_string())?;
    let first = converter.node(&node);
    let Err(why) = &first else { return first.map_err(|e| e.to_string()) };
    node.metadata.annotations = None;
    let without = converter.node(&node).map_err(|e| e.to_string())?;
    *remark = Some(format!("{why}: its proxy addresses are ignored"));
    Ok(without)
}

fn policy(kind: PolicyKind, mut value: Value) -> Policy {
    // Lists need not repeat these in their items.
    if let Some(object) = value.as_object_mut() {
        object.entry("apiVersion").or_insert_with(|| json!(API_VERSION));
        object.entry("kind").or_insert_with(|| json!(kind.as_str()));
    }
    let checked = rules::check(&value);
    let blocking: Vec<String> =
        checked.findings.iter().filter(|f| f.blocks).map(ToString::to_string).collect();
    let metadata = &value["metadata"];
    let policy = match checked.policy {
        Some(policy) if blocking.is_empty() => Policy::valid(policy),
        _ => {
            let name = metadata["name"].as_str().unwrap_or_default();
            let generation = metadata["generation"].as_i64().unwrap_or_default();
            Policy::invalid(PolicyRef::new(kind, name), generation, &blocking.join("; "))
        }
    };
    policy.with_uid(metadata["uid"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(kind: Kind, value: Value) -> Read {
        read(kind, Item::new(value), &mut Converter::default())
    }

    #[test]
    fn a_field_of_the_wrong_type_is_told_with_its_place() {
        let slice = json!({"metadata": {"name": "web-1", "namespace": "team"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": 7}]});
        let read = read_json(Kind::Slices, slice);
        assert_eq!(read.key.to_string(), "EndpointSlice/team/web-1");
        let fault = read.what.unwrap_err();
        assert!(fault.starts_with("endpoints[1].addresses: invalid type: integer"), "{fault}");
        let address =
            json!({"metadata": {"name": "web", "namespace": "team"}, "spec": {"clusterIP": "127.0.0.1"}});
        let fault = read_json(Kind::Services, address).what.unwrap_err();
        assert_eq!(fault, "spec.clusterIP: 127.0.0.1 is a loopback address");
        assert_eq!(read_json(Kind::Pods, json!(null)).what.unwrap_err(), "metadata.name is missing");
    }

    #[test]
    fn fields_of_a_later_version_are_no_fault() {
        let pod = json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [], "later": {"x": 1}}});
        assert!(read_json(Kind::Pods, pod).what.is_ok());
    }

    #[test]
    fn a_slip_in_an_annotation_of_the_node_is_no_loss_of_the_node() {
        let node = |ip: &str| {
            json!({"metadata": {"name": "n1", "annotations": {"balancing.elf.io/nodeProxyIpv4": "one"}},
                   "status": {"addresses": [{"type": "InternalIP", "address": ip}]}})
        };
        let read = read_json(Kind::Node, node("192.0.2.1"));
        let Ok(Object::Node(found)) = read.what else { panic!("{read:?}") };
        assert_eq!((found.addresses.len(), found.proxies.len()), (1, 0));
        let remark = read.remark.unwrap();
        assert!(
            remark.contains("nodeProxyIpv4") && remark.ends_with("its proxy addresses are ignored"),
            "{remark}"
        );
        assert!(read_json(Kind::Node, node("here")).what.is_err());
    }

    #[test]
    fn policies_of_a_list_and_of_a_watch() {
        let kind = Kind::Policies(PolicyKind::LocalRedirectPolicy);
        let spec = json!({
            "frontend": {"addressMatcher": {"ip": "10.9.9.9", "toPorts": [{"port": "80", "protocol": "TCP"}]}},
            "backend": {"endpointSelector": {"matchLabels": {"app": "x"}}, "toPorts": [{"port": 8080, "protocol": "TCP"}]},
        });
        let bare = read_json(kind, json!({"metadata": {"name": "x"}, "spec": spec}));
        let named = json!({"apiVersion": API_VERSION, "kind": "LocalRedirectPolicy", "metadata": {"name": "x"}, "spec": spec});
        assert_eq!(bare, read_json(kind, named));
        let Ok(Object::Policy(policy)) = bare.what else { panic!("no policy") };
        assert!(policy.spec.is_ok(), "{:?}", policy.spec);

        let broken = read_json(kind, json!({"metadata": {"name": "x", "generation": 3}, "spec": 7}));
        let Ok(Object::Policy(policy)) = broken.what else { panic!("no policy") };
        assert_eq!(policy.generation, 3);
        assert!(policy.spec.as_ref().unwrap_err().contains("spec"), "{:?}", policy.spec);
    }
}

//! An object as the API server sends it, whatever it holds: nothing in it ends a list or a watch.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Resource,
    core::{ApiResource, DynamicResourceScope},
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// An object of any kind. A typed one would make a list fail whose hundredth item has a field of the wrong type.
#[derive(Clone, Debug, Default)]
pub(super) struct Item {
    /// All of it but `metadata.managedFields`.
    pub value: Value,
    /// Name, namespace, uid and resourceVersion, where they are texts.
    metadata: ObjectMeta,
}

impl Item {
    pub(super) fn new(mut value: Value) -> Self {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
        let text = |key: &str| value["metadata"][key].as_str().map(str::to_owned);
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Self { value, metadata }
    }

    /// `metadata.name`, empty where it is no text.
    pub(super) fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, empty where there is none.
    pub(super) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    pub(super) fn version(&self) -> Option<&str> {
        self.metadata.resource_version.as_deref()
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::new)
    }
}

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_manage_is_dropped_and_nothing_is_refused() {
        let item = Item::new(json!({"metadata": {
            "name": "x", "namespace": "team", "uid": "u", "resourceVersion": "7", "managedFields": [{"manager": "m"}]}}));
        assert_eq!((item.name(), item.namespace(), item.version()), ("x", "team", Some("7")));
        assert_eq!(item.value["metadata"].as_object().unwrap().len(), 4);
        for odd in [json!(null), json!([]), json!({"metadata": 3}), json!({"metadata": {"name": 7}})] {
            let item: Item = serde_json::from_value(odd.clone()).unwrap();
            assert_eq!((item.name(), &item.value), ("", &odd));
        }
    }
}

//! The endpoints of `default/kubernetes`: the last ones are kept where the API has none, since nobody could be asked
//! for others.

use std::{collections::BTreeMap, sync::Arc};

use balancing_api::records::{Name, Object, ObjectKey, Slice};

type Slices = BTreeMap<ObjectKey, Arc<Slice>>;

/// What the API says of them, and what is in force.
#[derive(Debug, Default)]
pub(super) struct ApiServerEndpoints {
    said: Slices,
    in_force: Slices,
}

fn concerns(slice: &Slice) -> bool {
    slice.service.as_ref().is_some_and(Name::is_api_server)
}

fn can_serve(slices: &Slices) -> bool {
    slices.values().flat_map(|slice| &slice.endpoints).any(|e| e.ready || e.serving)
}

impl ApiServerEndpoints {
    /// What is to change because of a change that the API tells.
    pub(super) fn change(
        &mut self,
        key: ObjectKey,
        object: Option<Object>,
    ) -> Vec<(ObjectKey, Option<Object>)> {
        let slice = match &object {
            Some(Object::Slice(slice)) if concerns(slice) => Some(Arc::clone(slice)),
            _ => None,
        };
        if slice.is_none() && !self.said.contains_key(&key) && !self.in_force.contains_key(&key) {
            return vec![(key, object)];
        }
        let another = slice.is_none().then_some(object).flatten();
        match slice {
            Some(slice) => self.said.insert(key.clone(), slice),
            None => self.said.remove(&key),
        };
        if can_serve(&self.in_force) && !can_serve(&self.said) {
            // A slice that now belongs to another Service cannot be kept beside it.
            return match another {
                Some(object) => {
                    self.in_force.remove(&key);
                    vec![(key, Some(object))]
                }
                None => Vec::new(),
            };
        }
        let before = std::mem::replace(&mut self.in_force, self.said.clone());
        let now = &self.in_force;
        let gone = before.keys().filter(|k| !now.contains_key(*k) && **k != key);
        let gone = gone.map(|k| (k.clone(), None));
        let set = now.iter().filter(|(k, slice)| before.get(*k) != Some(*slice));
        let set = set.map(|(k, slice)| (k.clone(), Some(Object::Slice(Arc::clone(slice)))));
        let mut changes: Vec<_> = gone.chain(set).collect();
        if !now.contains_key(&key) {
            changes.push((key, another));
        }
        changes
    }

    /// What is to say, if the last endpoints are kept.
    pub(super) fn note(&self) -> Option<String> {
        (can_serve(&self.in_force) && !can_serve(&self.said)).then(|| {
            "Service default/kubernetes has no endpoint in the API: the last ones stay in force".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use balancing_api::records::{Name, SliceEndpoint};

    use super::*;

    fn slice(name: &str, service: &str, addresses: &[u8]) -> Object {
        let endpoints = addresses.iter().map(|last| SliceEndpoint {
            address: std::net::Ipv4Addr::new(192, 0, 2, *last).into(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            pod: None,
            hints: None,
        });
        Object::Slice(Arc::new(Slice {
            name: Name::new("default", name),
            service: Some(Name::new("default", service)),
            published: None,
            ports: Vec::new(),
            endpoints: endpoints.collect(),
        }))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::Slice(Name::new("default", name))
    }

    fn set(to: &mut ApiServerEndpoints, object: &Object) -> Vec<(ObjectKey, Option<Object>)> {
        to.change(object.key(), Some(object.clone()))
    }

    #[test]
    fn the_last_endpoints_stay_until_there_are_others() {
        let mut known = ApiServerEndpoints::default();
        let (first, empty, second) =
            (slice("k", "kubernetes", &[1]), slice("k", "kubernetes", &[]), slice("k2", "kubernetes", &[2]));
        assert_eq!(set(&mut known, &empty), [(key("k"), Some(empty.clone()))], "nothing to keep yet");
        assert_eq!(set(&mut known, &first), [(key("k"), Some(first.clone()))]);
        assert_eq!(known.note(), None);
        assert_eq!(set(&mut known, &empty), []);
        assert!(known.note().unwrap().contains("default/kubernetes"));
        assert_eq!(known.change(key("k"), None), []);
        assert_eq!(set(&mut known, &second), [(key("k"), None), (key("k2"), Some(second.clone()))]);
        assert_eq!(known.note(), None);
    }

    #[test]
    fn of_several_slices_one_may_go() {
        let mut known = ApiServerEndpoints::default();
        let (v4, v6) = (slice("k4", "kubernetes", &[1]), slice("k6", "kubernetes", &[2]));
        set(&mut known, &v4);
        set(&mut known, &v6);
        assert_eq!(known.change(key("k6"), None), [(key("k6"), None)]);
        assert_eq!(known.change(key("k4"), None), []);
    }

    #[test]
    fn other_slices_pass() {
        let mut known = ApiServerEndpoints::default();
        let (other, api) = (slice("w", "web", &[]), slice("k", "kubernetes", &[1]));
        assert_eq!(set(&mut known, &other), [(key("w"), Some(other.clone()))]);
        assert_eq!(known.change(key("w"), None), [(key("w"), None)]);
        set(&mut known, &api);
        let moved = slice("k", "web", &[1]);
        assert_eq!(set(&mut known, &moved), [(key("k"), Some(moved.clone()))], "it is another Service's now");
    }
}

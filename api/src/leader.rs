//! What the EndpointSlice of the operator's leader says: where that replica listens, which pod it is, and by whom its
//! certificate is signed. Whoever dials the operator itself reads it: agents, and the plugin for single nodes.

use std::net::SocketAddr;

use serde_json::Value;

use crate::names::{ANNOTATION_CA, ANNOTATION_LEADS_SINCE, LABEL_LEADER};

/// Where the leader listens, and whom to trust there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its address, which is one of the cluster's network.
    pub address: SocketAddr,
    /// The name of its pod, where it says so.
    pub pod: Option<String>,
    /// The certificates, in PEM, of those who may have signed its own.
    pub authorities: String,
    /// Since when it leads, in its own words; empty where it does not say. Only a change of it means something.
    pub since: String,
}

impl Leader {
    /// What an EndpointSlice of the operator's namespace says; nothing where it is another one.
    #[must_use]
    pub fn of(slice: &Value) -> Option<Self> {
        let metadata = &slice["metadata"];
        metadata["labels"].get(LABEL_LEADER)?;
        let endpoint = &slice["endpoints"][0];
        let address = endpoint["addresses"][0].as_str()?.parse().ok()?;
        let port = u16::try_from(slice["ports"][0]["port"].as_u64()?).ok()?;
        let annotations = &metadata["annotations"];
        let authorities = annotations[ANNOTATION_CA].as_str()?.to_owned();
        let since = annotations[ANNOTATION_LEADS_SINCE].as_str().unwrap_or_default().to_owned();
        let target = Some(&endpoint["targetRef"]).filter(|t| t["kind"] == "Pod");
        let pod = target.and_then(|t| t["name"].as_str()).map(str::to_owned);
        Some(Self { address: SocketAddr::new(address, port), pod, authorities, since })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_leaders_slice_says_where_it_is() {
        let slice = json!({
            "metadata": {
                "name": "balancing-operator-leader",
                "labels": {"balancing.elf.io/leader": "true"}, "annotations": {"balancing.elf.io/ca": "PEM"},
            },
            "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "op-1"}}],
            "ports": [{"port": 5821}],
        });
        let leader = Leader::of(&slice).unwrap();
        assert_eq!(leader.address, "10.0.0.1:5821".parse().unwrap());
        assert_eq!((leader.authorities.as_str(), leader.pod.as_deref()), ("PEM", Some("op-1")));
        for missing in ["/metadata/labels", "/metadata/annotations", "/endpoints/0/addresses", "/ports"] {
            let mut other = slice.clone();
            *other.pointer_mut(missing).unwrap() = json!({});
            assert_eq!(Leader::of(&other), None, "{missing}");
        }
        let mut other = slice.clone();
        other["endpoints"][0]["targetRef"] = json!({"kind": "Node", "name": "n1"});
        assert_eq!(Leader::of(&other).unwrap().pod, None);
        // A leader that is back at the same place is another one to dial.
        let mut again = slice.clone();
        again["metadata"]["annotations"][ANNOTATION_LEADS_SINCE] = json!("2026-11-25T00:00:00Z");
        assert_ne!(Leader::of(&again).unwrap(), leader);
    }
}

//! Where the leading replica of the operator listens, and by whom its certificate is signed.

use std::net::SocketAddr;

use balancing_api::names::{ANNOTATION_CA, LABEL_LEADER};
use serde_json::Value;

/// Where the leader listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub address: SocketAddr,
    /// The certificates, in PEM, of those who may have signed its own.
    pub authorities: String,
}

impl Place {
    /// What an EndpointSlice of the operator's namespace says; nothing where it is another one.
    #[must_use]
    pub fn of(slice: &Value) -> Option<Self> {
        let metadata = &slice["metadata"];
        metadata["labels"].get(LABEL_LEADER)?;
        let address = slice["endpoints"][0]["addresses"][0].as_str()?.parse().ok()?;
        let port = u16::try_from(slice["ports"][0]["port"].as_u64()?).ok()?;
        let authorities = metadata["annotations"][ANNOTATION_CA].as_str()?.to_owned();
        Some(Self { address: SocketAddr::new(address, port), authorities })
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
            "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 5821}],
        });
        let place = Place::of(&slice).unwrap();
        assert_eq!(
            (place.address.to_string().as_str(), place.authorities.as_str()),
            ("10.0.0.1:5821", "PEM")
        );
        for missing in ["/metadata/labels", "/metadata/annotations", "/endpoints/0/addresses", "/ports"] {
            let mut other = slice.clone();
            *other.pointer_mut(missing).unwrap() = json!({});
            assert_eq!(Place::of(&other), None, "{missing}");
        }
    }
}

//! What the first objects need: new maps are made once they are known, and need not grow at once.

use std::{sync::mpsc, time::Duration};

use super::Message;
use crate::{
    kernel::Room,
    snapshot::{Object, ObjectChange},
};

/// How long new maps wait for the first objects. Without any they start small, and grow when those come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the first message, and says what its objects need. The message is still to be handled.
pub(super) fn objects(messages: &mpsc::Receiver<Message>) -> (Option<Message>, Room) {
    let first = messages.recv_timeout(PATIENCE).ok();
    let room = match &first {
        Some(Message::Batch(batch)) => room(&batch.changes),
        _ => Room::default(),
    };
    (first, room)
}

/// About what these objects need room for. What policies add is little, and comes by growing where it is not.
fn room(changes: &[ObjectChange]) -> Room {
    let (mut frontends, mut backends) = (0, 0);
    for object in changes.iter().filter_map(|change| change.object.as_ref()) {
        match object {
            Object::Service(service) => {
                frontends += (service.addresses.len() + service.external.len()) * service.ports.len();
            }
            Object::Slice(slice) if slice.service.is_some() => {
                backends += slice.endpoints.len() * slice.ports.len();
            }
            _ => {}
        }
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Room { frontends: count(frontends), backends: count(backends) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{snapshot::Converter, source::manifests};

    #[test]
    fn a_service_needs_its_addresses_times_its_ports() {
        let text = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIPs: [10.96.0.1, "fd00::1"]
  ports: [{name: a, port: 80}, {name: b, port: 81}, {name: c, port: 82}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: a, port: 8080}, {name: b, port: 8081}, {name: c, port: 8082}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: of-nobody}
addressType: IPv4
ports: [{name: a, port: 8080}]
endpoints: [{addresses: [10.0.0.1]}]
"#;
        let (objects, problems) = manifests::objects(text, &mut Converter::default());
        assert!(problems.is_empty(), "{problems:?}");
        let changes: Vec<ObjectChange> = objects.into_iter().map(ObjectChange::set).collect();
        assert_eq!(room(&changes), Room { frontends: 6, backends: 6 });
    }
}

//! The state of a replica in `GetStatus`: the part that every server has.

use eticket_base::instance::instance;
use eticket_proto::{operations::ReplicaStatus, time};

use crate::health::Health;

/// Returns identity, version, start and health of a server of this process. The caller adds what only its service has.
#[must_use]
pub fn of_server(service: &str, health: &Health) -> ReplicaStatus {
    let instance = instance();
    ReplicaStatus {
        service: service.to_owned(),
        instance_id: instance.id.clone(),
        version: instance.version.to_owned(),
        start_time: Some(time::to_proto(time::truncated(instance.start_time))),
        components: health.components(),
        ready: health.is_ready(),
        ..ReplicaStatus::default()
    }
}

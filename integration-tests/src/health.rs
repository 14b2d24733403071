//! The health of a server, as it reports it by `grpc.health.v1.Health`.

use tonic::Status;
pub use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::{
    Api,
    eventually::{SOON, eventually},
};

/// Returns the health of a service, such as `readiness`, at the address of a server.
///
/// # Errors
/// The status of the response; `NOT_FOUND` if the server has no such service.
pub async fn check(address: &str, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer: HealthCheckResponse = Api::at(address).call("grpc.health.v1.Health/Check", request).await?;
    Ok(answer.status())
}

/// Waits until the server at this address reports this health.
///
/// # Panics
/// If it does not do so soon.
pub async fn shows(address: &str, service: &str, expected: ServingStatus) {
    eventually(SOON, service, async || match check(address, service).await {
        Ok(status) if status == expected => Ok(()),
        seen => Err(seen),
    })
    .await;
}

//! Statuses for failures of a store or its writer, the same for every service.

use eticket_proto::error::ErrorReason;
use eticket_rpc_server::error::ApiError;
use eticket_store as store;
use tonic::Status;

use crate::batch;

/// Returns the status for a failed read.
pub fn store_status(error: store::Error) -> Status {
    match &error {
        store::Error::Unavailable(cause) => {
            tracing::warn!(error = %cause, "the store does not respond");
            ApiError::new(ErrorReason::StoreUnavailable).into()
        }
        store::Error::Data(_) => ApiError::internal(&error),
    }
}

/// Returns the status for a command that was not run or whose outcome is unknown.
pub fn batch_status(error: batch::Error) -> Status {
    match error {
        batch::Error::Unavailable => ApiError::new(ErrorReason::StoreUnavailable).into(),
        batch::Error::Failed(_) => ApiError::internal(&error),
        batch::Error::Expired => ApiError::new(ErrorReason::DeadlineExceeded).into(),
        batch::Error::Stopped => ApiError::new(ErrorReason::ShuttingDown).into(),
    }
}

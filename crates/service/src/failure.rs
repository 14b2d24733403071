//! What a caller is told when a store or its writer fails: the same for every service.

use eticket_proto::error::ErrorReason;
use eticket_rpc_server::error::ApiError;
use eticket_store as store;
use tonic::Status;

use crate::batch;

/// A read failed.
pub fn store_status(error: store::Error) -> Status {
    match &error {
        store::Error::Unavailable(cause) => {
            tracing::warn!(error = %cause, "the store does not answer");
            ApiError::new(ErrorReason::StoreUnavailable).into()
        }
        store::Error::Data(_) => ApiError::internal(&error),
    }
}

/// A command was not run, or its outcome is unknown.
pub fn batch_status(error: batch::Error) -> Status {
    match error {
        batch::Error::Unavailable => ApiError::new(ErrorReason::StoreUnavailable).into(),
        batch::Error::Failed(_) => ApiError::internal(&error),
        batch::Error::Expired => ApiError::new(ErrorReason::DeadlineExceeded).into(),
        batch::Error::Stopped => ApiError::new(ErrorReason::ShuttingDown).into(),
    }
}

//! Shared code of the integration tests: the real binaries under test, and clients like those of users.

#![expect(clippy::expect_used, reason = "helpers of tests: what they cannot do fails the test")]

pub mod aftermath;
pub mod api;
pub mod bench;
pub mod binary;
pub mod calendar;
pub mod caller;
pub mod convergence;
pub mod eventually;
pub mod grpc_web;
pub mod health;
pub mod mesh;
pub mod otlp;
pub mod outbox_model;
pub mod process;
pub mod proxy;
pub mod race;
pub mod raw;
pub mod redelivery;
pub mod rest;
pub mod rounds;
pub mod scenario;
pub mod simulation;
pub mod source;
pub mod storm;
pub mod stub;
pub mod tokens;
pub mod tour;

use eticket_store::EncodedResponse;

pub use api::{Api, Protocol};
pub use eventually::eventually;
pub use process::{Eticket, Exit};

/// Whether a retry got the stored response of the first attempt, and is marked as one.
pub(crate) fn is_replay(first: &EncodedResponse, retried: &EncodedResponse) -> bool {
    retried.replayed && (&first.type_name, &first.bytes) == (&retried.type_name, &retried.bytes)
}

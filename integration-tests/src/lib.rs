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
pub mod mesh;
pub mod process;
pub mod proxy;
pub mod race;
pub mod raw;
pub mod redelivery;
pub mod rest;
pub mod scenario;
pub mod simulation;
pub mod source;
pub mod storm;
pub mod stub;
pub mod tokens;
pub mod tour;

pub use api::{Api, Protocol};
pub use eventually::eventually;
pub use process::{Eticket, Exit};

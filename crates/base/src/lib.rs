//! What every other crate stands on: clock, tasks, log and metrics, exit codes, and the sections of the configuration that several
//! crates read.
//!
//! It knows no protocol: neither gRPC nor SQL nor NATS.

#![warn(missing_docs)]

pub mod clock;
pub mod config;
pub mod data;
pub mod error;
pub mod exit;
pub mod percent;
pub mod tasks;
pub mod telemetry;

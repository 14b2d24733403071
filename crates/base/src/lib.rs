//! The base of all other crates: clock, tasks, log, metrics, exit codes, and the shared sections of the configuration.
//!
//! It does not depend on gRPC, SQL or NATS.

#![warn(missing_docs)]

pub mod clock;
pub mod config;
pub mod credentials;
pub mod data;
pub mod doctor;
pub mod error;
pub mod exit;
pub mod in_process;
pub mod instance;
pub mod open_files;
pub mod percent;
pub mod tasks;
pub mod telemetry;
pub mod windows;

//! `main` of every binary: flags, configuration, data folder, servers, signals, exit code.
//!
//! This crate opens neither a store nor a bus: services pass functions for both, so the gateway links no driver.

#![warn(missing_docs)]

pub mod config;
pub mod context;
pub mod examination;
pub mod process;

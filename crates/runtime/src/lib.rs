//! `main` of every binary: flags, configuration, data folder, servers, signals, exit code.
//!
//! It opens neither store nor bus: a service brings both, so the gateway links no driver of either.

#![warn(missing_docs)]

pub mod config;
pub mod context;
pub mod process;

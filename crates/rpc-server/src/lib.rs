//! The gRPC server of every binary: the stack of layers, health, the admin endpoint, and the conversion of errors into
//! statuses.

#![warn(missing_docs)]

pub mod admin;
pub mod auth;
pub mod call;
pub mod config;
pub mod error;
pub mod health;
pub mod on_demand;
pub mod paging;
pub mod server;
pub mod status;

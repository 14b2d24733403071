//! What every service of eTicket stands on: configuration, server, health, store, bus, and the calls between services. No business
//! noun is in it.

#![warn(missing_docs)]

pub mod process;

pub mod config;
pub mod context;
pub mod data;
pub mod exit;

pub mod clock;
pub mod tasks;
pub mod telemetry;

pub mod admin;
pub mod auth;
pub mod call;
pub mod error;
pub mod failure;
pub mod health;
pub mod idempotency;
pub mod on_demand;
pub mod operations;
pub mod paging;
pub mod server;

pub mod client;

pub mod batch;
pub mod store;

pub mod audit;
pub mod background;
pub mod bus;
pub mod consumer;
pub mod relay;

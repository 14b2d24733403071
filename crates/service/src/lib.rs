//! What the services that write events have in common: group commit, outbox relay, consumer, comparison with other owners, operations,
//! and opening the store and the bus that the configuration names.

#![warn(missing_docs)]

pub mod audit;
mod background;
pub mod batch;
pub mod bus;
pub mod config;
pub mod consumer;
pub mod event;
pub mod failure;
pub mod idempotency;
pub mod operations;
pub mod relay;
pub mod responses;
pub mod store;
pub mod write_service;

//! Common parts of the services that write events: group commit, outbox relay, consumer, comparison with other owners,
//! operations, and opening the configured store and bus.

#![warn(missing_docs)]

pub mod audit;
mod background;
pub mod batch;
pub mod bus;
pub mod config;
pub mod consumer;
pub mod doctor;
pub mod event;
pub mod failure;
pub mod idempotency;
pub mod operations;
pub mod relay;
pub mod responses;
pub mod status;
pub mod store;
pub mod write_service;

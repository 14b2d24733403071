//! What drives the application: calls and events.

pub mod events;
pub mod fault;
pub mod grpc;

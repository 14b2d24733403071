//! Inbound adapters: gRPC calls and events.

pub mod events;
pub mod fault;
pub mod grpc;

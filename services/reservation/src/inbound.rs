//! Inbound adapters: gRPC calls and events.

pub mod events;
pub mod grpc;

//! Inbound adapters: gRPC calls, events and the policy file.

pub mod events;
pub mod grpc;
pub mod policy_watch;

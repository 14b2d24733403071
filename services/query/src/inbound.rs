//! What drives the view: calls of the contract, and messages of the stream.

pub mod events;
pub mod grpc;
pub mod operations;

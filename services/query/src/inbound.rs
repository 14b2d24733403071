//! Driving adapters of the view: the calls of the contract, and the messages of the stream.

pub mod events;
pub mod grpc;
pub mod operations;

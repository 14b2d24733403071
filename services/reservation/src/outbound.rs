//! What the application drives: the store, the bytes of its messages, and the ticket service.

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod messages;
pub mod postgres;
pub mod sqlite;
pub mod ticket_client;

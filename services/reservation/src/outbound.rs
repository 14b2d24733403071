//! Outbound adapters: the store, the encoding of messages, and the client of the ticket service.

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod messages;
pub mod postgres;
pub mod sqlite;
pub mod ticket_client;

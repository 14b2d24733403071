//! What the application drives: the store, the bytes of its messages, and the ticket service.

#[cfg(test)]
mod contract;
pub mod messages;
pub mod postgres;
pub mod sqlite;
pub mod ticket_client;

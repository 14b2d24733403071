//! What the application drives: the store, the bytes of its messages, and the ticket service.

pub mod messages;
pub mod sqlite;
pub mod ticket_client;

//! What the application drives: the store, and the bytes of its messages.

pub mod messages;
pub mod sqlite;

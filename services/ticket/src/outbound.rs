//! What the application drives: the store, and the bytes of its messages.

#[cfg(test)]
mod contract;
pub mod messages;
pub mod postgres;
pub mod sqlite;

//! What the application drives: the store, and the bytes of its messages.

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod messages;
pub mod postgres;
pub mod sqlite;

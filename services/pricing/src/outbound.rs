//! Outbound adapters: the store and the encoding of messages.

#[cfg(test)]
pub(crate) mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod messages;
pub mod postgres;
pub mod sqlite;

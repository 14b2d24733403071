//! Driven adapters: the stores of the view, and the client of the owners.

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod owners_client;
pub mod sqlite;

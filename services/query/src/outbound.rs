//! What the view is kept in, and whom it is compared with.

#[cfg(test)]
mod contract;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod owners_client;
pub mod sqlite;

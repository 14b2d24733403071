//! What the view is kept in, and whom it is compared with.

pub mod owners_client;
pub mod sqlite;

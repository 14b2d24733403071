//! What the view is kept in.

pub mod sqlite;

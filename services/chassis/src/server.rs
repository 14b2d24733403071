//! The one server of services and gateway.

pub mod deadline;
pub mod language;

pub use deadline::Deadline;

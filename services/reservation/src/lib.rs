//! The reservation service.
pub mod domain;
pub mod application;
pub mod convert;
pub mod inbound;
pub mod outbound;

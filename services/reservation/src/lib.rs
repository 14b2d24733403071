//! The reservation service.
pub mod domain;
pub mod application;
pub mod convert;
pub mod inbound { pub mod events; pub mod grpc; }
pub mod outbound { pub mod messages; pub mod sqlite; }

//! TLS of servers and clients: certificates, keys and authorities from PEM files.
//!
//! The files are read again every few seconds. New connections use the new contents; open connections keep what they
//! negotiated. Contents that are not valid together, such as a certificate without its key, are logged, and the
//! previous contents stay in force. The cryptography is aws-lc-rs, as in the rest of the workspace.

#![warn(missing_docs)]

mod client;
mod config;
mod files;
mod renewal;
mod server;
#[cfg(test)]
mod tests;
mod validity;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use client::{Connector, Pem};
pub use config::{ClientKeys, ClientTlsConfig, ServerTlsConfig};
pub use server::{Acceptor, ClientCertificate};
pub use validity::{CertificateFile, Purpose, Validity};
/// A connection that a server has accepted.
pub type ServerStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;
/// A connection that a client has opened.
pub type ClientStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Passed explicitly everywhere: a default of the process would be a global state that any crate may set.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

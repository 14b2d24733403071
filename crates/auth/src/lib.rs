//! Tokens of callers: signed JWTs (RFC 7519) of an identity provider, checked against its keys (JWKS, RFC 7517).
//!
//! A [`Verifier`] checks the signature, the issuer, the audience and the times of a token and returns its [`Claims`]. It
//! reads the keys from a file or a URL and follows their changes. [`development`] makes a key and tokens for trying, [`login`] one-time codes for such
//! tokens.

#![warn(missing_docs)]

mod cache;
pub mod config;
pub mod development;
mod keys;
pub mod login;
mod probe;
mod source;
#[cfg(test)]
mod tests;
mod verifier;

pub use keys::InvalidKeys;
pub use probe::probe;
pub use verifier::{Claims, LEEWAY, TokenError, Verifier};

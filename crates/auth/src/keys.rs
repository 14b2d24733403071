//! The public keys of an identity provider.

use std::path::Path;

use eticket_base::{config::regular_file, error::chain};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;

/// The most bytes of a JWKS document.
pub(crate) const MOST_BYTES: usize = 1 << 20;

/// A JWKS document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    /// The file cannot be read.
    #[error("expected a readable file of keys (JWKS): {0}")]
    File(#[source] std::io::Error),
    /// The URL does not return the document.
    #[error("cannot fetch the keys (JWKS): {0}")]
    Fetch(String),
    /// The text is not a JWKS document.
    #[error("expected a JSON object with the list \"keys\" (JWKS, RFC 7517): {0}")]
    Json(#[source] serde_json::Error),
    /// None of the keys can check a token.
    #[error("expected at least one public key for EdDSA (Ed25519), ES256 (P-256) or RS256 (RSA, 2048 bits or more)")]
    NoKey,
}

/// A public key and the only algorithm that it is used with.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

/// The keys of one document.
pub(crate) struct Keys(Vec<Key>);

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    pub(crate) fn from_file(path: &Path) -> Result<Self, InvalidKeys> {
        Self::parse(&regular_file::read(path).map_err(InvalidKeys::File)?)
    }

    /// Keys of unknown types and for other purposes are skipped, as RFC 7517 (section 5) demands.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, InvalidKeys> {
        let document: Document = serde_json::from_slice(document).map_err(InvalidKeys::Json)?;
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::from_json).collect();
        if keys.is_empty() { Err(InvalidKeys::NoKey) } else { Ok(Self(keys)) }
    }

    /// Returns the key for a token: the key with the id, or without an id the only key for the algorithm.
    pub(crate) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting =
            self.0.iter().filter(|key| key.algorithm == algorithm && (id.is_none() || key.id.as_deref() == id));
        let (first, second) = (fitting.next()?, fitting.next());
        (id.is_some() || second.is_none()).then_some(&first.decoding)
    }
}

impl Key {
    fn from_json(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            _ => return None,
        };
        let common = &jwk.common;
        let is_for_signatures =
            common.public_key_use.as_ref().is_none_or(|purpose| *purpose == PublicKeyUse::Signature);
        let fits = common.key_algorithm.is_none_or(|given| given == KeyAlgorithm::from(algorithm));
        if !is_for_signatures || !fits {
            return None;
        }
        match DecodingKey::from_jwk(&jwk) {
            Ok(decoding) => Some(Self { id: jwk.common.key_id.clone(), algorithm, decoding }),
            Err(error) => {
                tracing::warn!(kid = jwk.common.key_id, error = %chain(&error), "a key of the identity provider is invalid");
                None
            }
        }
    }
}

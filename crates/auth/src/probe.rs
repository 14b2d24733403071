//! Reads the keys of the identity provider once, for `doctor`.

use crate::{InvalidKeys, config::AuthConfig, keys::Keys, source::Reader};

/// Reads the keys from the file or the URL of `auth.jwks`, and checks that there is at least one for tokens.
///
/// # Errors
/// If a key of the section is not valid, or if the keys cannot be read.
pub async fn probe(config: &AuthConfig) -> Result<(), InvalidKeys> {
    let jwt = config.jwt().map_err(|error| InvalidKeys::Fetch(error.to_string()))?;
    Keys::parse(&Reader::new(jwt.source)?.read().await?).map(drop)
}

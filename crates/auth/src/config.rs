//! The configuration section `auth`.

use std::net::SocketAddr;

use eticket_base::config::Error;
use serde::{Deserialize, Serialize};

use crate::{keys::Keys, source::Source};

/// `auth.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthConfig {
    /// How callers are authenticated. Required unless the server listens on a loopback address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,
    /// Accepts `mode = off` on a network address, where every caller is then an admin.
    #[serde(default)]
    pub allow_off_anywhere: bool,
    /// File or URL of the identity provider's keys (JWKS). Required for `mode = jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The `iss` that tokens must have. Required for `mode = jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The `aud` that tokens must have, or one of several. Required for `mode = jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Whether methods that everyone may call accept calls without a token.
    #[serde(default)]
    pub anonymous_reads: bool,
}

/// `auth.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// No authentication: every caller is an admin.
    Off,
    /// Signed tokens (JWT).
    Jwt,
}

/// What tokens must contain, and where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JwtConfig {
    pub(crate) source: Source,
    pub(crate) issuer: String,
    pub(crate) audience: String,
}

impl AuthConfig {
    /// Sets the defaults of absent optional keys.
    pub fn resolve(&mut self) {
        self.mode.get_or_insert(AuthMode::Off);
    }

    /// Checks the section against the listen address, and reads the keys if they are in a file.
    ///
    /// # Errors
    /// If every caller from the network would be an admin without an explicit setting, or if a key of `mode = jwt` is missing or wrong.
    pub fn check(&self, listen: SocketAddr) -> Result<(), Error> {
        const KEY: &str = "auth.mode";
        match self.mode {
            Some(AuthMode::Jwt) => {
                if let Source::File(path) = self.jwt()?.source {
                    Keys::from_file(&path)
                        .map_err(|error| Error::new("auth.jwks", self.jwks.clone(), error.to_string()))?;
                }
                Ok(())
            }
            _ if self.jwks.is_some() || self.issuer.is_some() || self.audience.is_some() || self.anonymous_reads => {
                let key = match self {
                    Self { jwks: Some(_), .. } => "auth.jwks",
                    Self { issuer: Some(_), .. } => "auth.issuer",
                    Self { audience: Some(_), .. } => "auth.audience",
                    _ => "auth.anonymous_reads",
                };
                Err(Error::new(key, None, "has no effect without auth.mode = jwt; set the mode, or remove the key"))
            }
            _ if listen.ip().is_loopback() || (self.mode.is_some() && self.allow_off_anywhere) => Ok(()),
            Some(AuthMode::Off) => {
                let expected = format!(
                    "with off everyone who reaches {listen} is an admin; listen on a loopback address, or set \
                     auth.allow_off_anywhere = true"
                );
                Err(Error::new(KEY, Some("off".to_owned()), expected))
            }
            None => {
                let expected = format!("must be given when listening on {listen}, which is not a loopback address");
                Err(Error::missing(KEY, expected))
            }
        }
    }

    /// Returns whether callers must have tokens.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mode == Some(AuthMode::Jwt)
    }

    /// Returns the keys of `mode = jwt`.
    pub(crate) fn jwt(&self) -> Result<JwtConfig, Error> {
        let given = |key: &'static str, value: &Option<String>, expected: &str| {
            let value = value.clone().filter(|text| !text.trim().is_empty());
            value.ok_or_else(|| Error::missing(key, format!("with auth.mode = jwt {expected}")))
        };
        let jwks = given("auth.jwks", &self.jwks, "expected the file or the URL of the identity provider's keys")?;
        let source = jwks.parse().map_err(|expected| Error::new("auth.jwks", Some(jwks), expected))?;
        let issuer = given("auth.issuer", &self.issuer, "expected the issuer of tokens, their claim iss")?;
        let audience = given("auth.audience", &self.audience, "expected the audience of tokens, their claim aud")?;
        Ok(JwtConfig { source, issuer, audience })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(mode: Option<AuthMode>, allow_off_anywhere: bool, listen: &str) -> Result<(), Error> {
        AuthConfig { mode, allow_off_anywhere, ..AuthConfig::default() }.check(listen.parse().expect("an address"))
    }

    #[test]
    fn authentication_is_off_on_the_loopback_only() {
        for listen in ["127.0.0.1:1", "127.1.2.3:1", "[::1]:1"] {
            assert_eq!(auth(None, false, listen), Ok(()));
            assert_eq!(auth(Some(AuthMode::Off), false, listen), Ok(()));
        }
        for listen in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            let missing = auth(None, true, listen).expect_err("must be given");
            assert!(missing.to_string().starts_with("configuration: auth.mode is not set"), "{missing}");
            let refused = auth(Some(AuthMode::Off), false, listen).expect_err("refused");
            assert!(refused.to_string().contains("auth.allow_off_anywhere"), "{refused}");
            assert_eq!(auth(Some(AuthMode::Off), true, listen), Ok(()));
        }
    }

    #[test]
    fn tokens_need_keys_an_issuer_and_an_audience() {
        let listen = "0.0.0.0:1".parse().expect("an address");
        let whole = AuthConfig {
            mode: Some(AuthMode::Jwt),
            jwks: Some("https://id.example/jwks.json".to_owned()),
            issuer: Some("https://id.example".to_owned()),
            audience: Some("eticket".to_owned()),
            ..AuthConfig::default()
        };
        assert_eq!(whole.check(listen), Ok(()));
        type Change = fn(&mut AuthConfig);
        let cases: [(&str, Change); 6] = [
            ("auth.jwks", |auth| auth.jwks = None),
            ("auth.issuer", |auth| auth.issuer = Some("  ".to_owned())),
            ("auth.audience", |auth| auth.audience = None),
            ("auth.jwks", |auth| auth.jwks = Some("http://id.example/jwks.json".to_owned())),
            ("auth.jwks", |auth| auth.jwks = Some("no/such/file.json".to_owned())),
            ("auth.jwks", |auth| auth.mode = Some(AuthMode::Off)),
        ];
        for (key, change) in cases {
            let mut auth = whole.clone();
            change(&mut auth);
            assert_eq!(auth.check(listen).expect_err(key).key(), key);
        }
    }
}

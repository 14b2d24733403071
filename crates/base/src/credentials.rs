//! The credentials of a caller, passed on to the services that a call reaches.

use std::{env, fmt, io, path::Path};

use crate::config::regular_file;

/// The variable with the bearer token of a client.
pub const TOKEN_VARIABLE: &str = "ETICKET_TOKEN";

/// The value of the header `authorization`. Its `Debug` shows nothing, so that it cannot get into a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials(String);

impl Credentials {
    /// Wraps the value of the header.
    #[must_use]
    pub fn new(authorization: String) -> Self {
        Self(authorization)
    }

    /// Reads a bearer token from a file, or without one from the variable [`TOKEN_VARIABLE`]. Returns `None` if the
    /// variable is not set or empty.
    ///
    /// # Errors
    /// The text for the user if the file cannot be read, or if there is not exactly one token. It never contains a part
    /// of the token.
    pub fn read(file: Option<&Path>) -> Result<Option<Self>, String> {
        let (text, source) = match file {
            Some(path) => {
                let read = |error| format!("the file of --token-file, {}, cannot be read: {error}", path.display());
                let text = regular_file::read_once(path).and_then(|bytes| {
                    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
                });
                (text.map_err(read)?, format!("the file of --token-file, {},", path.display()))
            }
            None => match env::var(TOKEN_VARIABLE) {
                Ok(text) if !text.trim().is_empty() => (text, format!("the variable {TOKEN_VARIABLE}")),
                _ => return Ok(None),
            },
        };
        let mut words = text.split_whitespace();
        let token =
            words.next().filter(|token| words.next().is_none() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        let token = token.ok_or_else(|| format!("{source} does not contain exactly one token"))?;
        Ok(Some(Self(format!("Bearer {token}"))))
    }

    /// The bearer token (RFC 6750); `None` if the header has another scheme or no token. Do not log it.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.0.split_once(' ')?;
        let token = token.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
    }

    /// The value of the header. Do not log it.
    #[must_use]
    pub fn authorization(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Credentials::new("Bearer secret".to_owned())), "Credentials");
    }
}

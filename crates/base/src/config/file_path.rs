//! Deserializes paths: `#[serde(deserialize_with = "file_path::optional")]`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de::Error};

/// Deserializes an optional path. An empty path is refused, because it usually comes from an unset variable.
///
/// # Errors
/// Fails if the value is empty or not text.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(deserializer)?;
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(D::Error::custom("expected a path; omit the key for the default"))
        }
        path => Ok(path),
    }
}

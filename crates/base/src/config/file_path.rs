//! Paths in the configuration: `#[serde(deserialize_with = "file_path::optional")]`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, de::Error};

/// A path that may be left out, but not be empty: an empty one is most often a variable that nobody has set.
///
/// # Errors
/// If it is no text, or empty.
pub fn optional<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = Option::<PathBuf>::deserialize(deserializer)?;
    match path {
        Some(path) if path.as_os_str().is_empty() => {
            Err(D::Error::custom("expected a path; leave it out for the default"))
        }
        path => Ok(path),
    }
}

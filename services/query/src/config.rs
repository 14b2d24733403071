//! The configuration that only the query service has.

use eticket_chassis::config::{Error, within};
use serde::{Deserialize, Serialize};

/// The query service's own keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Calls that wait for the view.
    pub wait: Bound,
}

/// How many there may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bound {
    /// At once; more are refused with `SERVICE_OVERLOADED`.
    pub most: u64,
}

impl Config {
    /// What a type cannot say.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        within("wait.most", self.wait.most, 1, 1_000_000)
    }
}

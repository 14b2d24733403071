//! Why a process does not start, and with which code it ends then.

use std::{error::Error, process::ExitCode};

use crate::{config, error};

/// Ended by a second signal while it stopped: 128 + SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a service cannot start. The variants are the exit codes that people and scripts rely on, those of `sysexits.h` where it has one.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is wrong (78).
    #[error(transparent)]
    Config(#[from] config::Error),
    /// Something that it needs is not to be had: a port, the data folder, the store (69).
    #[error("{what}")]
    Unavailable {
        /// What, and what to do about it.
        what: String,
        /// What the system said.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A server that runs refused what an operator asked for (1).
    #[error("{0}")]
    Refused(String),
    /// Anything else (70).
    #[error("the service could not be built")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl StartError {
    /// The value of a key is wrong, or missing.
    #[must_use]
    pub fn config(key: impl Into<String>, value: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Config(config::Error::new(key, Some(value.into()), expected))
    }

    /// Something that the service needs is not to be had; `what` names it and says what to do.
    #[must_use]
    pub fn unavailable(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unavailable { what: what.into(), source: Some(source.into()) }
    }

    /// A fault that neither configuration nor environment explains.
    #[must_use]
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Failed(source.into())
    }

    /// The code that the process ends with.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            Self::Unavailable { .. } => 69,
            Self::Refused(_) => 1,
            Self::Failed(_) => 70,
        }
    }

    /// Tells a person on standard error, and ends with the code.
    #[must_use]
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", error::chain(self));
        ExitCode::from(self.code())
    }
}

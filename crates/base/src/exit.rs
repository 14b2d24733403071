//! Reasons why a process does not start, and its exit codes.

use std::{error::Error, io, iter, process::ExitCode};

use rustix::io::Errno;

use crate::{config, error, telemetry};

/// A second signal ended the process, a second or more after the first: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
/// A bug, or a shutdown that did not complete: `EX_SOFTWARE`.
pub const FAILED: u8 = 70;

/// Advice when no more files or connections can be opened.
const OPEN_FILES: &str =
    "the limit of open files is reached: raise it (ulimit -n, LimitNOFILE in systemd, nofile of a container)";

/// Whether an error is due to the limit of open files of this process or of the system.
fn is_out_of_descriptors(error: &(dyn Error + 'static)) -> bool {
    let mut causes = iter::successors(Some(error), |&error| error.source());
    let errno = causes.find_map(|error| error.downcast_ref::<io::Error>().and_then(Errno::from_io_error));
    errno.is_some_and(|errno| OUT_OF_DESCRIPTORS.contains(&errno))
}

const OUT_OF_DESCRIPTORS: [Errno; 2] = [Errno::MFILE, Errno::NFILE];

/// Advice when a server cannot listen.
pub fn advice_on_listening(error: &io::Error) -> &'static str {
    let known = [
        (Errno::ADDRINUSE, "another process uses this port; stop it or set another address"),
        (Errno::ADDRNOTAVAIL, "this machine does not have this address; set an address of this machine"),
        (Errno::AFNOSUPPORT, "this machine does not support this address family; set an address of another family"),
        (Errno::ACCESS, "permission denied; set a port of 1024 or above, or give the process CAP_NET_BIND_SERVICE"),
        (Errno::PERM, "not permitted; check the restrictions on this process, such as seccomp or a firewall"),
        (Errno::MFILE, "too many files are open"),
        (Errno::NFILE, "too many files are open"),
    ];
    let errno = Errno::from_io_error(error);
    let found = known.iter().find(|(known, _)| Some(*known) == errno);
    found.map_or("the system refuses to listen there", |(_, advice)| advice)
}

/// Why a service cannot start. Each variant has an exit code that people and scripts rely on, from `sysexits.h` where
/// it defines one.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is invalid (78).
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A resource is unavailable: a port, the data folder, the store (69).
    #[error("{what}")]
    Unavailable {
        /// The resource, and what to do about it.
        what: String,
        /// The error of the system or library.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
    /// A running server refused an admin command (1).
    #[error("{0}")]
    Refused(String),
    /// Any other error (70).
    #[error("the service could not be built")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
}

impl StartError {
    /// Creates the error of an invalid configuration value.
    #[must_use]
    pub fn config(key: impl Into<String>, value: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::Config(config::Error::new(key, Some(value.into()), expected))
    }

    /// Creates the error of an unavailable resource; `what` names it and says what to do.
    #[must_use]
    pub fn unavailable(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let (mut what, source) = (what.into(), source.into());
        if is_out_of_descriptors(&*source) {
            what = format!("{OPEN_FILES}; {what}");
        }
        Self::Unavailable { what, source: Some(source) }
    }

    /// Creates an error for a failure that neither configuration nor environment explains.
    #[must_use]
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        match is_out_of_descriptors(&*source) {
            true => Self::Unavailable { what: OPEN_FILES.to_owned(), source: Some(source) },
            false => Self::Failed(source),
        }
    }

    /// Combines several errors into one. The exit code is 69 if one of them is [`StartError::Unavailable`].
    #[must_use]
    pub fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() < 2 {
            return errors.pop();
        }
        let what = errors.iter().map(|error| error::chain(error)).collect::<Vec<_>>().join("; ");
        let unavailable = errors.iter().any(|error| matches!(error, Self::Unavailable { .. }));
        Some(if unavailable { Self::Unavailable { what, source: None } } else { Self::Refused(what) })
    }

    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            Self::Unavailable { .. } => 69,
            Self::Refused(_) => 1,
            Self::Failed(_) => FAILED,
        }
    }

    /// Writes the error to standard error and returns the exit code.
    #[must_use]
    pub fn report(&self, program: &str) -> ExitCode {
        telemetry::say(&format!("{program}: {}\n", error::chain(self)));
        ExitCode::from(self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_on_listening_depends_on_the_error() {
        let advice = |errno: Errno| advice_on_listening(&io::Error::from_raw_os_error(errno.raw_os_error()));
        for (errno, words) in [
            (Errno::ADDRINUSE, "another process"),
            (Errno::ADDRNOTAVAIL, "does not have this address"),
            (Errno::ACCESS, "1024"),
            (Errno::MFILE, "too many files"),
            (Errno::NFILE, "too many files"),
            (Errno::NOBUFS, "refuses"),
        ] {
            assert!(advice(errno).contains(words), "{errno}: {}", advice(errno));
        }
    }

    #[test]
    fn the_limit_of_open_files_is_found_behind_other_errors() {
        let outer = |errno: Errno| StartError::unavailable("it is unavailable", io::Error::from(errno));
        assert!(outer(Errno::MFILE).to_string().starts_with(OPEN_FILES));
        assert_eq!(outer(Errno::NOENT).to_string(), "it is unavailable");
        assert_eq!(StartError::failed(io::Error::from(Errno::MFILE)).code(), 69);
        assert_eq!(StartError::failed(io::Error::from(Errno::NOENT)).code(), 70);
    }

    #[test]
    fn several_errors_combine_into_the_code_of_the_most_severe() {
        let refused = |text: &str| StartError::Refused(text.to_owned());
        let gone = || StartError::Unavailable { what: "gone".to_owned(), source: None };
        assert!(StartError::all(Vec::new()).is_none());
        let one = StartError::all(vec![refused("a"), refused("b")]).expect("one");
        assert_eq!((one.code(), one.to_string()), (1, "a; b".to_owned()));
        assert_eq!(StartError::all(vec![refused("a"), gone()]).map(|error| error.code()), Some(69));
    }
}

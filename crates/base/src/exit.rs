//! Why a process does not start, and with which code it ends then.

use std::{error::Error, fs, io, process::ExitCode};

use rustix::{
    io::Errno,
    process::{Resource, getrlimit},
};

use crate::{config, error, telemetry};

/// Ended by another signal, a second or more after the first: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;
/// A fault of the program, or a stop that did not come to its end: `EX_SOFTWARE`.
pub const FAILED: u8 = 70;

/// What to do where no more files or connections can be opened.
const OPEN_FILES: &str =
    "the limit of open files is reached: raise it (ulimit -n; LimitNOFILE of systemd; nofile of a container)";

/// A process that has so few descriptors left has most likely failed for want of one.
const FEW: u64 = 16;

/// Whether something failed because this process, or the system, may open nothing more.
fn is_out_of_descriptors(error: &(dyn Error + 'static)) -> bool {
    let (mut cause, mut of_system) = (Some(error), None);
    while let (Some(error), None) = (cause, of_system) {
        of_system = error.downcast_ref::<io::Error>().and_then(Errno::from_io_error);
        cause = error.source();
    }
    match of_system {
        Some(errno) => OUT_OF_DESCRIPTORS.contains(&errno),
        // SQLite does not tell this from a file that is not there.
        None => fs::read_dir("/dev/fd").map_or_else(
            |error| Errno::from_io_error(&error).is_some_and(|errno| OUT_OF_DESCRIPTORS.contains(&errno)),
            |open| getrlimit(Resource::Nofile).current.is_some_and(|most| open.count() as u64 + FEW > most),
        ),
    }
}

const OUT_OF_DESCRIPTORS: [Errno; 2] = [Errno::MFILE, Errno::NFILE];

/// What to do where a server cannot listen.
pub fn advice_on_listening(error: &io::Error) -> &'static str {
    let known = [
        (Errno::ADDRINUSE, "another process has this port; stop it or set another address"),
        (Errno::ADDRNOTAVAIL, "this machine does not have this address; set one that it has"),
        (Errno::AFNOSUPPORT, "this machine does not have addresses of this kind; set one that it has"),
        (Errno::ACCESS, "it may not; set a port of 1024 or above, or give it CAP_NET_BIND_SERVICE"),
        (Errno::PERM, "it may not; look at what restricts this process"),
        (Errno::MFILE, "too many files are open"),
        (Errno::NFILE, "too many files are open"),
    ];
    let errno = Errno::from_io_error(error);
    let found = known.iter().find(|(known, _)| Some(*known) == errno);
    found.map_or("the system refuses it", |(_, advice)| advice)
}

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
        let (mut what, source) = (what.into(), source.into());
        if is_out_of_descriptors(&*source) {
            what = format!("{OPEN_FILES}; {what}");
        }
        Self::Unavailable { what, source: Some(source) }
    }

    /// A fault that neither configuration nor environment explains.
    #[must_use]
    pub fn failed(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        match is_out_of_descriptors(&*source) {
            true => Self::Unavailable { what: OPEN_FILES.to_owned(), source: Some(source) },
            false => Self::Failed(source),
        }
    }

    /// Several as one, if there are any: it ends with 69 where one of them does.
    #[must_use]
    pub fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() < 2 {
            return errors.pop();
        }
        let what = errors.iter().map(|error| error::chain(error)).collect::<Vec<_>>().join("; ");
        let unavailable = errors.iter().any(|error| matches!(error, Self::Unavailable { .. }));
        Some(if unavailable { Self::Unavailable { what, source: None } } else { Self::Refused(what) })
    }

    /// The code that the process ends with.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            Self::Unavailable { .. } => 69,
            Self::Refused(_) => 1,
            Self::Failed(_) => FAILED,
        }
    }

    /// Tells a person on standard error, and ends with the code.
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
    fn who_cannot_listen_is_told_what_to_do() {
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
    fn want_of_descriptors_is_seen_behind_other_errors() {
        let outer = |errno: Errno| StartError::unavailable("it is not to be had", io::Error::from(errno));
        assert!(outer(Errno::MFILE).to_string().starts_with(OPEN_FILES));
        assert_eq!(outer(Errno::NOENT).to_string(), "it is not to be had");
        assert_eq!(StartError::failed(io::Error::from(Errno::MFILE)).code(), 69);
        assert_eq!(StartError::failed(io::Error::from(Errno::NOENT)).code(), 70);
    }

    #[test]
    fn several_errors_end_with_the_code_of_the_gravest() {
        let refused = |text: &str| StartError::Refused(text.to_owned());
        let gone = || StartError::Unavailable { what: "gone".to_owned(), source: None };
        assert!(StartError::all(Vec::new()).is_none());
        let one = StartError::all(vec![refused("a"), refused("b")]).expect("one");
        assert_eq!((one.code(), one.to_string()), (1, "a; b".to_owned()));
        assert_eq!(StartError::all(vec![refused("a"), gone()]).map(|error| error.code()), Some(69));
    }
}

//! The limit of open files of this process: every connection and every file of a store counts.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::exit::StartError;

/// Fewest open files with which a process starts. All servers in one process have about 60 open before the first client
/// connects; the rest is for connections.
const FEWEST: u64 = 256;

/// Raises the soft limit of this process to its hard limit, and checks that it is at least 256.
///
/// Many systems have a soft limit of 1,024 for programs that call `select`, which this process does not.
///
/// # Errors
/// If the limit stays lower: what would fail, and when, would depend on the load.
pub fn raise_limit() -> Result<(), StartError> {
    let Rlimit { current: soft, maximum: hard } = getrlimit(Resource::Nofile);
    // Where the system refuses it, the soft limit counts.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    check(if raised.is_ok() { hard } else { soft })
}

/// Checks a limit; `None` stands for unlimited.
fn check(limit: Option<u64>) -> Result<(), StartError> {
    match limit {
        Some(limit) if limit < FEWEST => Err(StartError::Unavailable {
            what: format!(
                "the limit of open files is {limit}, and at least {FEWEST} are needed: raise it (ulimit -n, LimitNOFILE \
                 in systemd, nofile of a container)"
            ),
            source: None,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_an_error() {
        assert!(check(None).is_ok());
        assert!(check(Some(FEWEST)).is_ok());
        let error = check(Some(FEWEST - 1)).expect_err("it is too low");
        assert_eq!(error.code(), 69);
        assert!(error.to_string().contains("is 255, and at least 256"), "{error}");
    }
}

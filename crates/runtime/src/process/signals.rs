//! Handles signals on a thread with a separate runtime, so that the process ends even if the runtime of the servers is
//! blocked.

use std::{fs, thread, time::Duration};

use eticket_base::{
    exit::{FAILED, INTERRUPTED, StartError},
    telemetry,
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Signals within this time after the first are ignored: a terminal and a wrapper program may both send one.
const DEBOUNCE: Duration = Duration::from_secs(1);
/// Time that the servers may need in addition to the hard cap.
const MARGIN: Duration = Duration::from_secs(1);

/// The first SIGTERM, SIGINT or SIGHUP cancels the returned token. Another signal, a second or more later, ends the
/// process at once with exit code 130. A process that has not ended a second after the hard cap `cap` ends with exit
/// code 70.
pub(super) fn listen(cap: Duration) -> Result<CancellationToken, StartError> {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::failed)?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new()?
    };
    let follow = move || runtime.block_on(follow(signals, &stopping, cap));
    thread::Builder::new().name("signals".to_owned()).spawn(follow).map_err(StartError::failed)?;
    Ok(stop)
}

async fn follow(mut signals: Signals, stop: &CancellationToken, cap: Duration) {
    signals.next().await;
    stop.cancel();
    let first = Instant::now();
    loop {
        tokio::select! {
            () = signals.next() => {
                if first.elapsed() >= DEBOUNCE {
                    std::process::exit(INTERRUPTED.into());
                }
            }
            () = sleep_until(first + cap + MARGIN) => {
                tracing::error!(cap_ms = cap.as_millis() as u64, "ending the process: it did not stop within shutdown.hard_cap_ms");
                telemetry::flush_log();
                std::process::exit(FAILED.into());
            }
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if SIGHUP is ignored, as under `nohup`.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::failed);
        let hangup = if ignores_hangups() { None } else { Some(listen(SignalKind::hangup())?) };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())?, hangup })
    }

    async fn next(&mut self) {
        let Self { terminate, interrupt, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// Whether SIGHUP was ignored when the process started, as under `nohup`; then it stays ignored. Only Linux reports
/// this.
fn ignores_hangups() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    // The lowest bit of the mask is signal 1.
    ignored & (1 << (SignalKind::hangup().as_raw_value() - 1)) != 0
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    const CHILD: &str = "ETICKET_TEST_FROZEN";

    /// A process whose only runtime is blocked forever; the next test runs it.
    #[test]
    #[ignore = "the next test runs it"]
    fn a_process_with_a_frozen_runtime() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let stop = listen(Duration::from_millis(100)).expect("signals");
        println!("\nlistening");
        let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            stop.cancelled().await;
            loop {
                thread::park();
            }
        });
    }

    #[test]
    fn a_frozen_runtime_ends_at_the_hard_cap() {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "process::signals::tests::a_process_with_a_frozen_runtime", "--ignored", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert!(lines.any(|line| line.expect("read") == "listening"), "it ended early");
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("an id");
        kill_process(id, Signal::TERM).expect("signalled");
        assert_eq!(child.wait().expect("waited for").code(), Some(70));
    }
}

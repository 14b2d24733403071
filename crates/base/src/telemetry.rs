//! What a process tells of itself: its log on standard error, its metrics, and the traces that its calls belong to.

mod log_writer;
pub mod trace_context;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env::{self, VarError},
    io::{self, IsTerminal, Write},
    sync::OnceLock,
    time::Duration,
};

use chrono::{SecondsFormat, Utc};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, reload::Handle};

use self::log_writer::LogWriter;
pub use self::trace_context::TraceContext;
use crate::config::{self, LogConfig, LogFormat};

/// Upper bounds of the buckets of all histograms whose names end in `_seconds`: from a cached read to the default deadline.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Lines of the log that were dropped because nobody read them.
const DROPPED: &str = "eticket_log_lines_dropped_total";
/// How long the end of the process waits for the last lines of the log to be read.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log of this process, once it has begun.
static LOG: OnceLock<LogWriter> = OnceLock::new();
/// Sets the filter of the log. `None`: back to the one for the time after the start.
type SetFilter = Box<dyn Fn(Option<&str>) + Send + Sync>;
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Begins the log, once for a process: `log.level`, else `RUST_LOG`, else everything from info up. On a terminal, where
/// neither is given, it shows warnings only until [`has_started`].
///
/// # Errors
/// If `RUST_LOG` is no filter.
pub fn init_log(config: &LogConfig) -> Result<(), config::Error> {
    let format = format_of(config);
    let given = match &config.level {
        Some(level) => Some(directives(level)),
        None => rust_log()?,
    };
    let quiet = given.is_none() && io::stderr().is_terminal();
    let usual = given.unwrap_or_else(|| directives("info"));
    let notice = match format {
        LogFormat::Text => text_notice,
        LogFormat::Json => json_notice,
    };
    // Without a thread there is no log; serving goes on.
    let Ok(writer) = LogWriter::start(io::stderr(), log_writer::MOST_BYTES, notice) else { return Ok(()) };
    let first = EnvFilter::new(if quiet { directives("warn") } else { usual.clone() });
    let builder = tracing_subscriber::fmt().with_env_filter(first).with_writer(writer.clone());
    // Where a test or an embedding program has begun a log, that one stays.
    let begun = match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().is_ok().then(|| on_filter(move |filter| reload(&handle, filter.unwrap_or(&usual))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().is_ok().then(|| on_filter(move |filter| reload(&handle, filter.unwrap_or(&usual))))
        }
    };
    if begun.is_some() && LOG.set(writer).is_ok() {
        // The standard hook would write to standard error itself, and block where nobody reads.
        std::panic::set_hook(Box::new(|panic| {
            let trace = Backtrace::capture();
            match trace.status() {
                BacktraceStatus::Captured => tracing::error!("{panic}\n{trace}"),
                _ => tracing::error!("{panic}"),
            }
        }));
    }
    Ok(())
}

fn on_filter(set: impl Fn(Option<&str>) + Send + Sync + 'static) {
    SET_FILTER.set(Box::new(set)).ok();
}

fn reload<S>(handle: &Handle<EnvFilter, S>, filter: &str) {
    if let Err(error) = handle.reload(EnvFilter::new(filter)) {
        tracing::warn!(%error, "the filter of the log stays as it was");
    }
}

/// Everything answers: from now on the log shows what it usually does.
pub fn has_started() {
    if let Some(set) = SET_FILTER.get() {
        set(None);
    }
}

/// Changes what the log shows from now on, until the process ends: a level or a filter, as in `log.level`. Returns whether this process
/// has a log to change.
///
/// # Errors
/// If it is neither a level nor a filter.
pub fn set_log_level(level: &str) -> Result<bool, config::Error> {
    LogConfig { level: Some(level.to_owned()), ..LogConfig::default() }.check()?;
    let Some(set) = SET_FILTER.get() else { return Ok(false) };
    set(Some(&directives(level)));
    tracing::info!(level, "the level of the log has changed");
    Ok(true)
}

/// The format of the log: as configured, else text for a terminal and JSON for everything else.
pub fn format_of(log: &LogConfig) -> LogFormat {
    let usual = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    log.format.unwrap_or(usual)
}

/// Writes text for people to standard error, in its place among the lines of the log. Blocks only where no log has begun.
pub fn say(text: &str) {
    match LOG.get() {
        Some(log) => log.queue(text.as_bytes()),
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Gives the last lines of the log a moment to be read, before the process ends.
pub fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush(LAST_LINES);
    }
}

/// The filter for a `log.level`. A level alone is of eticket's own code where it is finer than info: the libraries below would
/// drown it.
fn directives(level: &str) -> String {
    // The client of NATS is silent: the bus tells what happens to its connection, and this one would tell it again, and each
    // attempt to connect.
    match level.to_ascii_lowercase().as_str() {
        fine @ ("debug" | "trace") => format!("info,eticket={fine},async_nats=off"),
        level @ ("off" | "error" | "warn" | "info") => format!("{level},async_nats=off"),
        _ => level.to_owned(),
    }
}

fn rust_log() -> Result<Option<String>, config::Error> {
    const KEY: &str = "RUST_LOG";
    let refuse = |value: String| {
        config::Error::new(
            KEY,
            Some(value),
            "expected a filter, as info,sqlx=debug; or leave it out, and set log.level",
        )
    };
    match env::var(KEY) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) if EnvFilter::builder().parse(&text).is_ok() => Ok(Some(text)),
        Ok(text) => Err(refuse(text)),
        Err(VarError::NotUnicode(text)) => Err(refuse(text.to_string_lossy().into_owned())),
        Err(VarError::NotPresent) => Ok(None),
    }
}

const DROPPED_TEXT: &str = "lines of the log were dropped here, because standard error was not read in time";

fn text_notice(lines: u64) -> String {
    let time = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    format!("{time}  WARN {}: {DROPPED_TEXT} lines={lines}\n", module_path!())
}

fn json_notice(lines: u64) -> String {
    let timestamp = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
    let target = module_path!();
    let line = serde_json::json!({
        "timestamp": timestamp, "level": "WARN", "message": DROPPED_TEXT, "lines": lines, "target": target,
    });
    format!("{line}\n")
}

/// The metrics of this process, recorded from the first call on; `None` if an embedding program records them elsewhere.
pub fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
        let handle = builder.and_then(PrometheusBuilder::install_recorder).ok();
        // It is there before the first line is dropped.
        metrics::counter!(DROPPED).increment(0);
        handle
    };
    HANDLE.get_or_init(install).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_of_our_own_code() {
        assert_eq!(directives("warn"), "warn,async_nats=off");
        assert_eq!(directives("DEBUG"), "info,eticket=debug,async_nats=off");
        assert_eq!(directives("info,sqlx=debug"), "info,sqlx=debug");
    }

    #[test]
    fn what_was_dropped_is_said_in_the_format_of_the_log() {
        let line: serde_json::Value = serde_json::from_str(&json_notice(7)).expect("JSON");
        assert_eq!((line["lines"].as_u64(), line["level"].as_str()), (Some(7), Some("WARN")));
        assert!(text_notice(7).ends_with("lines=7\n"), "{}", text_notice(7));
    }
}

//! The log on standard error, the metrics, and the trace context of calls.

mod log_writer;
pub mod spans;
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
pub use self::{
    spans::{Span, SpanKind},
    trace_context::TraceContext,
};
use crate::config::{self, LogConfig, LogFormat};

/// Upper bounds of the buckets of all histograms whose names end in `_seconds`: from a cached read to the default
/// deadline.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Log lines that were dropped because standard error was not read in time.
const DROPPED: &str = "eticket_log_lines_dropped_total";
/// How long the end of the process waits until the last log lines are written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// The log writer of this process, once [`init_log`] has run.
static LOG: OnceLock<LogWriter> = OnceLock::new();
/// Sets the filter of the log. `None` restores the configured filter.
type SetFilter = Box<dyn Fn(Option<&str>) + Send + Sync>;
static SET_FILTER: OnceLock<SetFilter> = OnceLock::new();

/// Starts the log; call it once per process. The filter is `log.level`, else `RUST_LOG`, else `info`. On a terminal
/// without either, only warnings are shown until [`has_started`].
///
/// # Errors
/// Fails if `RUST_LOG` is not a valid filter.
pub fn init_log(config: &LogConfig) -> Result<(), config::Error> {
    let format = format_of(config);
    let given = match &config.level {
        Some(level) => Some(directives(level)),
        None => rust_log()?,
    };
    let quiet = given.is_none() && io::stderr().is_terminal();
    let default = given.unwrap_or_else(|| directives("info"));
    let notice = match format {
        LogFormat::Text => text_notice,
        LogFormat::Json => json_notice,
    };
    // If the thread cannot be started, the process runs without a log.
    let Ok(writer) = LogWriter::start(io::stderr(), log_writer::MOST_BYTES, notice) else { return Ok(()) };
    let first = EnvFilter::new(if quiet { directives("warn") } else { default.clone() });
    let builder = tracing_subscriber::fmt().with_env_filter(first).with_writer(writer.clone());
    // If a test or an embedding program has installed a subscriber, that one stays.
    let begun = match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().is_ok().then(|| on_filter(move |filter| reload(&handle, filter.unwrap_or(&default))))
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            let handle = builder.reload_handle();
            builder.try_init().is_ok().then(|| on_filter(move |filter| reload(&handle, filter.unwrap_or(&default))))
        }
    };
    if begun.is_some() && LOG.set(writer).is_ok() {
        // The default hook would write to standard error itself, and block if nobody reads it.
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
        tracing::warn!(%error, "cannot change the log filter");
    }
}

/// Ends the quiet phase of the start: restores the configured filter. Call it when all servers are ready.
pub fn has_started() {
    if let Some(set) = SET_FILTER.get() {
        set(None);
    }
}

/// Changes the filter of the log until the process ends; `level` is a level or a filter, as in `log.level`. Returns
/// `false` if this process has no log.
///
/// # Errors
/// Fails if `level` is neither a level nor a filter.
pub fn set_log_level(level: &str) -> Result<bool, config::Error> {
    LogConfig { level: Some(level.to_owned()), ..LogConfig::default() }.check()?;
    let Some(set) = SET_FILTER.get() else { return Ok(false) };
    set(Some(&directives(level)));
    tracing::info!(level, "the log level has changed");
    Ok(true)
}

/// The format of the log: as configured, else text for a terminal and JSON for anything else.
pub fn format_of(log: &LogConfig) -> LogFormat {
    let default = if io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    log.format.unwrap_or(default)
}

/// Writes text for people to standard error, in order with the lines of the log. Blocks only if the log has not been
/// started.
pub fn say(text: &str) {
    match LOG.get() {
        Some(log) => log.queue(text.as_bytes()),
        None => drop(io::stderr().write_all(text.as_bytes())),
    }
}

/// Waits up to half a second until the queued log lines are written. Call it before the process ends.
pub fn flush_log() {
    if let Some(log) = LOG.get() {
        log.flush(LAST_LINES);
    }
}

/// The filter for a `log.level`. A level finer than `info` applies to the code of eTicket only; the libraries would
/// flood the log.
fn directives(level: &str) -> String {
    // The NATS client is silenced: the bus logs the events of its connection, and the client would log them again, with
    // each attempt to connect.
    match level.to_ascii_lowercase().as_str() {
        fine @ ("debug" | "trace") => format!("info,eticket={fine},async_nats=off"),
        level @ ("off" | "error" | "warn" | "info") => format!("{level},async_nats=off"),
        _ => level.to_owned(),
    }
}

fn rust_log() -> Result<Option<String>, config::Error> {
    const KEY: &str = "RUST_LOG";
    let refuse = |value: String| {
        config::Error::new(KEY, Some(value), "expected a filter such as info,sqlx=debug; or unset it and set log.level")
    };
    match env::var(KEY) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) if EnvFilter::builder().parse(&text).is_ok() => Ok(Some(text)),
        Ok(text) => Err(refuse(text)),
        Err(VarError::NotUnicode(text)) => Err(refuse(text.to_string_lossy().into_owned())),
        Err(VarError::NotPresent) => Ok(None),
    }
}

const DROPPED_TEXT: &str = "log lines were dropped here because standard error was not read in time";

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

/// Installs the recorder of metrics at the first call, and returns its handle; `None` if an embedding program has
/// installed another recorder.
pub fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
        let handle = builder.and_then(PrometheusBuilder::install_recorder).ok();
        // Registers the counter before the first line is dropped.
        metrics::counter!(DROPPED).increment(0);
        handle
    };
    HANDLE.get_or_init(install).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fine_level_applies_to_our_own_code_only() {
        assert_eq!(directives("warn"), "warn,async_nats=off");
        assert_eq!(directives("DEBUG"), "info,eticket=debug,async_nats=off");
        assert_eq!(directives("info,sqlx=debug"), "info,sqlx=debug");
    }

    #[test]
    fn the_notice_of_dropped_lines_has_the_format_of_the_log() {
        let line: serde_json::Value = serde_json::from_str(&json_notice(7)).expect("JSON");
        assert_eq!((line["lines"].as_u64(), line["level"].as_str()), (Some(7), Some("WARN")));
        assert!(text_notice(7).ends_with("lines=7\n"), "{}", text_notice(7));
    }
}

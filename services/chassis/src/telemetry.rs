//! What a process tells of itself: its log on standard error, its metrics, and the traces that its calls belong to.

pub mod trace_context;

use std::{io, sync::OnceLock};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

pub use self::trace_context::TraceContext;
use crate::config::LogFormat;

/// Upper bounds of the buckets of all histograms whose names end in `_seconds`: from a cached read to the default deadline.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Begins the log, once for a process; `RUST_LOG` says what of it, else everything from info up. The client of NATS is silent then:
/// the bus tells what happens to its connection, and this one would tell it again, and each attempt to connect.
pub fn init_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=off"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Where a test or an embedding program has begun a log, that one stays.
    match format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init().ok(),
        LogFormat::Json => builder.json().flatten_event(true).try_init().ok(),
    };
}

/// The metrics of this process, recorded from the first call on; `None` if an embedding program records them elsewhere.
pub fn metrics() -> Option<PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS);
        builder.and_then(PrometheusBuilder::install_recorder).ok()
    };
    HANDLE.get_or_init(install).clone()
}

//! Monitors the view: whether its store is available, the age of the oldest unsettled row (an alert for a reaction that
//! never arrives), and the lag of the reader.

use std::time::Duration;

use eticket_service::observe_store;
use tokio_util::sync::CancellationToken;

use super::{reader::Reader, rebuild::Rebuild};

/// Interval of the probes, well within the 10 s in which the health must show a change.
const PROBE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Monitor {
    pub reader: Reader,
    pub rebuild: Rebuild,
}

impl Monitor {
    /// Probes until `stopping` is cancelled.
    pub async fn run(self, stopping: CancellationToken) {
        let mut probes = tokio::time::interval(PROBE);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = probes.tick() => self.run_once().await,
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Runs one probe.
    pub async fn run_once(&self) {
        let Reader { store, health, clock, bus, .. } = &self.reader;
        // The file may be deleted at any time. The open file serves reads until the rows are built again, but accepts
        // no new rows.
        if store.is_gone().await {
            tracing::warn!("the file of the view was deleted; rebuilding it");
            self.rebuild.start();
        } else {
            let answer = store.ping().await;
            if let Err(error) = &answer {
                tracing::warn!(%error, "the store does not respond");
            }
            health.set_store(answer.is_ok());
        }
        observe_store("query", &**store).await;
        if let Ok(oldest) = store.oldest_unsettled().await {
            let age = oldest.map_or(0, |since| (clock.now() - since).num_milliseconds());
            metrics::gauge!("eticket_view_oldest_unsettled_seconds").set(age.max(0) as f64 / 1000.0);
        }
        if let (Ok(Some(position)), Ok(stream)) = (store.position().await, bus.state().await) {
            metrics::gauge!("eticket_view_position").set(position.sequence as f64);
            let lag = stream.last_sequence.saturating_sub(position.sequence);
            metrics::gauge!("eticket_view_lag_messages").set(lag as f64);
        }
    }
}

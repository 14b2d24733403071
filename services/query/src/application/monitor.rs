//! Monitors the view: whether its store is available, the age of the oldest unsettled row (an alert for a reaction that
//! never arrives), and the lag of the reader.

use std::time::Duration;

use eticket_bus::Error;
use eticket_service::status::Observed;
use tokio_util::sync::CancellationToken;

use super::{reader::Reader, rebuild::Rebuild};

/// Interval of the probes, well within the 10 s in which the health must show a change.
const PROBE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Monitor {
    pub reader: Reader,
    pub rebuild: Rebuild,
    /// Where the observations go.
    pub observed: Observed,
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
        let Reader { store, health, clock, .. } = &self.reader;
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
        self.observed.store(&**store).await;
        if let Ok(oldest) = store.oldest_unsettled().await {
            let age = oldest.map_or(0, |since| (clock.now() - since).num_milliseconds());
            metrics::gauge!("eticket_view_oldest_unsettled_seconds").set(age.max(0) as f64 / 1000.0);
        }
        if let Some(lag) = self.observed.lag(self.lag()).await {
            metrics::gauge!("eticket_view_lag_messages").set(lag as f64);
        }
    }

    /// Returns the number of sequences between the position of the view and the end of the stream; `None` if the store
    /// does not respond.
    async fn lag(&self) -> Result<Option<u64>, Error> {
        let Ok(position) = self.reader.store.position().await else { return Ok(None) };
        let stream = self.reader.bus.state().await?;
        // A position in another stream means nothing here: the view reads this one from its start.
        let read = position.filter(|position| position.epoch == stream.epoch).map_or(0, |position| position.sequence);
        metrics::gauge!("eticket_view_position").set(read as f64);
        Ok(Some(stream.last_sequence.saturating_sub(read)))
    }
}

//! The state of a service that its background tasks observe every two seconds. Metrics and `GetStatus` both take it
//! from here, so they agree, and `GetStatus` responds while the store and the bus do not.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use eticket_bus as bus;
use eticket_proto::{
    operations::{ConsumerStatus, GetStatusResponse, OutboxStatus, ReplicaStatus},
    time,
};
use eticket_rpc_client::breaker::BreakerLayer;
use eticket_rpc_server::{health::Health, status};
use eticket_store::{ParkedStore, StoreLifecycle};
use tokio::time::timeout;

/// Maximum time to wait for the bus, whose own timeouts are longer than the interval of the observations.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last observations of one service. Clones share them. A value is `None` while its source does not respond; its
/// metric keeps the last value.
#[derive(Debug, Clone)]
pub struct Observed {
    service: &'static str,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Latest {
    outbox: Option<Outbox>,
    parked: Option<i64>,
    lag: Option<u64>,
}

/// The events that wait for publication.
#[derive(Debug, Clone, Copy)]
pub struct Outbox {
    /// How many wait.
    pub waiting: i64,
    /// When the one that has waited longest was committed; `None` if none waits.
    pub oldest: Option<DateTime<Utc>>,
}

impl Observed {
    /// Creates the observations of a service, without values.
    #[must_use]
    pub fn new(service: &'static str) -> Self {
        Self { service, latest: Arc::default() }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outbox; `None` if the store does not respond.
    pub fn outbox(&self, outbox: Option<Outbox>, now: DateTime<Utc>) {
        self.latest().outbox = outbox;
        let Some(Outbox { waiting, oldest }) = outbox else { return };
        metrics::gauge!("eticket_outbox_rows", "service" => self.service).set(waiting as f64);
        let age = oldest.map_or(0, |oldest| (now - oldest).num_milliseconds());
        metrics::gauge!("eticket_outbox_oldest_seconds", "service" => self.service).set(age.max(0) as f64 / 1000.0);
    }

    /// Observes how many messages are parked and how the connections of a store are used.
    pub async fn store<S: ParkedStore + StoreLifecycle + ?Sized>(&self, store: &S) {
        let parked = store.parked_count().await.ok();
        self.latest().parked = parked;
        if let Some(parked) = parked {
            metrics::gauge!("eticket_events_parked", "consumer" => self.service).set(parked as f64);
        }
        let name = self.service;
        for pool in store.pools().await {
            for (state, count) in [("used", pool.used), ("idle", pool.idle)] {
                metrics::gauge!("eticket_store_connections", "service" => name, "pool" => pool.name, "state" => state)
                    .set(count as f64);
            }
        }
    }

    /// Observes the lag of the consumer that `read` reads from the bus; `None` if there is no consumer. Returns the lag
    /// if the bus has responded.
    pub async fn lag(&self, read: impl Future<Output = Result<Option<u64>, bus::Error>>) -> Option<u64> {
        let lag = timeout(PATIENCE, read).await.ok().and_then(Result::ok).flatten();
        self.latest().lag = lag;
        if let Some(lag) = lag {
            metrics::gauge!("eticket_consumer_lag_events", "consumer" => self.service).set(lag as f64);
        }
        lag
    }
}

/// Answers `GetStatus` of one service.
#[derive(Debug, Clone)]
pub struct Reporter {
    /// The health of the server.
    pub health: Health,
    /// The observations of the service.
    pub observed: Observed,
    /// The breakers of its clients.
    pub breakers: Vec<BreakerLayer>,
}

impl Reporter {
    /// Returns the state of this replica. It reads neither the store nor the bus.
    #[must_use]
    pub fn status(&self) -> GetStatusResponse {
        let service = self.observed.service;
        let Latest { outbox, parked, lag } = *self.observed.latest();
        let consumer = ConsumerStatus {
            name: service.to_owned(),
            lag_event_count: lag.map(|lag| i64::try_from(lag).unwrap_or(i64::MAX)),
        };
        let replica = ReplicaStatus {
            breakers: self.breakers.iter().map(BreakerLayer::status).collect(),
            outbox: outbox.map(|outbox| OutboxStatus {
                waiting_event_count: outbox.waiting,
                oldest_event_time: outbox.oldest.map(time::to_proto),
            }),
            consumers: vec![consumer],
            parked_event_count: parked,
            ..status::of_server(service, &self.health)
        };
        GetStatusResponse { replicas: vec![replica] }
    }
}

#[cfg(test)]
mod tests;

//! What runs behind the calls of a service that writes: the consumer, the one writer, the relay, and looking after the store.
//! Starts them together, and stops them in the order in which none is left waiting for another.

use std::{sync::Arc, time::Duration};

use eticket_base::{clock::SharedClock, tasks::Tasks};
use eticket_bus::Bus;
use eticket_rpc_server::health::Health;
use eticket_store::Housekeeping;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{AppliedEvents, Comparer, Owner, Responder},
    consumer::{Consumer, EventHandler},
    relay::Relay,
};

/// How often the store is asked whether it answers: well within the 10 s in which a change must show.
const PROBE: Duration = Duration::from_secs(2);
/// Records are purged every so many probes.
const PURGE_EVERY: u32 = 30;
/// Records of a service that is not told otherwise: twice what the contract promises, for clients that retry late.
const RECORDS_KEPT: Duration = Duration::from_secs(48 * 60 * 60);

/// The background of one service. Tasks are in groups because they end one group after another.
#[derive(Clone)]
pub struct Background {
    service: &'static str,
    store: Arc<dyn Housekeeping>,
    health: Health,
    clock: SharedClock,
    records_kept: Duration,
    intake: Tasks,
    writer: Tasks,
    relay: Tasks,
}

impl Background {
    /// Nothing runs yet.
    pub fn new(service: &'static str, store: Arc<dyn Housekeeping>, health: Health, clock: SharedClock) -> Self {
        let (intake, writer, relay) = (Tasks::new(), Tasks::new(), Tasks::new());
        Self { service, store, health, clock, records_kept: RECORDS_KEPT, intake, writer, relay }
    }

    /// Keeps the records of commands for so long.
    #[must_use]
    pub fn keeping_records(mut self, time: Duration) -> Self {
        self.records_kept = time;
        self
    }

    /// For the writer: it ends after everything that submits to it, and before the relay.
    pub fn writer_tasks(&self) -> &Tasks {
        &self.writer
    }

    /// For what submits to the writer by itself, as a sweeper does.
    pub fn intake_tasks(&self) -> &Tasks {
        &self.intake
    }

    /// Answers those that keep this service's states, and compares what it keeps itself with its owners.
    pub fn audit<T: EventHandler>(&self, owner: Arc<dyn Owner>, comparer: Comparer, handler: Arc<T>) {
        let (bus, store) = (comparer.bus.clone(), self.store.clone());
        let responder = Responder { service: self.service, bus, owner, store: store.clone() };
        self.intake.spawn("audit-responder", responder.run(self.intake.stopping()));
        let replica = Arc::new(AppliedEvents { handler, store });
        self.intake.spawn("audit-comparer", comparer.run(replica, self.intake.stopping()));
    }

    /// Starts taking events in, sending them, and looking after the store. `outbox_written` wakes the relay.
    pub fn start<T: EventHandler>(
        &self,
        bus: Arc<dyn Bus>,
        outbox_written: Arc<Notify>,
        handler: Arc<T>,
        filters: &'static [&'static str],
    ) {
        let consumer = Consumer {
            name: self.service,
            filters,
            bus: bus.clone(),
            store: self.store.clone(),
            handler,
            clock: self.clock.clone(),
            health: self.health.clone(),
        };
        self.intake.spawn("consumer", consumer.run(self.intake.stopping()));
        let relay = Relay::new(self.service, bus, self.store.clone(), outbox_written, self.health.clone());
        self.relay.spawn("relay", relay.run(self.relay.stopping()));
        self.intake.spawn("housekeeper", self.clone().keep_house(self.intake.stopping()));
    }

    /// Consumers stop after their batch, what waits is written, the relay sends what it can, the store closes.
    pub async fn stop(self) {
        self.intake.stop().await;
        self.writer.stop().await;
        self.relay.stop().await;
        self.store.close().await;
    }

    async fn keep_house(self, stopping: CancellationToken) {
        let mut probes = tokio::time::interval(PROBE);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0u32.. {
            tokio::select! {
                _ = probes.tick() => {}
                () = stopping.cancelled() => return,
            }
            self.probe().await;
            if round % PURGE_EVERY == 0 {
                self.purge().await;
            }
        }
    }

    async fn probe(&self) {
        let answer = self.store.ping().await;
        if let Err(error) = &answer {
            tracing::warn!(service = self.service, error = %error, "the store does not answer");
        }
        self.health.set_store(answer.is_ok());
        if let Ok(depth) = self.store.outbox_depth().await {
            metrics::gauge!("eticket_outbox_rows", "service" => self.service).set(depth as f64);
        }
    }

    async fn purge(&self) {
        let Ok(kept) = chrono::TimeDelta::from_std(self.records_kept) else { return };
        if let Err(error) = self.store.purge_records(self.clock.now() - kept).await {
            tracing::warn!(service = self.service, error = %error, "old records are not purged");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, TimeDelta};
    use eticket_base::clock::ManualClock;
    use eticket_store::{
        Commit, Error, Idempotency, RequestIdReused, Work,
        memory::{Store, Tables},
    };
    use uuid::Uuid;

    use super::*;

    /// A service without rows of its own.
    #[derive(Default, Clone)]
    struct Nothing;

    impl Tables for Nothing {
        type Keys = ();
        type Rows = ();

        fn locks(&self, (): &()) -> BTreeSet<String> {
            BTreeSet::new()
        }

        fn read(&self, (): &()) {}

        fn write(&mut self, (): &()) -> Result<(), Error> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn records_are_purged_when_their_time_is_over() {
        for (background, hours) in [(None, 48), (Some(24), 24), (Some(72), 72)] {
            let clock = Arc::new(ManualClock::new(DateTime::from_timestamp(1_000, 0).expect("a time")));
            let store = Store::<Nothing>::new(clock.clone());
            let request = Idempotency { request_id: Uuid::from_u128(1), hash: [1; 32] };
            let command = &mut |work: &mut Work<()>| {
                work.run::<RequestIdReused>(Some(request), |_| Ok(vec![7])).expect("a first one");
            };
            store.commit(&(), &[request.request_id], command).await.expect("committed");
            let health = Health::new([""; 0]);
            let kept: Option<u64> = background;
            let mut background = Background::new("test", Arc::new(store.clone()), health, clock.clone());
            if let Some(hours) = kept {
                background = background.keeping_records(Duration::from_secs(hours * 3_600));
            }
            let is_kept = async || store.record(request.request_id).await.expect("read").is_some();
            clock.advance(TimeDelta::hours(hours));
            background.purge().await;
            assert!(is_kept().await, "{hours} h are not over");
            clock.advance(TimeDelta::seconds(1));
            background.purge().await;
            assert!(!is_kept().await, "{hours} h are over");
        }
    }
}

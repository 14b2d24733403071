//! Background tasks of a service that writes: the consumer, the writer, the relay, the comparison with other owners,
//! and the maintenance of the store. They start together, and stop in an order in which no task depends on one that has
//! already ended.

use std::{sync::Arc, time::Duration};

use eticket_base::{clock::SharedClock, tasks::Tasks};
use eticket_bus::Bus;
use eticket_rpc_server::health::Health;
use eticket_store::{Error as StoreError, Housekeeping};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::{AppliedEvents, Comparer, Owner, Responder},
    config::AuditConfig,
    consumer::{Consumer, EventHandler},
    event,
    relay::Relay,
    status::{Observed, Outbox},
};

/// Interval between pings of the store. The health must show a change within 10 s.
const PROBE: Duration = Duration::from_secs(2);
/// Number of probes between two purges of command records.
const PURGE_EVERY: u32 = 30;
/// Default retention of command records: twice what the contract promises, for clients that retry late.
const RECORDS_KEPT: Duration = Duration::from_secs(48 * 60 * 60);

/// The background tasks of one service, in three groups that end one after another.
#[derive(Clone)]
pub(crate) struct Background {
    pub(crate) name: &'static str,
    pub(crate) store: Arc<dyn Housekeeping>,
    pub(crate) health: Health,
    pub(crate) clock: SharedClock,
    pub(crate) observed: Observed,
    /// Age at which command records are deleted.
    pub(crate) records_kept: Duration,
    /// Tasks that submit commands to the writer on their own, such as the consumer or a sweeper. This group ends first.
    pub(crate) intake: Tasks,
    /// The writer. It ends after all tasks that submit to it, and before the relay.
    pub(crate) writer: Tasks,
    relay: Tasks,
}

impl Background {
    /// Creates the groups without starting any task.
    pub(crate) fn new(name: &'static str, store: Arc<dyn Housekeeping>, health: Health, clock: SharedClock) -> Self {
        let (intake, writer, relay) = (Tasks::new(), Tasks::new(), Tasks::new());
        let observed = Observed::new(name);
        Self { name, store, health, clock, observed, records_kept: RECORDS_KEPT, intake, writer, relay }
    }

    /// Starts the responder, which serves the services that keep states of this one, and the comparer, which checks the
    /// states of `others` that this service keeps.
    pub(crate) fn audit<H: EventHandler>(
        &self,
        bus: &Arc<dyn Bus>,
        owner: Arc<dyn Owner>,
        handler: Arc<H>,
        others: &'static [&'static str],
        config: AuditConfig,
    ) {
        let responder = Responder { service: self.name, bus: bus.clone(), owner, store: self.store.clone() };
        self.intake.spawn("audit-responder", responder.run(self.intake.stopping()));
        let comparer = Comparer { service: self.name, owners: others, bus: bus.clone(), config };
        let replica = Arc::new(AppliedEvents { handler, store: self.store.clone() });
        self.intake.spawn("audit-comparer", comparer.run(replica, self.intake.stopping()));
    }

    /// Starts the consumer, the relay and the maintenance of the store. `outbox_written` wakes the relay.
    pub(crate) fn start<H: EventHandler>(
        &self,
        bus: Arc<dyn Bus>,
        outbox_written: Arc<Notify>,
        handler: Arc<H>,
        owner: Arc<dyn Owner>,
    ) {
        let consumer = Consumer {
            name: self.name,
            bus: bus.clone(),
            store: self.store.clone(),
            handler,
            owner,
            clock: self.clock.clone(),
            health: self.health.clone(),
        };
        self.intake.spawn("consumer", consumer.run(self.intake.stopping()));
        let relay = Relay::new(self.name, bus.clone(), self.store.clone(), outbox_written, self.health.clone());
        self.relay.spawn("relay", relay.run(self.relay.stopping()));
        self.intake.spawn("housekeeper", self.clone().keep_house(bus, self.intake.stopping()));
    }

    /// Stops all tasks: the consumer finishes its batch, the writer commits all submitted commands, the relay sends as
    /// many rows as it can, and the store is closed.
    pub(crate) async fn stop(self) {
        self.intake.stop().await;
        self.writer.stop().await;
        self.relay.stop().await;
        self.store.close().await;
    }

    async fn keep_house(self, bus: Arc<dyn Bus>, stopping: CancellationToken) {
        let mut probes = tokio::time::interval(PROBE);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for round in 0u32.. {
            tokio::select! {
                _ = probes.tick() => {}
                () = stopping.cancelled() => return,
            }
            tokio::join!(self.probe(), self.observed.lag(bus.lag(self.name)));
            if round % PURGE_EVERY == 0 {
                self.purge().await;
            }
        }
    }

    pub(crate) async fn probe(&self) {
        let answer = self.store.ping().await;
        if let Err(error) = &answer {
            tracing::warn!(service = self.name, error = %error, "the store does not respond");
        }
        self.health.set_store(answer.is_ok());
        self.observed.outbox(self.outbox().await.ok(), self.clock.now());
        self.observed.store(&*self.store).await;
    }

    async fn outbox(&self) -> Result<Outbox, StoreError> {
        let waiting = self.store.outbox_depth().await?;
        let oldest = self.store.oldest_waiting().await?;
        Ok(Outbox { waiting, oldest: oldest.as_ref().and_then(event::time) })
    }

    async fn purge(&self) {
        let Ok(kept) = chrono::TimeDelta::from_std(self.records_kept) else { return };
        if let Err(error) = self.store.purge_records(self.clock.now() - kept).await {
            tracing::warn!(service = self.name, error = %error, "old command records were not purged");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, TimeDelta};
    use eticket_base::clock::ManualClock;
    use eticket_store::{
        Commit, EncodedResponse, Error, Idempotency, RecordStore, RequestIdReused, Work,
        memory::{Store, Tables},
    };
    use uuid::Uuid;

    use super::*;

    /// A service without tables.
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
    async fn records_are_purged_after_their_retention() {
        for (background, hours) in [(None, 48), (Some(24), 24), (Some(72), 72)] {
            let clock = Arc::new(ManualClock::new(DateTime::from_timestamp(1_000, 0).expect("a time")));
            let store = Store::<Nothing>::new(clock.clone());
            let request = Idempotency { request_id: Uuid::from_u128(1), hash: [1; 32] };
            let command = &mut |work: &mut Work<()>| {
                work.run::<RequestIdReused>(Some(request), |_| Ok(EncodedResponse::default()))
                    .expect("first use of the id");
            };
            store.commit(&(), &[request.request_id], command).await.expect("committed");
            let health = Health::new([""; 0]);
            let kept: Option<u64> = background;
            let mut background = Background::new("test", Arc::new(store.clone()), health, clock.clone());
            if let Some(hours) = kept {
                background.records_kept = Duration::from_secs(hours * 3_600);
            }
            let is_kept = async || store.record(request.request_id).await.expect("read").is_some();
            clock.advance(TimeDelta::hours(hours));
            background.purge().await;
            assert!(is_kept().await, "kept for {hours} h");
            clock.advance(TimeDelta::seconds(1));
            background.purge().await;
            assert!(!is_kept().await, "deleted after {hours} h");
        }
    }
}

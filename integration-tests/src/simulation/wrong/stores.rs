//! Stores and writers that break one of their rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_reservation::{
    application::{Filter, Keys, Outcome, ReservationRows, ReservationStore, ReservationWriter, WriteCommand},
    domain::{Ledger, Reservation},
    outbound::memory::ReservationTables,
};
use eticket_service::batch::Writer;
use eticket_store::{
    ApplyBatch, Commit, Error, Idempotency, Record, Work,
    memory::{Outcome as Committed, Store},
};
use eticket_ticket::{
    application::{TicketRows, TicketStore},
    domain::{Status, Ticket},
    outbound::memory::TicketTables,
};
use uuid::Uuid;

use super::Wrong;
use crate::simulation::scheduler::locked;

/// Returns the tickets as the replica with this number stores them.
pub(in crate::simulation) fn tickets(
    wrong: Option<Wrong>,
    number: usize,
    rows: Store<TicketTables>,
    taking_in: Arc<AtomicU64>,
) -> Arc<dyn TicketStore> {
    Arc::new(Tickets { wrong, number, rows, taking_in })
}

struct Tickets {
    wrong: Option<Wrong>,
    number: usize,
    rows: Store<TicketTables>,
    /// Counts the batches of events that are being applied.
    taking_in: Arc<AtomicU64>,
}

impl Tickets {
    fn shown(&self, ticket: Ticket) -> Ticket {
        match self.wrong {
            Some(Wrong::EtagCoversTheRevision) => Ticket { edits: ticket.revision, ..ticket },
            _ => ticket,
        }
    }

    /// Commits with locks in order of arrival: two commits that lock the same rows in opposite orders deadlock.
    async fn commit_in_order_of_arrival(
        &self,
        keys: &BTreeSet<TicketId>,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, TicketRows>,
    ) -> Result<(), Error> {
        loop {
            let mut transaction = self.rows.begin().await?;
            let mut rows: Vec<String> = transaction.rows(keys).into_iter().collect();
            if self.number == 1 {
                rows.reverse();
            }
            for row in rows {
                transaction.lock(row).await?;
            }
            let Some(mut work) = transaction.read(keys, requests) else { continue };
            apply_batch(&mut work);
            if transaction.commit(keys, requests, &work).await? == Committed::Committed {
                return Ok(());
            }
        }
    }
}

fn each(rows: &mut TicketRows, change: impl Fn(&Ticket) -> Ticket) {
    let changed: Vec<Ticket> = rows.iter().map(|(_, ticket)| change(ticket)).collect();
    changed.into_iter().for_each(|ticket| rows.insert_read(ticket.id.clone(), ticket));
}

#[async_trait]
impl Commit for Tickets {
    type Keys = BTreeSet<TicketId>;
    type Rows = TicketRows;

    async fn commit(
        &self,
        keys: &BTreeSet<TicketId>,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, TicketRows>,
    ) -> Result<(), Error> {
        match self.wrong {
            Some(Wrong::LocksInOrderOfArrival) => self.commit_in_order_of_arrival(keys, requests, apply_batch).await,
            // Commands of admins have a request id, so this batch contains events.
            Some(Wrong::NoConditionOnTheRevision)
                if requests.is_empty() && self.taking_in.load(Ordering::Relaxed) > 0 =>
            {
                let unconditional = &mut |work: &mut Work<TicketRows>| {
                    each(&mut work.rows, |ticket| Ticket { reservation_revision: 0, ..ticket.clone() });
                    apply_batch(work);
                };
                self.rows.commit(keys, requests, unconditional).await
            }
            Some(Wrong::EtagCoversTheRevision) => {
                let covering = &mut |work: &mut Work<TicketRows>| {
                    each(&mut work.rows, |ticket| self.shown(ticket.clone()));
                    apply_batch(work);
                    each(&mut work.rows, |ticket| self.shown(ticket.clone()));
                };
                self.rows.commit(keys, requests, covering).await
            }
            _ => self.rows.commit(keys, requests, apply_batch).await,
        }
    }
}

#[async_trait]
impl TicketStore for Tickets {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, Error> {
        Ok(self.rows.ticket(id).await?.map(|ticket| self.shown(ticket)))
    }

    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, Error> {
        self.rows.tickets_of(ids).await
    }

    async fn page(
        &self,
        status: Option<Status>,
        now: DateTime<Utc>,
        after: &str,
        most: i64,
    ) -> Result<Vec<Ticket>, Error> {
        self.rows.page(status, now, after, most).await
    }

    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, Error> {
        self.rows.to_announce(now, most).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.rows.count().await
    }
}

/// Returns ledgers and reservations as the reservation service stores them.
pub(in crate::simulation) fn ledgers(wrong: Option<Wrong>, rows: Store<ReservationTables>) -> Arc<Ledgers> {
    Arc::new(Ledgers { wrong, rows, before_the_batch: Mutex::default() })
}

/// See [`ledgers`].
pub(in crate::simulation) struct Ledgers {
    wrong: Option<Wrong>,
    rows: Store<ReservationTables>,
    /// The ledgers at the start of the batch that is being applied.
    before_the_batch: Mutex<Option<BTreeMap<TicketId, Ledger>>>,
}

impl Ledgers {
    fn shown(&self, ledger: Ledger) -> Ledger {
        match self.wrong {
            Some(Wrong::NoConditionOnTheLedger) => Ledger { active: None, ..ledger },
            _ => ledger,
        }
    }

    fn before_work(&self, keys: &Keys, rows: &mut ReservationRows) {
        let shown: Vec<Ledger> = rows.ledgers.iter().map(|(_, ledger)| self.shown(ledger.clone())).collect();
        shown.into_iter().for_each(|ledger| rows.ledgers.insert_read(ledger.ticket.clone(), ledger));
        if let Some(before) = &mut *locked(&self.before_the_batch) {
            for id in &keys.tickets {
                let now = rows.ledgers.get(id).cloned().unwrap_or_else(|| Ledger::new(id.clone()));
                let then = before.entry(id.clone()).or_insert(now).clone();
                rows.ledgers.insert_read(id.clone(), then);
            }
        }
    }

    /// Commits with "on conflict do nothing": rows of another commit stay, and all callers get a success.
    async fn commit_or_do_nothing(
        &self,
        keys: &Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, ReservationRows>,
    ) -> Result<(), Error> {
        loop {
            let mut transaction = self.rows.begin().await?;
            for row in transaction.rows(keys) {
                transaction.lock(row).await?;
            }
            let Some(mut work) = transaction.read(keys, requests) else { continue };
            apply_batch(&mut work);
            transaction.commit(keys, requests, &work).await?;
            return Ok(());
        }
    }
}

#[async_trait]
impl Commit for Ledgers {
    type Keys = Keys;
    type Rows = ReservationRows;

    async fn commit(
        &self,
        keys: &Keys,
        requests: &[Uuid],
        apply_batch: ApplyBatch<'_, ReservationRows>,
    ) -> Result<(), Error> {
        match self.wrong {
            Some(Wrong::OnConflictDoNothing) => self.commit_or_do_nothing(keys, requests, apply_batch).await,
            Some(Wrong::RecordLookedUpBeforeTheCheckOnly) => self.rows.commit(keys, &[], apply_batch).await,
            Some(Wrong::NoRecord) => {
                let forgetful = &mut |work: &mut Work<ReservationRows>| {
                    let mut scratch = Work::new(std::mem::take(&mut work.rows), []);
                    apply_batch(&mut scratch);
                    scratch.outbox().iter().for_each(|row| work.publish(row.clone()));
                    work.rows = scratch.rows;
                };
                self.rows.commit(keys, &[], forgetful).await
            }
            _ => {
                let tampered = &mut |work: &mut Work<ReservationRows>| {
                    self.before_work(keys, &mut work.rows);
                    apply_batch(work);
                };
                self.rows.commit(keys, requests, tampered).await
            }
        }
    }
}

#[async_trait]
impl ReservationStore for Ledgers {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let (record, ledger) = self.rows.read_snapshot(idempotency, ticket).await?;
        let record = record.filter(|_| self.wrong != Some(Wrong::NoRecord));
        Ok((record, ledger.map(|ledger| self.shown(ledger))))
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        self.rows.reservation(id).await
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        self.rows.page(filter, after, most).await
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        self.rows.ledgers_of(tickets).await
    }

    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, Error> {
        self.rows.closed_ledgers(after, most).await
    }

    async fn count(&self) -> Result<i64, Error> {
        self.rows.count().await
    }
}

/// Returns the writer of a reservation process.
pub(in crate::simulation) fn writer(
    wrong: Option<Wrong>,
    ledgers: Arc<Ledgers>,
    inner: ReservationWriter,
) -> SimulatedWriter {
    let before_the_batch = wrong == Some(Wrong::AllSeeTheStateBeforeTheBatch);
    SimulatedWriter { before_the_batch, ledgers, inner }
}

/// The real writer, or one that applies each command of a batch to the state before the batch.
pub(in crate::simulation) struct SimulatedWriter {
    before_the_batch: bool,
    ledgers: Arc<Ledgers>,
    inner: ReservationWriter,
}

#[async_trait]
impl Writer<WriteCommand, Outcome> for SimulatedWriter {
    async fn write(&self, batch: &[WriteCommand]) -> Result<Vec<Outcome>, Error> {
        if !self.before_the_batch {
            return self.inner.write(batch).await;
        }
        *locked(&self.ledgers.before_the_batch) = Some(BTreeMap::new());
        let mut outcomes = Vec::new();
        for command in batch {
            let written = self.inner.write(std::slice::from_ref(command)).await;
            if written.is_err() {
                *locked(&self.ledgers.before_the_batch) = None;
            }
            outcomes.extend(written?);
        }
        *locked(&self.ledgers.before_the_batch) = None;
        Ok(outcomes)
    }
}

//! What can be done with reservations, and the ports it needs. `apply_batch` is the whole of every command and event: a synchronous
//! function over the domain, which a store runs within its transaction.

pub mod events;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_service::{
    batch::{self, Batches},
    consumer::Incoming,
};
use eticket_store::{
    self as store, Commit, EncodedResponse, Idempotency, OutboxRow, Parked, Record, RequestIdReused, Rows,
};
use tokio::time::Instant;

use crate::domain::{self, Check, Ledger, NewReservation, Reservation, Status};

mod apply_batch;
#[cfg(test)]
mod tests;

pub use apply_batch::ReservationWriter;

/// Encodes reservations and ledgers: as events for the outbox, and as the response of each command.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// The state as of the reservation's own revision, also when it is published again.
    pub event: fn(&Reservation, DateTime<Utc>, &TraceContext) -> OutboxRow,
    /// A ledger that is closed.
    pub closed: fn(&Ledger, DateTime<Utc>, &TraceContext) -> OutboxRow,
    pub reserved: fn(&Reservation) -> EncodedResponse,
    pub cancelled: fn(&Reservation) -> EncodedResponse,
}

/// The rows of a commit: ledgers are locked, reservations go with them.
#[derive(Debug, Default)]
pub struct ReservationRows {
    pub ledgers: Rows<TicketId, Ledger>,
    pub reservations: Rows<ReservationId, Reservation>,
}

/// Which rows a batch needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Ledgers.
    pub tickets: BTreeSet<TicketId>,
    /// Ledgers whose active reservation is needed too.
    pub active_of: BTreeSet<TicketId>,
    /// Reservations, each with the ledger of its ticket.
    pub reservations: BTreeSet<ReservationId>,
}

/// Which reservations a list shows; `None`: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub user: Option<String>,
    pub ticket: Option<TicketId>,
    pub status: Option<Status>,
}

/// Where reservations are kept.
#[async_trait]
pub trait ReservationStore: Commit<Keys = Keys, Rows = ReservationRows> + 'static {
    /// The record of a request and the ledger of a ticket, in one snapshot.
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), store::Error>;

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, store::Error>;

    /// Reservations with ids above `after`, in the order of their ids.
    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, store::Error>;

    /// Those of the ledgers of these tickets that there are.
    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, store::Error>;

    /// Closed ledgers with ticket ids above `after`, in their order.
    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, store::Error>;

    /// Reservations and closed ledgers: what a republishing sends.
    async fn count(&self) -> Result<i64, store::Error>;
}

/// The ticket service could not say whether a ticket is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    #[error("the ticket service cannot be asked")]
    Overloaded { retry_after: Option<Duration> },
    /// The caller's own deadline has passed.
    #[error("the deadline passed while the ticket service was asked")]
    DeadlineExceeded,
}

/// Asks the ticket service.
#[async_trait]
pub trait Availability: Send + Sync {
    async fn check(
        &self,
        ticket: &TicketId,
        deadline: Option<Instant>,
        trace: &TraceContext,
    ) -> Result<Check, CheckError>;
}

/// What goes through the one writer.
pub enum WriteCommand {
    Reserve { new: NewReservation, check: Check, idempotency: Option<Idempotency>, trace: TraceContext },
    Cancel { id: ReservationId, idempotency: Option<Idempotency>, trace: TraceContext },
    Close(Incoming<TicketChange>),
    Park(Parked),
    Unpark(String),
    RepublishReservation(ReservationId),
    RepublishClosed(TicketId),
}

/// What a ticket event says to its ledger.
#[derive(Debug, Clone)]
pub struct TicketChange {
    pub ticket: TicketId,
    pub revision: i64,
    pub withdrawn: bool,
}

/// Why a command was refused. It has no effect then and leaves no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Domain(domain::Refusal),
    RequestIdReused,
}

impl From<domain::Refusal> for Refusal {
    fn from(refusal: domain::Refusal) -> Self {
        Self::Domain(refusal)
    }
}

impl From<RequestIdReused> for Refusal {
    fn from(_: RequestIdReused) -> Self {
        Self::RequestIdReused
    }
}

/// The response; an empty one for what is no command.
pub type Outcome = Result<EncodedResponse, Refusal>;

/// Why a command was not run, or its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Batch(#[from] batch::Error),
}

/// What a command brings along.
#[derive(Debug, Clone)]
pub struct Request {
    pub idempotency: Option<Idempotency>,
    pub trace: TraceContext,
    pub deadline: Option<Instant>,
}

/// The use cases.
#[derive(Clone)]
pub struct Reservations {
    store: Arc<dyn ReservationStore>,
    writer: Batches<WriteCommand, Outcome>,
    availability: Arc<dyn Availability>,
    clock: SharedClock,
}

impl Reservations {
    pub fn new(
        store: Arc<dyn ReservationStore>,
        writer: Batches<WriteCommand, Outcome>,
        availability: Arc<dyn Availability>,
        clock: SharedClock,
    ) -> Self {
        Self { store, writer, availability, clock }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Reserves a ticket. The record is looked for before the ticket service is asked, and once more in the transaction.
    ///
    /// # Errors
    /// [`Error`] if it was not run or its outcome is unknown.
    pub async fn reserve(&self, new: NewReservation, request: Request) -> Result<Outcome, Error> {
        let Request { idempotency, trace, deadline } = request;
        let (record, ledger) = self.store.read_snapshot(idempotency, &new.ticket).await?;
        if let (Some(idempotency), Some(record)) = (idempotency, record) {
            return Ok(idempotency.response_of(&record).map_err(Refusal::from));
        }
        // In a hot sale most are refused here, and no other service hears of them.
        if let Some(refusal) = ledger.and_then(|ledger| ledger.refuses_at_once()) {
            return Ok(Err(refusal.into()));
        }
        let check = self.availability.check(&new.ticket, deadline, &trace).await?;
        Ok(self.writer.submit(WriteCommand::Reserve { new, check, idempotency, trace }, deadline).await?)
    }

    /// Cancels a reservation, with this store alone.
    ///
    /// # Errors
    /// [`batch::Error`] if it was not run or its outcome is unknown.
    pub async fn cancel(&self, id: ReservationId, request: Request) -> Result<Outcome, batch::Error> {
        let Request { idempotency, trace, deadline } = request;
        self.writer.submit(WriteCommand::Cancel { id, idempotency, trace }, deadline).await
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, store::Error> {
        self.store.reservation(id).await
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, store::Error> {
        self.store.page(filter, after, most).await
    }

    async fn submit(&self, write: WriteCommand) -> Result<(), batch::Error> {
        self.writer.submit(write, None).await.map(drop)
    }
}

fn unavailable(error: store::Error) -> batch::Error {
    tracing::warn!(error = %error, "reservations cannot be read");
    batch::Error::Unavailable
}

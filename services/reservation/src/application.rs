//! The use cases of reservations and the ports that they need. [`ReservationWriter`] applies all commands and events
//! with a synchronous function over the domain, which the store runs inside its transaction.

pub mod events;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, credentials::Credentials, telemetry::TraceContext};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_service::{
    batch::{self, Batches, Traced},
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

/// Encoders of reservations and ledgers: events for the outbox, and the response of each command.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// Encodes the event of a reservation. It carries the ledger state at the revision of the reservation, also when it
    /// is republished.
    pub event: fn(&Reservation, DateTime<Utc>, &TraceContext) -> OutboxRow,
    /// Encodes the event of a closed ledger.
    pub closed: fn(&Ledger, DateTime<Utc>, &TraceContext) -> OutboxRow,
    pub reserved: fn(&Reservation) -> EncodedResponse,
    pub cancelled: fn(&Reservation) -> EncodedResponse,
}

/// The rows of a commit. The lock on a ledger also covers the reservations of its ticket.
#[derive(Debug, Default)]
pub struct ReservationRows {
    pub ledgers: Rows<TicketId, Ledger>,
    pub reservations: Rows<ReservationId, Reservation>,
}

/// The rows that a batch needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// Tickets whose ledgers are needed.
    pub tickets: BTreeSet<TicketId>,
    /// Tickets whose ledgers are needed together with their active reservations.
    pub active_of: BTreeSet<TicketId>,
    /// Reservations that are needed, each together with the ledger of its ticket.
    pub reservations: BTreeSet<ReservationId>,
}

/// Filter of a list of reservations. A reservation must match every field that is set; `None` matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub user: Option<String>,
    pub ticket: Option<TicketId>,
    pub status: Option<Status>,
}

/// Port: storage of ledgers and reservations.
#[async_trait]
pub trait ReservationStore: Commit<Keys = Keys, Rows = ReservationRows> + 'static {
    /// Reads the idempotency record of a request and the ledger of a ticket in one snapshot.
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), store::Error>;

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, store::Error>;

    /// Returns up to `most` reservations that match the filter and have ids above `after`, sorted by id. An empty
    /// `after` starts at the first reservation.
    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, store::Error>;

    /// Returns the ledgers of these tickets. Tickets without a ledger are skipped.
    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, store::Error>;

    /// Returns the ticket ids of up to `most` closed ledgers with ticket ids above `after`, sorted by ticket id.
    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, store::Error>;

    /// Returns the number of reservations plus the number of closed ledgers. These are the states that a full republish
    /// sends.
    async fn count(&self) -> Result<i64, store::Error>;
}

/// Reason why the ticket service did not report whether a ticket is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    #[error("the availability check by the ticket service failed")]
    Overloaded { retry_after: Option<Duration> },
    /// The deadline of the caller passed.
    #[error("the deadline passed during the availability check")]
    DeadlineExceeded,
}

/// Port: availability checks by the ticket service.
#[async_trait]
pub trait Availability: Send + Sync {
    async fn check(
        &self,
        ticket: &TicketId,
        deadline: Option<Instant>,
        trace: &TraceContext,
        credentials: Option<&Credentials>,
    ) -> Result<Check, CheckError>;
}

/// Input of the store's single writer.
pub enum WriteCommand {
    Reserve { new: NewReservation, check: Check, idempotency: Option<Idempotency>, trace: TraceContext },
    Cancel { id: ReservationId, idempotency: Option<Idempotency>, trace: TraceContext },
    Close(Incoming<TicketChange>),
    Park(Parked),
    Unpark(String),
    RepublishReservation(ReservationId),
    RepublishClosed(TicketId),
}

impl Traced for WriteCommand {
    fn trace(&self) -> Option<&TraceContext> {
        match self {
            Self::Reserve { trace, .. } | Self::Cancel { trace, .. } => Some(trace),
            Self::Close(incoming) => Some(&incoming.trace),
            Self::Park(_) | Self::Unpark(_) | Self::RepublishReservation(_) | Self::RepublishClosed(_) => None,
        }
    }
}

/// The content of a ticket event that a ledger applies.
#[derive(Debug, Clone)]
pub struct TicketChange {
    pub ticket: TicketId,
    pub revision: i64,
    pub withdrawn: bool,
}

/// Reason why a command was refused. A refused command changes nothing and leaves no idempotency record.
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

/// The response of a command, or its refusal. The response is empty for every other write.
pub type Outcome = Result<EncodedResponse, Refusal>;

/// Reason why a command was not run or its outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Batch(#[from] batch::Error),
}

/// Metadata of a command.
#[derive(Debug, Clone)]
pub struct Request {
    pub idempotency: Option<Idempotency>,
    pub trace: TraceContext,
    pub deadline: Option<Instant>,
    /// The credentials of the user, for the availability check.
    pub credentials: Option<Credentials>,
}

/// The use cases. Clones share the store, the writer and the availability check.
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

    /// Reserves a ticket. The idempotency record is checked before the request to the ticket service and again in the
    /// transaction.
    ///
    /// # Errors
    /// [`Error`] if the command was not run or its outcome is unknown.
    pub async fn reserve(&self, new: NewReservation, request: Request) -> Result<Outcome, Error> {
        let Request { idempotency, trace, deadline, credentials } = request;
        let (record, ledger) = self.store.read_snapshot(idempotency, &new.ticket).await?;
        if let (Some(idempotency), Some(record)) = (idempotency, record) {
            return Ok(idempotency.response_of(&record).map_err(Refusal::from));
        }
        // In a hot sale most requests are refused here, without a call to another service.
        if let Some(refusal) = ledger.and_then(|ledger| ledger.refuses_at_once()) {
            return Ok(Err(refusal.into()));
        }
        let check = self.availability.check(&new.ticket, deadline, &trace, credentials.as_ref()).await?;
        Ok(self.writer.submit(WriteCommand::Reserve { new, check, idempotency, trace }, deadline).await?)
    }

    /// Cancels a reservation. Uses only the store of this service.
    ///
    /// # Errors
    /// [`batch::Error`] if the command was not run or its outcome is unknown.
    pub async fn cancel(&self, id: ReservationId, request: Request) -> Result<Outcome, batch::Error> {
        let Request { idempotency, trace, deadline, .. } = request;
        self.writer.submit(WriteCommand::Cancel { id, idempotency, trace }, deadline).await
    }

    /// Returns a reservation, or `None` if there is none with this id.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, store::Error> {
        self.store.reservation(id).await
    }

    /// Returns up to `most` reservations that match the filter and have ids above `after`, sorted by id.
    ///
    /// # Errors
    /// If the store is unavailable.
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

//! The use cases of tickets and the ports that they need. [`TicketWriter`] applies all commands and events with a
//! synchronous function over the domain, which the store runs inside its transaction.

pub mod events;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_service::{
    batch::{self, Batches, Traced, Writer},
    consumer::Incoming,
};
use eticket_store::{
    self as store, Commit, CommitExt, EncodedResponse, Idempotency, OutboxRow, Parked, RequestIdReused, Rows, Work,
};
use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::{self, Change, Schedule, Status, Ticket, Title};

/// Maximum number of expired tickets that one sweep announces.
const SWEEP_PAGE: i64 = 256;

/// The change that an event reports in its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Registered,
    Updated,
    Reserved,
    Released,
    Expired,
    Withdrawn,
}

/// Encoders of tickets: events for the outbox, and the response of each command.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    pub event: fn(&Ticket, Happened, DateTime<Utc>, &TraceContext) -> OutboxRow,
    pub registered: fn(&Ticket, DateTime<Utc>) -> EncodedResponse,
    pub updated: fn(&Ticket, DateTime<Utc>) -> EncodedResponse,
    pub withdrawn: fn(&Ticket, DateTime<Utc>) -> EncodedResponse,
}

pub type TicketRows = Rows<TicketId, Ticket>;

/// Port: storage of tickets.
#[async_trait]
pub trait TicketStore: Commit<Keys = BTreeSet<TicketId>, Rows = TicketRows> + 'static {
    async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, store::Error>;

    /// Returns the tickets with these ids. Ids without a ticket are skipped.
    async fn tickets_of(&self, ids: &[TicketId]) -> Result<Vec<Ticket>, store::Error>;

    /// Returns up to `most` tickets with ids above `after`, sorted by id. `status` filters by the status at `now`;
    /// `None` returns tickets of every status.
    async fn page(
        &self,
        status: Option<Status>,
        now: DateTime<Utc>,
        after: &str,
        most: i64,
    ) -> Result<Vec<Ticket>, store::Error>;

    /// Returns the ids of up to `most` tickets that are EXPIRED at `now` and whose expiry is not announced yet.
    async fn to_announce(&self, now: DateTime<Utc>, most: i64) -> Result<Vec<TicketId>, store::Error>;

    async fn count(&self) -> Result<i64, store::Error>;
}

/// A command of an administrator.
#[derive(Debug, Clone)]
pub enum Command {
    Register { id: TicketId, title: Title, schedule: Schedule },
    Update { id: TicketId, etag: String, change: Change },
    Withdraw { id: TicketId, etag: String },
}

impl Command {
    fn ticket(&self) -> &TicketId {
        match self {
            Self::Register { id, .. } | Self::Update { id, .. } | Self::Withdraw { id, .. } => id,
        }
    }
}

/// The content of a reservation event that a ticket applies.
#[derive(Debug, Clone)]
pub struct ReservationChange {
    pub ticket: TicketId,
    pub revision: i64,
    pub active: Option<ReservationId>,
}

/// Input of the store's single writer.
pub enum WriteCommand {
    Command { command: Command, idempotency: Option<Idempotency>, trace: TraceContext },
    Event(Incoming<ReservationChange>),
    Park(Parked),
    Sweep(TicketId),
    Republish(TicketId),
}

impl Traced for WriteCommand {
    fn trace(&self) -> Option<&TraceContext> {
        match self {
            Self::Command { trace, .. } => Some(trace),
            Self::Event(incoming) => Some(&incoming.trace),
            Self::Park(_) | Self::Sweep(_) | Self::Republish(_) => None,
        }
    }
}

/// Reason why a command was refused. A refused command changes nothing and leaves no idempotency record.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// The use cases. Clones share the store and the writer.
#[derive(Clone)]
pub struct Tickets {
    store: Arc<dyn TicketStore>,
    writer: Batches<WriteCommand, Outcome>,
    clock: SharedClock,
}

impl Tickets {
    pub fn new(store: Arc<dyn TicketStore>, writer: Batches<WriteCommand, Outcome>, clock: SharedClock) -> Self {
        Self { store, writer, clock }
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Runs a command in the next batch.
    ///
    /// # Errors
    /// [`batch::Error`] if the command was not run or its outcome is unknown.
    pub async fn command(
        &self,
        command: Command,
        idempotency: Option<Idempotency>,
        trace: TraceContext,
        deadline: Option<Instant>,
    ) -> Result<Outcome, batch::Error> {
        self.writer.submit(WriteCommand::Command { command, idempotency, trace }, deadline).await
    }

    /// Returns a ticket, or `None` if there is none with this id.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn ticket(&self, id: &TicketId) -> Result<Option<Ticket>, store::Error> {
        self.store.ticket(id).await
    }

    /// Returns up to `most` tickets with ids above `after`, sorted by id, optionally only those with `status`.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn page(&self, status: Option<Status>, after: &str, most: i64) -> Result<Vec<Ticket>, store::Error> {
        self.store.page(status, self.now(), after, most).await
    }

    /// Announces expired tickets, at most one page per call. Returns the number of announced tickets.
    ///
    /// # Errors
    /// If the store is unavailable. The next sweep retries the tickets that were not announced.
    pub async fn sweep(&self) -> Result<usize, batch::Error> {
        let expired = self.store.to_announce(self.now(), SWEEP_PAGE).await.map_err(unavailable)?;
        let commands = expired.into_iter().map(|id| self.submit(WriteCommand::Sweep(id)));
        Ok(futures::future::try_join_all(commands).await?.len())
    }

    async fn submit(&self, write: WriteCommand) -> Result<(), batch::Error> {
        self.writer.submit(write, None).await.map(drop)
    }
}

fn unavailable(error: store::Error) -> batch::Error {
    tracing::warn!(error = %error, "tickets cannot be read");
    batch::Error::Unavailable
}

/// The store's single writer.
pub struct TicketWriter {
    pub store: Arc<dyn TicketStore>,
    pub messages: Messages,
    pub clock: SharedClock,
}

#[async_trait]
impl Writer<WriteCommand, Outcome> for TicketWriter {
    async fn write(&self, batch: &[WriteCommand]) -> Result<Vec<Outcome>, store::Error> {
        let (keys, requests) = keys(batch);
        let apply_batch = |work: &mut Work<TicketRows>| {
            batch.iter().map(|write| apply(work, write, self.messages, self.clock.now())).collect()
        };
        self.store.commit_with(&keys, &requests, apply_batch).await
    }
}

fn keys(batch: &[WriteCommand]) -> (BTreeSet<TicketId>, Vec<Uuid>) {
    let (mut tickets, mut requests) = (BTreeSet::new(), Vec::new());
    for write in batch {
        match write {
            WriteCommand::Command { command, idempotency, .. } => {
                tickets.insert(command.ticket().clone());
                requests.extend(idempotency.map(|idempotency| idempotency.request_id));
            }
            WriteCommand::Event(incoming) => {
                tickets.insert(incoming.event.ticket.clone());
            }
            WriteCommand::Sweep(id) | WriteCommand::Republish(id) => {
                tickets.insert(id.clone());
            }
            WriteCommand::Park(_) => {}
        }
    }
    (tickets, requests)
}

/// Applies one write on top of the preceding writes of the batch.
fn apply(work: &mut Work<TicketRows>, write: &WriteCommand, messages: Messages, now: DateTime<Utc>) -> Outcome {
    match write {
        WriteCommand::Command { command, idempotency, trace } => work.run(*idempotency, |work| {
            let (ticket, happened) = run(&work.rows, command, now)?;
            let encode = match command {
                Command::Register { .. } => messages.registered,
                Command::Update { .. } => messages.updated,
                Command::Withdraw { .. } => messages.withdrawn,
            };
            let response = encode(&ticket, now);
            // A command that changes nothing publishes no event.
            if work.rows.get(command.ticket()) != Some(&ticket) {
                put(work, ticket, happened, messages, now, trace);
            }
            Ok(response)
        }),
        WriteCommand::Event(incoming) => {
            handle_event(work, incoming, messages, now);
            Ok(EncodedResponse::default())
        }
        WriteCommand::Park(parked) => {
            work.park(parked.clone());
            Ok(EncodedResponse::default())
        }
        WriteCommand::Sweep(id) => {
            if let Some(announced) = work.rows.get(id).and_then(|ticket| domain::sweep(ticket, now)) {
                put(work, announced, Happened::Expired, messages, now, &TraceContext::new_root());
            }
            Ok(EncodedResponse::default())
        }
        WriteCommand::Republish(id) => {
            // Always add a new outbox row: an existing row of the same revision may already be published and about to
            // be deleted.
            if let Some(ticket) = work.rows.get(id) {
                let event = (messages.event)(ticket, by_status(ticket, now), now, &TraceContext::new_root());
                work.publish(event);
            }
            Ok(EncodedResponse::default())
        }
    }
}

fn run(rows: &TicketRows, command: &Command, now: DateTime<Utc>) -> Result<(Ticket, Happened), domain::Refusal> {
    let row = rows.get(command.ticket());
    match command {
        Command::Register { id, title, schedule } => {
            let ticket = domain::register(row, id.clone(), title.clone(), *schedule, now)?;
            Ok((ticket, Happened::Registered))
        }
        Command::Update { etag, change, .. } => {
            Ok((domain::update(row, etag, change.clone(), now)?, Happened::Updated))
        }
        Command::Withdraw { etag, .. } => Ok((domain::withdraw(row, etag, now)?, Happened::Withdrawn)),
    }
}

fn handle_event(
    work: &mut Work<TicketRows>,
    incoming: &Incoming<ReservationChange>,
    messages: Messages,
    now: DateTime<Utc>,
) {
    let ReservationChange { ticket: id, revision, active } = &incoming.event;
    // Only a command creates a ticket: an event for an unknown ticket is parked.
    let Some(ticket) = work.rows.get(id) else {
        work.park(incoming.park("the ticket does not exist", 1, now));
        return;
    };
    let applied = domain::apply_reservation(ticket, *active, *revision, now);
    if incoming.was_parked {
        work.unpark(incoming.event_id.clone());
    }
    if let Some(ticket) = applied {
        let happened = if ticket.holder.is_some() { Happened::Reserved } else { Happened::Released };
        put(work, ticket, happened, messages, now, &incoming.trace);
    }
}

fn put(
    work: &mut Work<TicketRows>,
    ticket: Ticket,
    happened: Happened,
    messages: Messages,
    now: DateTime<Utc>,
    trace: &TraceContext,
) {
    work.publish((messages.event)(&ticket, happened, now, trace));
    work.rows.put(ticket.id.clone(), ticket);
}

/// Returns the event type for republishing the current state of a ticket.
fn by_status(ticket: &Ticket, now: DateTime<Utc>) -> Happened {
    match ticket.status(now) {
        Status::Available => Happened::Updated,
        Status::Reserved => Happened::Reserved,
        Status::Expired => Happened::Expired,
        Status::Withdrawn => Happened::Withdrawn,
    }
}

#[cfg(test)]
mod tests;

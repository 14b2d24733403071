//! The use cases of prices and the ports that they need. [`PriceWriter`] applies all events and policies with a
//! synchronous function over the domain, which the store runs inside its transaction.
//!
//! The policy in force is read in the same transaction, so a replica never computes a price with an outdated policy.

pub mod events;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::ids::{TicketId, UserGrade};
use eticket_service::{
    batch::{self, Batches, Traced, Writer},
    consumer::Incoming,
};
use eticket_store::{self as store, Commit, CommitExt, OutboxRow, Parked, Rows, Work};

use crate::domain::{self, Holder, Offer, Policy, PolicyBehind, Price, Row, Schedule};

/// Maximum number of prices that are recomputed per page.
const REPRICE_PAGE: i64 = 500;

/// Encoder of prices: events for the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// Encodes the price event of a row. Returns `None` for a row without a price, which has not received its ticket
    /// event yet.
    pub event: fn(&TicketId, &Row, DateTime<Utc>, &TraceContext) -> Option<OutboxRow>,
}

/// The rows that a commit reads and writes.
#[derive(Debug, Default)]
pub struct PricingRows {
    pub prices: Rows<TicketId, Row>,
    /// The policy in force: the highest version ever adopted.
    pub in_force: Option<Policy>,
    /// Policies adopted in this commit, sorted by version.
    pub adopted: Vec<Policy>,
}

/// Port: storage of prices and policies.
#[async_trait]
pub trait PriceStore: Commit<Keys = BTreeSet<TicketId>, Rows = PricingRows> + 'static {
    async fn row(&self, id: &TicketId) -> Result<Option<Row>, store::Error>;

    /// Returns the rows of these tickets, including rows without a price. Tickets without a row are skipped.
    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, store::Error>;

    /// Returns up to `most` rows that have a price and ids above `after`, sorted by id.
    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, store::Error>;

    /// Returns the ids of up to `most` tickets without a holder whose price was computed with a policy version below
    /// `version`.
    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, store::Error>;

    /// Returns the policy in force, which is the highest version ever adopted.
    async fn policy_in_force(&self) -> Result<Option<Policy>, store::Error>;

    /// Returns the number of rows that have a price.
    async fn count(&self) -> Result<i64, store::Error>;
}

/// The content of an event that a price depends on.
#[derive(Debug, Clone)]
pub struct PriceInput {
    pub ticket: TicketId,
    pub input: Input,
}

#[derive(Debug, Clone, Copy)]
pub enum Input {
    Schedule(Schedule),
    Holder(Holder),
}

/// Input of the store's single writer.
pub enum WriteCommand {
    Event(Incoming<PriceInput>),
    Park(Parked),
    Offer(Policy),
    Reprice(TicketId),
    Republish(TicketId),
}

impl WriteCommand {
    fn ticket(&self) -> Option<&TicketId> {
        match self {
            Self::Event(incoming) => Some(&incoming.event.ticket),
            Self::Reprice(id) | Self::Republish(id) => Some(id),
            Self::Park(_) | Self::Offer(_) => None,
        }
    }
}

impl Traced for WriteCommand {
    fn trace(&self) -> Option<&TraceContext> {
        match self {
            Self::Event(incoming) => Some(&incoming.trace),
            Self::Park(_) | Self::Offer(_) | Self::Reprice(_) | Self::Republish(_) => None,
        }
    }
}

/// Result of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Offered(Offer),
    /// No policy is adopted yet, or the row was computed with a newer policy than the one in force. Holds the reason.
    NotComputed(String),
}

/// The use cases. Clones share the store and the writer.
#[derive(Clone)]
pub struct Prices {
    store: Arc<dyn PriceStore>,
    writer: Batches<WriteCommand, Outcome>,
}

impl Prices {
    pub fn new(store: Arc<dyn PriceStore>, writer: Batches<WriteCommand, Outcome>) -> Self {
        Self { store, writer }
    }

    /// Returns the row of a ticket, or `None` if there is none.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn row(&self, id: &TicketId) -> Result<Option<Row>, store::Error> {
        self.store.row(id).await
    }

    /// Returns up to `most` rows that have a price and ids above `after`, sorted by id.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, store::Error> {
        self.store.page(after, most).await
    }

    /// Returns the policy in force. It is `None` only until the first policy is adopted, which happens before the
    /// service accepts calls.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn policy_in_force(&self) -> Result<Option<Policy>, store::Error> {
        self.store.policy_in_force().await
    }

    /// Computes the price for a start time and a grade without storing it. Returns `None` as
    /// [`Prices::policy_in_force`] does.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn quote(&self, start: DateTime<Utc>, grade: Option<UserGrade>) -> Result<Option<Price>, store::Error> {
        Ok(self.store.policy_in_force().await?.map(|policy| policy.price(start, grade)))
    }

    /// Offers a policy. It is stored and comes into force if its version is higher than every version adopted before.
    ///
    /// # Errors
    /// If the store is unavailable. The policy was then not adopted, or the outcome is unknown.
    pub async fn offer(&self, policy: Policy) -> Result<Offer, batch::Error> {
        match self.writer.submit(WriteCommand::Offer(policy), None).await? {
            Outcome::Offered(offer) => Ok(offer),
            other => Err(batch::Error::Failed(format!("{other:?}"))),
        }
    }

    /// Recomputes the prices of all tickets without a holder with the policy in force. Returns the number of rows that
    /// were found outdated.
    ///
    /// # Errors
    /// If the store is unavailable. It is safe to start again.
    pub async fn reprice(&self) -> Result<usize, batch::Error> {
        let Some(policy) = self.store.policy_in_force().await.map_err(unavailable)? else { return Ok(0) };
        let mut count = 0;
        loop {
            let page = self.store.to_reprice(policy.version(), REPRICE_PAGE).await.map_err(unavailable)?;
            if page.is_empty() {
                return Ok(count);
            }
            count += page.len();
            // The loop ends because every row leaves the result set: either it is recomputed, or it has a holder by
            // then.
            futures::future::try_join_all(page.into_iter().map(|id| self.submit(WriteCommand::Reprice(id)))).await?;
        }
    }

    async fn submit(&self, write: WriteCommand) -> Result<(), batch::Error> {
        match self.writer.submit(write, None).await? {
            Outcome::Done | Outcome::Offered(_) => Ok(()),
            Outcome::NotComputed(reason) => Err(batch::Error::Failed(reason)),
        }
    }
}

fn unavailable(error: store::Error) -> batch::Error {
    tracing::warn!(error = %error, "prices cannot be read");
    batch::Error::Unavailable
}

/// The store's single writer.
pub struct PriceWriter {
    pub store: Arc<dyn PriceStore>,
    pub messages: Messages,
    pub clock: SharedClock,
}

#[async_trait]
impl Writer<WriteCommand, Outcome> for PriceWriter {
    async fn write(&self, batch: &[WriteCommand]) -> Result<Vec<Outcome>, store::Error> {
        let keys = batch.iter().filter_map(WriteCommand::ticket).cloned().collect();
        let apply_batch = |work: &mut Work<PricingRows>| {
            batch.iter().map(|write| apply(work, write, self.messages, self.clock.now())).collect()
        };
        self.store.commit_with(&keys, &[], apply_batch).await
    }
}

/// Applies one write on top of the preceding writes of the batch.
fn apply(work: &mut Work<PricingRows>, write: &WriteCommand, messages: Messages, now: DateTime<Utc>) -> Outcome {
    match write {
        WriteCommand::Event(incoming) => handle_event(work, incoming, messages, now),
        WriteCommand::Park(parked) => {
            work.park(parked.clone());
            Outcome::Done
        }
        WriteCommand::Offer(policy) => {
            let offer = domain::consider(work.rows.in_force.as_ref(), policy);
            if offer == Offer::Adopt {
                work.rows.in_force = Some(policy.clone());
                work.rows.adopted.push(policy.clone());
            }
            Outcome::Offered(offer)
        }
        WriteCommand::Reprice(id) => {
            let PricingRows { prices, in_force, .. } = &work.rows;
            let known = prices.get(id).zip(in_force.as_ref());
            if let Some(row) = known.and_then(|(row, policy)| domain::apply_policy(row, policy, now)) {
                put(work, id, row, messages, now, &TraceContext::new_root());
            }
            Outcome::Done
        }
        WriteCommand::Republish(id) => {
            // Always add a new outbox row: an existing row of the same revision may already be published and about to
            // be deleted.
            let row = work.rows.prices.get(id);
            let event = row.and_then(|row| (messages.event)(id, row, now, &TraceContext::new_root()));
            event.into_iter().for_each(|event| work.publish(event));
            Outcome::Done
        }
    }
}

fn handle_event(
    work: &mut Work<PricingRows>,
    incoming: &Incoming<PriceInput>,
    messages: Messages,
    now: DateTime<Utc>,
) -> Outcome {
    let PriceInput { ticket, input } = &incoming.event;
    let Some(policy) = &work.rows.in_force else {
        return Outcome::NotComputed("no policy has been adopted yet".to_owned());
    };
    // Create a missing row: a reservation event that arrives before the ticket event is kept there.
    let none_yet = Row::default();
    let row = work.rows.prices.get(ticket).unwrap_or(&none_yet);
    let applied: Result<Option<Row>, PolicyBehind> = match *input {
        Input::Schedule(schedule) => domain::apply_ticket(row, schedule, policy, now),
        Input::Holder(holder) => domain::apply_reservation(row, holder, policy, now),
    };
    let changed = match applied {
        Ok(changed) => changed,
        Err(behind) => return Outcome::NotComputed(behind.to_string()),
    };
    if incoming.was_parked {
        work.unpark(incoming.event_id.clone());
    }
    if let Some(row) = changed {
        put(work, ticket, row, messages, now, &incoming.trace);
    }
    Outcome::Done
}

fn put(
    work: &mut Work<PricingRows>,
    id: &TicketId,
    row: Row,
    messages: Messages,
    now: DateTime<Utc>,
    trace: &TraceContext,
) {
    if let Some(event) = (messages.event)(id, &row, now, trace) {
        work.publish(event);
    }
    work.rows.prices.put(id.clone(), row);
}

#[cfg(test)]
mod tests;

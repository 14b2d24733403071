//! What can be done with prices, and the ports it needs. `apply_batch` is the whole of every event and policy: a synchronous function
//! over the domain, which a store runs within its transaction.
//!
//! The policy in force is read in that transaction too: a replica that has not heard of the newest version never computes by an
//! older one.

pub mod events;

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_base::{clock::SharedClock, telemetry::TraceContext};
use eticket_proto::ids::{TicketId, UserGrade};
use eticket_service::{
    batch::{self, Batches, Writer},
    consumer::Incoming,
};
use eticket_store::{self as store, Commit, CommitExt, OutboxRow, Parked, Rows, Work};

use crate::domain::{self, Holder, Offer, Policy, PolicyBehind, Price, Row, Schedule};

/// Prices computed anew in one transaction.
const REPRICE_PAGE: i64 = 500;

/// Turns prices into bytes for the outbox.
#[derive(Debug, Clone, Copy)]
pub struct Messages {
    /// `None` for a row without a price, which waits for its ticket.
    pub event: fn(&TicketId, &Row, DateTime<Utc>, &TraceContext) -> Option<OutboxRow>,
}

/// What a commit reads and writes.
#[derive(Debug, Default)]
pub struct PricingRows {
    pub prices: Rows<TicketId, Row>,
    /// The highest version ever adopted.
    pub in_force: Option<Policy>,
    /// Adopted in this commit, in the order of versions.
    pub adopted: Vec<Policy>,
}

/// Where prices and policies are kept.
#[async_trait]
pub trait PriceStore: Commit<Keys = BTreeSet<TicketId>, Rows = PricingRows> + 'static {
    async fn row(&self, id: &TicketId) -> Result<Option<Row>, store::Error>;

    /// Those of the rows of these tickets that there are, also without a price.
    async fn rows_of(&self, ids: &[TicketId]) -> Result<Vec<(TicketId, Row)>, store::Error>;

    /// Rows that have a price, with ids above `after`, in the order of their ids.
    async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, store::Error>;

    /// Rows that have a price by a policy below `version` and that nobody holds.
    async fn to_reprice(&self, version: i64, most: i64) -> Result<Vec<TicketId>, store::Error>;

    /// The highest version ever adopted.
    async fn policy_in_force(&self) -> Result<Option<Policy>, store::Error>;

    /// Rows that have a price.
    async fn count(&self) -> Result<i64, store::Error>;
}

/// What an event says to a price.
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

/// What goes through the one writer.
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

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Offered(Offer),
    /// There is no policy to compute by, or only one that the row is ahead of.
    NotComputed(String),
}

/// The use cases.
#[derive(Clone)]
pub struct Prices {
    store: Arc<dyn PriceStore>,
    writer: Batches<WriteCommand, Outcome>,
}

impl Prices {
    pub fn new(store: Arc<dyn PriceStore>, writer: Batches<WriteCommand, Outcome>) -> Self {
        Self { store, writer }
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn row(&self, id: &TicketId) -> Result<Option<Row>, store::Error> {
        self.store.row(id).await
    }

    /// # Errors
    /// If the store does not answer.
    pub async fn page(&self, after: &str, most: i64) -> Result<Vec<(TicketId, Row)>, store::Error> {
        self.store.page(after, most).await
    }

    /// `None` before the first policy is adopted, which is before the first call is answered.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn policy_in_force(&self) -> Result<Option<Policy>, store::Error> {
        self.store.policy_in_force().await
    }

    /// What a ticket would cost; nothing is stored. `None` as [`Prices::policy_in_force`].
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn quote(&self, start: DateTime<Utc>, grade: Option<UserGrade>) -> Result<Option<Price>, store::Error> {
        Ok(self.store.policy_in_force().await?.map(|policy| policy.price(start, grade)))
    }

    /// Offers a policy: it is kept, and in force from then on, if its version is the highest ever offered.
    ///
    /// # Errors
    /// If the store does not answer: nothing is adopted then, or it is not known.
    pub async fn offer(&self, policy: Policy) -> Result<Offer, batch::Error> {
        match self.writer.submit(WriteCommand::Offer(policy), None).await? {
            Outcome::Offered(offer) => Ok(offer),
            other => Err(batch::Error::Failed(format!("{other:?}"))),
        }
    }

    /// Computes what nobody holds by the policy in force; answers how many.
    ///
    /// # Errors
    /// If the store does not answer: to be begun again, which is harmless.
    pub async fn reprice(&self) -> Result<usize, batch::Error> {
        let Some(policy) = self.store.policy_in_force().await.map_err(unavailable)? else { return Ok(0) };
        let mut count = 0;
        loop {
            let page = self.store.to_reprice(policy.version(), REPRICE_PAGE).await.map_err(unavailable)?;
            if page.is_empty() {
                return Ok(count);
            }
            count += page.len();
            // Each leaves what is found here: it is computed, or somebody holds it by then.
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

/// The store's one writer.
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

/// One write, on the result of those before it in the batch.
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
            // A row of its own even where one of this revision waits: that one may be sent already and input to be deleted.
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
    // A missing row is made: what comes before the ticket's own event waits for it there.
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
        put(work, ticket, row, messages, now, &incoming.trace());
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

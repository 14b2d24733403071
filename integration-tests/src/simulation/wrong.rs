//! The rules of the protocol, each broken on its own: a rule is verified only if the simulation detects its violation.
//!
//! The product has no switches for this: the broken code is in ports and clients of the simulation, or wraps those of
//! the product.

mod network;
mod stores;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use eticket_proto::{ids::TicketId, token::Consistency};
use eticket_query::{
    application::Decode,
    domain::{self, Event, View, Wait},
};
use eticket_reservation::domain::Check;
use eticket_service::{
    audit::{Owner, State},
    batch,
    consumer::{EventHandler, Incoming},
    event::Event as _,
};
use eticket_store::Parked;

pub(super) use self::{
    network::Network,
    stores::{ledgers, tickets, writer},
};
use super::{history::History, scheduler::locked, service::Service};

/// A broken rule; the letters name the invariants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// a, b
    NoConditionOnTheLedger,
    /// c
    NoConditionOnTheRevision,
    /// c
    PricingUpdatesOnlyRowsItHas,
    /// c
    NoCompensation,
    /// d: as it was first written, with "at least" and without withdrawals.
    SettledAsFirstWritten,
    /// d: without the closing of the ledger.
    SettledWithEqualOnly,
    /// d
    NoEventWhenAnUnheldTicketIsClosed,
    /// e
    TokenWaitsForTheRowsSettled,
    /// f
    NoRecord,
    /// f
    RecordLookedUpBeforeTheCheckOnly,
    /// f, k
    OnConflictDoNothing,
    /// h
    NoRepublishAfterALoss,
    /// h: only a sequence.
    PositionWithoutEpoch,
    /// h
    PositionWithoutFingerprint,
    /// i, l
    OneSubjectForAllOfATicket,
    /// i, l
    SentInAnyOrder,
    /// i, l
    TooFewKept,
    /// i, l
    ReservationsByTheTicketsRevision,
    /// i, h
    RepublishMergesWithAWaitingRow,
    /// j
    TokenWithoutIdentity,
    /// j
    TokenCountsTheReplicasChanges,
    /// j
    RowsKeepNoNewSequence,
    /// j
    RowsTakeOneNewSequenceForAllParts,
    /// k
    AllSeeTheStateBeforeTheBatch,
    /// k
    LocksInOrderOfArrival,
    /// m
    RepublishUnderTheFirstMessageId,
    /// n
    ReservedIsAlwaysBelieved,
    /// n: without the second check of the end, which would hide the error.
    ReservedHidesExpired,
    /// n
    EndIsNotLookedAtAgain,
    /// n
    EtagCoversTheRevision,
}

impl Wrong {
    /// All broken rules, in the order of the protocol.
    pub const ALL: [Self; 30] = [
        Self::NoConditionOnTheLedger,
        Self::NoConditionOnTheRevision,
        Self::PricingUpdatesOnlyRowsItHas,
        Self::NoCompensation,
        Self::SettledAsFirstWritten,
        Self::SettledWithEqualOnly,
        Self::NoEventWhenAnUnheldTicketIsClosed,
        Self::TokenWaitsForTheRowsSettled,
        Self::NoRecord,
        Self::RecordLookedUpBeforeTheCheckOnly,
        Self::OnConflictDoNothing,
        Self::NoRepublishAfterALoss,
        Self::PositionWithoutEpoch,
        Self::PositionWithoutFingerprint,
        Self::OneSubjectForAllOfATicket,
        Self::SentInAnyOrder,
        Self::TooFewKept,
        Self::ReservationsByTheTicketsRevision,
        Self::RepublishMergesWithAWaitingRow,
        Self::TokenWithoutIdentity,
        Self::TokenCountsTheReplicasChanges,
        Self::RowsKeepNoNewSequence,
        Self::RowsTakeOneNewSequenceForAllParts,
        Self::AllSeeTheStateBeforeTheBatch,
        Self::LocksInOrderOfArrival,
        Self::RepublishUnderTheFirstMessageId,
        Self::ReservedIsAlwaysBelieved,
        Self::ReservedHidesExpired,
        Self::EndIsNotLookedAtAgain,
        Self::EtagCoversTheRevision,
    ];

    pub(super) fn settled(wrong: Option<Self>, view: &View) -> bool {
        let parts = view.ticket.as_ref().zip(view.price.as_ref());
        match (wrong, parts) {
            (Some(Self::SettledAsFirstWritten), Some((ticket, price))) => {
                ticket.reservation_revision >= view.ledger.revision
                    && price.reservation_revision >= view.ledger.revision
                    && price.schedule_revision >= ticket.schedule_revision
            }
            (Some(Self::SettledWithEqualOnly), Some((ticket, price))) => {
                ticket.reservation_revision == view.ledger.revision
                    && price.reservation_revision == view.ledger.revision
                    && price.schedule_revision == ticket.schedule_revision
            }
            _ => domain::settled(view),
        }
    }

    pub(super) fn answers(wrong: Option<Self>, view: &View, token: &Consistency, wait: Wait) -> bool {
        let answers = domain::answers(view, Some(token), wait);
        match (wrong, wait) {
            (Some(Self::TokenWaitsForTheRowsSettled), Wait::Settled) => answers && domain::settled(view),
            _ => answers,
        }
    }

    /// Returns the result of the ticket service as the reservation service receives it.
    pub(super) fn check(wrong: Option<Self>, check: Check, held: Option<Check>) -> Check {
        let end = DateTime::<Utc>::MAX_UTC;
        let check = match (wrong, check, held) {
            (Some(Self::ReservedHidesExpired), Check::Expired, Some(held)) => held,
            _ => check,
        };
        match (wrong, check) {
            (Some(Self::ReservedIsAlwaysBelieved), Check::Reserved { end, .. }) => {
                Check::Reserved { reservation_revision: i64::MAX, end }
            }
            (
                Some(Self::EndIsNotLookedAtAgain | Self::ReservedHidesExpired),
                Check::Reserved { reservation_revision, .. },
            ) => Check::Reserved { reservation_revision, end },
            (Some(Self::EndIsNotLookedAtAgain | Self::ReservedHidesExpired), Check::Available { .. }) => {
                Check::Available { end }
            }
            _ => check,
        }
    }

    /// Returns the epoch of the stream as a process sees it.
    pub(super) fn epoch(wrong: Option<Self>, process: &str, epoch: String) -> String {
        match wrong {
            Some(Self::PositionWithoutEpoch) if process.starts_with("query") => "the stream".to_owned(),
            _ => epoch,
        }
    }
}

/// Wraps the event handler of a service.
pub(super) struct Heard<T> {
    pub(super) wrong: Option<Wrong>,
    pub(super) service: Service,
    pub(super) history: Arc<Mutex<History>>,
    pub(super) events: T,
    /// Counts the batches that are being applied.
    pub(super) taking_in: Arc<AtomicU64>,
}

impl<T: EventHandler> Heard<T> {
    fn is_ignored(&self, event: &T::Event) -> bool {
        match self.wrong {
            Some(Wrong::NoCompensation) => self.service == Service::Reservation,
            Some(Wrong::PricingUpdatesOnlyRowsItHas) if self.service == Service::Pricing => {
                let (aggregate, _) = event.aggregate();
                let ticket = aggregate.strip_prefix("reservation/").and_then(|id| id.parse::<TicketId>().ok());
                let history = locked(&self.history);
                let has_a_row = |id| history.lookup(&id).is_some_and(|past| !past.prices.is_empty());
                ticket.is_some_and(|id| !has_a_row(id))
            }
            _ => false,
        }
    }
}

/// A batch that is being applied; counted down even if the process dies.
struct TakingIn(Arc<AtomicU64>);

impl TakingIn {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for TakingIn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl<T: EventHandler> EventHandler for Heard<T> {
    type Event = T::Event;

    async fn handle(&self, events: Vec<Incoming<T::Event>>) -> Vec<Result<(), batch::Error>> {
        let ignored: Vec<bool> = events.iter().map(|incoming| self.is_ignored(&incoming.event)).collect();
        let heard = events.into_iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|(event, _)| event);
        let taking_in = TakingIn::new(&self.taking_in);
        let mut outcomes = self.events.handle(heard.collect()).await.into_iter();
        drop(taking_in);
        ignored.iter().map(|ignored| if *ignored { Ok(()) } else { outcomes.next().unwrap_or(Ok(())) }).collect()
    }

    async fn park(&self, parked: Parked) -> Result<(), batch::Error> {
        self.events.park(parked).await
    }

    async fn missing(&self, events: &[T::Event]) -> Result<Vec<bool>, batch::Error> {
        self.events.missing(events).await
    }
}

/// The states that a consumer publishes again on a new stream.
pub(super) fn republished(wrong: Option<Wrong>, owner: Arc<dyn Owner>) -> Arc<dyn Owner> {
    match wrong {
        Some(Wrong::NoRepublishAfterALoss) => Arc::new(NoStates),
        _ => owner,
    }
}

struct NoStates;

#[async_trait]
impl Owner for NoStates {
    async fn count(&self) -> Result<u64, batch::Error> {
        Ok(0)
    }

    async fn states(&self, _: &str, _: usize) -> Result<Vec<State>, batch::Error> {
        Ok(Vec::new())
    }

    async fn republish(&self, _: &[String]) -> Result<u64, batch::Error> {
        Ok(0)
    }
}

/// Returns the decoder of the view.
pub(super) fn decode(wrong: Option<Wrong>) -> Arc<dyn Decode> {
    match wrong {
        Some(Wrong::ReservationsByTheTicketsRevision) => Arc::new(ByTheTicketsRevision::default()),
        _ => Arc::new(eticket_query::inbound::events::Protobuf),
    }
}

/// Skips reservation events that are older than the newest one of their ticket.
#[derive(Default)]
struct ByTheTicketsRevision(Mutex<BTreeMap<TicketId, i64>>);

impl Decode for ByTheTicketsRevision {
    fn decode(&self, message: &Message) -> Result<(TicketId, Event), String> {
        let (ticket, event) = eticket_query::inbound::events::Protobuf.decode(message)?;
        let Event::Ledger(part, reservation) = event else { return Ok((ticket, event)) };
        let mut newest = locked(&self.0);
        let newest = newest.entry(ticket.clone()).or_default();
        let is_behind = part.revision < *newest;
        *newest = part.revision.max(*newest);
        Ok((ticket, Event::Ledger(part, reservation.filter(|_| !is_behind))))
    }
}

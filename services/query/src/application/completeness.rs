//! Checks whether the rows are complete: the owners provide the number of their aggregates and the state of each.
//!
//! Reading the stream to its end is not sufficient if the stream has lost messages. A view that has never been complete
//! is compared with its owners before it serves. Every view is also compared continuously in the background.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eticket_bus::Message;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_service::{
    audit::{self, Comparer, Replica},
    batch,
};
use eticket_store as store;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Counts, Decode, ViewStore, reader::Reader};
use crate::domain::{self, Event, Reservation, View};

/// The services whose states the view keeps.
pub const OWNERS: &[&str] = &[TICKET, RESERVATION, PRICING];
const TICKET: &str = "ticket";
const RESERVATION: &str = "reservation";
const PRICING: &str = "pricing";

/// Time without a response after which an owner counts as down, or as a version without comparisons. The view then
/// serves without its confirmation.
const PATIENCE: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// Delay for states that the owners have just written and that are still in transit.
const SETTLE: Duration = Duration::from_millis(200);
/// Pause after the store has failed.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone)]
pub struct Completeness {
    pub comparer: Comparer,
    pub decode: Arc<dyn Decode>,
}

impl Completeness {
    /// Marks the view as complete once it is, then compares continuously until `stopping` is cancelled.
    pub async fn run(self, reader: Reader, stopping: CancellationToken) {
        let complete = async {
            while let Some(reached_end) = &reader.reached_end
                && !reader.changes.has_caught_up()
            {
                reached_end.notified().await;
                self.reached(&reader.store).await;
                if let Err(error) = reader.complete().await {
                    tracing::warn!(%error, "cannot store that the view is complete; trying again");
                    sleep(PAUSE).await;
                    reached_end.notify_one();
                }
            }
        };
        if stopping.run_until_cancelled(complete).await.is_some() {
            self.comparer.clone().run(Arc::new(self.replica(reader.store)), stopping).await;
        }
    }

    /// Returns once the rows hold all states of the owners, or the owners cannot be compared. The caller must continue
    /// to read the stream meanwhile.
    pub async fn reached(&self, store: &Arc<dyn ViewStore>) {
        let owners = self.comparer.owners.iter();
        futures::future::join_all(owners.map(|owner| self.complete_by(owner, store))).await;
    }

    async fn complete_by(&self, owner: &str, store: &Arc<dyn ViewStore>) {
        let mut silent_since: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let Err(error) = self.attempt(owner, store).await else { return };
            // An attempt that ran for a while has received responses, so the owner is not down.
            silent_since = silent_since.filter(|_| began.elapsed() < PATIENCE);
            if silent_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                tracing::warn!(owner, %error, "the view serves, but its owner has not confirmed that it is complete");
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    async fn attempt(&self, owner: &str, store: &Arc<dyn ViewStore>) -> Result<(), audit::Error> {
        let expected = self.comparer.count_of(owner).await?;
        for pause in [Duration::ZERO, SETTLE] {
            sleep(pause).await;
            if kept(&**store, owner).await? >= expected {
                return Ok(());
            }
        }
        tracing::warn!(owner, expected, "states are missing; comparing the view with its owner before it serves");
        let found = self.comparer.fill(&self.replica(store.clone()), owner).await?;
        tracing::info!(owner, found, "compared the view with its owner");
        Ok(())
    }

    fn replica(&self, store: Arc<dyn ViewStore>) -> Rows {
        Rows { store, decode: self.decode.clone() }
    }
}

/// Returns the number of an owner's states in the rows, counted in the same way as the owner counts them.
async fn kept(store: &dyn ViewStore, owner: &str) -> Result<u64, batch::Error> {
    let Counts { tickets, prices, reservations, closed_ledgers } = store.counts().await.map_err(unavailable)?;
    let count = match owner {
        TICKET => tickets,
        PRICING => prices,
        RESERVATION => reservations + closed_ledgers,
        other => return Err(batch::Error::Failed(format!("the view keeps no states of {other}"))),
    };
    Ok(count.unsigned_abs())
}

fn unavailable(error: store::Error) -> batch::Error {
    tracing::warn!(%error, "cannot read the view for the comparison");
    batch::Error::Unavailable
}

/// The rows as a replica for the comparison.
struct Rows {
    store: Arc<dyn ViewStore>,
    decode: Arc<dyn Decode>,
}

#[async_trait]
impl Replica for Rows {
    async fn missing(&self, states: Vec<Message>) -> Result<Vec<Message>, batch::Error> {
        let decoded = states.into_iter().filter_map(|message| Some((self.decode.decode(&message).ok()?, message)));
        let decoded: Vec<((TicketId, Event), Message)> = decoded.collect();
        let (mut tickets, mut reservations) = (BTreeSet::new(), BTreeSet::new());
        for ((ticket, event), _) in &decoded {
            tickets.insert(ticket.clone());
            if let Event::Ledger(_, Some(reservation)) = event {
                reservations.insert(reservation.reservation_id);
            }
        }
        let views = self.store.views_of(&Vec::from_iter(tickets)).await.map_err(unavailable)?;
        let views: BTreeMap<TicketId, View> = views.into_iter().collect();
        let rows = match reservations.is_empty() {
            true => Vec::new(),
            false => self.store.reservations_of(&Vec::from_iter(reservations)).await.map_err(unavailable)?,
        };
        let rows: BTreeMap<ReservationId, Reservation> =
            rows.into_iter().map(|row| (row.reservation_id, row)).collect();
        let is_missing = |ticket: &TicketId, event: &Event| {
            let reservation = match event {
                Event::Ledger(_, Some(reservation)) => rows.get(&reservation.reservation_id),
                _ => None,
            };
            domain::is_missing(views.get(ticket), reservation, event)
        };
        let missing = decoded.into_iter().filter(|((ticket, event), _)| is_missing(ticket, event));
        audit::without_parked(&*self.store, missing.map(|(_, message)| message).collect()).await.map_err(unavailable)
    }
}

//! Compares every row of the view with the current state of its owner.
//!
//! Both sides change while they are read. A difference therefore counts only if it is still there after both sides have
//! been read again several times: delayed messages have arrived by then.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_rpc_server::on_demand::PATIENCE;
use eticket_store as store;
use tokio::{sync::mpsc, time::timeout};

use super::{Counts, ViewStore};
use crate::domain::{Discount, Money, PricePart, Reservation, ReservationStatus, TicketPart, View};

/// Number of rows of the view that are read at a time.
const PAGE: i64 = 500;
/// Number of checks before a difference counts.
const LOOKS: u32 = 10;
/// Pause before each further check.
pub const PAUSE: Duration = Duration::from_millis(200);
/// Number of pages for which differences are checked repeatedly. With more differing pages, delay is not the cause.
const PATIENT_PAGES: u32 = 25;

/// A page of an owner's list. An empty token requests the first page; an empty `next` marks the last one.
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: String,
}

/// Why an owner cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OwnerError {
    /// The address of the owner is not configured.
    #[error("the address of {0} is not configured")]
    NotConfigured(&'static str),
    #[error("{owner} does not respond: {reason}")]
    Unavailable { owner: &'static str, reason: String },
}

/// The owners of the rows that the view shows.
#[async_trait]
pub trait Owners: Send + Sync {
    /// # Errors
    /// `NotConfigured` with the first owner whose address is not configured.
    fn check(&self) -> Result<(), OwnerError>;

    async fn tickets(&self, token: &str) -> Result<Page<(TicketId, TicketPart)>, OwnerError>;
    async fn ticket(&self, id: &TicketId) -> Result<Option<TicketPart>, OwnerError>;
    async fn prices(&self, token: &str) -> Result<Page<(TicketId, PricePart)>, OwnerError>;
    async fn price(&self, id: &TicketId) -> Result<Option<PricePart>, OwnerError>;
    async fn reservations(&self, token: &str) -> Result<Page<Reservation>, OwnerError>;
    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, OwnerError>;
}

/// A field in which the view differs from its owner. A value is empty if that side has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub ticket: TicketId,
    pub field: String,
    pub view_value: String,
    pub owner_value: String,
}

/// Progress of the comparison, or a difference that it found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub compared: u64,
    pub total: u64,
    pub difference: Option<Difference>,
}

/// Why a comparison ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Owner(#[from] OwnerError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the client has disconnected")]
    ClientDisconnected,
    #[error("the client has not read a report for {} s", PATIENCE.as_secs())]
    ClientTooSlow,
}

/// An item that an owner has, with its ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Item {
    Ticket(TicketId),
    Price(TicketId),
    Reservation(ReservationId, TicketId),
}

/// The fields of an item on one side; `None` if that side does not have the item.
type Fields = Option<Vec<(&'static str, String)>>;

/// One comparison of all rows.
pub struct Comparison {
    store: Arc<dyn ViewStore>,
    owners: Arc<dyn Owners>,
    reports: mpsc::Sender<Report>,
    pause: Duration,
    compared: u64,
    total: u64,
    patient_pages: u32,
    /// Hashes of the items that owners have listed. They take 8 bytes each, so a million rows need little memory.
    listed: HashSet<u64>,
}

impl Comparison {
    pub fn new(
        store: Arc<dyn ViewStore>,
        owners: Arc<dyn Owners>,
        reports: mpsc::Sender<Report>,
        pause: Duration,
    ) -> Self {
        let (listed, patient_pages) = (HashSet::new(), PATIENT_PAGES);
        Self { store, owners, reports, pause, compared: 0, total: 0, patient_pages, listed }
    }

    /// Compares all tickets, prices and reservations, then searches for rows that no owner has listed. Ends if the
    /// receiver is dropped, or takes no report for [`PATIENCE`].
    ///
    /// # Errors
    /// If an owner or the store is unavailable.
    pub async fn run(mut self) -> Result<(), Error> {
        let Counts { tickets, prices, reservations, .. } = self.store.counts().await?;
        self.total = (tickets + prices + reservations).unsigned_abs();
        let mut token = String::new();
        loop {
            let page = self.owners.tickets(&token).await?;
            let rows = page.rows.into_iter().map(|(id, part)| (Item::Ticket(id), Some(ticket_fields(&part))));
            self.page(rows.collect()).await?;
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        loop {
            let page = self.owners.prices(&token).await?;
            let rows = page.rows.into_iter().map(|(id, part)| (Item::Price(id), Some(price_fields(&part))));
            self.page(rows.collect()).await?;
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        loop {
            let page = self.owners.reservations(&token).await?;
            let rows = page.rows.into_iter().map(|row| {
                let holds = row.status == ReservationStatus::Reserved;
                (Item::Reservation(row.reservation_id, row.ticket_id.clone()), Some(reservation_fields(&row, holds)))
            });
            self.page(rows.collect()).await?;
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        self.find_unlisted_rows().await
    }

    /// Searches for rows that no owner has listed.
    async fn find_unlisted_rows(&mut self) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let page = self.store.all_views(&after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            last.as_str().clone_into(&mut after);
            let mut unlisted = Vec::new();
            for (id, view) in page {
                let ticket = view.ticket.is_some().then(|| Item::Ticket(id.clone()));
                let price = view.price.is_some().then_some(Item::Price(id));
                unlisted.extend([ticket, price].into_iter().flatten().filter(|item| !self.is_listed(item)));
            }
            self.settle(unlisted).await?;
        }
        let mut after = String::new();
        loop {
            let page = self.store.all_reservations(&after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.reservation_id.to_string();
            let items = page.into_iter().map(|row| Item::Reservation(row.reservation_id, row.ticket_id));
            let unlisted = items.filter(|item| !self.is_listed(item)).collect();
            self.settle(unlisted).await?;
        }
    }

    fn is_listed(&self, item: &Item) -> bool {
        self.listed.contains(&hash(item))
    }

    /// Compares one page of an owner's list.
    async fn page(&mut self, rows: Vec<(Item, Fields)>) -> Result<(), Error> {
        self.listed.extend(rows.iter().map(|(item, _)| hash(item)));
        let items: Vec<Item> = rows.iter().map(|(item, _)| item.clone()).collect();
        let shown = self.shown(&items).await?;
        self.compared += rows.len() as u64;
        let differing = rows.into_iter().zip(shown).filter(|((_, owned), shown)| owned != shown);
        let differing = differing.map(|((item, _), _)| item).collect();
        self.settle(differing).await?;
        self.report(None).await
    }

    /// Reads both sides of these items again until they agree, and reports the items that still differ after the last
    /// check.
    async fn settle(&mut self, mut items: Vec<Item>) -> Result<(), Error> {
        if items.is_empty() {
            return Ok(());
        }
        let looks = if self.patient_pages > 0 { LOOKS } else { 1 };
        self.patient_pages = self.patient_pages.saturating_sub(1);
        let mut differences = Vec::new();
        for look in 0..looks {
            if look > 0 {
                tokio::time::sleep(self.pause).await;
            }
            differences.clear();
            let mut still = Vec::new();
            for item in items {
                // Read the owner first: the view can then have applied everything that this read returned. The other
                // order could show a difference that is not one.
                let owned = self.owned(&item).await?;
                let shown = self.shown(std::slice::from_ref(&item)).await?.pop().flatten();
                if owned != shown {
                    differences.extend(differing_fields(&item, shown, owned));
                    still.push(item);
                }
            }
            items = still;
            if items.is_empty() {
                return Ok(());
            }
        }
        for difference in differences {
            self.report(Some(difference)).await?;
        }
        Ok(())
    }

    async fn owned(&self, item: &Item) -> Result<Fields, Error> {
        Ok(match item {
            Item::Ticket(id) => self.owners.ticket(id).await?.as_ref().map(ticket_fields),
            Item::Price(id) => self.owners.price(id).await?.as_ref().map(price_fields),
            Item::Reservation(id, _) => {
                let row = self.owners.reservation(*id).await?;
                row.map(|row| reservation_fields(&row, row.status == ReservationStatus::Reserved))
            }
        })
    }

    /// Returns the fields of these items in the view, in the same order, with two reads.
    async fn shown(&self, items: &[Item]) -> Result<Vec<Fields>, Error> {
        let of_ticket = |item: &Item| match item {
            Item::Ticket(id) | Item::Price(id) | Item::Reservation(_, id) => id.clone(),
        };
        let tickets: Vec<TicketId> = items.iter().map(of_ticket).collect();
        let views: std::collections::HashMap<TicketId, View> =
            self.store.views_of(&tickets).await?.into_iter().collect();
        let ids = items.iter().filter_map(|item| match item {
            Item::Reservation(id, _) => Some(*id),
            Item::Ticket(_) | Item::Price(_) => None,
        });
        let reservations = self.store.reservations_of(&ids.collect::<Vec<_>>()).await?;
        let reservations: std::collections::HashMap<_, _> =
            reservations.into_iter().map(|row| (row.reservation_id, row)).collect();
        let fields = |item: &Item| match item {
            Item::Ticket(id) => views.get(id)?.ticket.as_ref().map(ticket_fields),
            Item::Price(id) => views.get(id)?.price.as_ref().map(price_fields),
            Item::Reservation(id, ticket) => {
                let holds = views.get(ticket).is_some_and(|view| view.ledger.active == Some(*id));
                reservations.get(id).map(|row| reservation_fields(row, holds))
            }
        };
        Ok(items.iter().map(fields).collect())
    }

    async fn report(&self, difference: Option<Difference>) -> Result<(), Error> {
        let report = Report { compared: self.compared, total: self.total.max(self.compared), difference };
        // A comparison holds connections to the owners and the hashes of all listed items, so a slow client must not
        // keep it alive.
        let sent = timeout(PATIENCE, self.reports.send(report)).await.map_err(|_| Error::ClientTooSlow)?;
        sent.map_err(|_| Error::ClientDisconnected)
    }
}

fn hash(item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    item.hash(&mut hasher);
    hasher.finish()
}

fn differing_fields(item: &Item, shown: Fields, owned: Fields) -> Vec<Difference> {
    let (ticket, whole) = match item {
        Item::Ticket(id) => (id, "ticket".to_owned()),
        Item::Price(id) => (id, "price".to_owned()),
        Item::Reservation(id, ticket) => (ticket, format!("reservation {id}")),
    };
    let difference = |field: String, view_value: String, owner_value: String| {
        let ticket = ticket.clone();
        Difference { ticket, field, view_value, owner_value }
    };
    let row = |fields: Fields| {
        let revision = fields.into_iter().flatten().find(|(name, _)| *name == "revision");
        revision.map(|(_, revision)| format!("revision {revision}")).unwrap_or_default()
    };
    match (shown, owned) {
        (Some(shown), Some(owned)) => {
            let pairs = shown.into_iter().zip(owned).filter(|((_, shown), (_, owned))| shown != owned);
            pairs.map(|((name, shown), (_, owned))| difference(format!("{whole}.{name}"), shown, owned)).collect()
        }
        (shown, owned) => vec![difference(whole, row(shown), row(owned))],
    }
}

// Each function destructures its part without `..`: a new field does not compile until it is compared or excluded
// explicitly.

fn ticket_fields(part: &TicketPart) -> Vec<(&'static str, String)> {
    let TicketPart {
        revision,
        schedule_revision,
        reservation_revision,
        title,
        start,
        end,
        withdrawn,
        holder,
        // The view takes it from the event of the owner; it changes with the revision.
        update_time: _,
    } = part;
    vec![
        ("revision", revision.to_string()),
        ("schedule_revision", schedule_revision.to_string()),
        ("reservation_revision", reservation_revision.to_string()),
        ("title", title.clone()),
        ("start_time", start.to_rfc3339()),
        ("end_time", end.to_rfc3339()),
        ("withdrawn", withdrawn.to_string()),
        ("reservation_id", holder.map(|holder| holder.to_string()).unwrap_or_default()),
    ]
}

fn price_fields(part: &PricePart) -> Vec<(&'static str, String)> {
    let PricePart {
        revision,
        schedule_revision,
        reservation_revision,
        base_price,
        discounted_price,
        discounts,
        update_time: _,
    } = part;
    let discount = |discount: &Discount| format!("{} {}", discount.rule_id, money(&discount.amount));
    vec![
        ("revision", revision.to_string()),
        ("schedule_revision", schedule_revision.to_string()),
        ("reservation_revision", reservation_revision.to_string()),
        ("base_price", money(base_price)),
        ("discounted_price", money(discounted_price)),
        ("discounts", discounts.iter().map(discount).collect::<Vec<_>>().join(", ")),
    ]
}

/// `holds`: whether the reservation holds the ticket. For the view this follows from the ledger, for the owner from the
/// status.
fn reservation_fields(row: &Reservation, holds: bool) -> Vec<(&'static str, String)> {
    let Reservation {
        // The key of the row.
        reservation_id: _,
        ticket_id,
        user_id,
        user_grade,
        status,
        status_reason,
        revision,
        reserve_time: _,
        update_time: _,
    } = row;
    vec![
        ("revision", revision.to_string()),
        ("ticket_id", ticket_id.to_string()),
        // Reports contain a hash of the user id, not the id: they only need to show whether it differs.
        ("user_id", format!("{:016x}", hash_of(user_id.as_str()))),
        ("user_grade", user_grade.name().to_owned()),
        ("status", format!("{status:?}").to_uppercase()),
        ("status_reason", status_reason.clone()),
        ("holds_the_ticket", holds.to_string()),
    ]
}

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn money(money: &Money) -> String {
    let Money { currency_code, units, nanos } = money;
    if *nanos == 0 { format!("{units} {currency_code}") } else { format!("{units} and {nanos}e-9 {currency_code}") }
}

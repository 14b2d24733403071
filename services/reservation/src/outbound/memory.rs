//! In-memory storage of ledgers and reservations, for tests and simulations.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{
    Error, Idempotency, Record,
    memory::{Store, Tables},
};

use crate::{
    application::{Filter, Keys, ReservationRows, ReservationStore},
    domain::{Ledger, Reservation, Status},
};

/// All rows, by id.
#[derive(Default, Clone)]
pub struct ReservationTables {
    ledgers: BTreeMap<TicketId, Ledger>,
    reservations: BTreeMap<ReservationId, Reservation>,
}

impl ReservationTables {
    /// Returns the tickets whose ledgers these keys need, including the tickets of the reservations.
    fn ledgers_of(&self, keys: &Keys) -> BTreeSet<TicketId> {
        let of_reservations = keys.reservations.iter().filter_map(|id| self.reservations.get(id));
        let tickets = keys.tickets.union(&keys.active_of).cloned();
        tickets.chain(of_reservations.map(|reservation| reservation.ticket.clone())).collect()
    }

    /// Emulates the unique index on the active reservation of a ticket. It is a second guard that fails only if there
    /// is a bug.
    fn check_index(&self) -> Result<(), Error> {
        let mut active = BTreeSet::new();
        let held = self.reservations.values().filter(|reservation| reservation.status == Status::Reserved);
        for reservation in held {
            if !active.insert(&reservation.ticket) {
                return Err(Error::data(format!("two active reservations of {}", reservation.ticket)));
            }
        }
        Ok(())
    }
}

impl Tables for ReservationTables {
    type Keys = Keys;
    type Rows = ReservationRows;

    fn locks(&self, keys: &Keys) -> BTreeSet<String> {
        let ledgers = self.ledgers_of(keys);
        ledgers.iter().filter(|id| self.ledgers.contains_key(*id)).map(ToString::to_string).collect()
    }

    fn read(&self, keys: &Keys) -> ReservationRows {
        let mut rows = ReservationRows::default();
        for ledger in self.ledgers_of(keys).iter().filter_map(|id| self.ledgers.get(id)) {
            rows.ledgers.insert_read(ledger.ticket.clone(), ledger.clone());
        }
        let active = keys.active_of.iter().filter_map(|id| self.ledgers.get(id)).filter_map(|ledger| ledger.active);
        for id in keys.reservations.iter().copied().chain(active) {
            if let Some(reservation) = self.reservations.get(&id) {
                rows.reservations.insert_read(id, reservation.clone());
            }
        }
        rows
    }

    fn write(&mut self, rows: &ReservationRows) -> Result<(), Error> {
        self.ledgers.extend(rows.ledgers.changed().map(|(id, ledger)| (id.clone(), ledger.clone())));
        self.reservations.extend(rows.reservations.changed().map(|(id, reservation)| (*id, reservation.clone())));
        self.check_index()
    }
}

#[async_trait]
impl ReservationStore for Store<ReservationTables> {
    async fn read_snapshot(
        &self,
        idempotency: Option<Idempotency>,
        ticket: &TicketId,
    ) -> Result<(Option<Record>, Option<Ledger>), Error> {
        let request_id = idempotency.map(|idempotency| idempotency.request_id);
        self.look_with_record(request_id, |tables| tables.ledgers.get(ticket).cloned()).await
    }

    async fn reservation(&self, id: ReservationId) -> Result<Option<Reservation>, Error> {
        self.look(|tables| tables.reservations.get(&id).cloned()).await
    }

    async fn page(&self, filter: &Filter, after: &str, most: i64) -> Result<Vec<Reservation>, Error> {
        let Filter { user, ticket, status } = filter;
        let wanted = |reservation: &&Reservation| {
            reservation.id.to_string().as_str() > after
                && user.as_ref().is_none_or(|user| reservation.user.as_str() == user)
                && ticket.as_ref().is_none_or(|ticket| reservation.ticket == *ticket)
                && status.is_none_or(|status| reservation.status == status)
        };
        let most = usize::try_from(most).unwrap_or(0);
        self.look(|tables| tables.reservations.values().filter(wanted).take(most).cloned().collect()).await
    }

    async fn ledgers_of(&self, tickets: &[TicketId]) -> Result<Vec<Ledger>, Error> {
        let tickets: BTreeSet<&TicketId> = tickets.iter().collect();
        self.look(|tables| tickets.iter().filter_map(|id| tables.ledgers.get(*id)).cloned().collect()).await
    }

    async fn closed_ledgers(&self, after: &str, most: i64) -> Result<Vec<TicketId>, Error> {
        let wanted = |ledger: &&Ledger| ledger.closed && ledger.ticket.as_str() > after;
        let most = usize::try_from(most).unwrap_or(0);
        self.look(|tables| tables.ledgers.values().filter(wanted).take(most).map(|it| it.ticket.clone()).collect())
            .await
    }

    async fn count(&self) -> Result<i64, Error> {
        let count = |tables: &ReservationTables| {
            tables.reservations.len() + tables.ledgers.values().filter(|ledger| ledger.closed).count()
        };
        Ok(i64::try_from(self.look(count).await?).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use eticket_base::clock::SystemClock;

    use super::*;
    use crate::outbound::contract;

    #[tokio::test]
    async fn keeps_the_contract() {
        contract::suite(Arc::new(Store::<ReservationTables>::new(Arc::new(SystemClock)))).await;
    }
}

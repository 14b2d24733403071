//! The rows of the view in memory, and the selection of rows for lists.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use chrono::{DateTime, Utc};
use eticket_proto::ids::{ReservationId, TicketId};
use eticket_store::{Error, memory::Tables};

use crate::{
    application::{
        Keys, Position, StreamRows, ViewRows, Watched,
        listing::{Direction, Field, Filter, KeyPart, SortOrder},
    },
    domain::{self, Reservation, View},
};

/// All rows.
#[derive(Default, Clone)]
pub(super) struct ViewTables {
    pub(super) views: BTreeMap<TicketId, View>,
    pub(super) reservations: BTreeMap<ReservationId, Reservation>,
    pub(super) position: Option<Position>,
    pub(super) has_caught_up: bool,
}

impl ViewTables {
    /// Returns rows, including those without a ticket part, sorted by id.
    pub(super) fn any_rows(&self, wanted: impl Fn(&TicketId, &View) -> bool) -> impl Iterator<Item = (TicketId, View)> {
        self.views.iter().filter(move |(id, view)| wanted(id, view)).map(|(id, view)| (id.clone(), view.clone()))
    }

    /// Returns rows with a ticket part, sorted by id.
    pub(super) fn rows(&self, wanted: impl Fn(&TicketId, &View) -> bool) -> Vec<(TicketId, View)> {
        self.any_rows(|id, view| view.ticket.is_some() && wanted(id, view)).collect()
    }

    pub(super) fn watched(
        &self,
        watched: &Watched,
        wanted: impl Fn(&TicketId, &View) -> bool,
    ) -> Vec<(TicketId, View)> {
        let is_watched = |id: &TicketId| match watched {
            Watched::All => true,
            Watched::These(ids) => ids.contains(id),
        };
        self.rows(|id, view| is_watched(id) && wanted(id, view))
    }

    pub(super) fn stream_rows(&self, mut rows: Vec<(TicketId, View)>, most: usize) -> StreamRows {
        // Before the first stream is known, no row belongs to a stream.
        let Some(position) = &self.position else { return StreamRows::default() };
        rows.truncate(most);
        StreamRows { epoch: rows.first().map(|_| position.epoch.clone()), rows }
    }
}

impl Tables for ViewTables {
    type Keys = Keys;
    type Rows = ViewRows;

    /// One lock for all rows: only the reader of the replica writes, except during a repair by an operator.
    fn locks(&self, _: &Keys) -> BTreeSet<String> {
        ["view".to_owned()].into()
    }

    fn read(&self, keys: &Keys) -> ViewRows {
        let mut rows = ViewRows { position: self.position.clone(), ..ViewRows::default() };
        for (id, view) in keys.tickets.iter().filter_map(|id| self.views.get_key_value(id)) {
            rows.views.insert_read(id.clone(), view.clone());
        }
        for (id, row) in keys.reservations.iter().filter_map(|id| self.reservations.get_key_value(id)) {
            rows.reservations.insert_read(*id, row.clone());
        }
        rows
    }

    fn write(&mut self, rows: &ViewRows) -> Result<(), Error> {
        if rows.forget_sequences {
            self.views.values_mut().for_each(|view| view.sequence = 0);
        }
        self.views.extend(rows.views.changed().map(|(id, view)| (id.clone(), view.clone())));
        self.reservations.extend(rows.reservations.changed().map(|(id, row)| (*id, row.clone())));
        self.has_caught_up |= rows.has_caught_up;
        self.position = rows.moved_to.clone().or(self.position.take());
        Ok(())
    }
}

pub(super) fn passes(filter: &Filter, view: &View, now: DateTime<Utc>) -> bool {
    let Filter { status, user, start_from, start_to } = filter;
    let Some(ticket) = &view.ticket else { return false };
    status.is_none_or(|status| domain::status(ticket, now) == status)
        && user.as_ref().is_none_or(|user| view.holder() == Some(user))
        && start_from.is_none_or(|from| ticket.start >= from)
        && start_to.is_none_or(|to| ticket.start < to)
}

/// Compares the keys of two rows in a sort order.
pub(super) fn above(order: &SortOrder, one: &[KeyPart], other: &[KeyPart]) -> Ordering {
    let directions = order.fields().iter().flat_map(|(field, direction)| {
        let parts = if *field == Field::DiscountedPrice { 2 } else { 1 };
        std::iter::repeat_n(*direction, parts)
    });
    for ((one, other), direction) in one.iter().zip(other).zip(directions) {
        let ascending = match (one, other) {
            (KeyPart::Number(one), KeyPart::Number(other)) => one.cmp(other),
            (KeyPart::Text(one), KeyPart::Text(other)) => one.cmp(other),
            // All keys of one order have the same form.
            (KeyPart::Number(_), KeyPart::Text(_)) | (KeyPart::Text(_), KeyPart::Number(_)) => Ordering::Equal,
        };
        let compared = if direction == Direction::Ascending { ascending } else { ascending.reverse() };
        if compared.is_ne() {
            return compared;
        }
    }
    Ordering::Equal
}

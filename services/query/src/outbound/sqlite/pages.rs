//! Statements of lists. They depend on the filter and the order, so they are built here, only from constants and bound
//! values.

use chrono::{DateTime, Utc};
use rusqlite::types::Value;

use crate::{
    application::listing::{Direction, Field, Filter, KeyPart, SortOrder},
    domain::TicketStatus,
};

// Uses reservation_by_user. The second comparison selects the position among reservations of the same time.
pub(super) const USER_RESERVATIONS: &str = "select r.*, v.*
    from reservation r left join view v on v.ticket_id = r.ticket_id
    where r.user_id = ?1 and r.reserve_time <= ?2 and (r.reserve_time < ?2 or r.reservation_id < ?3)
    order by r.reserve_time desc, r.reservation_id desc limit ?4";

// The epoch is read in the same statement as the rows. Uses view_by_sequence, or the primary key for a few ids.
pub(super) const CHANGED: &str = "select view.*, position.identity from view, position
    where listed > 0 and view.sequence > ?1 order by view.sequence limit ?2";
pub(super) const CHANGED_OF_THESE: &str = "select view.*, position.identity from view, position
    where +listed > 0 and view.sequence > ?1 and ticket_id in (select value from json_each(?3))
    order by view.sequence limit ?2";
// Use the primary key.
pub(super) const SNAPSHOT: &str = "select view.*, position.identity from view, position
    where +listed > 0 and ticket_id > ?1 order by ticket_id limit ?2";
pub(super) const SNAPSHOT_OF_THESE: &str = "select view.*, position.identity from view, position
    where +listed > 0 and ticket_id > ?1 and ticket_id in (select value from json_each(?3))
    order by ticket_id limit ?2";
pub(super) const ALL_VIEWS: &str = "select * from view where ticket_id > ?1 order by ticket_id limit ?2";
pub(super) const ALL_RESERVATIONS: &str = "select * from reservation
    where reservation_id > ?1 order by reservation_id limit ?2";
pub(super) const RESERVATIONS_OF_THESE: &str = "select * from reservation
    where reservation_id in (select value from json_each(?1))";
// Uses view_unsettled.
pub(super) const UNSETTLED: &str = "select * from view where unsettled_since is not null and ticket_id > ?1
    order by ticket_id limit ?2";
// Uses view_by_unsettled_since.
pub(super) const OLDEST_UNSETTLED: &str = "select unsettled_since from view where unsettled_since is not null
    order by unsettled_since limit 1";
pub(super) const COUNTS: &str = "select
    (select count(*) from view where listed > 0) as tickets,
    (select count(*) from view where price_revision > 0) as prices,
    (select count(*) from view where closed = 1) as closed_ledgers,
    (select count(*) from reservation) as reservations";

/// A statement and the values of its parameters.
pub(super) struct Query {
    pub(super) text: String,
    pub(super) values: Vec<Value>,
}

impl Query {
    fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.text.push('?');
        self.values.push(value.into());
        self
    }
}

/// Builds the query for the rows that match the filter, in the given order, after the key `after`.
pub(super) fn query(
    filter: &Filter,
    order: &SortOrder,
    after: Option<&[KeyPart]>,
    now: DateTime<Utc>,
    most: i64,
) -> Query {
    let mut query = Query { text: "select * from view".to_owned(), values: Vec::new() };
    query.push(index(filter, order)).push(" where listed > 0");
    match filter.status {
        None => {}
        Some(TicketStatus::Withdrawn) => {
            query.push(" and withdrawn = 1");
        }
        Some(TicketStatus::Reserved) => {
            query.push(" and withdrawn = 0 and holder is not null");
        }
        Some(TicketStatus::Expired) => {
            query.push(" and withdrawn = 0 and holder is null and end_time <= ").bind(now.timestamp_micros());
        }
        Some(TicketStatus::Available) => {
            query.push(" and withdrawn = 0 and holder is null and end_time > ").bind(now.timestamp_micros());
        }
    }
    if let Some(user) = &filter.user {
        query.push(" and holder_user_id = ").bind(user.as_str().to_owned());
    }
    if let Some(from) = filter.start_from {
        query.push(" and start_time >= ").bind(from.timestamp_micros());
    }
    if let Some(to) = filter.start_to {
        query.push(" and start_time < ").bind(to.timestamp_micros());
    }
    let columns: Vec<(&str, Direction)> = order
        .fields()
        .iter()
        .flat_map(|(field, direction)| columns(*field).iter().map(|name| (*name, *direction)))
        .collect();
    if let Some(after) = after {
        push_above(&mut query, &columns, after);
    }
    for (index, (name, direction)) in columns.iter().enumerate() {
        query.push(if index == 0 { " order by " } else { ", " }).push(name);
        query.push(if *direction == Direction::Ascending { " asc" } else { " desc" });
    }
    query.push(" limit ").bind(most);
    query
}

/// Returns the index to use. It is named explicitly because SQLite's own choice is unreliable without statistics.
fn index(filter: &Filter, order: &SortOrder) -> &'static str {
    let first = order.fields().first().map(|(field, _)| *field);
    match (first, filter.status) {
        // A user holds few tickets, so sorting them in any order is cheap.
        _ if filter.user.is_some() => " indexed by view_by_holder",
        (Some(Field::StartTime), Some(TicketStatus::Withdrawn)) => " indexed by view_withdrawn",
        (Some(Field::StartTime), Some(TicketStatus::Reserved)) => " indexed by view_reserved",
        (Some(Field::StartTime), Some(TicketStatus::Available | TicketStatus::Expired)) => " indexed by view_free",
        (Some(Field::StartTime), None) => " indexed by view_by_start",
        (Some(Field::DiscountedPrice), _) => " indexed by view_by_price",
        (Some(Field::UpdateTime), _) => " indexed by view_by_update",
        // The table itself is sorted by id.
        (Some(Field::TicketId) | None, _) => " not indexed",
    }
}

fn columns(field: Field) -> &'static [&'static str] {
    match field {
        Field::StartTime => &["start_time"],
        Field::TicketId => &["ticket_id"],
        Field::DiscountedPrice => &["discounted_units", "discounted_nanos"],
        Field::UpdateTime => &["update_time"],
    }
}

/// Appends `a >= ? and (a > ? or (b >= ? and (b > ? or (c > ?))))`: the lexicographic comparison, with the direction of
/// each column. The first comparison alone bounds the range of the index.
fn push_above(query: &mut Query, columns: &[(&'static str, Direction)], after: &[KeyPart]) {
    let last = columns.len().saturating_sub(1);
    for (index, ((name, direction), part)) in columns.iter().zip(after).enumerate() {
        let beyond = if *direction == Direction::Ascending { " > " } else { " < " };
        let at_or_beyond = if *direction == Direction::Ascending { " >= " } else { " <= " };
        query.push(if index == 0 { " and " } else { "" });
        if index < last {
            query.push(name).push(at_or_beyond);
            push_part(query, part);
            query.push(" and (").push(name).push(beyond);
            push_part(query, part);
            query.push(" or (");
        } else {
            query.push(name).push(beyond);
            push_part(query, part);
        }
    }
    query.push(&"))".repeat(last));
}

fn push_part(query: &mut Query, part: &KeyPart) {
    match part {
        KeyPart::Number(number) => query.bind(*number),
        KeyPart::Text(text) => query.bind(text.clone()),
    };
}

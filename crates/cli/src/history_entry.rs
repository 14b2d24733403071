//! Entries of a ticket's history as rows.

use eticket_proto::query::{TicketHistoryEntry, ticket_history_entry::State};

use crate::{
    output::{Fit, NOTHING, Resource, Tone},
    resources::{grade, local, plain, price, reservation_status, ticket_status, utc},
    time::Zone,
};

/// What the state of an entry is about, its status or price, and its user.
fn about(entry: &TicketHistoryEntry) -> [String; 3] {
    match &entry.state {
        Some(State::Ticket(ticket)) => ["ticket".to_owned(), ticket_status(ticket.status), String::new()],
        Some(State::Reservation(row)) => {
            ["reservation".to_owned(), reservation_status(row.status), row.user_id.clone()]
        }
        Some(State::Price(row)) => ["price".to_owned(), price(row.discounted_price.as_ref()), String::new()],
        None => Default::default(),
    }
}

impl Resource for TicketHistoryEntry {
    const MESSAGE: &'static str = "eticket.query.v1.TicketHistoryEntry";
    const NOUN: (&'static str, &'static str) = ("entry", "entries");
    const CSV: &'static [&'static str] = &[
        "event_time",
        "event_type",
        "about",
        "revision",
        "state",
        "user_id",
        "user_grade",
        "reservation_id",
        "correlation_id",
    ];
    const TABLE: &'static [(&'static str, Fit)] = &[
        ("TIME", Fit::Whole),
        ("EVENT", Fit::Whole),
        ("STATE", Fit::Whole),
        ("USER", Fit::Short),
        ("CORRELATION", Fit::Below),
    ];

    fn csv(&self) -> Vec<String> {
        let [about, state, user] = about(self);
        let (user_grade, reservation_id) = match &self.state {
            Some(State::Reservation(row)) => (grade(row.user_grade), row.reservation_id.clone()),
            Some(State::Ticket(ticket)) => (String::new(), ticket.reservation_id.clone()),
            _ => Default::default(),
        };
        vec![
            utc(self.event_time.as_ref()),
            self.event_type.clone(),
            about,
            self.revision.to_string(),
            state,
            user,
            user_grade,
            reservation_id,
            self.correlation_id.clone(),
        ]
    }

    fn row(&self, zone: Zone) -> Vec<(String, Tone)> {
        let [_, state, user] = about(self).map(|text| if text.is_empty() { NOTHING.to_owned() } else { text });
        vec![
            plain(local(self.event_time.as_ref(), zone)),
            plain(&self.event_type),
            plain(state),
            plain(user),
            (self.correlation_id.clone(), Tone::Quiet),
        ]
    }
}

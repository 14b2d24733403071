//! Tickets and reservations as rows and cards.

use chrono::SecondsFormat;
use eticket_proto::{
    pricing::Discount,
    query::{TicketView, UserReservation},
    reservation::{Reservation, ReservationStatus, UserGrade},
    ticket::{Ticket, TicketStatus},
    r#type::Money,
};
use prost_types::Timestamp;

use crate::{
    money,
    output::{Fit, NOTHING, Resource, Tone},
    time::{self, Zone},
};

/// RFC 3339 in UTC, for programs.
pub(crate) fn utc(time: Option<&Timestamp>) -> String {
    time::read(time).map(|time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true)).unwrap_or_default()
}

pub(crate) fn local(time: Option<&Timestamp>, zone: Zone) -> String {
    time::read(time).map_or_else(|| NOTHING.to_owned(), |time| zone.show(time))
}

fn local_day(time: Option<&Timestamp>, zone: Zone) -> String {
    time::read(time).map_or_else(|| NOTHING.to_owned(), |time| zone.show_day(time))
}

/// The name of an enum's value without the prefix that all values share; a value that this program does not know, as its number.
fn name(known: Option<&str>, prefix: &str, number: i32) -> String {
    match known {
        Some(name) if number != 0 => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
        Some(_) => String::new(),
        None => number.to_string(),
    }
}

pub(crate) fn ticket_status(number: i32) -> String {
    let known = TicketStatus::try_from(number).ok();
    name(known.map(|status| status.as_str_name()), "TICKET_STATUS_", number)
}

pub(crate) fn reservation_status(number: i32) -> String {
    let known = ReservationStatus::try_from(number).ok();
    name(known.map(|status| status.as_str_name()), "RESERVATION_STATUS_", number)
}

pub(crate) fn grade(number: i32) -> String {
    let known = UserGrade::try_from(number).ok();
    name(known.map(|grade| grade.as_str_name()), "USER_GRADE_", number)
}

pub(crate) fn tone_of_ticket(number: i32) -> Tone {
    match TicketStatus::try_from(number) {
        Ok(TicketStatus::Available) => Tone::Good,
        Ok(TicketStatus::Reserved) => Tone::Busy,
        Ok(TicketStatus::Withdrawn) => Tone::Bad,
        _ => Tone::Quiet,
    }
}

fn tone_of_reservation(number: i32) -> Tone {
    match ReservationStatus::try_from(number) {
        Ok(ReservationStatus::Reserved) => Tone::Good,
        Ok(ReservationStatus::Rejected) => Tone::Bad,
        _ => Tone::Quiet,
    }
}

pub(crate) fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

pub(crate) fn price(money: Option<&Money>) -> String {
    money.map_or_else(|| NOTHING.to_owned(), money::show)
}

/// Amount and currency; both empty without a price.
fn amount(money: Option<&Money>) -> [String; 2] {
    money.map(|money| [money::amount(money), money.currency_code.clone()]).unwrap_or_default()
}

/// The user that holds the ticket, with the grade.
pub(crate) fn holder(view: &TicketView) -> String {
    match grade(view.user_grade) {
        _ if TicketStatus::try_from(view.ticket_status) != Ok(TicketStatus::Reserved) => NOTHING.to_owned(),
        _ if view.user_id.is_empty() => "somebody else".to_owned(),
        grade => format!("{} ({grade})", view.user_id),
    }
}

impl Resource for TicketView {
    const MESSAGE: &'static str = "eticket.query.v1.TicketView";
    const NOUN: (&'static str, &'static str) = ("ticket", "tickets");
    const CSV: &'static [&'static str] = &[
        "ticket_id",
        "title",
        "ticket_status",
        "start_time",
        "end_time",
        "base_price",
        "discounted_price",
        "currency_code",
        "reservation_id",
        "reservation_status",
        "user_id",
        "user_grade",
        "reserve_time",
        "settled",
        "update_time",
    ];
    const TABLE: &'static [(&'static str, Fit)] = &[
        ("TICKET", Fit::Whole),
        ("TITLE", Fit::Short),
        ("STATUS", Fit::Whole),
        ("STARTS", Fit::Whole),
        ("PRICE", Fit::Right),
        ("HOLDER", Fit::Short),
    ];

    fn csv(&self) -> Vec<String> {
        let [base, currency] = amount(self.base_price.as_ref());
        let [discounted, _] = amount(self.discounted_price.as_ref());
        vec![
            self.ticket_id.clone(),
            self.title.clone(),
            ticket_status(self.ticket_status),
            utc(self.start_time.as_ref()),
            utc(self.end_time.as_ref()),
            base,
            discounted,
            currency,
            self.reservation_id.clone(),
            reservation_status(self.reservation_status),
            self.user_id.clone(),
            grade(self.user_grade),
            utc(self.reserve_time.as_ref()),
            self.settled.to_string(),
            utc(self.update_time.as_ref()),
        ]
    }

    fn row(&self, zone: Zone) -> Vec<(String, Tone)> {
        vec![
            plain(&self.ticket_id),
            plain(&self.title),
            (ticket_status(self.ticket_status), tone_of_ticket(self.ticket_status)),
            plain(local(self.start_time.as_ref(), zone)),
            plain(price(self.discounted_price.as_ref())),
            plain(holder(self)),
        ]
    }
}

impl Resource for Ticket {
    const MESSAGE: &'static str = "eticket.ticket.v1.Ticket";
    const NOUN: (&'static str, &'static str) = ("ticket", "tickets");
    const CSV: &'static [&'static str] =
        &["ticket_id", "title", "status", "start_time", "end_time", "reservation_id", "etag"];
    const TABLE: &'static [(&'static str, Fit)] = &[
        ("TICKET", Fit::Whole),
        ("TITLE", Fit::Short),
        ("STATUS", Fit::Whole),
        ("STARTS", Fit::Whole),
        ("ENDS", Fit::Whole),
    ];

    fn csv(&self) -> Vec<String> {
        vec![
            self.ticket_id.clone(),
            self.title.clone(),
            ticket_status(self.status),
            utc(self.start_time.as_ref()),
            utc(self.end_time.as_ref()),
            self.reservation_id.clone(),
            self.etag.clone(),
        ]
    }

    fn row(&self, zone: Zone) -> Vec<(String, Tone)> {
        vec![
            plain(&self.ticket_id),
            plain(&self.title),
            (ticket_status(self.status), tone_of_ticket(self.status)),
            plain(local(self.start_time.as_ref(), zone)),
            plain(local(self.end_time.as_ref(), zone)),
        ]
    }
}

impl Resource for Reservation {
    const MESSAGE: &'static str = "eticket.reservation.v1.Reservation";
    const NOUN: (&'static str, &'static str) = ("reservation", "reservations");
    const CSV: &'static [&'static str] = &[
        "reservation_id",
        "ticket_id",
        "user_id",
        "user_grade",
        "status",
        "status_reason",
        "reserve_time",
        "update_time",
    ];
    const TABLE: &'static [(&'static str, Fit)] = &[
        ("RESERVATION", Fit::Whole),
        ("TICKET", Fit::Short),
        ("USER", Fit::Short),
        ("STATUS", Fit::Whole),
        ("RESERVED", Fit::Whole),
    ];

    fn csv(&self) -> Vec<String> {
        vec![
            self.reservation_id.clone(),
            self.ticket_id.clone(),
            self.user_id.clone(),
            grade(self.user_grade),
            reservation_status(self.status),
            self.status_reason.clone(),
            utc(self.reserve_time.as_ref()),
            utc(self.update_time.as_ref()),
        ]
    }

    fn row(&self, zone: Zone) -> Vec<(String, Tone)> {
        vec![
            plain(&self.reservation_id),
            plain(&self.ticket_id),
            plain(&self.user_id),
            (reservation_status(self.status), tone_of_reservation(self.status)),
            plain(local(self.reserve_time.as_ref(), zone)),
        ]
    }
}

impl Resource for UserReservation {
    const MESSAGE: &'static str = "eticket.query.v1.UserReservation";
    const NOUN: (&'static str, &'static str) = ("reservation", "reservations");
    const CSV: &'static [&'static str] = &[
        "reservation_id",
        "ticket_id",
        "user_id",
        "user_grade",
        "status",
        "status_reason",
        "reserve_time",
        "update_time",
        "title",
        "ticket_status",
        "start_time",
        "end_time",
        "base_price",
        "discounted_price",
        "currency_code",
    ];
    const TABLE: &'static [(&'static str, Fit)] = &[
        ("RESERVATION", Fit::Whole),
        ("TITLE", Fit::Short),
        ("STATUS", Fit::Whole),
        ("STARTS", Fit::Whole),
        ("PRICE", Fit::Right),
    ];

    fn csv(&self) -> Vec<String> {
        let [base, currency] = amount(self.base_price.as_ref());
        let [discounted, _] = amount(self.discounted_price.as_ref());
        let mut cells = self.reservation.clone().unwrap_or_default().csv();
        cells.extend([
            self.title.clone(),
            ticket_status(self.ticket_status),
            utc(self.start_time.as_ref()),
            utc(self.end_time.as_ref()),
            base,
            discounted,
            currency,
        ]);
        cells
    }

    fn row(&self, zone: Zone) -> Vec<(String, Tone)> {
        let (id, status) =
            self.reservation.as_ref().map(|own| (own.reservation_id.clone(), own.status)).unwrap_or_default();
        vec![
            plain(id),
            plain(&self.title),
            (reservation_status(status), tone_of_reservation(status)),
            plain(local(self.start_time.as_ref(), zone)),
            plain(price(self.discounted_price.as_ref())),
        ]
    }
}

/// Labels and texts of a card.
pub(crate) type Lines = Vec<(String, String, Tone)>;

pub(crate) fn line(label: &str, text: impl Into<String>) -> (String, String, Tone) {
    (label.to_owned(), text.into(), Tone::Plain)
}

/// The price and, below it, what led to it.
pub(crate) fn price_lines(base: Option<&Money>, to_pay: Option<&Money>, discounts: &[Discount]) -> Lines {
    let mut lines = vec![line("Price", price(to_pay))];
    if !discounts.is_empty() {
        lines.push(("  base".to_owned(), price(base), Tone::Quiet));
    }
    for discount in discounts {
        let off = discount.amount.as_ref().map(|amount| format!("-{}", money::show(amount))).unwrap_or_default();
        let why = if discount.description.is_empty() { &discount.rule_id } else { &discount.description };
        lines.push((format!("  {}", crate::error::printable(&discount.rule_id)), format!("{off}  {why}"), Tone::Quiet));
    }
    lines
}

pub(crate) fn view_lines(view: &TicketView, zone: Zone) -> Lines {
    let status = (ticket_status(view.ticket_status), tone_of_ticket(view.ticket_status));
    let mut lines = vec![
        line("Ticket", &view.ticket_id),
        ("Status".to_owned(), status.0, status.1),
        line("Starts", local_day(view.start_time.as_ref(), zone)),
        line("Ends", local_day(view.end_time.as_ref(), zone)),
    ];
    lines.extend(price_lines(view.base_price.as_ref(), view.discounted_price.as_ref(), &view.discounts));
    if !view.reservation_id.is_empty() {
        let status = reservation_status(view.reservation_status);
        lines.push(line("Reservation", format!("{}  {status}", view.reservation_id)));
    }
    if !view.user_id.is_empty() {
        let since = local(view.reserve_time.as_ref(), zone);
        lines.push(line("User", format!("{} ({}), {since}", view.user_id, grade(view.user_grade))));
    }
    let settled = if view.settled { "yes" } else { "not yet: other services still react" };
    lines.push(("Settled".to_owned(), settled.to_owned(), if view.settled { Tone::Plain } else { Tone::Busy }));
    lines
}

pub(crate) fn ticket_lines(ticket: &Ticket, zone: Zone) -> Lines {
    vec![
        line("Ticket", &ticket.ticket_id),
        ("Status".to_owned(), ticket_status(ticket.status), tone_of_ticket(ticket.status)),
        line("Starts", local_day(ticket.start_time.as_ref(), zone)),
        line("Ends", local_day(ticket.end_time.as_ref(), zone)),
        line("Etag", &ticket.etag),
    ]
}

pub(crate) fn reservation_lines(reservation: &Reservation, zone: Zone) -> Lines {
    let status = reservation_status(reservation.status);
    let mut lines = vec![
        line("Reservation", &reservation.reservation_id),
        ("Status".to_owned(), status, tone_of_reservation(reservation.status)),
        line("Ticket", &reservation.ticket_id),
        line("User", format!("{} ({})", reservation.user_id, grade(reservation.user_grade))),
        line("Reserved", local_day(reservation.reserve_time.as_ref(), zone)),
    ];
    if !reservation.status_reason.is_empty() {
        lines.push(line("Reason", &reservation.status_reason));
    }
    lines
}

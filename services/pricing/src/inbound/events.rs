//! Decodes ticket events, which carry the start, and reservation events, which carry the holder.

use eticket_bus::{self as bus, Message};
use eticket_proto::{
    event::{ReservationEvent, TicketEvent},
    ids::UserGrade,
    subjects,
    time::from_proto,
};
use eticket_service::event::Event;
use prost::Message as _;

use crate::{
    application::{Input, PriceInput},
    domain::{Holder, Schedule},
};

impl Event for PriceInput {
    const FILTERS: &'static [&'static str] = &[subjects::TICKETS, subjects::RESERVATIONS];

    fn decode(message: &Message) -> Result<Self, String> {
        if bus::matches(subjects::TICKETS, &message.subject) {
            ticket(message)
        } else if bus::matches(subjects::RESERVATIONS, &message.subject) {
            reservation(message)
        } else {
            Err("subject: expected that of a ticket or a reservation".to_owned())
        }
    }

    // Schedule and holder have separate revisions, so each is a separate aggregate.
    fn aggregate(&self) -> (String, i64) {
        match self.input {
            Input::Schedule(schedule) => (format!("ticket/{}", self.ticket), schedule.revision),
            Input::Holder(holder) => (format!("reservation/{}", self.ticket), holder.revision),
        }
    }
}

fn ticket(message: &Message) -> Result<PriceInput, String> {
    let event = TicketEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
    let ticket = event.ticket.ok_or("ticket: expected a ticket, got none")?;
    let start = ticket.start_time.as_ref().and_then(from_proto).ok_or("start_time: expected a time")?;
    let revision = at_least_one("schedule_revision", ticket.schedule_revision)?;
    let id = ticket.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
    Ok(PriceInput { ticket: id, input: Input::Schedule(Schedule { start, revision }) })
}

fn reservation(message: &Message) -> Result<PriceInput, String> {
    let event = ReservationEvent::decode(message.body.clone()).map_err(|error| error.to_string())?;
    let revision = at_least_one("ledger_revision", event.ledger_revision)?;
    let ticket = event.ticket_id.parse().map_err(|error| format!("ticket_id: {error}"))?;
    let grade = match (event.active_reservation_id.as_str(), &event.reservation) {
        ("", _) => None,
        (active, Some(reservation)) if reservation.reservation_id == active => {
            let grade = UserGrade::from_proto(reservation.user_grade);
            Some(grade.ok_or_else(|| format!("user_grade: {} is not a grade", reservation.user_grade))?)
        }
        // The event carries only the grade of its own reservation. If another one is active, the price cannot be
        // computed.
        (active, _) => return Err(format!("active_reservation_id: {active} is not the reservation of the event")),
    };
    Ok(PriceInput { ticket, input: Input::Holder(Holder { grade, revision }) })
}

fn at_least_one(field: &str, revision: i64) -> Result<i64, String> {
    if revision < 1 { Err(format!("{field}: expected at least 1, got {revision}")) } else { Ok(revision) }
}

#[cfg(test)]
mod tests {
    use eticket_proto::{
        reservation::{Reservation, UserGrade as GradeMessage},
        ticket::Ticket,
    };
    use prost_types::Timestamp;

    use super::*;

    fn message(subject: &str, body: &impl prost::Message) -> Message {
        Message { subject: subject.to_owned(), body: body.encode_to_vec().into(), ..Message::default() }
    }

    fn ticket_event() -> Ticket {
        let start_time = Some(Timestamp { seconds: 100, nanos: 0 });
        Ticket { ticket_id: "t-1".into(), start_time, schedule_revision: 2, revision: 9, ..Ticket::default() }
    }

    fn decoded_ticket(ticket: Ticket) -> Result<PriceInput, String> {
        self::ticket(&message("eticket.v1.ticket.t-1", &TicketEvent { ticket: Some(ticket), withdrawn: false }))
    }

    const ID: &str = "0199a0e0-0000-7000-8000-000000000001";

    fn reservation_event() -> ReservationEvent {
        let reservation =
            Reservation { reservation_id: ID.into(), user_grade: GradeMessage::Vip.into(), ..Reservation::default() };
        ReservationEvent {
            reservation: Some(reservation),
            ticket_id: "t-1".into(),
            ledger_revision: 3,
            active_reservation_id: ID.into(),
            closed: false,
        }
    }

    fn decoded_reservation(event: &ReservationEvent) -> Result<PriceInput, String> {
        reservation(&message("eticket.v1.reservation.t-1.x", event))
    }

    #[test]
    fn a_schedule_has_the_schedule_revision() {
        let event = decoded_ticket(ticket_event()).expect("an event");
        assert!(matches!(event.input, Input::Schedule(schedule) if schedule.revision == 2), "{event:?}");
        for broken in [
            Ticket { ticket_id: String::new(), ..ticket_event() },
            Ticket { start_time: None, ..ticket_event() },
            Ticket { schedule_revision: 0, ..ticket_event() },
        ] {
            assert!(decoded_ticket(broken.clone()).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn only_an_active_reservation_has_a_grade() {
        let grade = |event: &ReservationEvent| match decoded_reservation(event).expect("an event").input {
            Input::Holder(holder) => (holder.grade, holder.revision),
            Input::Schedule(_) => panic!("a reservation event"),
        };
        assert_eq!(grade(&reservation_event()), (Some(UserGrade::Vip), 3));
        let ended = ReservationEvent { active_reservation_id: String::new(), ..reservation_event() };
        assert_eq!(grade(&ended), (None, 3), "the reservation has ended");
        let closed = ReservationEvent { reservation: None, ..ended };
        assert_eq!(grade(&closed), (None, 3));
    }

    #[test]
    fn invalid_events_are_refused() {
        let other = ReservationEvent { active_reservation_id: "other".into(), ..reservation_event() };
        let nobody = ReservationEvent { reservation: None, ..reservation_event() };
        let no_revision = ReservationEvent { ledger_revision: 0, ..reservation_event() };
        let no_grade = ReservationEvent {
            reservation: reservation_event()
                .reservation
                .map(|reservation| Reservation { user_grade: 0, ..reservation }),
            ..reservation_event()
        };
        for broken in [other, nobody, no_revision, no_grade] {
            assert!(decoded_reservation(&broken).is_err(), "{broken:?}");
        }
        assert!(ticket(&Message { body: vec![0xff].into(), ..Message::default() }).is_err());
    }
}

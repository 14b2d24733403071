//! Checks the records of clients about one ticket, by themselves and against the final state of the services.

use std::{collections::BTreeMap, time::Instant};

use eticket_proto::{
    query::TicketView,
    reservation::{CancelReservationResponse, Reservation, ReservationStatus, ReserveTicketResponse},
    ticket::{Ticket, TicketStatus, UpdateTicketResponse},
};
use prost::Message;

use super::command::{Command, Order, Outcome};

/// A reservation from the view of its client.
#[derive(Debug)]
struct Hold {
    revision: i64,
    /// When it was first requested and when it was answered; the hold began in between.
    asked: Instant,
    answered: Instant,
    /// When its cancellation was first requested.
    cancel_asked: Option<Instant>,
    /// When the cancellation was answered, with its revision.
    cancelled: Option<(Instant, i64)>,
}

/// A rejected attempt to reserve.
#[derive(Debug)]
struct Refused {
    asked: Instant,
    answered: Instant,
    reason: String,
    /// The reservation that another attempt with the same id has created, if any.
    own: Option<String>,
}

/// All records of clients about one ticket.
#[derive(Debug, Default)]
pub struct Story {
    holds: BTreeMap<String, Hold>,
    updates: Vec<Ticket>,
    withdraw_asked: Option<Instant>,
    withdrawn: bool,
    refused: Vec<Refused>,
    not_cancelled: Vec<String>,
}

/// Groups the commands of all clients by ticket.
pub fn stories<'a>(commands: impl IntoIterator<Item = &'a Command>) -> BTreeMap<String, Story> {
    let (mut stories, mut cancels) = (BTreeMap::<String, Story>::new(), Vec::new());
    for command in commands {
        if matches!(command.order, Order::Cancel { .. }) {
            // Cancellations are matched once all reservations are known.
            cancels.push(command);
        } else {
            stories.entry(command.order.ticket().to_owned()).or_default().tell(command);
        }
    }
    for command in cancels {
        stories.entry(command.order.ticket().to_owned()).or_default().tell(command);
    }
    stories
}

fn decoded<A: Message + Default>(answer: &[u8]) -> A {
    A::decode(answer).expect("an answer is a message of its type")
}

impl Story {
    fn tell(&mut self, command: &Command) {
        let (asked, answered) = (command.began, command.ended.expect("no command is open"));
        match (&command.order, &command.outcome) {
            (Order::Reserve { .. }, Outcome::Answered(answer)) => {
                let resource = decoded::<ReserveTicketResponse>(&answer.0).reservation.expect("its resource");
                let (reservation, revision) = (resource.reservation_id, resource.revision);
                let hold = Hold { revision, asked, answered, cancel_asked: None, cancelled: None };
                self.note_refusals(command, Some(&reservation));
                assert!(self.holds.insert(reservation, hold).is_none(), "two commands made one reservation");
            }
            (Order::Reserve { .. }, Outcome::Refused(_)) => self.note_refusals(command, None),
            (Order::Cancel { reservation, .. }, outcome) => {
                let hold = self.holds.get_mut(reservation).expect("a cancelled reservation is known");
                hold.cancel_asked = Some(asked);
                match outcome {
                    Outcome::Answered(answer) => {
                        let resource =
                            decoded::<CancelReservationResponse>(&answer.0).reservation.expect("its resource");
                        hold.cancelled = Some((answered, resource.revision));
                    }
                    _ => self.not_cancelled.push(reservation.clone()),
                }
            }
            (Order::Update { .. }, Outcome::Answered(answer)) => {
                self.updates.push(decoded::<UpdateTicketResponse>(&answer.0).ticket.expect("its resource"));
            }
            (Order::Withdraw { .. }, outcome) => {
                self.withdraw_asked = Some(self.withdraw_asked.map_or(asked, |known| known.min(asked)));
                self.withdrawn |= matches!(outcome, Outcome::Answered(_));
            }
            (Order::Register { .. }, outcome) => {
                assert!(matches!(outcome, Outcome::Answered(_)), "an id of its own: {command:?}");
            }
            (Order::Update { .. }, Outcome::Refused(reason)) => assert_eq!(reason, "TICKET_WITHDRAWN", "{command:?}"),
            (_, Outcome::Unknown) => panic!("no command is open: {command:?}"),
        }
    }

    fn note_refusals(&mut self, command: &Command, own: Option<&String>) {
        self.refused.extend(command.refusals.iter().cloned().map(|(asked, answered, reason)| Refused {
            asked,
            answered,
            reason,
            own: own.cloned(),
        }));
    }

    /// Checks the records by themselves: by the clocks of the clients and by the returned revisions.
    ///
    /// # Panics
    /// If two reservations held the ticket at the same time, or if a request was rejected without reason.
    pub fn check_by_itself(&self, ticket: &str) {
        let mut holds: Vec<&Hold> = self.holds.values().collect();
        holds.sort_by_key(|hold| hold.revision);
        for pair in holds.windows(2) {
            let [first, next] = pair else { continue };
            let end = first.cancelled.map(|(_, revision)| revision);
            let in_turn = end.is_some_and(|end| first.revision < end && end < next.revision);
            assert!(in_turn, "{ticket} was given away while it was held: {first:?}, then {next:?}");
        }
        // The ticket is certainly held from the response until its cancellation is requested.
        let mut certain: Vec<(Instant, Instant, &Hold)> = Vec::new();
        for hold in &holds {
            let end = hold.cancel_asked.into_iter().chain(self.withdraw_asked).min();
            let end = end.unwrap_or_else(|| hold.answered.max(Instant::now()));
            if hold.answered < end {
                certain.push((hold.answered, end, hold));
            }
        }
        certain.sort_by_key(|(from, _, _)| *from);
        for pair in certain.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "{ticket} was held twice at once: {:?}, {:?}", pair[0].2, pair[1].2);
        }
        for refused in &self.refused {
            let by_another = |(id, hold): (&String, &Hold)| {
                Some(id) != refused.own.as_ref() && hold.asked <= refused.answered && hold.ended_after(refused.asked)
            };
            let justified = match refused.reason.as_str() {
                "TICKET_ALREADY_RESERVED" => self.holds.iter().any(by_another),
                "TICKET_WITHDRAWN" => self.withdraw_asked.is_some_and(|withdraw| withdraw <= refused.answered),
                _ => false,
            };
            assert!(justified, "nothing of {ticket} stood against what was refused: {refused:?}, {:?}", self.holds);
        }
        assert!(self.not_cancelled.is_empty() || self.withdraw_asked.is_some(), "{ticket}: {:?}", self.not_cancelled);
    }

    /// Returns whether every acknowledged effect has arrived in all services; the final check makes sense only then.
    pub fn is_at_rest(&self, reservations: &[Reservation], ticket: &Ticket, view: &TicketView) -> bool {
        let revisions = view.revisions.unwrap_or_default();
        let active = reservations.iter().any(|reservation| reservation.status() == ReservationStatus::Reserved);
        view.settled
            && revisions.ticket == ticket.revision
            && revisions.reservation == self.effects(reservations)
            && ticket.reservation_revision == revisions.reservation
            // A closing names no reservation, and may arrive before the events of the last one: another replica publishes
            // these, or the bus has lost them.
            && (view.reservation_id.clone(), view.reservation_status()) == newest(reservations)
            && !(self.withdrawn && active)
    }

    /// Returns the expected revision: each reservation and each end is one revision, and so is a closing that rejected
    /// no reservation.
    fn effects(&self, reservations: &[Reservation]) -> i64 {
        let is = |status| reservations.iter().filter(move |reservation| reservation.status() == status).count();
        let (cancelled, rejected) = (is(ReservationStatus::Cancelled), is(ReservationStatus::Rejected));
        let closed_alone = usize::from(self.withdrawn && rejected == 0);
        i64::try_from(reservations.len() + cancelled + rejected + closed_alone).expect("few")
    }

    /// Checks that every answered command had exactly one effect, that there are no other effects, and that all
    /// services agree.
    ///
    /// # Panics
    /// If a check fails.
    pub fn check_end(&self, reservations: &[Reservation], ticket: &Ticket, view: &TicketView) {
        let id = &ticket.ticket_id;
        let count = |status| reservations.iter().filter(|reservation| reservation.status() == status).count();
        let (active, rejected) = (count(ReservationStatus::Reserved), count(ReservationStatus::Rejected));
        assert!(active <= 1 && rejected <= 1 && (active == 0 || !self.withdrawn), "{id}: {reservations:?}");
        for reservation in reservations {
            let hold = self.holds.get(&reservation.reservation_id);
            let hold = hold.unwrap_or_else(|| panic!("{id}: no client has created {reservation:?}"));
            let expected = match (hold.cancelled, self.withdrawn) {
                (Some(_), _) => ReservationStatus::Cancelled,
                (None, true) => ReservationStatus::Rejected,
                (None, false) => ReservationStatus::Reserved,
            };
            assert_eq!(reservation.status(), expected, "{id}: {reservation:?}, {hold:?}");
        }
        assert_eq!(reservations.len(), self.holds.len(), "{id}: as many as were answered");

        let effects = self.effects(reservations);
        let revisions = view.revisions.unwrap_or_default();
        assert_eq!(revisions.reservation, effects, "{id}: {reservations:?}, {view:?}");
        assert_eq!(ticket.reservation_revision, effects, "{id}: {ticket:?}");
        assert_eq!(revisions.ticket, ticket.revision, "{id}: {ticket:?}, {view:?}");

        let edits = i64::try_from(self.updates.len()).expect("few");
        assert_eq!(ticket.schedule_revision, edits + 1, "{id}: one for each update of its end");
        if let Some(last) = self.updates.iter().max_by_key(|update| update.schedule_revision) {
            assert_eq!((last.schedule_revision, last.end_time), (ticket.schedule_revision, ticket.end_time), "{id}");
        }
        let status = match (self.withdrawn, active) {
            (true, _) => TicketStatus::Withdrawn,
            (false, 1) => TicketStatus::Reserved,
            (false, _) => TicketStatus::Available,
        };
        assert_eq!((ticket.status(), view.ticket_status(), view.settled), (status, status, true), "{id}: {view:?}");
    }
}

/// Returns the newest reservation and its status; both are empty if there is none.
fn newest(reservations: &[Reservation]) -> (String, ReservationStatus) {
    let newest = reservations.iter().max_by_key(|reservation| reservation.revision);
    newest.map(|newest| (newest.reservation_id.clone(), newest.status())).unwrap_or_default()
}

impl Hold {
    /// Returns whether the ticket may still have been held at this time.
    fn ended_after(&self, time: Instant) -> bool {
        self.cancelled.is_none_or(|(cancelled, _)| cancelled >= time)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use eticket_proto::query::ticket_view::Revisions;

    use super::*;

    /// A hold between these seconds, with matching revisions.
    fn hold(story: &mut Story, began: Instant, from: u64, to: u64, revisions: (i64, i64)) {
        let at = |second| began + Duration::from_secs(second);
        let reservation = format!("r-{from}");
        let hold = Hold {
            revision: revisions.0,
            asked: at(from),
            answered: at(from),
            cancel_asked: Some(at(to)),
            cancelled: Some((at(to), revisions.1)),
        };
        story.holds.insert(reservation, hold);
    }

    #[test]
    fn consecutive_holds_are_valid() {
        let (mut story, began) = (Story::default(), Instant::now());
        hold(&mut story, began, 1, 3, (1, 2));
        hold(&mut story, began, 3, 5, (3, 4));
        story.refused.push(refused(began, 0, 2, None));
        // One request that was sent while another reservation held the ticket, and again when it was free.
        story.refused.push(refused(began, 2, 3, Some("r-3")));
        story.check_by_itself("t");
        assert_eq!(story.holds.len(), 2);
    }

    #[test]
    #[should_panic(expected = "held twice at once")]
    fn overlapping_holds_are_found_by_the_clock() {
        let (mut story, began) = (Story::default(), Instant::now());
        hold(&mut story, began, 1, 3, (1, 2));
        hold(&mut story, began, 2, 5, (3, 4));
        story.check_by_itself("t");
    }

    #[test]
    #[should_panic(expected = "given away while it was held")]
    fn overlapping_holds_are_found_by_revision() {
        let (mut story, began) = (Story::default(), Instant::now());
        hold(&mut story, began, 1, 3, (1, 3));
        hold(&mut story, began, 4, 5, (2, 4));
        story.check_by_itself("t");
    }

    #[test]
    fn a_view_without_the_newest_reservation_is_not_at_rest() {
        let ended = |revision: i64| Reservation {
            reservation_id: format!("r-{revision}"),
            status: ReservationStatus::Cancelled.into(),
            revision,
            ..Default::default()
        };
        let reservations = [ended(4), ended(2)];
        let story = Story { withdrawn: true, ..Story::default() };
        let ticket = Ticket { reservation_revision: 5, ..Default::default() };
        let revisions = Some(Revisions { reservation: 5, ..Default::default() });
        let view = |id: &str, status: ReservationStatus| TicketView {
            settled: true,
            revisions,
            reservation_id: id.to_owned(),
            reservation_status: status.into(),
            ..Default::default()
        };
        let rests = |view| story.is_at_rest(&reservations, &ticket, &view);
        assert!(!rests(view("r-2", ReservationStatus::Cancelled)), "the closing has overtaken all of the last one");
        assert!(!rests(view("r-4", ReservationStatus::Reserved)), "the closing has overtaken its end");
        assert!(rests(view("r-4", ReservationStatus::Cancelled)));
    }

    fn refused(began: Instant, asked: u64, answered: u64, own: Option<&str>) -> Refused {
        Refused {
            asked: began + Duration::from_secs(asked),
            answered: began + Duration::from_secs(answered),
            reason: "TICKET_ALREADY_RESERVED".to_owned(),
            own: own.map(str::to_owned),
        }
    }

    #[test]
    #[should_panic(expected = "stood against what was refused")]
    fn a_refusal_without_a_reason_is_found() {
        let (mut story, began) = (Story::default(), Instant::now());
        hold(&mut story, began, 1, 3, (1, 2));
        story.refused.push(refused(began, 4, 5, None));
        story.check_by_itself("t");
    }

    #[test]
    #[should_panic(expected = "stood against what was refused")]
    fn a_rejection_because_of_the_own_reservation_is_found() {
        let (mut story, began) = (Story::default(), Instant::now());
        hold(&mut story, began, 1, 3, (1, 2));
        story.refused.push(refused(began, 1, 2, Some("r-1")));
        story.check_by_itself("t");
    }
}

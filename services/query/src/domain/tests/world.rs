//! A small model of the ticket, reservation and pricing services for one ticket: their messages, and the commands that
//! each message reflects.

use std::collections::BTreeSet;

use eticket_proto::token::Consistency;
use uuid::Uuid;

use super::super::*;

pub(crate) const NOW: DateTime<Utc> = DateTime::<Utc>::UNIX_EPOCH;

pub(crate) fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a time")
}

/// Returns the id of the reservation that was made at this revision of the ledger.
pub(crate) fn reservation_id(revision: i64) -> ReservationId {
    ReservationId::from(Uuid::from_u128(u128::try_from(revision).expect("a revision")))
}

fn ticket_id() -> TicketId {
    "t-1".parse().expect("an id")
}

/// A command that a state may reflect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The ticket was registered or edited.
    Edit(i64),
    Schedule(i64),
    Withdrawal,
    /// The ticket was reserved, cancelled or closed.
    Ledger(i64),
}

#[derive(Debug, Clone)]
pub(crate) struct Emitted {
    pub(crate) event: Event,
    pub(crate) causes: BTreeSet<Cause>,
}

impl Emitted {
    pub(crate) fn revision(&self) -> i64 {
        match &self.event {
            Event::Ticket(part) => part.revision,
            Event::Ledger(part, _) => part.revision,
            Event::Price(part) => part.revision,
        }
    }
}

/// A command, or an owner that applies the message with this index, modulo the number of messages.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    UpdateTitle,
    UpdateSchedule,
    Withdraw,
    Reserve,
    Cancel,
    TicketTakes(usize),
    LedgerTakes(usize),
    PriceTakes(usize),
}

pub(crate) struct World {
    ticket: TicketPart,
    ticket_causes: BTreeSet<Cause>,
    ledger: LedgerPart,
    reservations: Vec<Reservation>,
    ledger_causes: BTreeSet<Cause>,
    price: PricePart,
    priced: bool,
    price_causes: BTreeSet<Cause>,
    pub(crate) emitted: Vec<Emitted>,
    /// The token of each command, and the causes of its saga.
    pub(crate) tokens: Vec<(Consistency, Vec<Cause>)>,
}

impl World {
    pub(crate) fn run(steps: &[Step]) -> Self {
        let mut world = Self::registered();
        steps.iter().for_each(|step| world.step(*step));
        world
    }

    fn registered() -> Self {
        let money = Money { currency_code: "KRW".to_owned(), units: 10_000, nanos: 0 };
        let mut world = Self {
            ticket: TicketPart {
                revision: 0,
                schedule_revision: 1,
                reservation_revision: 0,
                title: String::new(),
                start: time(100),
                end: time(200),
                withdrawn: false,
                holder: None,
                update_time: NOW,
            },
            ticket_causes: BTreeSet::from([Cause::Schedule(1)]),
            ledger: LedgerPart::default(),
            reservations: vec![],
            ledger_causes: BTreeSet::new(),
            price: PricePart {
                revision: 0,
                schedule_revision: 0,
                reservation_revision: 0,
                base_price: money.clone(),
                discounted_price: money,
                discounts: vec![],
                update_time: NOW,
            },
            priced: false,
            price_causes: BTreeSet::new(),
            emitted: vec![],
            tokens: vec![],
        };
        world.edit();
        world
    }

    fn step(&mut self, step: Step) {
        let at_round = |index: usize, all: &[Emitted]| all[index % all.len()].clone();
        match step {
            Step::UpdateTitle if !self.ticket.withdrawn => self.edit(),
            Step::UpdateSchedule if !self.ticket.withdrawn => {
                self.ticket.schedule_revision += 1;
                self.ticket_causes.insert(Cause::Schedule(self.ticket.schedule_revision));
                self.edit();
            }
            Step::Withdraw if !self.ticket.withdrawn => {
                self.ticket.withdrawn = true;
                self.ticket_causes.insert(Cause::Withdrawal);
                self.edit();
            }
            Step::Reserve if !self.ledger.closed && self.ledger.active.is_none() => {
                let revision = self.ledger.revision + 1;
                self.reservations.push(reservation(revision));
                self.ledger_moves(Some(reservation_id(revision)), ReservationStatus::Reserved);
                self.reservation_token(revision);
            }
            Step::Cancel if self.ledger.active.is_some() => {
                self.ledger_moves(None, ReservationStatus::Cancelled);
                self.reservation_token(self.ledger.revision);
            }
            Step::TicketTakes(index) => self.ticket_takes(&at_round(index, &self.emitted)),
            Step::LedgerTakes(index) => self.ledger_takes(&at_round(index, &self.emitted)),
            Step::PriceTakes(index) => self.price_takes(&at_round(index, &self.emitted)),
            Step::UpdateTitle | Step::UpdateSchedule | Step::Withdraw | Step::Reserve | Step::Cancel => {}
        }
    }

    /// Delivers all messages to all owners until no new message appears.
    pub(crate) fn come_to_rest(&mut self) {
        let mut taken = 0;
        while taken < self.emitted.len() {
            let emitted = self.emitted[taken].clone();
            self.ticket_takes(&emitted);
            self.ledger_takes(&emitted);
            self.price_takes(&emitted);
            taken += 1;
        }
    }

    pub(crate) fn newest_reservation_revision(&self) -> Option<i64> {
        self.reservations.iter().map(|reservation| reservation.revision).max()
    }

    fn edit(&mut self) {
        let cause = Cause::Edit(self.ticket.revision + 1);
        self.ticket_causes.insert(cause);
        self.ticket_emits();
        let TicketPart { revision, schedule_revision, withdrawn, .. } = self.ticket;
        let token = Consistency::Ticket { ticket: ticket_id(), revision, schedule_revision, withdrawn };
        let saga = if withdrawn { vec![Cause::Withdrawal] } else { vec![cause, Cause::Schedule(schedule_revision)] };
        self.tokens.push((token, saga));
    }

    fn reservation_token(&mut self, revision: i64) {
        self.tokens.push((Consistency::Reservation { ticket: ticket_id(), revision }, vec![Cause::Ledger(revision)]));
    }

    fn ticket_emits(&mut self) {
        self.ticket.revision += 1;
        self.emitted.push(Emitted { event: Event::Ticket(self.ticket.clone()), causes: self.ticket_causes.clone() });
    }

    /// The event is about the active reservation, or else the previous one; none if the ledger is closed without a
    /// holder.
    fn ledger_moves(&mut self, active: Option<ReservationId>, status: ReservationStatus) {
        let about = active.or(self.ledger.active);
        self.ledger.revision += 1;
        self.ledger.active = active;
        let reservation = self.reservations.iter_mut().find(|reservation| Some(reservation.reservation_id) == about);
        let reservation = reservation.map(|reservation| {
            reservation.revision = self.ledger.revision;
            reservation.status = status;
            reservation.clone()
        });
        self.ledger_causes.insert(Cause::Ledger(self.ledger.revision));
        self.emitted
            .push(Emitted { event: Event::Ledger(self.ledger, reservation), causes: self.ledger_causes.clone() });
    }

    fn ticket_takes(&mut self, emitted: &Emitted) {
        let Event::Ledger(ledger, _) = &emitted.event else { return };
        if ledger.revision > self.ticket.reservation_revision {
            self.ticket.reservation_revision = ledger.revision;
            self.ticket.holder = ledger.active;
            self.ticket_causes.extend(ledger_causes(emitted));
            self.ticket_emits();
        }
    }

    fn ledger_takes(&mut self, emitted: &Emitted) {
        let Event::Ticket(ticket) = &emitted.event else { return };
        if ticket.withdrawn && !self.ledger.closed {
            self.ledger.closed = true;
            self.ledger_causes.insert(Cause::Withdrawal);
            self.ledger_moves(None, ReservationStatus::Rejected);
        }
    }

    fn price_takes(&mut self, emitted: &Emitted) {
        match &emitted.event {
            Event::Ticket(ticket) if ticket.schedule_revision > self.price.schedule_revision => {
                self.price.schedule_revision = ticket.schedule_revision;
                self.priced = true;
                let schedules = emitted.causes.iter().filter(|cause| matches!(cause, Cause::Schedule(_)));
                self.price_causes.extend(schedules);
            }
            Event::Ledger(ledger, _) if ledger.revision > self.price.reservation_revision => {
                self.price.reservation_revision = ledger.revision;
                self.price_causes.extend(ledger_causes(emitted));
            }
            _ => return,
        }
        if self.priced {
            self.price.revision += 1;
            self.emitted.push(Emitted { event: Event::Price(self.price.clone()), causes: self.price_causes.clone() });
        }
    }
}

fn ledger_causes(emitted: &Emitted) -> impl Iterator<Item = &Cause> {
    emitted.causes.iter().filter(|cause| matches!(cause, Cause::Ledger(_)))
}

fn reservation(revision: i64) -> Reservation {
    Reservation {
        reservation_id: reservation_id(revision),
        ticket_id: ticket_id(),
        user_id: "a".parse().expect("an id"),
        user_grade: UserGrade::Silver,
        status: ReservationStatus::Reserved,
        status_reason: String::new(),
        revision,
        reserve_time: NOW,
        update_time: NOW,
    }
}

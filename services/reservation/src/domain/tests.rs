//! Tests of the transitions of ledgers and reservations, with single cases and with random sequences.

use proptest::prelude::*;

use super::*;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a valid time")
}

fn ticket() -> TicketId {
    "t-1".parse().expect("an id")
}

fn new_reservation() -> NewReservation {
    let user = "user-1".parse().expect("an id");
    NewReservation { id: ReservationId::generate(), ticket: ticket(), user, grade: UserGrade::Vip }
}

const AVAILABLE: fn() -> Check = || Check::Available { end: time(100) };

fn reserved() -> (Ledger, Reservation) {
    reserve(&Ledger::new(ticket()), new_reservation(), AVAILABLE(), time(1)).expect("reserved")
}

#[test]
fn the_first_reservation_holds_the_ticket_and_the_second_is_refused() {
    let (ledger, reservation) = reserved();
    assert_eq!((ledger.revision, ledger.active), (1, Some(reservation.id)));
    assert_eq!((reservation.status, reservation.revision), (Status::Reserved, 1));
    assert_eq!(reserve(&ledger, new_reservation(), AVAILABLE(), time(2)), Err(Refusal::TicketAlreadyReserved));
}

#[test]
fn a_negative_check_refuses_the_reservation() {
    let ledger = Ledger::new(ticket());
    for (check, refusal) in [
        (Check::NotFound, Refusal::TicketNotFound),
        (Check::Withdrawn, Refusal::TicketWithdrawn),
        (Check::Expired, Refusal::TicketExpired),
        (Check::Reserved { reservation_revision: 0, end: time(100) }, Refusal::TicketAlreadyReserved),
    ] {
        assert_eq!(reserve(&ledger, new_reservation(), check, time(1)), Err(refusal), "{check:?}");
    }
}

#[test]
fn an_outdated_check_does_not_prevent_the_next_reservation() {
    let (ledger, reservation) = reserved();
    let (ledger, _) = cancel(&ledger, &reservation, time(2)).expect("cancelled");
    let lags = Check::Reserved { reservation_revision: 1, end: time(100) };
    let (ledger, _) = reserve(&ledger, new_reservation(), lags, time(3)).expect("the ledger has the cancellation");
    assert_eq!(ledger.revision, 3);
}

#[test]
fn the_end_is_compared_with_the_current_time() {
    let ledger = Ledger::new(ticket());
    assert_eq!(reserve(&ledger, new_reservation(), AVAILABLE(), time(100)), Err(Refusal::TicketExpired));
    assert!(reserve(&ledger, new_reservation(), AVAILABLE(), time(99)).is_ok());
    let lags = Check::Reserved { reservation_revision: -1, end: time(100) };
    assert_eq!(reserve(&ledger, new_reservation(), lags, time(100)), Err(Refusal::TicketExpired));
}

#[test]
fn a_reservation_ends_once() {
    let (ledger, reservation) = reserved();
    let (ledger, cancelled) = cancel(&ledger, &reservation, time(2)).expect("cancelled");
    assert_eq!((ledger.revision, ledger.active, cancelled.revision), (2, None, 2));
    assert_eq!(cancel(&ledger, &cancelled, time(3)), Err(Refusal::ReservationNotActive));
}

#[test]
fn cancelling_an_ended_reservation_does_not_free_the_ticket() {
    let (ledger, first) = reserved();
    let (ledger, first) = cancel(&ledger, &first, time(2)).expect("cancelled");
    let (ledger, second) = reserve(&ledger, new_reservation(), AVAILABLE(), time(3)).expect("reserved");
    assert_eq!(cancel(&ledger, &first, time(4)), Err(Refusal::ReservationNotActive));
    assert_eq!(ledger.active, Some(second.id));
}

#[test]
fn a_withdrawal_rejects_and_closes_once() {
    let (ledger, reservation) = reserved();
    let (closed, rejected) = close(&ledger, Some(&reservation), time(2)).expect("closed");
    let rejected = rejected.expect("a rejected reservation");
    assert_eq!((closed.revision, closed.active, closed.closed), (2, None, true));
    assert_eq!((rejected.status, rejected.revision), (Status::Rejected, 2));
    assert_eq!(close(&closed, None, time(3)), None);
    assert_eq!(reserve(&closed, new_reservation(), AVAILABLE(), time(3)), Err(Refusal::TicketWithdrawn));
    assert_eq!(cancel(&closed, &rejected, time(3)), Err(Refusal::ReservationNotActive));
}

#[test]
fn closing_a_ledger_without_a_holder_raises_the_revision() {
    let (closed, rejected) = close(&Ledger::new(ticket()), None, time(2)).expect("closed");
    assert_eq!((closed.revision, closed.closed, rejected), (1, true, None));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Reserve,
    Cancel(usize),
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Reserve),
        4 => (0usize..20).prop_map(Step::Cancel),
        1 => Just(Step::Close),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// After every sequence of commands at most one reservation is active, the ledger names it, and revisions are
    /// consecutive.
    #[test]
    fn the_ledger_names_the_only_active_reservation(steps in steps()) {
        let mut ledger = Ledger::new(ticket());
        let mut all: Vec<Reservation> = Vec::new();
        for step in steps {
            let before = ledger.revision;
            let changed = match step {
                Step::Reserve => reserve(&ledger, new_reservation(), AVAILABLE(), time(1)).ok().map(|(next, made)| {
                    all.push(made);
                    next
                }),
                Step::Cancel(at) if at < all.len() => cancel(&ledger, &all[at], time(1)).ok().map(|(next, ended)| {
                    all[at] = ended;
                    next
                }),
                Step::Cancel(_) => None,
                Step::Close => {
                    let active = all.iter().position(|reservation| reservation.status == Status::Reserved);
                    close(&ledger, active.map(|at| &all[at]), time(1)).map(|(next, rejected)| {
                        if let (Some(at), Some(rejected)) = (active, rejected) {
                            all[at] = rejected;
                        }
                        next
                    })
                }
            };
            if let Some(next) = changed {
                prop_assert_eq!(next.revision, before + 1);
                ledger = next;
            }
            let active: Vec<_> =
                all.iter().filter(|reservation| reservation.status == Status::Reserved).map(|it| it.id).collect();
            prop_assert_eq!(ledger.active.into_iter().collect::<Vec<_>>(), active);
            prop_assert!(!(ledger.closed && ledger.active.is_some()));
        }
    }
}

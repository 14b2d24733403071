//! Tests of the ticket's transitions, with single cases and with random sequences.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a valid time")
}

fn schedule(start: i64, end: i64) -> Schedule {
    Schedule::new(time(start), time(end)).expect("end after start")
}

fn title(text: &str) -> Title {
    Title::parse(text).expect("a title")
}

fn ticket() -> Ticket {
    let id = "t-1".parse().expect("an id");
    register(None, id, title("a concert"), schedule(100, 200), time(0)).expect("registered")
}

fn reservation() -> ReservationId {
    ReservationId::generate()
}

#[test]
fn a_registered_ticket_starts_at_revision_one() {
    let ticket = ticket();
    assert_eq!((ticket.revision, ticket.edits, ticket.schedule_revision, ticket.reservation_revision), (1, 1, 1, 0));
    assert_eq!(ticket.status(time(0)), Status::Available);
    let again = register(Some(&ticket), ticket.id.clone(), ticket.title.clone(), ticket.schedule, time(1));
    assert_eq!(again, Err(Refusal::AlreadyExists));
}

#[test]
fn a_ticket_expires_at_its_end() {
    assert_eq!(ticket().status(time(200)), Status::Expired);
    assert_eq!(ticket().status(time(199)), Status::Available);
}

#[test]
fn titles_and_schedules_are_checked() {
    assert!(Title::parse(&"한".repeat(200)).is_some());
    for bad in ["", "line\nbreak", &"x".repeat(201)] {
        assert_eq!(Title::parse(bad), None, "{bad:?}");
    }
    assert_eq!(Schedule::new(time(5), time(5)), None);
}

#[test]
fn only_a_change_of_times_raises_the_schedule_revision() {
    let ticket = Ticket { announced: true, ..ticket() };
    let renamed = Change { title: Some(title("another")), ..Change::default() };
    let renamed = update(Some(&ticket), "", renamed, time(1)).expect("updated");
    assert_eq!((renamed.revision, renamed.edits, renamed.schedule_revision, renamed.announced), (2, 2, 1, true));
    let moved = Change { end: Some(time(300)), ..Change::default() };
    let moved = update(Some(&renamed), &renamed.etag(), moved, time(2)).expect("updated");
    assert_eq!((moved.revision, moved.edits, moved.schedule_revision, moved.announced), (3, 3, 2, false));
    let wrong = Change { end: Some(time(50)), ..Change::default() };
    let refused = |change| update(Some(&moved), "", change, time(3)).expect_err("the end would not be after the start");
    // The error must name the field that the request set.
    assert_eq!(refused(wrong), Refusal::EndNotAfterItsStart { start: moved.schedule.start() });
    let wrong = Change { start: Some(time(300)), ..Change::default() };
    assert_eq!(refused(wrong), Refusal::StartNotBeforeEnd { end: time(300) });
    let wrong = Change { start: Some(time(60)), end: Some(time(50)), ..Change::default() };
    assert_eq!(refused(wrong), Refusal::EndNotAfterStart);
}

#[test]
fn only_edits_change_the_etag() {
    let ticket = ticket();
    let etag = ticket.etag();
    let held = apply_reservation(&ticket, Some(reservation()), 1, time(1)).expect("applied");
    assert!(update(Some(&held), &etag, Change::default(), time(2)).is_ok(), "an event is not an edit");
    assert_eq!(
        update(Some(&ticket), "", Change::default(), time(2)),
        Ok(ticket.clone()),
        "an update without changes is not an edit"
    );
    let renamed = Change { title: Some(title("another")), ..Change::default() };
    let edited = update(Some(&ticket), "", renamed, time(2)).expect("updated");
    let refusal = Err(Refusal::EtagMismatch { current: "2".to_owned() });
    assert_eq!(update(Some(&edited), &etag, Change::default(), time(3)), refusal);
    assert_eq!(withdraw(Some(&edited), &etag, time(3)), refusal);
}

#[test]
fn a_withdrawn_ticket_refuses_edits_and_keeps_its_holder() {
    let held = apply_reservation(&ticket(), Some(reservation()), 1, time(1)).expect("applied");
    let withdrawn = withdraw(Some(&held), "", time(2)).expect("withdrawn");
    assert_eq!(withdrawn.holder, held.holder);
    assert_eq!(withdrawn.status(time(2)), Status::Withdrawn);
    assert_eq!(withdraw(Some(&withdrawn), "", time(3)), Err(Refusal::Withdrawn));
    assert_eq!(update(Some(&withdrawn), "", Change::default(), time(3)), Err(Refusal::Withdrawn));
    assert_eq!(withdraw(None, "", time(3)), Err(Refusal::NotFound));
    let rejected = apply_reservation(&withdrawn, None, 2, time(4)).expect("applied");
    assert_eq!((rejected.holder, rejected.revision), (None, withdrawn.revision + 1));
}

#[test]
fn an_event_that_is_not_newer_is_stale() {
    let held = apply_reservation(&ticket(), Some(reservation()), 3, time(1)).expect("applied");
    for stale in [1, 2, 3] {
        assert_eq!(apply_reservation(&held, None, stale, time(2)), None, "revision {stale}");
    }
}

#[test]
fn an_event_without_a_visible_change_raises_the_revision() {
    let ticket = ticket();
    let seen = apply_reservation(&ticket, None, 2, time(1)).expect("applied");
    assert_eq!((seen.revision, seen.reservation_revision), (2, 2));
}

#[test]
fn the_most_permanent_reason_is_returned() {
    let held = apply_reservation(&ticket(), Some(reservation()), 1, time(1)).expect("applied");
    assert_eq!(ticket().check(time(1)), Ok(()));
    assert_eq!(held.check(time(1)), Err(Unavailable::Reserved));
    assert_eq!(held.check(time(200)), Err(Unavailable::Expired), "RESERVED must not hide EXPIRED");
    let withdrawn = withdraw(Some(&held), "", time(2)).expect("withdrawn");
    assert_eq!(withdrawn.check(time(200)), Err(Unavailable::Withdrawn));
}

#[test]
fn an_expiry_is_announced_once() {
    let ticket = ticket();
    assert_eq!(sweep(&ticket, time(199)), None);
    let announced = sweep(&ticket, time(200)).expect("announced");
    assert_eq!((announced.revision, announced.edits), (2, 1));
    assert_eq!(sweep(&announced, time(201)), None);
    let held = apply_reservation(&ticket, Some(reservation()), 1, time(1)).expect("applied");
    assert_eq!(sweep(&held, time(200)), None, "a ticket with a holder is not expired");
}

proptest! {
    /// In every order of events, and with duplicates, the ticket ends in the newest state.
    #[test]
    fn reservation_events_converge(order in proptest::collection::vec(1i64..8, 1..40)) {
        let holders: Vec<_> = (0..8).map(|number| (number % 2 == 1).then(reservation)).collect();
        let mut row = ticket();
        for revision in &order {
            let index = usize::try_from(*revision).expect("small");
            if let Some(next) = apply_reservation(&row, holders[index], *revision, time(1)) {
                prop_assert_eq!(next.revision, row.revision + 1);
                row = next;
            }
        }
        let newest = *order.iter().max().expect("not empty");
        prop_assert_eq!(row.reservation_revision, newest);
        prop_assert_eq!(row.holder, holders[usize::try_from(newest).expect("small")]);
    }

    /// `check` succeeds exactly when the status is AVAILABLE.
    #[test]
    fn check_agrees_with_status(now in 0i64..400, held: bool, withdrawn: bool) {
        let row = Ticket { holder: held.then(reservation), withdrawn, ..ticket() };
        let now = time(0) + TimeDelta::seconds(now);
        prop_assert_eq!(row.check(now).is_ok(), row.status(now) == Status::Available);
    }
}

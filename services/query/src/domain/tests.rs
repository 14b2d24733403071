//! Checks `settled` and the tokens against an independent model: the set of commands that each part reflects, in a
//! small simulation of owners that apply each other's events late, out of order, or not at all.

pub(crate) mod world;

use std::collections::BTreeSet;

use eticket_proto::token::Consistency;
use proptest::prelude::*;

use super::*;
use world::{Cause, Emitted, NOW, Step, World, reservation_id, time};

fn deliver(view: &View, event: &Event, sequence: u64) -> View {
    apply_event(view, event, sequence, NOW).unwrap_or_else(|| view.clone())
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let at = 0_usize..1_000;
    let step = prop_oneof![
        1 => Just(Step::UpdateTitle),
        1 => Just(Step::UpdateSchedule),
        1 => Just(Step::Withdraw),
        4 => Just(Step::Reserve),
        3 => Just(Step::Cancel),
        5 => at.clone().prop_map(Step::TicketTakes),
        2 => at.clone().prop_map(Step::LedgerTakes),
        6 => at.prop_map(Step::PriceTakes),
    ];
    proptest::collection::vec(step, 0..40)
}

/// Chooses which messages arrive, in which order, and which arrive repeatedly.
fn any_picks() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0_usize..1_000, 0..60)
}

/// The newest delivered message of each part, with the commands that it reflects.
#[derive(Default)]
struct Parts {
    ticket: Option<Emitted>,
    ledger: Option<Emitted>,
    price: Option<Emitted>,
}

impl Parts {
    fn deliver(&mut self, emitted: &Emitted) {
        let part = match emitted.event {
            Event::Ticket(_) => &mut self.ticket,
            Event::Ledger(..) => &mut self.ledger,
            Event::Price(_) => &mut self.price,
        };
        if part.as_ref().is_none_or(|known| known.revision() < emitted.revision()) {
            *part = Some(emitted.clone());
        }
    }

    /// Returns the commands that the parts of ticket, reservation and pricing reflect.
    fn causes(&self) -> [BTreeSet<Cause>; 3] {
        [&self.ticket, &self.ledger, &self.price]
            .map(|part| part.as_ref().map(|p| p.causes.clone()).unwrap_or_default())
    }

    fn no_reaction_is_missing(&self) -> bool {
        let [ticket, ledger, price] = self.causes();
        let reflected: BTreeSet<Cause> = ticket.iter().chain(&ledger).chain(&price).copied().collect();
        let all_in = |part: &BTreeSet<Cause>, concerns: fn(&Cause) -> bool| {
            reflected.iter().filter(|cause| concerns(cause)).all(|cause| part.contains(cause))
        };
        self.ticket.is_some()
            && self.price.is_some()
            && all_in(&ticket, |_| true)
            && all_in(&ledger, |cause| matches!(cause, Cause::Ledger(_) | Cause::Withdrawal))
            && all_in(&price, |cause| matches!(cause, Cause::Ledger(_) | Cause::Schedule(_)))
    }

    /// Returns whether the saga of a command has been applied and settled, given the causes of the command.
    fn saga_is_over(&self, token: &Consistency, saga: &[Cause]) -> (bool, bool) {
        let parts = self.causes();
        let [ticket, ledger, price] = &parts;
        let has = |part: &BTreeSet<Cause>, cause: &Cause| part.contains(cause);
        let in_all = |cause: &Cause| parts.iter().all(|part| part.contains(cause));
        let (applied, settled) = match token {
            Consistency::Reservation { .. } => (has(ledger, &saga[0]), in_all(&saga[0])),
            Consistency::Ticket { withdrawn: false, .. } => (has(ticket, &saga[0]), has(price, &saga[1])),
            Consistency::Ticket { withdrawn: true, .. } => {
                let closed = parts[1].iter().filter(|cause| matches!(cause, Cause::Ledger(_)));
                (has(ticket, &saga[0]), has(ledger, &saga[0]) && closed.into_iter().all(in_all))
            }
        };
        (self.ticket.is_some() && applied, self.ticket.is_some() && applied && settled)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn settled_and_tokens_agree_with_the_model(steps in any_steps(), picks in any_picks()) {
        let world = World::run(&steps);
        let (mut view, mut parts) = (View::default(), Parts::default());
        for (sequence, pick) in picks.iter().enumerate() {
            let emitted = &world.emitted[pick % world.emitted.len()];
            view = deliver(&view, &emitted.event, sequence as u64 + 1);
            parts.deliver(emitted);
            prop_assert_eq!(settled(&view), parts.no_reaction_is_missing(), "{:#?}", &view);
            prop_assert_eq!(missing(&view).is_empty(), settled(&view), "{:?}", missing(&view));
            prop_assert_eq!(view.unsettled_since.is_some(), !settled(&view));
            for (token, saga) in &world.tokens {
                let said = (answers(&view, Some(token), Wait::Applied), answers(&view, Some(token), Wait::Settled));
                prop_assert_eq!(said, parts.saga_is_over(token, saga), "{:?} {:#?}", token, &view);
            }
            let tokens = world.tokens.iter().map(|(token, _)| Some(token)).chain([None]);
            for (token, wait) in tokens.flat_map(|token| [(token, Wait::Applied), (token, Wait::Settled)]) {
                let lacking = lacking(&view, token, wait);
                prop_assert_eq!(lacking.is_empty(), answers(&view, token, wait), "{:?} {:?}", token, lacking);
                prop_assert!(lacking.iter().all(|part| part.seen < part.wanted), "{:?}", lacking);
            }
        }
    }

    #[test]
    fn any_order_and_repetition_ends_in_the_same_row(steps in any_steps(), seed in any_picks()) {
        let mut world = World::run(&steps);
        world.come_to_rest();
        let count = world.emitted.len();
        let mut order: Vec<usize> = (0..count).chain(seed.iter().map(|pick| pick % count)).collect();
        order.sort_by_key(|index| (index * 7_919 + seed.iter().sum::<usize>()) % 1_009);
        let all_in = |order: &mut dyn Iterator<Item = usize>| {
            order.fold(View::default(), |view, index| deliver(&view, &world.emitted[index].event, 1))
        };
        let view = all_in(&mut order.into_iter());
        prop_assert_eq!(&view, &all_in(&mut (0..world.emitted.len())));
        prop_assert!(settled(&view), "after all messages the view is settled: {:?}", missing(&view));
        for (token, _) in &world.tokens {
            let holds = answers(&view, Some(token), Wait::Settled);
            prop_assert!(holds, "after all messages every token is fulfilled: {:?}", token);
        }
        let (holder, active) = (view.ticket.as_ref().and_then(|ticket| ticket.holder), view.ledger.active);
        prop_assert_eq!(holder, active, "after all messages the view agrees with the ledger");
        prop_assert_eq!(view.newest.as_ref().map(|r| r.revision), world.newest_reservation_revision());
    }

    #[test]
    fn a_fulfilled_token_stays_fulfilled(steps in any_steps(), picks in any_picks()) {
        let world = World::run(&steps);
        let mut view = View::default();
        for pick in picks {
            let next = deliver(&view, &world.emitted[pick % world.emitted.len()].event, 1);
            let with_waits = |token| [(token, Wait::Applied), (token, Wait::Settled)];
            for ((token, _), wait) in world.tokens.iter().flat_map(with_waits) {
                prop_assert!(!answers(&view, Some(token), wait) || answers(&next, Some(token), wait));
            }
            view = next;
        }
    }
}

/// A row of a ticket that was registered, priced and reserved once.
fn reserved() -> (World, View) {
    let mut world = World::run(&[Step::Reserve]);
    world.come_to_rest();
    let view = world.emitted.iter().fold(View::default(), |view, emitted| deliver(&view, &emitted.event, 1));
    (world, view)
}

#[test]
fn without_a_ticket_part_no_condition_holds() {
    let (world, _) = reserved();
    let others = world.emitted.iter().filter(|emitted| !matches!(emitted.event, Event::Ticket(_)));
    let view = others.fold(View::default(), |view, emitted| deliver(&view, &emitted.event, 1));
    assert_eq!((view.ledger.revision, view.price.is_some()), (1, true), "the other parts are stored");
    assert!(!answers(&view, None, Wait::Applied));
    let token = &world.tokens.last().expect("the token of the reservation").0;
    assert!(!answers(&view, Some(token), Wait::Applied));
    assert_eq!(missing(&view), ["ticket: no event yet"]);
}

#[test]
fn without_a_token_the_condition_is_that_of_the_row() {
    let (_, view) = reserved();
    assert!(answers(&view, None, Wait::Applied) && answers(&view, None, Wait::Settled));
    let priceless = View { price: None, ..view };
    assert!(answers(&priceless, None, Wait::Applied) && !answers(&priceless, None, Wait::Settled));
}

#[test]
fn every_missing_reaction_has_a_text() {
    let (_, view) = reserved();
    let ticket = view.ticket.clone().expect("a ticket part");
    let price = view.price.clone().expect("a price part");
    let with_ticket = |ticket| View { ticket: Some(ticket), ..view.clone() };
    let with_price = |price| View { price: Some(price), ..view.clone() };
    for (view, expected) in [
        (
            with_ticket(TicketPart { reservation_revision: 0, ..ticket.clone() }),
            "ticket: has applied reservation revision 0 of 1",
        ),
        (
            with_ticket(TicketPart { reservation_revision: 2, ..ticket.clone() }),
            "reservation: the ticket has applied revision 2, the view has 1",
        ),
        (
            with_price(PricePart { reservation_revision: 0, ..price.clone() }),
            "price: has applied reservation revision 0 of 1",
        ),
        (
            with_price(PricePart { reservation_revision: 2, ..price.clone() }),
            "reservation: the price has applied revision 2, the view has 1",
        ),
        (
            with_ticket(TicketPart { schedule_revision: 2, ..ticket.clone() }),
            "price: has applied schedule revision 1 of 2",
        ),
        (
            with_price(PricePart { schedule_revision: 2, ..price }),
            "ticket: the price has applied schedule revision 2, the view has 1",
        ),
        (
            with_ticket(TicketPart { withdrawn: true, ..ticket }),
            "reservation: has not closed the ledger of the withdrawn ticket",
        ),
        (View { price: None, ..view.clone() }, "price: no event yet"),
    ] {
        assert_eq!(missing(&view), [expected]);
    }
}

#[test]
fn the_newest_reservation_is_shown_after_it_has_ended() {
    let mut world = World::run(&[Step::Reserve, Step::Cancel, Step::Reserve, Step::Cancel]);
    world.come_to_rest();
    let view = world.emitted.iter().fold(View::default(), |view, emitted| deliver(&view, &emitted.event, 1));
    let newest = view.newest.expect("a reservation");
    assert_eq!((newest.reservation_id, newest.status), (reservation_id(3), ReservationStatus::Cancelled));
}

#[test]
fn a_late_cancellation_of_an_earlier_reservation_keeps_the_holder() {
    let world = World::run(&[Step::Reserve, Step::Cancel, Step::Reserve]);
    let ledgers: Vec<_> = world.emitted.iter().filter(|emitted| matches!(emitted.event, Event::Ledger(..))).collect();
    let view = deliver(&deliver(&View::default(), &ledgers[0].event, 1), &ledgers[2].event, 2);
    assert_eq!(apply_event(&view, &ledgers[1].event, 3, NOW), None, "stale for the row");
    assert_eq!(view.ledger.active, Some(reservation_id(3)));
    let Event::Ledger(_, Some(late)) = &ledgers[1].event else { panic!("a reservation event") };
    let Event::Ledger(_, Some(first)) = &ledgers[0].event else { panic!("a reservation event") };
    assert!(is_news(Some(first), late), "the row of a reservation has its own revision");
    assert!(!is_news(Some(late), first) && !is_news(Some(late), late) && is_news(None, late));
}

#[test]
fn a_cancellation_after_the_closing_updates_the_reservation() {
    let world = World::run(&[Step::Reserve, Step::Cancel, Step::Withdraw, Step::LedgerTakes(3)]);
    let ledgers: Vec<_> = world.emitted.iter().filter(|emitted| matches!(emitted.event, Event::Ledger(..))).collect();
    let [placed, cancelled, closed] = ledgers[..] else { panic!("three ledger events, got {}", ledgers.len()) };
    let early = deliver(&deliver(&View::default(), &placed.event, 1), &closed.event, 2);
    let late = apply_event(&early, &cancelled.event, 3, NOW).expect("the status changes");
    assert_eq!((late.ledger.revision, late.ledger.closed, late.sequence), (3, true, 3));
    assert_eq!(late.newest.map(|newest| newest.status), Some(ReservationStatus::Cancelled));
}

#[test]
fn a_row_takes_the_sequence_of_a_repeated_but_not_of_a_stale_event() {
    let (world, view) = reserved();
    for emitted in &world.emitted {
        let part_has = match &emitted.event {
            Event::Ticket(_) => view.ticket.as_ref().expect("a part").revision,
            Event::Ledger(..) => view.ledger.revision,
            Event::Price(_) => view.price.as_ref().expect("a part").revision,
        };
        let again = apply_event(&view, &emitted.event, 99, NOW);
        if emitted.revision() == part_has {
            assert_eq!(again, Some(View { sequence: 99, ..view.clone() }), "only the sequence changes");
        } else {
            assert_eq!(again, None, "stale: {:?}", emitted.event);
        }
    }
}

#[test]
fn the_status_depends_on_the_clock() {
    let (_, view) = reserved();
    let held = view.ticket.expect("a ticket part");
    let free = TicketPart { holder: None, ..held.clone() };
    let (before, at_end) = (held.end - chrono::Duration::microseconds(1), held.end);
    assert_eq!((status(&free, before), status(&free, at_end)), (TicketStatus::Available, TicketStatus::Expired));
    assert_eq!((status(&held, before), status(&held, at_end)), (TicketStatus::Reserved, TicketStatus::Reserved));
    let withdrawn = TicketPart { withdrawn: true, ..held };
    assert_eq!(
        (status(&withdrawn, before), status(&withdrawn, at_end)),
        (TicketStatus::Withdrawn, TicketStatus::Withdrawn)
    );
}

#[test]
fn the_update_time_is_that_of_the_newest_part() {
    let (_, mut view) = reserved();
    assert_eq!(View::default().update_time(), None);
    view.price.as_mut().expect("a part").update_time = time(500);
    assert_eq!(view.update_time(), Some(time(500)));
    view.newest.as_mut().expect("a part").update_time = time(600);
    assert_eq!(view.update_time(), Some(time(600)));
    view.ticket.as_mut().expect("a part").update_time = time(700);
    assert_eq!(view.update_time(), Some(time(700)));
}

#[test]
fn a_row_keeps_the_time_at_which_it_became_unsettled() {
    let (world, _) = reserved();
    let at = |seconds: i64| time(1_000 + seconds);
    let mut view = View::default();
    for (second, emitted) in (1..).zip(&world.emitted) {
        if let Some(next) = apply_event(&view, &emitted.event, 1, at(second)) {
            let expected = if settled(&next) { None } else { Some(view.unsettled_since.unwrap_or(at(second))) };
            assert_eq!(next.unsettled_since, expected);
            view = next;
        }
    }
    assert_eq!(view.unsettled_since, None, "settled at the end");
}

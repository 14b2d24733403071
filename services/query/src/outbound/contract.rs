//! The contract of every store of the view, as one test suite that each adapter runs unchanged.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_proto::ids::{ReservationId, TicketId, UserGrade};
use eticket_store::Work;
use uuid::Uuid;

use crate::{
    application::{
        Counts, Keys, Position, ViewRows, ViewStore, Watched,
        listing::{Filter, SortOrder},
    },
    domain::{
        self, Discount, LedgerPart, Money, PricePart, Reservation, ReservationStatus, TicketPart, TicketStatus, View,
    },
};

/// Runs all tests on one empty store.
pub(crate) async fn suite(store: Arc<dyn ViewStore>) {
    an_empty_store_has_no_position_and_no_rows(&*store).await;
    the_caught_up_mark_is_stored(&*store).await;
    committed_rows_are_read_unchanged(&*store).await;
    pages_show_each_row_once_in_every_order(&*store).await;
    reservations_of_a_user_are_sorted_newest_first(&*store).await;
    changes_and_snapshots_have_their_epoch(&*store).await;
    unsettled_rows_are_listed(&*store).await;
    sequences_of_another_stream_are_reset(&*store).await;
    a_store_built_beside_replaces_the_rows(&*store).await;
}

async fn the_caught_up_mark_is_stored(store: &dyn ViewStore) {
    assert!(!store.has_caught_up().await.expect("read"));
    let keep = &mut |work: &mut Work<ViewRows>| work.rows.has_caught_up = true;
    store.commit(&Keys::default(), &[], keep).await.expect("kept");
    assert!(store.has_caught_up().await.expect("read"));
    let beside = store.beside().await.expect("created");
    assert!(!beside.has_caught_up().await.expect("read"), "a new store has not caught up");
}

fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + seconds, 123_456_000).expect("a time")
}

fn id(number: usize) -> TicketId {
    format!("t-{number:02}").parse().expect("an id")
}

fn money(units: i64) -> Money {
    Money { currency_code: "KRW".to_owned(), units, nanos: 5 }
}

fn reservation(number: usize) -> Reservation {
    Reservation {
        reservation_id: Uuid::from_u128(number as u128 + 1).into(),
        ticket_id: id(number),
        user_id: ["ann", "bob"][number % 2].parse().expect("an id"),
        user_grade: UserGrade::Gold,
        status: ReservationStatus::Reserved,
        status_reason: "제목 'quoted'".to_owned(),
        revision: 3,
        reserve_time: time(number as i64 / 4),
        update_time: time(9),
    }
}

/// Returns a row in which every column has a different value. Some rows lack parts.
fn view(number: usize) -> View {
    let newest = number.is_multiple_of(3).then(|| reservation(number));
    let holder = newest.as_ref().map(|newest| newest.reservation_id);
    let ticket = TicketPart {
        revision: number as i64 + 1,
        schedule_revision: 2,
        reservation_revision: 3,
        title: format!("title \"{number}\" \\"),
        start: time(100 + number as i64 % 4),
        end: time(200 + number as i64 % 5),
        withdrawn: number % 5 == 4,
        holder,
        update_time: time(number as i64 % 6),
    };
    let discount = Discount { rule_id: "r".to_owned(), description: "d".to_owned(), amount: money(1) };
    let price = PricePart {
        revision: 4,
        schedule_revision: 2,
        reservation_revision: 3,
        base_price: money(10_000),
        discounted_price: money(9_000 - number as i64 % 3),
        discounts: vec![discount; number % 3],
        update_time: time(2),
    };
    View {
        ticket: (number != 7).then_some(ticket),
        ledger: LedgerPart { revision: 3, active: holder, closed: number % 5 == 4 },
        newest,
        price: (number % 4 != 1).then_some(price),
        sequence: 40 - number as u64,
        mark: 1 + number as u32,
        unsettled_since: (number % 4 == 1).then(|| time(50 - number as i64)),
    }
}

const ROWS: usize = 20;

fn keys(numbers: impl IntoIterator<Item = usize>) -> Keys {
    let numbers: Vec<usize> = numbers.into_iter().collect();
    let reservations = numbers.iter().map(|number| reservation(*number).reservation_id);
    Keys { reservations: reservations.collect(), tickets: numbers.into_iter().map(id).collect() }
}

fn position(epoch: &str, sequence: u64) -> Position {
    Position { epoch: epoch.to_owned(), sequence, fingerprint: format!("anchor-{sequence}") }
}

async fn an_empty_store_has_no_position_and_no_rows(store: &dyn ViewStore) {
    assert_eq!(store.position().await.expect("read"), None);
    assert_eq!(store.counts().await.expect("read"), Counts::default());
    let nothing = store.snapshot(&Watched::All, "", 10).await.expect("read");
    assert!(nothing.rows.is_empty() && nothing.epoch.is_none());
    assert!(!store.is_gone().await);
}

async fn committed_rows_are_read_unchanged(store: &dyn ViewStore) {
    // In steps, so that each part changes in a row that exists, also the first ticket part: lists must find the newest.
    const STEPS: [fn(usize, View) -> View; 6] = [
        |number, _| View { ticket: None, ..view((number + 1) % ROWS) },
        |number, _| view((number + 1) % ROWS),
        |number, was| View { ticket: view(number).ticket, ..was },
        |number, was| View { ledger: view(number).ledger, newest: view(number).newest, ..was },
        |number, was| View { price: view(number).price, ..was },
        |number, _| view(number),
    ];
    for step in STEPS {
        let put = &mut |work: &mut Work<ViewRows>| {
            for number in 0..ROWS {
                let was = work.rows.views.get(&id(number)).cloned().unwrap_or_default();
                work.rows.views.put(id(number), step(number, was));
                let row = reservation(number);
                work.rows.reservations.put(row.reservation_id, row);
            }
            work.rows.moved_to = Some(position("one", 40));
        };
        store.commit(&keys(0..ROWS), &[], put).await.expect("committed");
    }
    assert_eq!(store.position().await.expect("read"), Some(position("one", 40)));
    for number in 0..ROWS {
        let listed = (number != 7).then(|| view(number));
        assert_eq!(store.view(&id(number)).await.expect("read"), listed);
    }
    let mut seen = (0, 0, None);
    let look = &mut |work: &mut Work<ViewRows>| {
        assert!(work.rows.views.iter().all(|(known, row)| (0..ROWS).any(|it| id(it) == *known && view(it) == *row)));
        seen = (work.rows.views.iter().count(), work.rows.reservations.iter().count(), work.rows.position.clone());
    };
    store.commit(&keys([7, 8, 90]), &[], look).await.expect("committed");
    assert_eq!(seen, (2, 2, Some(position("one", 40))), "commits read rows without a ticket part too");
    let some = store.views_of(&[id(8), id(7), id(90)]).await.expect("read");
    assert_eq!(some, [(id(7), view(7)), (id(8), view(8))]);
    let row = reservation(5);
    assert_eq!(store.reservations_of(&[row.reservation_id]).await.expect("read"), [row]);
    let all = store.all_views(id(3).as_str(), 2).await.expect("read");
    assert_eq!(all, [(id(4), view(4)), (id(5), view(5))]);
    let last = reservation(17).reservation_id.to_string();
    let above = store.all_reservations(&last, 9).await.expect("read");
    assert_eq!(above, [reservation(18), reservation(19)]);
    assert_eq!(store.all_reservations("", 99).await.expect("read").len(), ROWS);
    assert_eq!(
        store.counts().await.expect("read"),
        Counts { tickets: 19, prices: 15, reservations: 20, closed_ledgers: 4 }
    );
}

async fn pages_show_each_row_once_in_every_order(store: &dyn ViewStore) {
    let now = time(202);
    let passes = |filter: &Filter, view: &View| {
        let Some(ticket) = &view.ticket else { return false };
        let held = view.newest.as_ref().map(|newest| &newest.user_id);
        filter.status.is_none_or(|status| domain::status(ticket, now) == status)
            && (filter.user.is_none() || filter.user.as_ref() == held)
            && filter.start_from.is_none_or(|from| ticket.start >= from)
            && filter.start_to.is_none_or(|to| ticket.start < to)
    };
    let statuses =
        [TicketStatus::Available, TicketStatus::Reserved, TicketStatus::Expired, TicketStatus::Withdrawn].map(Some);
    let mut filters: Vec<Filter> = statuses.into_iter().map(|status| Filter { status, ..Filter::default() }).collect();
    filters.extend([
        Filter::default(),
        Filter { user: Some("ann".parse().expect("an id")), ..Filter::default() },
        Filter { start_from: Some(time(101)), start_to: Some(time(103)), ..Filter::default() },
    ]);
    for filter in &filters {
        let expected: BTreeSet<TicketId> = (0..ROWS).filter(|it| passes(filter, &view(*it))).map(id).collect();
        assert!(!expected.is_empty(), "{filter:?}");
        for order in ["", "start_time desc", "ticket_id desc", "discounted_price, update_time desc", "update_time"] {
            let order = SortOrder::parse(order).expect("an order");
            let rows = walk(store, filter, &order, now).await;
            let ids: BTreeSet<TicketId> = rows.iter().map(|(id, _)| id.clone()).collect();
            assert_eq!((&ids, rows.len()), (&expected, expected.len()), "{filter:?} {order}");
            assert!(rows.windows(2).all(|pair| in_order(&order, &pair[0], &pair[1])), "{filter:?} {order}");
        }
    }
}

/// Compares two rows as the contract defines it: by the first field in which they differ.
fn in_order(order: &SortOrder, one: &(TicketId, View), other: &(TicketId, View)) -> bool {
    use crate::application::listing::{Direction, Field, price_key, update_key};
    let mut compared = order.fields().iter().map(|(field, direction)| {
        let ascending = match field {
            Field::StartTime => {
                let start = |row: &View| row.ticket.as_ref().map(|ticket| ticket.start);
                start(&one.1).cmp(&start(&other.1))
            }
            Field::TicketId => one.0.cmp(&other.0),
            Field::DiscountedPrice => price_key(&one.1).cmp(&price_key(&other.1)),
            Field::UpdateTime => update_key(&one.1).cmp(&update_key(&other.1)),
        };
        if *direction == Direction::Ascending { ascending } else { ascending.reverse() }
    });
    compared.find(|compared| compared.is_ne()).is_some_and(std::cmp::Ordering::is_lt)
}

/// Reads all pages, with three rows each.
async fn walk(store: &dyn ViewStore, filter: &Filter, order: &SortOrder, now: DateTime<Utc>) -> Vec<(TicketId, View)> {
    let mut rows: Vec<(TicketId, View)> = Vec::new();
    loop {
        let after = rows.last().map(|(id, view)| order.key(id, view));
        let page = store.page(filter, order, after.as_deref(), now, 3).await.expect("read");
        if page.is_empty() {
            return rows;
        }
        rows.extend(page);
    }
}

async fn reservations_of_a_user_are_sorted_newest_first(store: &dyn ViewStore) {
    let mut listed: Vec<(Reservation, View)> = Vec::new();
    loop {
        let before = listed.last().map(|(row, _)| (row.reserve_time, row.reservation_id));
        let page = store.user_reservations(&"ann".parse().expect("an id"), before, 3).await.expect("read");
        if page.is_empty() {
            break;
        }
        listed.extend(page);
    }
    let place = |row: &Reservation| (row.reserve_time, row.reservation_id);
    assert!(listed.windows(2).all(|pair| place(&pair[0].0) > place(&pair[1].0)));
    let numbers: BTreeSet<ReservationId> = listed.iter().map(|(row, _)| row.reservation_id).collect();
    let anns: BTreeSet<ReservationId> = (0..ROWS).step_by(2).map(|it| reservation(it).reservation_id).collect();
    assert_eq!((numbers, listed.len()), (anns, ROWS / 2));
    assert!(listed.iter().all(|(row, shown)| (0..ROWS).any(|it| id(it) == row.ticket_id && *shown == view(it))));
}

async fn changes_and_snapshots_have_their_epoch(store: &dyn ViewStore) {
    let changed = store.changed_above(&Watched::All, 30, 4).await.expect("read");
    let sequences: Vec<u64> = changed.rows.iter().map(|(_, view)| view.sequence).collect();
    // Sequence 33 belongs to a row without a ticket part.
    assert_eq!((changed.epoch.as_deref(), sequences), (Some("one"), vec![31, 32, 34, 35]));
    let these = Watched::These([id(1), id(3), id(7)].into());
    let changed = store.changed_above(&these, 38, 9).await.expect("read");
    assert_eq!(changed.rows, [(id(1), view(1))]);
    let snapshot = store.snapshot(&these, "", 9).await.expect("read");
    assert_eq!((snapshot.epoch.as_deref(), snapshot.rows), (Some("one"), vec![(id(1), view(1)), (id(3), view(3))]));
    let snapshot = store.snapshot(&Watched::All, id(5).as_str(), 2).await.expect("read");
    assert_eq!(snapshot.rows, [(id(6), view(6)), (id(8), view(8))]);
    assert_eq!(store.changed_above(&Watched::All, 40, 9).await.expect("read").epoch, None, "no epoch without rows");
}

async fn unsettled_rows_are_listed(store: &dyn ViewStore) {
    let found = store.unsettled(id(1).as_str(), 2).await.expect("read");
    assert_eq!(found, [(id(5), view(5)), (id(9), view(9))]);
    assert_eq!(store.oldest_unsettled().await.expect("read"), Some(time(50 - 17)));
}

async fn sequences_of_another_stream_are_reset(store: &dyn ViewStore) {
    let forget = &mut |work: &mut Work<ViewRows>| {
        work.rows.forget_sequences = true;
        work.rows.moved_to = Some(Position::start("two".to_owned()));
    };
    store.commit(&Keys::default(), &[], forget).await.expect("committed");
    let rows = store.all_views("", 99).await.expect("read");
    assert!(rows.len() == ROWS && rows.iter().all(|(_, view)| view.sequence == 0));
    assert_eq!(store.position().await.expect("read"), Some(Position::start("two".to_owned())));
}

async fn a_store_built_beside_replaces_the_rows(store: &dyn ViewStore) {
    let beside = store.beside().await.expect("begun");
    let put = &mut |work: &mut Work<ViewRows>| {
        let unsettled_since = Some(time(0) + TimeDelta::seconds(1));
        work.rows.views.put(id(1), View { unsettled_since, ..view(1) });
        work.rows.moved_to = Some(position("three", 7));
    };
    beside.commit(&keys([1]), &[], put).await.expect("committed");
    assert_eq!(store.counts().await.expect("read").tickets, 19, "the old rows continue to serve");
    store.exchange(beside).await.expect("exchanged");
    assert_eq!(store.counts().await.expect("read"), Counts { tickets: 1, ..Counts::default() });
    assert_eq!(store.position().await.expect("read"), Some(position("three", 7)));
}

//! Positions: where reading resumes, and the sequences that rows store.

use eticket_bus::Error as BusError;

use super::*;
use crate::application::reader;

async fn position(fixture: &Fixture) -> Position {
    fixture.store().position().await.unwrap().expect("a position")
}

#[tokio::test]
async fn a_view_resumes_at_its_stored_position() {
    let fixture = Fixture::new().await;
    let a = id("a");
    fixture.take(&a, &free()).await;
    let view = fixture.view(&a).await;
    assert_eq!((view.sequence, view.unsettled_since), (2, None));
    assert_eq!(position(&fixture).await.sequence, 2);
    // The session starts at the stored position, so it only reads new messages.
    let before = fixture.reader.attach().await.unwrap().progress();
    assert_eq!(before, (2, 2), "no message left");
    fixture.take(&a, &[Event::Ticket(ticket(2, 0, None))]).await;
    assert_eq!(fixture.view(&a).await.ticket.unwrap().revision, 2);
}

#[tokio::test]
async fn a_view_has_caught_up_once_it_has_read_to_the_end() {
    let fixture = Fixture::new().await;
    fixture.publish(&id("a"), &free()[0]).await;
    let mut session = fixture.reader.attach().await.unwrap();
    assert!(!fixture.health.is_ready());
    let batch = session.next().await.unwrap();
    session.apply(batch).await.unwrap();
    assert!(fixture.health.is_ready());
}

#[tokio::test]
async fn with_an_empty_stream_a_view_has_caught_up_immediately() {
    let fixture = Fixture::new().await;
    fixture.reader.attach().await.unwrap();
    assert!(fixture.health.is_ready());
}

#[tokio::test]
async fn a_position_is_valid_only_in_its_stream() {
    let first = MemoryStream::default();
    let mut fixture = Fixture::reading(&first).await;
    let (a, b, c) = (id("a"), id("b"), id("c"));
    first.append(message(&a, &free()[0]));
    first.append(message(&b, &free()[0]));
    fixture.read_all().await;
    // The other stream has the same message at that sequence, after a message that was never read.
    let other = MemoryStream::default();
    other.wipe();
    other.append(message(&c, &free()[0]));
    other.append(message(&b, &free()[0]));
    fixture.turn_to(Arc::new(other.connect()));
    fixture.reader.attach().await.unwrap();
    assert_eq!(fixture.view(&a).await.sequence, 0, "sequences of the old stream are reset");
    fixture.read_all().await;
    assert_eq!(fixture.view(&c).await.sequence, 1);
}

#[tokio::test]
async fn a_stream_that_changes_during_the_attach_is_detected() {
    let bus = MemoryStream::default();
    let fixture = Fixture::reading(&bus).await;
    bus.append(message(&id("a"), &free()[0]));
    fixture.read_all().await;
    bus.wipe_at_attach();
    // The sequences of the new stream are below the position in the old one.
    let outcome = fixture.reader.attach().await.map(drop);
    assert!(matches!(outcome, Err(reader::Error::Bus(BusError::StreamChanged))), "{outcome:?}");
    bus.append(message(&id("b"), &free()[0]));
    fixture.read_all().await;
    assert_eq!(fixture.view(&id("b")).await.sequence, 1);
}

#[tokio::test]
async fn a_position_is_valid_only_at_its_message() {
    let fixture = Fixture::new().await;
    let (a, b) = (id("a"), id("b"));
    fixture.publish(&a, &free()[0]).await;
    let second = fixture.publish(&b, &free()[0]).await;
    let epoch = fixture.bus.state().await.unwrap().epoch;
    let at =
        |sequence, fingerprint: &str| Position { epoch: epoch.clone(), sequence, fingerprint: fingerprint.to_owned() };
    // If the fingerprint matches, reading resumes there: earlier messages count as read.
    fixture.stand_at(at(second, "ticket/b/1")).await;
    fixture.read_all().await;
    assert!(fixture.store().view(&a).await.unwrap().is_none());
    for elsewhere in [at(second, "ticket/b/2"), at(99, "ticket/b/1")] {
        fixture.stand_at(elsewhere).await;
        fixture.read_all().await;
        assert!(fixture.store().view(&a).await.unwrap().is_some(), "reading began at the start");
        assert_eq!(position(&fixture).await, at(second, "ticket/b/1"));
    }
}

/// `names` returns the headers of a publication.
async fn a_second_publication_is_another_message(names: impl Fn(&str) -> Vec<(&'static str, String)>) {
    let bus = MemoryStream::default();
    let fixture = Fixture::reading(&bus).await;
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let published = |ticket: &TicketId, publication: &str| {
        let mut message = message(ticket, &free()[0]);
        message.headers.extend(names(publication).into_iter().map(|(name, value)| (name.into(), value)));
        bus.append(message);
    };
    published(&a, "first");
    published(&b, "second");
    fixture.read_all().await;
    // The stream has lost both messages, and receives a new one before the second one again.
    bus.lose_last(u64::MAX);
    published(&c, "third");
    published(&b, "fourth");
    fixture.read_all().await;
    assert!(fixture.store().view(&c).await.unwrap().is_some(), "reading began at the start");
}

#[tokio::test]
async fn a_state_republished_at_the_same_sequence_has_another_fingerprint() {
    // One trace may cause several publications, and a tracer may reuse an id.
    a_second_publication_is_another_message(|publication| {
        vec![(headers::PUBLICATION_ID, publication.to_owned()), (headers::TRACE_PARENT, "the same".to_owned())]
    })
    .await;
}

#[tokio::test]
async fn messages_without_a_publication_id_are_identified_by_their_trace() {
    a_second_publication_is_another_message(|publication| vec![(headers::TRACE_PARENT, publication.to_owned())]).await;
}

#[tokio::test]
async fn a_position_at_a_removed_message_is_not_valid() {
    let fixture = Fixture::new().await;
    let (a, b) = (id("a"), id("b"));
    fixture.publish(&b, &free()[0]).await;
    let first = fixture.publish(&a, &Event::Ticket(ticket(1, 0, None))).await;
    let epoch = fixture.bus.state().await.unwrap().epoch;
    fixture.stand_at(Position { epoch, sequence: first, fingerprint: "ticket/a/1".to_owned() }).await;
    for revision in 2..=40 {
        fixture.publish(&a, &Event::Ticket(ticket(revision, 0, None))).await;
    }
    fixture.read_all().await;
    assert_eq!(fixture.view(&a).await.ticket.unwrap().revision, 40);
    assert_eq!(fixture.view(&b).await.sequence, 1, "reading began at the start");
}

#[tokio::test]
async fn a_row_takes_the_sequence_of_a_repeated_state() {
    let first = MemoryStream::default();
    let mut fixture = Fixture::reading(&first).await;
    let (a, b) = (id("a"), id("b"));
    first.append(message(&a, &free()[0]));
    first.append(message(&b, &free()[0]));
    fixture.read_all().await;
    let other = MemoryStream::default();
    other.wipe();
    other.append(message(&b, &free()[0]));
    other.append(message(&a, &free()[0]));
    fixture.turn_to(Arc::new(other.connect()));
    fixture.read_all().await;
    assert_eq!((fixture.view(&a).await.sequence, fixture.view(&b).await.sequence), (2, 1));
}

#[tokio::test]
async fn a_stale_message_does_not_change_the_row() {
    let fixture = Fixture::new().await;
    let a = id("a");
    fixture.take(&a, &[Event::Ticket(ticket(2, 0, None))]).await;
    let before = fixture.view(&a).await;
    fixture.take(&a, &[Event::Ticket(ticket(1, 0, Some(7)))]).await;
    assert_eq!(fixture.view(&a).await, before);
    assert_eq!(position(&fixture).await.sequence, 2, "the position includes the stale message");
}

#[tokio::test]
async fn a_session_fails_if_the_position_was_changed() {
    let fixture = Fixture::new().await;
    let a = id("a");
    fixture.take(&a, &free()).await;
    let mut session = fixture.reader.attach().await.unwrap();
    fixture.publish(&a, &Event::Ticket(ticket(2, 0, None))).await;
    let batch = session.next().await.unwrap();
    let epoch = fixture.bus.state().await.unwrap().epoch;
    fixture.stand_at(Position::start(epoch)).await;
    let refused = session.apply(batch).await.expect_err("the position was changed");
    assert!(matches!(refused, crate::application::reader::Error::Exchanged), "{refused}");
    assert_eq!(fixture.view(&a).await.ticket.unwrap().revision, 1);
    fixture.read_all().await;
    assert_eq!(fixture.view(&a).await.ticket.unwrap().revision, 2);
}

#[tokio::test]
async fn a_late_cancellation_of_an_earlier_reservation_is_listed() {
    let fixture = Fixture::new().await;
    let a = id("a");
    let placed = reserved(reservation(&a, 1, 1, ReservationStatus::Reserved));
    let cancelled = reserved(reservation(&a, 1, 2, ReservationStatus::Cancelled));
    let again = reserved(reservation(&a, 2, 3, ReservationStatus::Reserved));
    fixture.take(&a, &[placed, again, Event::Ticket(ticket(1, 3, Some(2))), cancelled]).await;
    let view = fixture.view(&a).await;
    assert_eq!(view.newest.map(|newest| newest.reservation_id), Some(reservation_id(2)));
    let list = fixture.store().user_reservations(&"ann".parse().unwrap(), None, 10).await.unwrap();
    let statuses: Vec<_> = list.iter().map(|(row, _)| (row.reservation_id, row.status)).collect();
    assert_eq!(
        statuses,
        [(reservation_id(2), ReservationStatus::Reserved), (reservation_id(1), ReservationStatus::Cancelled)]
    );
}

#[tokio::test]
async fn an_undecodable_message_is_parked_and_does_not_block_others() {
    let fixture = Fixture::new().await;
    let a = id("a");
    fixture.publish(&a, &free()[0]).await;
    let subject = subjects::ticket(&a);
    let garbage = Message { subject, headers: Vec::new(), body: vec![0xff; 3].into() };
    fixture.bus.publish(garbage.clone()).await.unwrap();
    fixture.publish(&a, &free()[1]).await;
    fixture.read_all().await;
    assert!(fixture.view(&a).await.price.is_some());
    let parked = fixture.store().parked("", 10).await.unwrap();
    assert_eq!(parked.len(), 1);
    assert_eq!((parked[0].event_id.as_str(), &parked[0].message), ("eticket.v1.ticket.a@2", &garbage));
    assert!(parked[0].reason.starts_with("body: "), "{}", parked[0].reason);
}

/// Executes a statement that makes the store refuse, or accept again, certain rows.
async fn poison(fixture: &Fixture, statement: &'static str) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(fixture._folder.path().join("query.db"));
    let mut connection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    sqlx::Connection::close(connection).await.unwrap();
}

#[tokio::test]
async fn an_event_that_fails_repeatedly_is_parked_and_does_not_block_others() {
    let fixture = Fixture::new().await;
    poison(
        &fixture,
        "create trigger poison before insert on view when new.title = 'poison' begin select raise(abort, 'no'); end",
    )
    .await;
    let poisoned = Event::Ticket(TicketPart { title: "poison".to_owned(), ..ticket(1, 0, None) });
    for (ticket, event) in [(id("a"), free()[0].clone()), (id("b"), poisoned), (id("c"), free()[0].clone())] {
        fixture.publish(&ticket, &event).await;
    }
    fixture.read_all().await;
    for (ticket, there) in [("a", true), ("b", false), ("c", true)] {
        assert_eq!(fixture.store().view(&id(ticket)).await.unwrap().is_some(), there, "{ticket}");
    }
    let parked = fixture.store().parked("", 10).await.unwrap();
    assert_eq!((parked.len(), parked[0].attempts), (1, crate::application::reader::MAX_ATTEMPTS));
    assert_eq!(position(&fixture).await.sequence, 3);
    fixture.reader.apply_parked(parked[0].clone()).await.unwrap();
    assert_eq!(fixture.store().parked("", 10).await.unwrap(), parked, "a message that fails again stays parked");
    poison(&fixture, "drop trigger poison").await;
    fixture.reader.apply_parked(parked[0].clone()).await.unwrap();
    assert_eq!(fixture.store().parked("", 10).await.unwrap(), []);
    assert_eq!(fixture.view(&id("b")).await.ticket.unwrap().title, "poison");
}

#[tokio::test]
async fn a_reader_without_messages_detects_a_stall() {
    let bus = MemoryStream::default();
    let fixture = Fixture::reading(&bus).await;
    let mut session = fixture.reader.attach().await.unwrap();
    assert!(session.look_again().await.is_ok(), "at the end of the stream");
    bus.append(message(&id("a"), &free()[0]));
    assert!(session.look_again().await.is_ok(), "the message may have just arrived");
    let stalled = session.look_again().await.expect_err("behind without progress in two checks");
    assert!(matches!(stalled, crate::application::reader::Error::Stalled { read: 0, last: 1 }), "{stalled}");
    let batch = session.next().await.unwrap();
    session.apply(batch).await.unwrap();
    assert!(session.look_again().await.is_ok());
    bus.wipe();
    assert!(session.look_again().await.is_err(), "another stream");
}

#[tokio::test]
async fn the_reader_reports_a_failed_bus_and_attaches_again() {
    let bus = MemoryStream::default();
    let fixture = Fixture::reading(&bus).await;
    let stop = CancellationToken::new();
    let reading = tokio::spawn(fixture.reader.clone().run(stop.clone()));
    until("ready", async || fixture.health.is_ready()).await;
    bus.wipe();
    bus.append(message(&id("a"), &free()[0]));
    until("unhealthy", async || fixture.health.is_serving("bus") == Some(false)).await;
    until("a row of the other stream", async || fixture.store().view(&id("a")).await.unwrap().is_some()).await;
    until("healthy again", async || fixture.health.is_serving("bus") == Some(true)).await;
    stop.cancel();
    timeout(BOUND, reading).await.expect("in time").unwrap();
}

#[tokio::test]
async fn the_health_of_the_bus_stays_down_while_the_view_cannot_follow() {
    let bus = MemoryStream::default();
    let mut fixture = Fixture::reading(&bus).await;
    fixture.keep_in_memory();
    // The stream has a message, but delivers it to no reader.
    bus.deliver_at_most(0);
    bus.append(message(&id("a"), &free()[0]));
    tokio::time::pause();
    let stop = CancellationToken::new();
    let reading = tokio::spawn(fixture.reader.clone().run(stop.clone()));
    let serves = || fixture.health.is_serving("bus") == Some(true);
    let second = Duration::from_secs(1);
    tokio::time::sleep(second).await;
    assert!(serves(), "one check does not show a stall");
    tokio::time::sleep(10 * second).await;
    for _ in 0..600 {
        assert!(!serves(), "attaching again does not restore the health");
        tokio::time::sleep(second / 10).await;
    }
    bus.deliver_at_most(usize::MAX);
    tokio::time::sleep(10 * second).await;
    assert!(serves() && fixture.store().view(&id("a")).await.unwrap().is_some());
    stop.cancel();
    reading.await.unwrap();
}

#[tokio::test]
async fn an_unusable_file_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("query.db");
    std::fs::write(
        &path,
        "not a database; this text is longer than the header of a database (100 bytes), so SQLite reads and refuses it",
    )
    .unwrap();
    let store = SqliteViews::open(&path, Arc::new(ManualClock::new(time(0)))).await.expect("a new file");
    assert_eq!(store.position().await.unwrap(), None);
}

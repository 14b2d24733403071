//! The contract suite of the bus: the tests of each adapter run it unchanged.

#![expect(clippy::expect_used, reason = "a step that fails fails the test that runs the suite")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{Bus, Consumer, Delivery, Message};

/// Bound of each wait.
const BOUND: Duration = Duration::from_secs(10);

/// Runs the suite. `open` opens the bus with the same stream each time, like a restarted process; the previous bus is
/// closed before.
pub async fn suite(open: impl AsyncFn() -> Arc<dyn Bus>) {
    let bus = open().await;
    sequences_rise_and_messages_are_unchanged(&*bus).await;
    only_matching_messages_are_delivered(&*bus).await;
    members_of_a_consumer_share_its_messages(&*bus).await;
    unacknowledged_messages_are_delivered_again(&*bus).await;
    retried_messages_are_delivered_again_and_counted(&*bus).await;
    a_restarted_consumer_reads_from_the_start(&*bus).await;
    the_lag_counts_what_a_consumer_has_not_acknowledged(&*bus).await;
    the_newest_messages_of_each_subject_are_kept(&*bus).await;
    readers_continue_after_their_position(&*bus).await;
    readers_detect_the_end(&*bus).await;
    the_history_of_subjects_is_read_backwards(&*bus).await;
    each_request_reaches_one_server(&*bus).await;
    a_cancelled_wait_loses_no_message(&*bus).await;
    let bus = positions_and_epoch_survive_a_restart(bus, &open).await;
    bus.close().await;
    assert!(bus.publish(message("closed.1", 1)).await.is_err(), "a closed bus accepts no message");
}

fn message(subject: &str, number: u8) -> Message {
    let headers = vec![("ce-id".into(), format!("{subject}/{number}"))];
    Message {
        subject: format!("eticket.v1.ticket.{}", subject.replace('.', "_")),
        headers,
        body: vec![number; 3].into(),
    }
}

async fn next(consumer: &mut dyn Consumer, most: usize) -> Vec<Delivery> {
    tokio::time::timeout(BOUND, consumer.next(most))
        .await
        .expect("a message within the bound")
        .expect("the bus responds")
}

/// Receives and acknowledges `count` messages; returns their ids in the order of arrival.
async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let batch = next(consumer, count - ids.len()).await;
        consumer.ack(&batch.iter().map(|delivery| delivery.sequence).collect::<Vec<_>>()).await.expect("an ack");
        ids.extend(batch.iter().map(|delivery| delivery.message.header("ce-id").unwrap_or_default().to_owned()));
    }
    ids
}

/// Receives `count` messages, possibly in several batches, without acknowledging them.
async fn gather(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut gathered = Vec::new();
    while gathered.len() < count {
        gathered.extend(next(consumer, count - gathered.len()).await);
    }
    gathered
}

async fn publish(bus: &dyn Bus, subject: &str, numbers: std::ops::RangeInclusive<u8>) {
    for number in numbers {
        bus.publish(message(subject, number)).await.expect("published");
    }
}

fn filter(subject: &str) -> String {
    format!("eticket.v1.ticket.{}", subject.replace('.', "_"))
}

async fn attach(bus: &dyn Bus, name: &str) -> Box<dyn Consumer> {
    bus.attach(name, &[&filter(name)]).await.expect("attached")
}

async fn sequences_rise_and_messages_are_unchanged(bus: &dyn Bus) {
    let headers =
        [("a", " blanks, \"quotes\" and 100 % "), ("b", "one"), ("b", "two"), ("c", "가격\r\nx: y"), ("d", "")];
    let headers = headers.map(|(name, value)| (name.into(), value.to_owned())).into();
    let sent = Message { headers, body: (0..=255).collect::<Vec<u8>>().into(), ..message("whole", 7) };
    let first = bus.publish(sent.clone()).await.expect("published");
    let second = bus.publish(message("whole", 8)).await.expect("published");
    assert!(second > first);
    assert_eq!(bus.state().await.expect("state").last_sequence, second);
    assert_eq!(bus.message_at(first).await.expect("answered"), Some(sent));
    assert_eq!(bus.message_at(second + 1).await.expect("answered"), None);
}

async fn only_matching_messages_are_delivered(bus: &dyn Bus) {
    publish(bus, "filtered", 1..=1).await;
    publish(bus, "other", 1..=3).await;
    publish(bus, "filtered", 2..=2).await;
    let mut consumer = attach(bus, "filtered").await;
    assert_eq!(take(&mut *consumer, 2).await, ["filtered/1", "filtered/2"]);
}

async fn members_of_a_consumer_share_its_messages(bus: &dyn Bus) {
    publish(bus, "shared", 1..=6).await;
    let (mut one, mut two) = (attach(bus, "shared").await, attach(bus, "shared").await);
    let (first, second) = (take(&mut *one, 3).await, take(&mut *two, 3).await);
    assert_eq!(first.iter().chain(&second).collect::<BTreeSet<_>>().len(), 6, "{first:?} {second:?}");
}

async fn unacknowledged_messages_are_delivered_again(bus: &dyn Bus) {
    publish(bus, "dropped", 1..=3).await;
    let mut consumer = attach(bus, "dropped").await;
    let batch = gather(&mut *consumer, 3).await;
    consumer.ack(&[batch[1].sequence]).await.expect("an ack");
    drop(consumer);
    let mut consumer = attach(bus, "dropped").await;
    assert_eq!(take(&mut *consumer, 2).await, ["dropped/1", "dropped/3"]);
}

async fn retried_messages_are_delivered_again_and_counted(bus: &dyn Bus) {
    publish(bus, "again", 1..=2).await;
    let mut consumer = attach(bus, "again").await;
    let batch = gather(&mut *consumer, 2).await;
    consumer.ack(&[batch[1].sequence]).await.expect("an ack");
    consumer.retry(batch[0].sequence, Duration::from_millis(10)).await.expect("redelivery requested");
    let again = next(&mut *consumer, 2).await;
    assert_eq!((again.len(), again[0].sequence, again[0].attempts), (1, batch[0].sequence, 2));
    consumer.ack(&[again[0].sequence]).await.expect("an ack");
}

async fn a_restarted_consumer_reads_from_the_start(bus: &dyn Bus) {
    publish(bus, "restarted", 1..=2).await;
    let mut consumer = attach(bus, "restarted").await;
    assert_eq!(take(&mut *consumer, 2).await.len(), 2);
    drop(consumer);
    bus.restart("restarted").await.expect("restarted");
    let mut consumer = attach(bus, "restarted").await;
    assert_eq!(take(&mut *consumer, 2).await, ["restarted/1", "restarted/2"]);
}

/// Waits until a consumer has this lag: acknowledgements are not confirmed.
async fn lags(bus: &dyn Bus, name: &str, expected: u64) {
    let waiting = async {
        while bus.lag(name).await.expect("the bus responds") != Some(expected) {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(BOUND, waiting).await;
    let lag = bus.lag(name).await;
    assert!(waited.is_ok(), "the lag is {lag:?} instead of {expected}");
}

async fn the_lag_counts_what_a_consumer_has_not_acknowledged(bus: &dyn Bus) {
    assert_eq!(bus.lag("lagging").await.expect("answered"), None, "nobody has attached yet");
    publish(bus, "lagging", 1..=3).await;
    publish(bus, "not-lagging", 1..=2).await;
    let mut consumer = attach(bus, "lagging").await;
    assert_eq!(bus.lag("lagging").await.expect("answered"), Some(3), "only messages that match the filters count");
    let delivered = gather(&mut *consumer, 2).await;
    lags(bus, "lagging", 3).await;
    consumer.ack(&[delivered[1].sequence]).await.expect("an ack");
    lags(bus, "lagging", 2).await;
    drop(consumer);
    lags(bus, "lagging", 2).await;
    let mut consumer = attach(bus, "lagging").await;
    assert_eq!(take(&mut *consumer, 2).await.len(), 2);
    lags(bus, "lagging", 0).await;
    publish(bus, "lagging", 4..=4).await;
    lags(bus, "lagging", 1).await;
}

async fn the_newest_messages_of_each_subject_are_kept(bus: &dyn Bus) {
    publish(bus, "kept", 1..=40).await;
    publish(bus, "kept-once", 1..=1).await;
    let subjects = [filter("kept"), filter("kept-once")];
    let mut consumer = bus.attach("kept", &[&subjects[0], &subjects[1]]).await.expect("attached");
    let ids = take(&mut *consumer, 33).await;
    assert_eq!((ids[0].as_str(), ids[31].as_str(), ids[32].as_str()), ("kept/9", "kept/40", "kept-once/1"));
}

async fn readers_continue_after_their_position(bus: &dyn Bus) {
    let position = bus.state().await.expect("state").last_sequence;
    publish(bus, "read", 1..=3).await;
    let mut reader = bus.read(position).await.expect("a reader");
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(tokio::time::timeout(BOUND, reader.next(2)).await.expect("in time").expect("read"));
    }
    assert!(read.is_sorted_by_key(|delivery| delivery.sequence));
    assert_eq!(read[2].message.header("ce-id"), Some("read/3"));
}

async fn readers_detect_the_end(bus: &dyn Bus) {
    publish(bus, "end", 1..=2).await;
    let position = bus.state().await.expect("state").last_sequence - 2;
    let mut reader = bus.read(position).await.expect("a reader");
    let mut read = 0;
    while read < 2 {
        assert!(!reader.is_at_end().await.expect("the bus responds"), "{} are left", 2 - read);
        read += tokio::time::timeout(BOUND, reader.next(1)).await.expect("in time").expect("read").len();
    }
    assert!(reader.is_at_end().await.expect("answered"));
    publish(bus, "end", 3..=3).await;
    assert!(!reader.is_at_end().await.expect("answered"));
}

async fn the_history_of_subjects_is_read_backwards(bus: &dyn Bus) {
    let named = |subject: &str, number: u8| Message {
        subject: format!("eticket.v1.{subject}"),
        ..message(&format!("past/{subject}"), number)
    };
    let wanted = ["ticket.past", "reservation.past.1", "reservation.past.2", "price.past"];
    // Longer names, and other tickets, do not match.
    let others = ["ticket.past2", "ticket.pas", "reservation.past2.1", "reservation.pas.1", "price.past-2"];
    let mut expected = Vec::new();
    for number in 1..=3 {
        for subject in wanted {
            bus.publish(named(subject, number)).await.expect("published");
            expected.push(format!("past/{subject}/{number}"));
        }
        for subject in others {
            bus.publish(named(subject, number)).await.expect("published");
        }
    }
    // Only the newest 32 messages of a subject are kept.
    for number in 4..=40 {
        bus.publish(named("ticket.past", number)).await.expect("published");
        expected.push(format!("past/ticket.past/{number}"));
    }
    expected.retain(|id| !(1..=8).any(|number| *id == format!("past/ticket.past/{number}")));
    expected.reverse();
    let filters = ["eticket.v1.ticket.past", "eticket.v1.reservation.past.*", "eticket.v1.price.past"];
    for page in [1, 7, 64] {
        let (mut read, mut before) = (Vec::new(), None);
        loop {
            let found = bus.history(&filters, before, page).await.expect("answered");
            assert_eq!(found.epoch, bus.state().await.expect("state").epoch);
            assert!(found.messages.len() <= page, "{} of {page}", found.messages.len());
            let Some(oldest) = found.messages.last() else { break };
            before = Some(oldest.sequence);
            read.extend(found.messages.iter().map(|it| it.message.header("ce-id").unwrap_or_default().to_owned()));
        }
        assert_eq!(read, expected, "in pages of {page}");
    }
    assert!(bus.history(&["eticket.v1.ticket.nobody"], None, 5).await.expect("answered").messages.is_empty());
    assert!(bus.history(&filters, Some(1), 5).await.expect("answered").messages.is_empty());
}

async fn each_request_reaches_one_server(bus: &dyn Bus) {
    let ask = async |payload: &'static str| {
        let response = tokio::time::timeout(BOUND, bus.request("audited", payload.into())).await.expect("in time");
        response.expect("the bus responds").map(|response| String::from_utf8_lossy(&response).into_owned())
    };
    assert_eq!(ask("no server").await, None);
    let (mut one, mut two) = (bus.serve("audited").await.expect("served"), bus.serve("audited").await.expect("served"));
    let before = bus.state().await.expect("state");
    for _ in 0..4 {
        let serve = async {
            let (server, request) = tokio::select! {
                request = one.next() => ("one", request),
                request = two.next() => ("two", request),
            };
            let request = request.expect("a request");
            assert_eq!(request.payload, "how many?");
            request.respond(format!("{server} responds four").into());
        };
        let (response, ()) = tokio::join!(ask("how many?"), serve);
        assert!(["one responds four", "two responds four"].contains(&response.expect("a response").as_str()));
    }
    assert_eq!(bus.state().await.expect("state"), before, "requests are not part of the stream");
    drop(one);
    let serve = async { two.next().await.expect("a request").respond("two is left".into()) };
    assert_eq!(tokio::join!(ask("which server?"), serve).0.as_deref(), Some("two is left"));
    drop(two);
    // A server is unregistered with a delay.
    let gone = async { while ask("no server").await.is_some() {} };
    tokio::time::timeout(BOUND, gone).await.expect("in time");
}

async fn a_cancelled_wait_loses_no_message(bus: &dyn Bus) {
    let mut consumer = attach(bus, "given-up").await;
    for number in 1..=20 {
        let waiting = consumer.next(1);
        let published = bus.publish(message("given-up", number));
        // Whichever is first: often the wait is cancelled just as the message arrives.
        tokio::select! {
            batch = waiting => {
                let batch = batch.expect("the bus responds");
                consumer.ack(&[batch[0].sequence]).await.expect("an ack");
            }
            sequence = published => {
                sequence.expect("published");
                assert_eq!(take(&mut *consumer, 1).await, [format!("given-up/{number}")]);
                continue;
            }
        }
        bus.publish(message("unrelated", number)).await.expect("published");
    }
}

async fn positions_and_epoch_survive_a_restart(
    bus: Arc<dyn Bus>,
    open: &impl AsyncFn() -> Arc<dyn Bus>,
) -> Arc<dyn Bus> {
    publish(&*bus, "outlives", 1..=3).await;
    let mut consumer = attach(&*bus, "outlives").await;
    assert_eq!(take(&mut *consumer, 2).await, ["outlives/1", "outlives/2"]);
    drop(consumer);
    let before = bus.state().await.expect("state");
    bus.close().await;
    let bus = open().await;
    assert_eq!(bus.state().await.expect("state"), before);
    let mut consumer = attach(&*bus, "outlives").await;
    assert_eq!(take(&mut *consumer, 1).await, ["outlives/3"]);
    bus
}

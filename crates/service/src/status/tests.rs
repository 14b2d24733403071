//! The state that a service reports, over a real store and a bus.

use std::sync::Arc;

use chrono::{SubsecRound, TimeDelta};
use eticket_base::{
    clock::{Clock, SystemClock},
    instance::instance,
};
use eticket_bus::{Bus, Message, memory::Stream};
use eticket_proto::{headers, operations::BreakerState};
use eticket_rpc_client::{breaker::BreakerLayer, config::BreakerConfig};
use eticket_store::{
    Commit, OutboxRow, Parked, StoreLifecycle, Work,
    sqlite::{NoTables, Store},
};

use super::*;
use crate::{background::Background, relay::tests::database};

fn message(subject: &str, time: DateTime<Utc>) -> Message {
    let headers = vec![(headers::TIME.into(), time.to_rfc3339())];
    Message { subject: subject.to_owned(), headers, ..Message::default() }
}

#[tokio::test]
async fn a_status_has_what_was_observed_last() {
    let folder = tempfile::tempdir().unwrap();
    let (database, stream) = (database(folder.path()).await, Stream::default());
    let health = Health::new(["test"]).with_store().with_bus();
    let background = Background::new("test", Arc::new(database.clone()), health.clone(), Arc::new(SystemClock));
    let breakers = vec![BreakerLayer::new("other", &BreakerConfig::default())];
    let reporter = Reporter { health, observed: background.observed.clone(), breakers };
    let reported = || reporter.status().replicas.pop().expect("one replica");

    let first = reported();
    assert_eq!((first.service.as_str(), first.address.as_str(), first.ready), ("test", "", false));
    assert_eq!((&first.instance_id, first.version.as_str()), (&instance().id, env!("CARGO_PKG_VERSION")));
    assert!(time::from_proto(&first.start_time.expect("a time")).expect("valid") <= Utc::now());
    assert_eq!((first.outbox, first.parked_event_count, first.consumers[0].lag_event_count), (None, None, None));
    assert_eq!((first.breakers[0].upstream.as_str(), first.breakers[0].state()), ("other", BreakerState::Closed));

    let now = SystemClock.now().trunc_subsecs(6);
    let oldest = now - TimeDelta::minutes(5);
    let apply_batch = &mut |work: &mut Work<()>| {
        work.publish(OutboxRow { revision: 1, message: message("a.1", oldest) });
        work.publish(OutboxRow { revision: 1, message: message("a.2", now) });
        let reason = "told so".to_owned();
        work.park(Parked { event_id: "e".into(), message: message("b.1", now), reason, attempts: 5, park_time: now });
    };
    Store::<NoTables>::new(database.clone()).commit(&(), &[], apply_batch).await.unwrap();
    let bus = stream.connect();
    drop(bus.attach("test", &["b.*"]).await.unwrap());
    for subject in ["b.1", "b.2", "b.3", "c.1"] {
        stream.append(message(subject, now));
    }
    background.probe().await;
    assert_eq!(background.observed.lag(bus.lag("test")).await, Some(3));
    let second = reported();
    let outbox = OutboxStatus { waiting_event_count: 2, oldest_event_time: Some(time::to_proto(oldest)) };
    assert_eq!((second.ready, second.outbox, second.parked_event_count), (true, Some(outbox), Some(1)));
    let consumer = ConsumerStatus { name: "test".to_owned(), lag_event_count: Some(3) };
    assert_eq!(second.consumers, [consumer]);
    assert_eq!((second.instance_id, second.start_time), (first.instance_id, first.start_time));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_does_not_respond_leaves_the_lag_unknown() {
    let observed = Observed::new("test");
    let reporter = Reporter { health: Health::new([""; 0]), observed: observed.clone(), breakers: Vec::new() };
    let lag = || reporter.status().replicas[0].consumers[0].lag_event_count;
    observed.lag(async { Ok(Some(7)) }).await;
    assert_eq!(lag(), Some(7));
    observed.lag(std::future::pending()).await;
    assert_eq!(lag(), None, "an old value would hide that the bus does not respond");
    observed.lag(async { Ok(Some(8)) }).await;
    assert_eq!(lag(), Some(8));
    observed.lag(async { Err(bus::Error::Unavailable("it is out".to_owned())) }).await;
    assert_eq!(lag(), None);
}

#[tokio::test]
async fn a_store_that_does_not_respond_leaves_its_values_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(folder.path()).await;
    let health = Health::new(["test"]).with_store();
    let background = Background::new("test", Arc::new(database.clone()), health.clone(), Arc::new(SystemClock));
    let reporter = Reporter { health, observed: background.observed.clone(), breakers: Vec::new() };
    let values = || {
        let replica = reporter.status().replicas.remove(0);
        (replica.outbox.map(|outbox| outbox.waiting_event_count), replica.parked_event_count)
    };
    background.probe().await;
    assert_eq!(values(), (Some(0), Some(0)));
    database.close().await;
    background.probe().await;
    assert_eq!(values(), (None, None));
    let status = reporter.status();
    let store = status.replicas[0].components.iter().find(|component| component.name == "store");
    assert!(store.is_some_and(|store| !store.serving && store.reason.contains("does not respond")), "{status:?}");
}

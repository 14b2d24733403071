//! `RebuildView`: the old rows serve until the new ones have caught up, and no client sees an older row afterwards.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::application::{reader::BATCH, rebuild::Progress};

async fn done(mut progress: tokio::sync::watch::Receiver<Progress>) -> Progress {
    let ended = |progress: &Progress| !matches!(progress, Progress::Reading { .. });
    timeout(BOUND, progress.wait_for(ended)).await.expect("in time").unwrap().clone()
}

/// Changes a row without an event.
async fn spoil(fixture: &Fixture, ticket: &TicketId) {
    let apply_batch = &mut |work: &mut Work<ViewRows>| {
        let mut view = work.rows.views.get(ticket).expect("a row").clone();
        view.ticket.as_mut().unwrap().title = "spoilt".to_owned();
        work.rows.views.put(ticket.clone(), view);
    };
    let keys = Keys { tickets: [ticket.clone()].into(), ..Keys::default() };
    fixture.store().commit(&keys, &[], apply_batch).await.unwrap();
}

#[tokio::test]
async fn a_rebuild_reads_the_rows_from_the_stream() {
    let fixture = Fixture::new().await;
    // More than one batch.
    let count = BATCH as u64 + 1;
    for number in 0..count {
        fixture.publish(&id(&format!("t-{number}")), &free()[0]).await;
    }
    fixture.read_all().await;
    let before = fixture.view(&id("t-7")).await;
    spoil(&fixture, &id("t-7")).await;
    assert_eq!(done(fixture.rebuild().start()).await, Progress::Done { applied: count });
    assert_eq!(fixture.view(&id("t-7")).await, before);
    assert_eq!(fixture.store().counts().await.unwrap().tickets.unsigned_abs(), count);
    fixture.take(&id("t-7"), &[Event::Ticket(ticket(2, 0, None))]).await;
    assert_eq!(fixture.view(&id("t-7")).await.sequence, count + 1, "reading resumes there");
    let path = fixture._folder.path().join("query.db");
    assert!(path.exists() && !path.with_file_name("query.db.rebuild").exists());
}

#[tokio::test]
async fn discarded_events_stay_discarded() {
    let fixture = Fixture::new().await;
    let nonsense = || Message { subject: subjects::ticket(&id("c")), body: vec![0xff].into(), ..Message::default() };
    for _ in 0..2 {
        fixture.bus.publish(nonsense()).await.unwrap();
    }
    fixture.read_all().await;
    let ids = async || -> Vec<String> {
        fixture.store().parked("", 10).await.unwrap().into_iter().map(|parked| parked.event_id).collect()
    };
    let [discarded, other] = ids().await.try_into().expect("both are parked");
    assert!(fixture.store().discard_parked(&discarded).await.unwrap());
    for _ in 0..2 {
        assert_eq!(done(fixture.rebuild().start()).await, Progress::Done { applied: 2 });
        assert_eq!(ids().await, std::slice::from_ref(&other), "the stream still has both");
        assert!(fixture.store().is_discarded(&discarded).await.unwrap());
    }
}

#[tokio::test]
async fn a_rebuild_keeps_serving_and_never_shows_an_older_row() {
    let fixture = Arc::new(Fixture::new().await);
    let a = id("a");
    fixture.take(&a, &free()).await;
    let stop = CancellationToken::new();
    let reader = tokio::spawn(fixture.reader.clone().run(stop.clone()));
    let over = Arc::new(AtomicBool::new(false));
    let looking = {
        let (fixture, over, a) = (fixture.clone(), over.clone(), a.clone());
        tokio::spawn(async move {
            let (mut newest, mut looks) = (0, 0_u32);
            while !over.load(Ordering::Relaxed) {
                let view = fixture.store().view(&a).await.expect("read").expect("a row");
                let revision = view.ticket.unwrap().revision;
                assert!(revision >= newest, "{revision} after {newest}");
                (newest, looks) = (revision, looks + 1);
            }
            looks
        })
    };
    let mut revision = 1;
    for _ in 0..5 {
        let rebuilt = fixture.rebuild().start();
        for _ in 0..40 {
            revision += 1;
            fixture.publish(&a, &Event::Ticket(ticket(revision, 0, None))).await;
        }
        assert!(matches!(done(rebuilt).await, Progress::Done { .. }));
    }
    until("the newest revision", async || fixture.view(&a).await.ticket.unwrap().revision == revision).await;
    over.store(true, Ordering::Relaxed);
    assert!(timeout(BOUND, looking).await.expect("in time").unwrap() > 0);
    stop.cancel();
    timeout(BOUND, reader).await.expect("in time").unwrap();
}

#[tokio::test]
async fn a_second_request_joins_the_running_rebuild() {
    let fixture = Fixture::new().await;
    fixture.take(&id("a"), &free()).await;
    let rebuild = fixture.rebuild();
    let turn = fixture.reader.turn.clone().lock_owned().await;
    let (first, second) = (rebuild.start(), rebuild.start());
    assert!(first.same_channel(&second));
    drop(turn);
    assert_eq!(done(first).await, Progress::Done { applied: 2 });
    assert_eq!(done(second).await, Progress::Done { applied: 2 });
}

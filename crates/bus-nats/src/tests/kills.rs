//! Acknowledged messages survive when servers are killed.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;

use super::*;

/// The ids of acknowledged messages by sequence, and the number of failed attempts.
type Sent = (HashMap<u64, String>, usize);

/// Publishes to new subjects until stopped.
fn publish(bus: &Arc<Nats>, stop: &Arc<AtomicBool>, lane: u64) -> JoinHandle<Sent> {
    let (bus, stop) = (bus.clone(), stop.clone());
    tokio::spawn(async move {
        let (mut acknowledged, mut failures, mut number) = (HashMap::new(), 0, 0);
        while !stop.load(Ordering::SeqCst) {
            number += 1;
            match bus.publish(message(&format!("{lane}-{number}"), 1)).await {
                Ok(sequence) => drop(acknowledged.insert(sequence, format!("{lane}-{number}/1"))),
                Err(_) => {
                    failures += 1;
                    sleep(Duration::from_millis(5)).await;
                }
            }
        }
        (acknowledged, failures)
    })
}

/// Receives until the consumer has delivered this sequence; attaches again after failures.
async fn take_until(bus: &Nats, last: u64) -> HashMap<u64, String> {
    let mut taken = HashMap::new();
    while !taken.contains_key(&last) {
        let Ok(mut consumer) = bus.attach("kills", &["eticket.v1.a.*"]).await else { continue };
        while let Ok(batch) = in_time(consumer.next(100)).await {
            for delivery in &batch {
                taken.insert(delivery.sequence, ids(std::slice::from_ref(delivery))[0].to_owned());
            }
            let sequences: Vec<u64> = batch.iter().map(|delivery| delivery.sequence).collect();
            if consumer.ack(&sequences).await.is_err() || taken.contains_key(&last) {
                break;
            }
        }
    }
    taken
}

/// Reads the stream up to this sequence, with another reader from there whenever one fails.
async fn read_until(bus: &Nats, last: u64) -> HashMap<u64, String> {
    let (mut read, mut position) = (HashMap::new(), 0);
    while position < last {
        let mut reader = eventually("a reader", async || bus.read(position).await.ok()).await;
        while position < last
            && let Ok(batch) = in_time(reader.next(500)).await
        {
            for delivery in &batch {
                read.insert(delivery.sequence, ids(std::slice::from_ref(delivery))[0].to_owned());
                position = delivery.sequence;
            }
        }
    }
    read
}

async fn nothing_is_lost(mut nodes: Vec<server::Nats>, config: BusConfig) {
    let bus = Arc::new(Nats::open_with(&config, SOON).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let lanes: Vec<_> = (0..8).map(|lane| publish(&bus, &stop, lane)).collect();
    let count = nodes.len();
    for victim in (0..count).cycle().take(3) {
        let before = eventually("an answer", async || bus.state().await.ok()).await.last_sequence;
        eventually("more", async || bus.state().await.ok().filter(|state| state.last_sequence > before + 50)).await;
        block_in_place(|| nodes[victim].kill()).unwrap();
        if count > 1 {
            // The other servers continue without it.
            let before = eventually("an answer", async || bus.state().await.ok()).await.last_sequence;
            eventually("more", async || bus.state().await.ok().filter(|state| state.last_sequence > before + 50)).await;
        }
        block_in_place(|| nodes[victim].start_again()).unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let (mut acknowledged, mut failures) = (HashMap::new(), 0);
    for lane in lanes {
        let (of_lane, failed) = lane.await.unwrap();
        failures += failed;
        acknowledged.extend(of_lane);
    }
    assert!(failures > 0, "the failure was noticed");
    assert!(acknowledged.len() > 150, "only {} were sent", acknowledged.len());
    let last = eventually("an answer", async || bus.state().await.ok()).await.last_sequence;
    let read = read_until(&bus, last).await;
    let taken = take_until(&bus, last).await;
    for (sequence, id) in acknowledged {
        assert_eq!(read.get(&sequence), Some(&id), "acknowledged at {sequence}");
        assert_eq!(taken.get(&sequence), Some(&id), "acknowledged at {sequence}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn killing_one_server_loses_nothing() {
    let node = server::Nats::start().unwrap();
    let config = config(&node.url());
    nothing_is_lost(vec![node], config).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn killing_three_servers_in_turn_loses_nothing() {
    let nodes = server::Nats::cluster().unwrap();
    let config = config_of_cluster(&nodes);
    nothing_is_lost(nodes, config).await;
}

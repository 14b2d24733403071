//! How costs grow with the number of tickets, and how long the view of all of them takes to rebuild.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::push::OrderedConfig};
use eticket_proto::query::WaitFor;
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{Outcome, Scale, callers, cpu_of_each};
use crate::{
    Api, Protocol,
    bench::{
        counters::Counters,
        load::{Limit, closed_loop},
        phases::{Bench, Reserved, health_check},
        report::Row,
        subject::Subject,
    },
    eventually::eventually,
    health::{self, ServingStatus},
    mesh::{Infrastructure, Mesh},
};

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let mut mesh = scale.start(Infrastructure::synced().await).await;
    let subject = Subject::of_processes(&mesh);
    let mut plan = scale.plan(0);
    plan.steady = Duration::ZERO;
    plan.warm_up = plan.warm_up.min(scale.tickets[0] / 10);
    // The warm-up registers two tickets for each of its calls.
    plan.reservations = scale.tickets[0] - 2 * plan.warm_up;
    let mut bench = Bench::prepared(&plan, &subject).await;
    let mut random = StdRng::seed_from_u64(1);
    let (mut registered, mut least) = (scale.tickets[0], None);
    for tickets in scale.tickets.iter().copied() {
        if tickets > registered {
            bench.register(&format!("{tickets}-"), tickets - registered).await;
            registered = tickets;
        }
        let row = reserve_and_cancel(&mut bench, &mut random, scale).await;
        let cpu = row.whole_cpu_us().expect("the CPU time was measured");
        let least = *least.get_or_insert(cpu);
        outcome.add(format!("{tickets} tickets: CPU time of a reservation"), cpu, "µs");
        outcome.add_ratio(format!("{tickets} tickets: to that with {}", scale.tickets[0]), cpu, least);
    }
    let tickets = Arc::new(std::mem::take(&mut bench.tickets));
    drop(bench);
    read(&mesh, scale, tickets, outcome).await;
    rebuild(&mut mesh, scale, outcome).await;
    mesh.stop().await;
}

/// Reserves tickets that are selected at random, some at a time, and makes them available again.
async fn reserve_and_cancel(bench: &mut Bench<'_>, random: &mut StdRng, scale: &Scale) -> Row {
    let mut sum: Option<Row> = None;
    for _ in 0..scale.rounds {
        for first in 0..scale.reservations {
            let other = random.random_range(first..bench.tickets.len());
            bench.tickets.swap(first, other);
        }
        let callers = bench.callers(Protocol::Gateway).to_vec();
        let limit = Limit { calls: scale.reservations, time: scale.patience };
        let (row, _, reserved) = bench.reserve(Protocol::Gateway, &callers, limit, Arc::default()).await;
        assert_eq!(reserved.len(), scale.reservations, "{:?}", row.load.errors);
        cancel(bench, &callers, reserved).await;
        sum = Some(match sum {
            Some(sum) => sum.and(row),
            None => row,
        });
    }
    sum.expect("at least one round")
}

/// Cancels reservations, and returns their tickets to those that can be reserved.
pub(super) async fn cancel(bench: &mut Bench<'_>, callers: &[Api], reserved: Vec<Reserved>) {
    let (count, ids) = (reserved.len(), reserved.clone());
    let call = move |api: Api, number: usize| {
        let reservation = ids[number].reservation.clone();
        async move { Ok(api.cancel(&reservation).await?.consistency_token) }
    };
    let limit = Limit { calls: count, time: Duration::MAX };
    let (load, cancelled) = closed_loop(callers, limit, call).await;
    assert_eq!(cancelled.len(), count, "{:?}", load.errors);
    let commands: Vec<_> =
        cancelled.into_iter().map(|(number, token)| (reserved[number].ticket.clone(), token)).collect();
    bench.settle(&commands).await;
    bench.tickets.extend(reserved.into_iter().map(|one| one.ticket));
}

/// Measures reads of one query server, as multiples of its health Check.
async fn read(mesh: &Mesh, scale: &Scale, tickets: Arc<Vec<String>>, outcome: &mut Outcome) {
    let server = &mesh.replicas("query")[0];
    let (process, callers) = (server.process().id(), callers(&scale.plan, server.address()));
    let check = async || {
        let load = async { closed_loop(&callers, scale.reading(), |api, _| health_check(api)).await.0 };
        cpu_of_each(process, load).await
    };
    let view = async |pick: fn(f64, usize) -> usize| {
        let tickets = tickets.clone();
        let call = move |api: Api, number: usize| {
            let ticket = tickets[pick(share(number), tickets.len())].clone();
            async move { api.view(&ticket, "", WaitFor::None).await.map(drop) }
        };
        cpu_of_each(process, async { closed_loop(&callers, scale.reading(), call).await.0 }).await
    };
    let first = check().await;
    let uniform = view(|share, count| index(share * count as f64, count)).await;
    // The rank has the logarithm of a uniform value: the first of a million tickets are read most, by Zipf's law.
    let skewed = view(|share, count| index((count as f64).powf(share) - 1.0, count)).await;
    let check = f64::midpoint(first, check().await);
    outcome.add("health Check at one query server: CPU time", check, "µs");
    outcome.add("GetTicketView there, uniform: CPU time", uniform, "µs");
    outcome.add_ratio("GetTicketView there, uniform: to the health Check", uniform, check);
    outcome.add("GetTicketView there, skewed: CPU time", skewed, "µs");
    outcome.add_ratio("GetTicketView there, skewed: to the health Check", skewed, check);
}

/// Returns a value from 0 to less than 1 for each number, spread evenly.
fn share(number: usize) -> f64 {
    // Multiples of the golden ratio never repeat and leave no gaps.
    (number as f64 * 0.618_033_988_749_894_9).fract()
}

fn index(at: f64, count: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a position among the tickets")]
    let at = at.max(0.0) as usize;
    at.min(count - 1)
}

/// Deletes the view of one replica, and measures how fast it comes back from the stream.
async fn rebuild(mesh: &mut Mesh, scale: &Scale, outcome: &mut Outcome) {
    let (messages, took) = count(&mesh.infrastructure.nats.url()).await;
    let counted = messages as f64 / took.as_secs_f64();
    let replica = mesh.replica_of("query", 0);
    replica.stop().await;
    replica.forget();
    let begun = Instant::now();
    // A replica is ready when its view is complete.
    replica.start_within(scale.patience).await;
    eventually(scale.patience, "a rebuilt view", async || match health::check(replica.address(), "readiness").await {
        Ok(ServingStatus::Serving) => Ok(()),
        seen => Err(seen),
    })
    .await;
    let took = begun.elapsed();
    let counters = Counters::at(replica.process().address("admin")).await;
    let applied = counters.get("eticket_events_taken_in_total{consumer=\"query\"}").unwrap_or_default();
    // Messages of other kinds are no events, and each event is one message.
    assert!(applied > 0.0 && applied <= messages as f64, "{applied} of {messages} messages");
    let rebuilt = applied / took.as_secs_f64();
    outcome.add("messages of the stream", messages as f64, "");
    outcome.add("an ordered consumer that counts them", counted, "a second");
    outcome.add("a replica of query that rebuilds its view", rebuilt, "a second");
    outcome.add_ratio("rebuild to count", rebuilt, counted);
}

/// Counts the messages of the stream.
async fn count(url: &str) -> (u64, Duration) {
    let client = async_nats::connect(url).await.expect("connected");
    let settings = OrderedConfig { deliver_subject: client.new_inbox(), ..OrderedConfig::default() };
    let stream = jetstream::new(client).get_stream("ETICKET").await.expect("the stream exists");
    let expected = stream.cached_info().state.messages;
    let begun = Instant::now();
    let consumer = stream.create_consumer(settings).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("a subscription");
    for _ in 0..expected {
        messages.next().await.expect("the stream has more").expect("a message");
    }
    (expected, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_reach_every_ticket() {
        let mut found: Vec<usize> = (0..100).map(|number| index(share(number) * 10.0, 10)).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, (0..10).collect::<Vec<_>>());
        assert_eq!([index(-1.0, 3), index(2.9, 3), index(3.0, 3)], [0, 2, 2]);
    }
}

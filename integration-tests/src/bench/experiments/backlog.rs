//! A backlog: events that could not be published while NATS was away, and reservations while they are published.

use std::time::{Duration, Instant};

use eticket_proto::query::WaitFor;
use tonic::{Code, Status};

use super::{Outcome, Scale};
use crate::{
    Api, Protocol,
    bench::{
        Load,
        counters::Counters,
        load::{Limit, closed_loop, open_loop},
        phases::{Bench, reserve},
        report::milliseconds,
        subject::Subject,
    },
    eventually::eventually,
    mesh::Infrastructure,
};

const SENT: &str = "eticket_outbox_sent_total{service=\"ticket\"}";

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let mut mesh = scale.start(Infrastructure::synced().await).await;
    let subject = Subject::of_processes(&mesh);
    let steady = scale.plan.steady_reservations();
    let plan = scale.plan(2 * steady);
    let mut bench = Bench::prepared(&plan, &subject).await;
    let callers = bench.callers(Protocol::Gateway).to_vec();
    let rate = f64::from(plan.steady_rate);
    let before = reservations(&callers, rate, bench.take(steady)).await;

    mesh.infrastructure.nats.stop().expect("nats-server runs");
    let begun = Instant::now();
    let (_, backlog) = bench.register_unsettled("b", scale.backlog).await;
    let registered = backlog.len() as f64 / begun.elapsed().as_secs_f64();
    let earlier = Counters::at_all(&subject.admins).await;
    mesh.infrastructure.nats.start_again().expect("nats-server starts");
    let begun = Instant::now();
    let drained = eventually(scale.patience, "the published backlog", async || {
        let sent = Counters::at_all(&subject.admins).await.since(&earlier, SENT);
        if sent >= backlog.len() as f64 { Ok(begun.elapsed()) } else { Err(sent) }
    });
    let tickets = bench.take(steady);
    let (drained, during) = futures::join!(drained, reservations(&callers, rate, tickets));
    outcome.add("RegisterTicket without NATS", registered, "a second");
    outcome.add("events that waited for NATS", backlog.len() as f64, "");
    outcome.add("time until all of them are published", drained.as_secs_f64(), "s");
    outcome.add("published", backlog.len() as f64 / drained.as_secs_f64(), "a second");
    let p99 = |load: &Load| load.latencies.permille(990).map(milliseconds).expect("calls succeeded");
    outcome.add(format!("p99 of {rate:.0} reservations a second before"), p99(&before), "ms");
    outcome.add(format!("p99 of {rate:.0} reservations a second meanwhile"), p99(&during), "ms");
    outcome.add_ratio("p99 meanwhile to before", p99(&during), p99(&before));

    // Every ticket of the backlog comes to the view, some later than a call may wait.
    let (count, patience) = (backlog.len(), scale.patience);
    let call = move |api: Api, number: usize| {
        let (ticket, token) = backlog[number].clone();
        async move {
            let until = Instant::now() + patience;
            loop {
                match api.view(&ticket, &token, WaitFor::Applied).await {
                    Err(status) if is_transient(&status) && Instant::now() < until => {}
                    outcome => return outcome.map(drop),
                }
            }
        }
    };
    let (load, seen) = closed_loop(&callers, Limit { calls: count, time: scale.patience }, call).await;
    assert_eq!(seen.len(), count, "not all are in the view: {:?}", load.errors);
    outcome.add("time until the view has shown all of them", begun.elapsed().as_secs_f64(), "s");
    drop(bench);
    mesh.stop().await;
}

/// Whether a client tries again: the view has not caught up, or a server sheds load. tonic's client cancels a call itself
/// at its timeout.
fn is_transient(status: &Status) -> bool {
    [Code::DeadlineExceeded, Code::Cancelled, Code::Unavailable].contains(&status.code())
}

/// Reserves these tickets at a rate.
async fn reservations(callers: &[Api], rate: f64, tickets: Vec<String>) -> Load {
    let limit = Limit { calls: tickets.len(), time: Duration::MAX };
    let call = |api: Api, number: usize| {
        let ticket = tickets[number].clone();
        async move { reserve(&api, &ticket, number).await.map(drop) }
    };
    let (load, _) = open_loop(callers, rate, limit, call).await;
    assert!(load.errors.is_empty(), "reservations fail: {:?}", load.errors);
    load
}

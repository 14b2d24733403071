//! What the gateway adds to a call that it forwards.

use std::{sync::Arc, time::Duration};

use eticket_proto::query::WaitFor;

use super::{Outcome, Scale, callers};
use crate::{
    Api, Protocol,
    bench::{
        Load,
        load::{Limit, open_loop},
        phases::Bench,
        report::milliseconds,
        subject::Subject,
    },
    mesh::Infrastructure,
};

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let mesh = scale.start(Infrastructure::synced().await).await;
    let subject = Subject::of_processes(&mesh);
    let plan = scale.plan(scale.sustained);
    let mut bench = Bench::prepared(&plan, &subject).await;
    let through = bench.callers(Protocol::Gateway).to_vec();
    let limit = Limit { calls: scale.sustained, time: scale.patience };
    let before = bench.check(Protocol::Gateway).await;
    let (reserved, _, reservations) = bench.reserve(Protocol::Gateway, &through, limit, Arc::default()).await;
    let views = bench.views(Protocol::Gateway, &reservations).await;
    let check = before.and(bench.check(Protocol::Gateway).await);
    let own = |row: &crate::bench::Row| row.cpu_us_of("gateway").expect("the gateway has a process of its own");
    outcome.add("health Check of the gateway: its CPU time", own(&check), "µs");
    for row in [&views, &reserved] {
        outcome.add(format!("{}: CPU time of the gateway", row.name), own(row), "µs");
        outcome.add_ratio(format!("{}: to its health Check", row.name), own(row), own(&check));
    }

    let rate = views.load.per_second() / 2.0;
    let tickets: Arc<Vec<String>> = Arc::new(reservations.into_iter().map(|one| one.ticket).collect());
    let direct = callers(&plan, mesh.replicas("query")[0].address());
    // In turn, because other load on the machine may change.
    let (mut with, mut without) = (Load::default(), Load::default());
    for _ in 0..2 {
        with = with.and(read(&through, rate, &tickets, plan.reading).await);
        without = without.and(read(&direct, rate, &tickets, plan.reading).await);
    }
    outcome.add("open loop of GetTicketView, half of its highest rate", rate, "a second");
    for (name, share) in [("p50", 500), ("p99", 990)] {
        let at = |load: &Load| load.latencies.permille(share).map(milliseconds).expect("calls succeeded");
        outcome.add(format!("{name} through the gateway"), at(&with), "ms");
        outcome.add(format!("{name} at the query server"), at(&without), "ms");
        outcome.add(format!("{name} added"), at(&with) - at(&without), "ms");
    }
    drop(bench);
    mesh.stop().await;
}

async fn read(callers: &[Api], rate: f64, tickets: &Arc<Vec<String>>, time: Duration) -> Load {
    let call = |api: Api, number: usize| {
        let ticket = tickets[number % tickets.len()].clone();
        async move { api.view(&ticket, "", WaitFor::None).await.map(drop) }
    };
    let (load, _) = open_loop(callers, rate, Limit { calls: usize::MAX, time }, call).await;
    assert!(load.errors.is_empty(), "reads fail: {:?}", load.errors);
    load
}

//! A sale: many callers want few tickets.

use std::{collections::BTreeSet, sync::Arc};

use super::{Outcome, Scale};
use crate::{
    Api, Protocol,
    bench::{
        load::{Limit, closed_loop},
        phases::{Bench, Reserved, reserve},
        subject::Subject,
    },
    mesh::Infrastructure,
};

/// The code of `TICKET_ALREADY_RESERVED`.
const REFUSED: &str = "FailedPrecondition";

pub(super) async fn run(scale: &Scale, outcome: &mut Outcome) {
    let mesh = scale.start(Infrastructure::synced().await).await;
    let subject = Subject::of_processes(&mesh);
    let plan = scale.plan(scale.sustained + scale.wanted);
    let mut bench = Bench::prepared(&plan, &subject).await;
    let callers = bench.callers(Protocol::Gateway).to_vec();
    let limit = Limit { calls: scale.sustained, time: scale.patience };
    let (row, settled_after, reservations) = bench.reserve(Protocol::Gateway, &callers, limit, Arc::default()).await;
    let sustained = reservations.len() as f64 / (row.load.elapsed + settled_after).as_secs_f64();

    let tickets = bench.take(scale.wanted);
    let crowd: Vec<Api> = callers.into_iter().cycle().take(scale.crowd).collect();
    let wanted = tickets.clone();
    let call = move |api: Api, number: usize| {
        let ticket = wanted[number % wanted.len()].clone();
        async move {
            let answer = reserve(&api, &ticket, number).await?;
            let reservation = answer.reservation.unwrap_or_default().reservation_id;
            Ok(Reserved { ticket, token: answer.consistency_token, reservation })
        }
    };
    let limit = Limit { calls: usize::MAX, time: scale.sale };
    let (load, sold) = closed_loop(&crowd, limit, call).await;
    let sold: Vec<Reserved> = sold.into_iter().map(|(_, reserved)| reserved).collect();
    let distinct: BTreeSet<&String> = sold.iter().map(|reserved| &reserved.ticket).collect();
    assert_eq!(
        (sold.len(), distinct.len()),
        (tickets.len(), tickets.len()),
        "each ticket is sold once: {:?}",
        load.errors
    );
    bench.verify(&sold).await;
    let refused = load.errors.get(REFUSED).copied().unwrap_or_default() as f64 / load.elapsed.as_secs_f64();
    outcome.add("sustained reservations", sustained, "a second");
    outcome.add(format!("callers of {} tickets", tickets.len()), crowd.len() as f64, "");
    outcome.add("sold", sold.len() as f64, "");
    outcome.add("refused", refused, "a second");
    outcome.add_ratio("refusals to sustained reservations", refused, sustained);
    for (code, count) in load.errors.iter().filter(|(code, _)| *code != REFUSED) {
        outcome.add(format!("other failures: {code}"), *count as f64, "");
    }
    drop(bench);
    mesh.stop().await;
}

//! What is ready and alive while the store or the bus is away.

use std::time::{Duration, Instant};

use chrono::Weekday;
use eticket_integration_tests::{calendar, eventually, eventually::SOON};
use eticket_proto::{query::WaitFor, reservation::UserGrade, ticket::TicketStatus};
use uuid::Uuid;

use crate::{faults::HEALED_WITHIN, release::Release, upgrades::COMPONENTS};

/// Longer than three failures of a liveness probe.
const AWAY: Duration = Duration::from_secs(40);

/// Sets the replicas of the store or the bus to 0 or 1, and waits until it is so.
pub(crate) fn scale(release: &Release<'_>, component: &str, replicas: &str) {
    let object = format!("statefulset/{}", Release::object(component));
    release.kubectl(&["scale", &object, &format!("--replicas={replicas}")]);
    if replicas == "0" {
        let pod = format!("pod/{}-0", Release::object(component));
        release.kubectl(&["wait", "--for=delete", &pod, "--timeout=60s"]);
    } else {
        release.rolled_out(component);
    }
}

fn restarts(release: &Release<'_>) -> Vec<Vec<String>> {
    COMPONENTS.iter().map(|component| release.restarts(component)).collect()
}

/// Without the bus, reservation stays ready and cancellations are accepted; without the store, no process is
/// restarted.
pub(crate) async fn store_and_bus(release: &Release<'_>) {
    let (api, ticket) = (release.api(), Uuid::new_v4().to_string());
    api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let reserved = api.reserve(&ticket, "A", UserGrade::Gold).await.expect("reserved");
    let reservation = reserved.reservation.expect("an answer has its resource").reservation_id;
    let before = restarts(release);

    scale(release, "nats", "0");
    api.cancel(&reservation).await.expect("a cancellation is accepted while the bus is away");
    probes_have_had_time(release, |release| {
        let ready = release.pods("reservation", "/status/containerStatuses/0/ready");
        assert!(ready.iter().all(|ready| ready == "true"), "readiness of reservation does not depend on the bus");
    })
    .await;
    scale(release, "nats", "1");
    assert_eq!(restarts(release), before, "liveness does not depend on the bus");

    scale(release, "postgresql", "0");
    probes_have_had_time(release, |_| ()).await;
    scale(release, "postgresql", "1");
    assert_eq!(restarts(release), before, "liveness does not depend on the store");
    for component in COMPONENTS {
        release.rolled_out(component);
    }
    eventually(HEALED_WITHIN, "the cancelled ticket is free", async || {
        let view = api.view(&ticket, "", WaitFor::Unspecified).await;
        let view = view.map_err(|status| status.to_string())?;
        let free = view.ticket_status() == TicketStatus::Available;
        if free && view.settled { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
    eventually(SOON, "the ticket can be reserved again", async || {
        api.reserve(&ticket, "B", UserGrade::Gold).await.map(drop).map_err(|status| status.to_string())
    })
    .await;
}

/// Checks again and again, until a liveness probe would have failed and the container would have been restarted.
pub(crate) async fn probes_have_had_time(release: &Release<'_>, check: impl Fn(&Release<'_>)) {
    let started = Instant::now();
    eventually(AWAY * 2, "the probes have had time to fail", async || {
        check(release);
        if started.elapsed() >= AWAY { Ok(()) } else { Err(started.elapsed()) }
    })
    .await;
}

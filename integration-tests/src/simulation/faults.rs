//! The faults that are injected while clients work.

use std::time::Duration;

use eticket_service::audit;
use tokio::time::Instant;

use super::{plan::Repair, replicas::Fleet, service::Service};

/// Longer than a process or the bus is down.
const LONGEST: u64 = 2_500;

/// Longer than every recovery.
const PATIENCE: Duration = Duration::from_secs(120);

/// Injects one fault after another for the planned time; at the end repairs what needs an operator.
pub(super) async fn until_the_end(fleet: &Fleet) {
    let end = Instant::now() + Duration::from_secs(fleet.plan.seconds);
    let (mut deaths, mut crashes) = (0, 0);
    while Instant::now() < end && !fleet.scheduler.has_failed() {
        fleet.scheduler.sleep(20..=800).await;
        match fleet.scheduler.number(0..=99) {
            0..=29 => kill(fleet, &mut deaths),
            30..=37 => delete_a_view(fleet),
            38..=50 => bus_is_out(fleet),
            51..=60 => {
                fleet.scheduler.log("fault", "the connections to the bus are cut");
                fleet.transport.stream.lose_last(0);
            }
            61..=68 => {
                fleet.scheduler.count("the stream was lost");
                wipe(fleet);
            }
            69..=77 => lose_tail(fleet).await,
            86..=93 if fleet.plan.repair == Repair::Compare => lose_some(fleet),
            78..=85 => republish(fleet).await,
            94..=99 if crashes < fleet.plan.bus_crashes => {
                crashes += 1;
                crash_the_bus(fleet);
            }
            _ => {}
        }
    }
}

/// Kills a process now or at a later step; it restarts eventually.
fn kill(fleet: &Fleet, deaths: &mut u64) {
    let mut service = *fleet.scheduler.pick(&Service::ALL).unwrap_or(&Service::Query);
    if service != Service::Query {
        // A relay that dies may leave a message in flight: the retention of the stream allows for a limited number.
        if *deaths == fleet.plan.relay_deaths {
            service = Service::Query;
        } else {
            *deaths += 1;
        }
    }
    let number = fleet.scheduler.number(0..=1) as usize;
    let Some(process_state) = fleet.process_state(service, number) else { return };
    match fleet.scheduler.chance(300) {
        true => process_state.kill_switch.stop(),
        false => process_state.kill_switch.doom(fleet.scheduler.number(1..=40)),
    }
    start_after_death(fleet, service, number);
}

fn start_after_death(fleet: &Fleet, service: Service, number: usize) {
    let (fleet, process_state) = (fleet.clone(), fleet.process_state(service, number));
    tokio::spawn(async move {
        if let Some(process_state) = process_state {
            process_state.kill_switch.died().await;
        }
        fleet.scheduler.sleep(1..=LONGEST).await;
        fleet.start(service, number);
    });
}

fn delete_a_view(fleet: &Fleet) {
    let number = fleet.scheduler.number(0..=1) as usize;
    let Some(process_state) = fleet.process_state(Service::Query, number) else { return };
    start_after_death(fleet, Service::Query, number);
    process_state.kill_switch.stop();
    fleet.scheduler.log("fault", &format!("the file of query-{number} is deleted"));
    fleet.scheduler.count("a view was deleted");
    fleet.delete_view(number);
}

fn bus_is_out(fleet: &Fleet) {
    fleet.scheduler.log("fault", "the bus is out");
    fleet.scheduler.count("the bus was out");
    fleet.scheduler.set_bus_out(true);
    let fleet = fleet.clone();
    tokio::spawn(async move {
        fleet.scheduler.sleep(50..=LONGEST).await;
        fleet.scheduler.set_bus_out(false);
        fleet.scheduler.log("fault", "the bus is back");
    });
}

fn wipe(fleet: &Fleet) {
    fleet.scheduler.log("fault", "the stream is created again");
    fleet.transport.stream.wipe();
    fleet.transport.network.stream_is_lost();
}

/// Loses the newest messages of the stream, which then counts as lost; an operator repairs it eventually.
async fn lose_tail(fleet: &Fleet) {
    let count = fleet.scheduler.number(1..=8);
    fleet.scheduler.log("fault", &format!("the stream loses its last {count}"));
    fleet.scheduler.count("the stream lost its tail");
    fleet.transport.stream.lose_last(count);
    fleet.scheduler.sleep(0..=LONGEST).await;
    match fleet.plan.repair {
        Repair::Delete => wipe(fleet),
        Repair::Republish => republish(fleet).await,
        Repair::Compare => {}
    }
}

/// Loses some of the messages that are not durable. No operator acts.
fn crash_the_bus(fleet: &Fleet) {
    fleet.scheduler.count("the bus lost what was not durable");
    fleet.transport.stream.crash(|unsynced| {
        let lost = fleet.scheduler.number(0..=unsynced);
        fleet.scheduler.log("fault", &format!("the bus crashes and loses {lost} of {unsynced} messages"));
        lost
    });
}

/// Removes messages anywhere in the stream without any notification.
fn lose_some(fleet: &Fleet) {
    let in_a_thousand = fleet.scheduler.number(50..=600);
    fleet.scheduler.log("fault", "the stream loses messages");
    fleet.scheduler.count("the stream lost messages one by one");
    fleet.transport.stream.lose(|_, _| fleet.scheduler.chance(in_a_thousand));
}

/// Runs the operator's command: the consumer restarts at the beginning, and all states are sent again.
pub(super) async fn republish(fleet: &Fleet) {
    fleet.scheduler.count("all states were published again");
    let all = async {
        for service in [Service::Ticket, Service::Reservation, Service::Pricing] {
            while !republished(fleet, service).await {
                fleet.scheduler.sleep(10..=500).await;
            }
        }
    };
    if tokio::time::timeout(PATIENCE, all).await.is_err() {
        fleet.scheduler.fail("an operator waits in vain for all states to be published again");
    }
}

/// Two operators run the command concurrently, one at each replica, which must be safe.
async fn republished(fleet: &Fleet, service: Service) -> bool {
    futures::future::join_all((0..2).map(|number| republished_by(fleet, service, number))).await.contains(&true)
}

async fn republished_by(fleet: &Fleet, service: Service, number: usize) -> bool {
    fleet.scheduler.pause().await;
    let Some(process_state) = fleet.process_state(service, number) else { return false };
    let name = format!("{service:?}").to_lowercase();
    if process_state.bus().restart(&name).await.is_err() {
        return false;
    }
    match fleet.owner(service, number) {
        Some(owner) => audit::republish_all(&*owner, &|_| ()).await.is_ok(),
        None => false,
    }
}

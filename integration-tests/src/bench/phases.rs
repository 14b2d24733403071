//! The phases of the benchmark on a running eTicket.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::Weekday;
use eticket_proto::{
    query::{TicketView, WaitFor},
    reservation::{ReserveTicketResponse, UserGrade},
    ticket::TicketStatus,
};
use tonic::Status;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use uuid::Uuid;

use super::{
    Plan,
    counters::Counters,
    database::DatabaseWork,
    load::{Limit, Load, Timed, closed_loop, split_results},
    report::{Cost, Measured, Point, Row, ServiceWork, Work},
    subject::Subject,
    timeline::{Sample, Timeline},
    usage::Usage,
    wires::{self, Wire, WireClient},
};
use crate::{Api, Protocol, calendar::upcoming};

/// The number of last commands whose sagas end a load: events are sent almost in the order of commits.
const LAST: usize = 64;
/// The weekday of all tickets: it only has to be in the future and to have a discount.
const DAY: Weekday = Weekday::Wed;
const SERVICES: [&str; 4] = ["reservation", "ticket", "pricing", "query"];

/// A ticket and the token of the newest command on it.
pub(super) type Acknowledged = (String, String);

pub(super) struct Bench<'a> {
    plan: &'a Plan,
    subject: &'a Subject<'a>,
    gateway: Vec<Api>,
    direct: Vec<Api>,
    /// Registered tickets that are not used yet.
    pub(super) tickets: Vec<String>,
    rows: Vec<Row>,
    wires: Vec<Row>,
    work: Option<Work>,
    timeline: Vec<Sample>,
    curve: Vec<Point>,
}

impl<'a> Bench<'a> {
    /// Registers all tickets and makes each kind of call once.
    pub(super) async fn prepared(plan: &'a Plan, subject: &'a Subject<'a>) -> Self {
        let callers = |protocol| {
            let connections: Vec<Api> = (0..plan.connections).map(|_| subject.api(protocol)).collect();
            connections.into_iter().cycle().take(plan.callers).collect()
        };
        let (gateway, direct) = (callers(Protocol::Gateway), callers(Protocol::Direct));
        let mut bench = Self {
            plan,
            subject,
            gateway,
            direct,
            tickets: Vec::new(),
            rows: Vec::new(),
            wires: Vec::new(),
            work: None,
            timeline: Vec::new(),
            curve: Vec::new(),
        };
        bench.register("w", plan.warm_up * 2).await;
        let row = bench.register("t", plan.tickets()).await;
        for protocol in [Protocol::Gateway, Protocol::Direct] {
            bench.check(protocol).await;
            let callers = bench.callers(protocol).to_vec();
            let limit = Limit { calls: plan.warm_up, time: plan.reserving };
            bench.reserve(protocol, &callers, limit, Arc::default()).await;
        }
        bench.rows.push(row);
        bench
    }

    pub(super) fn finish(self) -> Measured {
        let work = self.work.expect("reservations were measured");
        Measured { rows: self.rows, wires: self.wires, work, timeline: self.timeline, curve: self.curve }
    }

    pub(super) fn callers(&self, protocol: Protocol) -> &[Api] {
        if protocol == Protocol::Direct { &self.direct } else { &self.gateway }
    }

    /// Measures reservations and views, with Checks before and after them. The Checks are merged, because other load on
    /// the machine may change meanwhile.
    pub(super) async fn measure(&mut self, protocol: Protocol) {
        let before = self.check(protocol).await;
        let count = if protocol == Protocol::Direct { self.plan.direct_reservations } else { self.plan.reservations };
        let earlier = Counters::at_all(&self.subject.admins).await;
        let postgres = self.subject.postgres;
        let earlier_database = postgres.map(DatabaseWork::read);
        let limit = Limit { calls: count, time: self.plan.reserving };
        let timeline = Timeline::start(self.subject.admins.clone()).await;
        let callers = self.callers(protocol).to_vec();
        let (reserved, settled_after, reservations) =
            self.reserve(protocol, &callers, limit, timeline.responses.clone()).await;
        let samples = timeline.stop().await;
        if protocol == Protocol::Gateway {
            self.timeline = samples;
            let later = Counters::at_all(&self.subject.admins).await;
            let database = earlier_database
                .zip(postgres.map(DatabaseWork::read))
                .map(|(earlier, later)| later.since(earlier, reserved.load.latencies.count() as f64));
            self.work = Some(Work { database, ..work(&earlier, &later, &reserved, settled_after) });
        }
        self.verify(&reservations).await;
        let views = self.views(protocol, &reservations).await;
        if protocol == Protocol::Gateway && self.plan.wires {
            for wire in wires::ALL {
                let row = self.view_over(wire, &reservations).await;
                self.wires.push(row);
            }
        }
        let after = self.check(protocol).await;
        self.rows.extend([before.and(after), reserved, views]);
    }

    /// Registers tickets, and waits until the view shows the last of them.
    pub(super) async fn register(&mut self, prefix: &str, count: usize) -> Row {
        let meter = Meter::start(self.subject);
        let (load, registered) = self.register_unsettled(prefix, count).await;
        self.settle(&registered).await;
        self.tickets.extend(registered.into_iter().map(|(ticket, _)| ticket));
        Row { name: "RegisterTicket", protocol: Protocol::Gateway, cost: Some(meter.stop(&load)), load }
    }

    /// Registers tickets and does not wait for their sagas.
    pub(super) async fn register_unsettled(&self, prefix: &str, count: usize) -> (Load, Vec<Acknowledged>) {
        let limit = Limit { calls: count, time: self.plan.registering };
        let (slot, prefix) = (upcoming(DAY), prefix.to_owned());
        let call = move |api: Api, number| {
            let ticket = format!("{prefix}{number}");
            async move {
                let answer = api.register_as(&ticket, slot, &Uuid::new_v4().to_string()).await?;
                Ok((ticket, answer.consistency_token))
            }
        };
        let (load, answers) = closed_loop(&self.gateway, limit, call).await;
        (load, answers.into_iter().map(|(_, ticket)| ticket).collect())
    }

    pub(super) async fn check(&self, protocol: Protocol) -> Row {
        let server = if protocol == Protocol::Direct { "reservation" } else { "gateway" };
        let address = self.subject.address(server);
        let connections: Vec<Api> = (0..self.plan.connections).map(|_| Api::at(address)).collect();
        let callers: Vec<Api> = connections.into_iter().cycle().take(self.plan.callers).collect();
        // Half of the time, because Checks are measured twice.
        let limit = Limit { calls: usize::MAX, time: self.plan.reading / 2 };
        let meter = Meter::start(self.subject);
        let (load, _) = closed_loop(&callers, limit, |api, _| health_check(api)).await;
        Row { name: "health Check", protocol, cost: Some(meter.stop(&load)), load }
    }

    /// Reserves unused tickets. The cost includes all sagas of the reservations. Also returns the time from the last
    /// response until these sagas have ended.
    pub(super) async fn reserve(
        &mut self,
        protocol: Protocol,
        callers: &[Api],
        limit: Limit,
        responses: Arc<AtomicUsize>,
    ) -> (Row, Duration, Vec<Reserved>) {
        let tickets = self.take(limit.calls);
        let limit = Limit { calls: tickets.len(), ..limit };
        let meter = Meter::start(self.subject);
        let ids = tickets.clone();
        let call = move |api: Api, number: usize| {
            let (ticket, responses) = (ids[number].clone(), responses.clone());
            async move {
                let answer = reserve(&api, &ticket, number).await;
                responses.fetch_add(1, Ordering::Relaxed);
                answer
            }
        };
        let (load, answers) = closed_loop(callers, limit, call).await;
        let answered = Instant::now();
        let reserved = |(number, answer): (usize, ReserveTicketResponse)| Reserved {
            ticket: tickets[number].clone(),
            token: answer.consistency_token,
            reservation: answer.reservation.unwrap_or_default().reservation_id,
        };
        let reservations: Vec<Reserved> = answers.into_iter().map(reserved).collect();
        let last = reservations.iter().rev().take(LAST);
        self.settle(&last.map(|one| (one.ticket.clone(), one.token.clone())).collect::<Vec<_>>()).await;
        let row = Row { name: "ReserveTicket", protocol, cost: Some(meter.stop(&load)), load };
        (row, answered.elapsed(), reservations)
    }

    /// Measures reservations through the gateway with different numbers of callers.
    pub(super) async fn measure_curve(&mut self) {
        for callers in self.plan.curve.clone() {
            let apis: Vec<Api> = self.gateway.iter().cloned().cycle().take(callers).collect();
            let limit = Limit { calls: self.plan.curve_reservations, time: self.plan.curve_time };
            let (row, _, reservations) = self.reserve(Protocol::Gateway, &apis, limit, Arc::default()).await;
            self.verify(&reservations).await;
            self.curve.push(Point { callers, row });
        }
    }

    /// Removes the first unused tickets, at most this number.
    pub(super) fn take(&mut self, count: usize) -> Vec<String> {
        let count = count.min(self.tickets.len());
        self.tickets.drain(..count).collect()
    }

    /// Waits until the sagas of the last of these commands have ended.
    pub(super) async fn settle(&self, commands: &[Acknowledged]) {
        let last = &commands[commands.len().saturating_sub(LAST)..];
        let views = last.iter().zip(self.gateway.iter().cycle());
        futures::future::join_all(views.map(|((ticket, token), api)| api.settled(ticket, token))).await;
    }

    /// Checks that every acknowledged reservation exists and holds its ticket.
    pub(super) async fn verify(&self, reservations: &[Reserved]) {
        let expected = reservations.to_vec();
        let call = move |api: Api, number: usize| {
            let Reserved { ticket, token, reservation } = expected[number].clone();
            async move {
                let view = api.view(&ticket, &token, WaitFor::Settled).await?;
                assert!(view.settled && view.reservation_id == reservation, "not as acknowledged: {view:?}");
                assert_eq!(view.ticket_status(), TicketStatus::Reserved, "{view:?}");
                Ok(())
            }
        };
        let limit = Limit { calls: reservations.len(), time: Duration::from_secs(60) };
        let (load, verified) = closed_loop(&self.gateway, limit, call).await;
        assert_eq!(verified.len(), reservations.len(), "acknowledged, but no view of it: {:?}", load.errors);
    }

    pub(super) async fn views(&self, protocol: Protocol, reservations: &[Reserved]) -> Row {
        let tickets: Vec<String> = reservations.iter().map(|one| one.ticket.clone()).collect();
        let call = move |api: Api, number: usize| {
            let ticket = tickets[number % tickets.len()].clone();
            async move { api.view(&ticket, "", WaitFor::None).await.map(drop) }
        };
        let limit = Limit { calls: usize::MAX, time: self.plan.reading };
        let meter = Meter::start(self.subject);
        let (load, _) = closed_loop(self.callers(protocol), limit, call).await;
        Row { name: "GetTicketView", protocol, cost: Some(meter.stop(&load)), load }
    }

    async fn view_over(&self, wire: Wire, reservations: &[Reserved]) -> Row {
        let connections: Vec<WireClient> =
            (0..self.plan.connections).map(|_| WireClient::new(wire, self.subject.address("gateway"))).collect();
        let callers: Vec<WireClient> = connections.into_iter().cycle().take(self.plan.callers).collect();
        let expected = reservations.to_vec();
        let call = move |client: WireClient, number: usize| {
            let Reserved { ticket, reservation, .. } = expected[number % expected.len()].clone();
            async move { client.view(&ticket, &reservation).await }
        };
        let limit = Limit { calls: usize::MAX, time: self.plan.reading / 2 };
        let meter = Meter::start(self.subject);
        let (load, _) = closed_loop(&callers, limit, call).await;
        Row { name: wire.name, protocol: Protocol::Gateway, cost: Some(meter.stop(&load)), load }
    }

    pub(super) async fn measure_steady(&mut self) {
        let rows = self.steady().await;
        self.rows.extend(rows);
    }

    /// Reserves at a steady rate below the capacity, and measures for each reservation the time from its response to
    /// the view. Returns the responses, the applied views and the settled views.
    pub(super) async fn steady(&mut self) -> [Row; 3] {
        let tickets = self.take(self.plan.steady_reservations());
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / self.plan.steady_rate);
        let begun = Instant::now();
        let mut followed = Vec::with_capacity(tickets.len());
        for (number, (ticket, api)) in tickets.into_iter().zip(self.gateway.iter().cloned().cycle()).enumerate() {
            ticks.tick().await;
            followed.push(tokio::spawn(follow(api, ticket, number)));
        }
        let followed = futures::future::join_all(followed).await;
        let elapsed = begun.elapsed();
        let (mut reserved, mut applied, mut settled) = (Vec::new(), Vec::new(), Vec::new());
        for one in followed {
            let Followed { reserve, views } = one.expect("no caller panics");
            reserved.push(reserve);
            if let Some([first, second]) = views {
                applied.push(first);
                settled.push(second);
            }
        }
        let row = |name, load| Row { name, protocol: Protocol::Gateway, cost: None, load };
        let views = |calls: Vec<Timed<TicketView>>| split_results(calls, elapsed).0;
        [
            row("ReserveTicket, steady", split_results(reserved, elapsed).0),
            row("answer to view, applied", views(applied)),
            row("answer to view, settled", views(settled)),
        ]
    }
}

/// An acknowledged reservation.
#[derive(Debug, Clone)]
pub(super) struct Reserved {
    pub(super) ticket: String,
    pub(super) token: String,
    pub(super) reservation: String,
}

struct Followed {
    reserve: Timed<()>,
    /// The views with WAIT_FOR_APPLIED and WAIT_FOR_SETTLED; `None` if the reservation failed.
    views: Option<[Timed<TicketView>; 2]>,
}

async fn follow(api: Api, ticket: String, number: usize) -> Followed {
    let sent = Instant::now();
    let answer = reserve(&api, &ticket, number).await;
    let answered = Instant::now();
    let reserve = |answer| Timed { number, took: answered - sent, answer };
    let token = match answer {
        Ok(answer) => answer.consistency_token,
        Err(status) => return Followed { reserve: reserve(Err(status)), views: None },
    };
    let view = async |wait| {
        let answer = api.view(&ticket, &token, wait).await;
        Timed { number, took: answered.elapsed(), answer }
    };
    let (applied, settled) = futures::join!(view(WaitFor::Applied), view(WaitFor::Settled));
    Followed { reserve: reserve(Ok(())), views: Some([applied, settled]) }
}

pub(super) async fn health_check(api: Api) -> Result<(), Status> {
    let answer: Result<HealthCheckResponse, Status> =
        api.call("grpc.health.v1.Health/Check", HealthCheckRequest::default()).await;
    answer.map(drop)
}

/// Reserves with a request id, so that the record is part of the measurement. Every third user is a VIP.
pub(super) async fn reserve(api: &Api, ticket: &str, number: usize) -> Result<ReserveTicketResponse, Status> {
    let grade = [UserGrade::Silver, UserGrade::Gold, UserGrade::Vip][number % 3];
    api.reserve_as(ticket, &format!("user-{}", number % 1000), grade, &Uuid::new_v4().to_string()).await
}

/// Measures the resources that the processes under load and this process use from its creation on.
struct Meter<'a> {
    subject: &'a Subject<'a>,
    server: Usage,
    cpu: BTreeMap<&'static str, Duration>,
    client: Usage,
}

impl<'a> Meter<'a> {
    fn start(subject: &'a Subject<'a>) -> Self {
        Self { subject, server: Usage::read_all(&subject.ids()), cpu: subject.cpu(), client: Usage::read_own() }
    }

    fn stop(self, load: &Load) -> Cost {
        let server = Usage::read_all(&self.subject.ids());
        let mut cpu = self.subject.cpu();
        for (name, before) in self.cpu {
            cpu.entry(name).and_modify(|cpu| *cpu = cpu.saturating_sub(before));
        }
        Cost {
            calls: load.latencies.count(),
            server_cpu: server.cpu.saturating_sub(self.server.cpu),
            cpu,
            client_cpu: Usage::read_own().cpu.saturating_sub(self.client.cpu),
            written_bytes: server.written_bytes - self.server.written_bytes,
        }
    }
}

fn work(earlier: &Counters, later: &Counters, reserved: &Row, settled_after: Duration) -> Work {
    let reservations = reserved.load.latencies.count() as f64;
    let services = SERVICES.map(|service| {
        let since = |name: &str, label: &str| later.since(earlier, &format!("{name}{{{label}=\"{service}\"}}"));
        let commits = since("eticket_batch_size_count", "service");
        ServiceWork {
            service,
            commits: commits / reservations,
            jobs_a_commit: since("eticket_batch_size_sum", "service") / commits.max(1.0),
            commit_ms: since("eticket_commit_seconds_sum", "service") * 1e3 / commits.max(1.0),
            events_sent: since("eticket_outbox_sent_total", "service") / reservations,
            events_taken_in: since("eticket_events_taken_in_total", "consumer") / reservations,
        }
    });
    let written = reserved.cost.as_ref().map_or(0, |cost| cost.written_bytes);
    Work { settled_after, written_bytes: written as f64 / reservations, database: None, services }
}

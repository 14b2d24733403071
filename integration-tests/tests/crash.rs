//! Kills the process with SIGKILL under load, repeatedly: acknowledged commands survive, a retry returns the first
//! response, and every view settles.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
};
use eticket_proto::{
    query::WaitFor,
    reservation::{CancelReservationResponse, ReservationStatus, ReserveTicketResponse, UserGrade},
    ticket::{RegisterTicketResponse, TicketStatus},
};
use tempfile::TempDir;
use tonic::{Code, Status};
use uuid::Uuid;

const ROUNDS: usize = 20;
const WORKERS: usize = 12;
/// Pause of a worker whose call was refused.
const PAUSE: Duration = Duration::from_millis(50);
/// Number of acknowledged commands in a round before the process is killed.
const COMMANDS: usize = 60;

/// What one worker has recorded about one ticket: the responses in order; `None` for a missing response.
#[derive(Debug, Default)]
struct Story {
    register: Step<RegisterTicketResponse>,
    reserve: Step<ReserveTicketResponse>,
    cancel: Step<CancelReservationResponse>,
}

#[derive(Debug)]
struct Step<A> {
    request_id: String,
    asked: bool,
    answer: Option<A>,
}

impl<A> Default for Step<A> {
    fn default() -> Self {
        Self { request_id: Uuid::now_v7().to_string(), asked: false, answer: None }
    }
}

impl<A: Clone + PartialEq + std::fmt::Debug> Step<A> {
    /// Sends a command and records its response; a response to the same request_id must equal the earlier one.
    async fn ask(&mut self, call: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
        self.asked = true;
        let answer = call.await?;
        if let Some(first) = &self.answer {
            assert_eq!(&answer, first, "a retry gives the first answer");
        }
        self.answer = Some(answer.clone());
        Ok(answer)
    }
}

impl Story {
    /// Registers, reserves and, for every second ticket, cancels; ends at the first failed call.
    async fn continue_work(
        &mut self,
        api: &Api,
        ticket: &str,
        cancels: bool,
        done: &AtomicUsize,
    ) -> Result<(), Status> {
        let slot = calendar::upcoming(Weekday::Wed);
        self.register.ask(api.register_as(ticket, slot, &self.register.request_id.clone())).await?;
        done.fetch_add(1, Ordering::Relaxed);
        let id = self.reserve.request_id.clone();
        let reserved = self.reserve.ask(api.reserve_as(ticket, ticket, UserGrade::Vip, &id)).await?;
        done.fetch_add(1, Ordering::Relaxed);
        if cancels {
            let reservation = reserved.reservation.expect("an answer has its resource").reservation_id;
            self.cancel.ask(api.cancel_as(&reservation, &self.cancel.request_id.clone())).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Checks that all acknowledged effects exist, before anything is retried.
    async fn check_kept(&self, api: &Api, ticket: &str) {
        if self.register.answer.is_some() {
            api.ticket(ticket).await.expect("an acknowledged ticket is there");
        }
        let Some(reserved) = self.reserve.answer.as_ref().and_then(|answer| answer.reservation.as_ref()) else {
            return;
        };
        let kept = api.reservation(&reserved.reservation_id).await.expect("an acknowledged reservation is there");
        let expected: &[ReservationStatus] = match (&self.cancel.answer, self.cancel.asked) {
            (Some(_), _) => &[ReservationStatus::Cancelled],
            (None, false) => &[ReservationStatus::Reserved],
            // The cancellation was requested and not answered: both states are correct.
            (None, true) => &[ReservationStatus::Cancelled, ReservationStatus::Reserved],
        };
        assert!(expected.contains(&kept.status()), "{ticket}: {kept:?}, {self:?}");
    }

    /// Checks the final state of the ticket.
    fn check_end(&self, view: &eticket_proto::query::TicketView, cancels: bool) {
        let reservation = self.reserve.answer.as_ref().and_then(|answer| answer.reservation.as_ref());
        assert_eq!(Some(&view.reservation_id), reservation.map(|reservation| &reservation.reservation_id));
        let (status, price, ledger) = match cancels {
            true => (TicketStatus::Available, 8_000, 2),
            false => (TicketStatus::Reserved, 7_000, 1),
        };
        assert!(view.settled, "{view:?}");
        assert_eq!(view.ticket_status(), status, "{view:?}");
        assert_eq!(view.discounted_price.as_ref().map(|money| money.units), Some(price), "{view:?}");
        // No command has taken effect twice, however often it was sent.
        assert_eq!(view.revisions.as_ref().map(|revisions| revisions.reservation), Some(ledger), "{view:?}");
    }
}

/// Works until the process is gone; returns the records of each ticket.
async fn worker(
    api: Api,
    round: usize,
    worker: usize,
    done: Arc<AtomicUsize>,
    killed: Arc<AtomicBool>,
) -> BTreeMap<String, Story> {
    let mut stories = BTreeMap::new();
    for turn in 0.. {
        let ticket = format!("r{round}-w{worker}-t{turn}");
        let mut story = Story::default();
        let mut went = story.continue_work(&api, &ticket, turn % 2 == 1, &done).await;
        // A busy machine refuses calls too.
        while went.as_ref().is_err_and(|status| status.code() == Code::Unavailable) && !killed.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE).await;
            went = story.continue_work(&api, &ticket, turn % 2 == 1, &done).await;
        }
        stories.insert(ticket, story);
        if let Err(status) = went {
            // The process and the connection are gone: a business error is unexpected here.
            let broken = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
            assert!(broken.contains(&status.code()), "{status:?}");
            break;
        }
    }
    stories
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_commands_survive_sigkill() {
    let data = TempDir::new().expect("a folder");
    let mut eticket = Eticket::start(data.path()).await;
    let mut all = BTreeMap::new();
    for round in 0..ROUNDS {
        // The protocols take turns. Without the gateway, broken connections are not converted into a status.
        let protocol = if round % 2 == 0 { Protocol::Direct } else { Protocol::Gateway };
        let api = Api::new(&eticket, protocol);
        let (done, killed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let workers: Vec<_> = (0..WORKERS)
            .map(|number| tokio::spawn(worker(api.clone(), round, number, done.clone(), killed.clone())))
            .collect();
        // The kill comes a little later each time, to hit different states.
        let enough = COMMANDS + round * 7;
        eventually(SOON, "the load is on", async || match done.load(Ordering::Relaxed) {
            acknowledged if acknowledged >= enough => Ok(()),
            acknowledged => Err(acknowledged),
        })
        .await;
        killed.store(true, Ordering::Relaxed);
        eticket.kill().await;
        eticket = Eticket::start(data.path()).await;
        let api = Api::new(&eticket, Protocol::Direct);
        for worker in workers {
            for (ticket, mut story) in worker.await.expect("a worker does not panic") {
                story.check_kept(&api, &ticket).await;
                let cancels = story.cancel.asked || ticket.ends_with(['1', '3', '5', '7', '9']);
                // The same request_ids again: they return the first responses or continue the work.
                story.continue_work(&api, &ticket, cancels, &done).await.expect("what was begun can be ended");
                all.insert(ticket, (story, cancels));
            }
        }
    }

    let api = Api::new(&eticket, Protocol::Direct);
    for (ticket, (story, cancels)) in &all {
        let view = api.view(ticket, "", WaitFor::Settled).await.expect("every view settles");
        story.check_end(&view, *cancels);
    }
    let refusal = api.reserve("r0-w0-t0", "someone else", UserGrade::Silver).await.expect_err("it is held");
    assert_eq!(reason(&refusal), "TICKET_ALREADY_RESERVED");
    assert!(all.len() >= ROUNDS * WORKERS, "{} tickets", all.len());
    eticket.stop().await;
}

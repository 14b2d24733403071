//! Users and admins: they send commands, retry them with the same id until they are answered, and check the responses.

mod admin;
mod user;

use std::{sync::Arc, time::Duration};

use eticket_proto::{ids::TicketId, token::Consistency};
use eticket_query::{
    application::{changes::Condition, waiting::Patience},
    domain::Wait,
};
use eticket_service::batch;
use eticket_store::Idempotency;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    history::Moment,
    judge,
    replicas::{Fleet, Process, Slot},
    scheduler::locked,
};

/// Starts the clients; each task ends when faults have ceased and its last command is answered.
pub(super) fn start(fleet: &Fleet) -> Vec<JoinHandle<()>> {
    let users = (0..fleet.plan.clients).map(|number| tokio::spawn(user::User::new(fleet, number).live()));
    std::iter::once(tokio::spawn(admin::Admin::new(fleet).live())).chain(users).collect()
}

fn ticket_id(number: u64) -> TicketId {
    format!("t-{number}").parse().expect("an id")
}

/// The common parts of all clients.
struct Client {
    name: String,
    fleet: Fleet,
}

impl Client {
    fn new(fleet: &Fleet, name: String) -> Self {
        Self { name, fleet: Arc::clone(fleet) }
    }

    fn moment(&self) -> Moment {
        locked(&self.fleet.history).moment
    }

    fn idempotency(&self) -> Idempotency {
        Idempotency { request_id: self.fleet.scheduler.uuid(), hash: [1; 32] }
    }

    fn log(&self, what: &str) {
        self.fleet.scheduler.log(&self.name, what);
    }

    fn fail(&self, what: &str) {
        self.fleet.scheduler.fail(format!("{}: {what}", self.name));
    }

    /// Sends a request to any running process. `None` if the outcome is unknown.
    async fn attempt<H: Clone, A>(&self, slots: &[Slot<H>; 2], call: impl AsyncFnOnce(H) -> A) -> Option<A> {
        let scheduler = &self.fleet.scheduler;
        scheduler.pause().await;
        let (handle, process_state) = self.fleet.any(slots)?;
        let answer = until_death(&process_state, call(handle)).await?;
        scheduler.pause().await;
        if scheduler.fault(self.fleet.plan.losses) {
            scheduler.count("an answer was lost");
            return None;
        }
        Some(answer)
    }

    /// Waits before the next attempt.
    async fn back_off(&self) {
        self.fleet.scheduler.count("a client tried again");
        self.fleet.scheduler.sleep(5..=400).await;
    }

    /// Reports a command that was not run because of its own content; every other reason is allowed.
    fn not_run(&self, error: &batch::Error) {
        if let batch::Error::Failed(why) = error {
            self.fail(&format!("a command fails by itself: {why}"));
        }
    }

    /// Returns whether the client retries although it has the response.
    fn asks_again(&self) -> bool {
        self.fleet.scheduler.fault(150)
    }

    /// Records the response to a client; sometimes the client reads its own write.
    async fn acknowledged(&self, ticket: &TicketId, token: Consistency) {
        locked(&self.fleet.history).tickets.entry(ticket.clone()).or_default().tokens.push(token.clone());
        let scheduler = &self.fleet.scheduler;
        if !scheduler.chance(400) {
            return;
        }
        let wait = if scheduler.chance(500) { Wait::Applied } else { Wait::Settled };
        let until = Instant::now() + Duration::from_millis(scheduler.number(100..=4_000));
        let patience = Patience { until, diagnosis: Duration::ZERO };
        let condition = Condition::new(Some(token.clone()), wait);
        let call = async |views: eticket_query::application::Views| views.view_once(ticket, &condition, patience).await;
        if let Some(Ok(view)) = self.attempt(&self.fleet.views, call).await {
            scheduler.count("a client read its own write");
            if !judge::has_ended(&view, &token, wait) {
                self.fail(&format!("{token:?} is answered before {wait:?}: {view:?}"));
            }
        }
    }
}

/// Returns the response, unless the process dies first.
async fn until_death<A>(process_state: &Process, answer: impl Future<Output = A>) -> Option<A> {
    tokio::select! {
        biased;
        () = process_state.kill_switch.died() => None,
        answer = answer => Some(answer),
    }
}

//! Runs one schedule, checks the state after every step, and delivers everything at the end.

mod commands;
mod rest;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use eticket_bus::Message;
use eticket_proto::{headers, ids::TicketId, subjects};
use eticket_query::{
    application::changes::Condition,
    domain::{self, View, Wait},
};
use eticket_store::Sent;
use uuid::Uuid;

use self::commands::{HeldUp, Request};
use super::{
    bus::{Stored, delivery},
    intake::{ConsumerIntake, Intake, ViewIntake},
    schedule::{Afterwards, MOST_STRAGGLERS, Schedule, Step},
    truth::Truth,
    world::{Service, World},
};

/// More subjects than this schedule and earlier ones can leave in an outbox.
const SUBJECTS: usize = 10_000;

/// Counts what schedules have covered, so that a test can assert full coverage.
#[derive(Default)]
pub struct Coverage(Mutex<BTreeMap<&'static str, u64>>);

impl Coverage {
    fn count(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Run<'w> {
    world: &'w World,
    coverage: &'w Coverage,
    /// In the order of [`Service::ALL`].
    intakes: [Box<dyn Intake + 'w>; 3],
    view: ViewIntake<'w>,
    view_in_order: bool,
    truths: Vec<Truth>,
    requests: Vec<Request>,
    held_up: Vec<HeldUp>,
    /// For each relay, the rows that are sent and not yet deleted.
    claims: [Option<Sent>; 3],
    stragglers: usize,
    owes_republish: bool,
}

/// Runs a schedule. The world can be reused unless this fails.
///
/// # Errors
/// A contradiction to the model.
pub async fn run(world: &World, coverage: &Coverage, schedule: &Schedule) -> Result<()> {
    world.bus.stream().keep_per_subject(schedule.kept_per_subject);
    let bus = || world.bus.clone();
    let mut run = Run {
        world,
        coverage,
        intakes: [
            Box::new(ConsumerIntake::new(&world.ticket, bus())),
            Box::new(ConsumerIntake::new(&world.reservation, bus())),
            Box::new(ConsumerIntake::new(&world.pricing, bus())),
        ],
        view: ViewIntake::new(&world.query, bus()),
        view_in_order: schedule.view_in_order,
        truths: (0..schedule.tickets).map(|_| Truth::new(TicketId::generate())).collect(),
        requests: Vec::new(),
        held_up: Vec::new(),
        claims: Default::default(),
        stragglers: 0,
        owes_republish: false,
    };
    for ticket in 0..schedule.registered {
        run.step(&Step::Register { ticket, start_hours: 0, end_minutes: schedule.end_minutes }).await?;
    }
    for (number, step) in schedule.steps.iter().enumerate() {
        run.step(step).await.with_context(|| format!("step {number}: {step:?}"))?;
    }
    run.come_to_rest(schedule.order).await.context("at rest")
}

impl Run<'_> {
    async fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Relay { service, first, most, afterwards } => self.relay(*service, *first, *most, *afterwards).await,
            Step::FinishRelay { service } => self.finish_relay(*service).await,
            Step::Straggler { which } => {
                self.straggle(*which);
                Ok(())
            }
            Step::Deliver { service, picks, acknowledged } => self.deliver(*service, picks, *acknowledged).await,
            Step::View { picks } => self.show(picks).await,
            Step::Detach { reader } => {
                match self.intakes.get_mut(*reader) {
                    Some(intake) => intake.detach(),
                    None => self.view.detach(),
                }
                Ok(())
            }
            Step::Wipe => {
                self.coverage.count("the stream was lost");
                self.world.bus.wipe();
                Ok(())
            }
            Step::LoseTail { count } => {
                self.lose_tail(*count);
                Ok(())
            }
            Step::Republish { service } => self.republish(*service).await,
            Step::Advance { minutes } => {
                self.world.clock.advance(TimeDelta::minutes(*minutes));
                Ok(())
            }
            Step::Sweep => {
                self.world.tickets.sweep().await?;
                self.note_outbox(Service::Ticket).await
            }
            command => self.command(command).await,
        }
    }

    /// Returns the ticket of a message if it belongs to this schedule. Tickets of earlier schedules are at rest:
    /// publishing their states again has no effect, so their messages are skipped for speed.
    fn truth_of(&mut self, message: &Message) -> Option<&mut Truth> {
        let id = message.header(headers::SUBJECT)?;
        self.truths.iter_mut().find(|truth| truth.id.as_str() == id)
    }

    fn ours(&mut self, messages: Vec<Stored>) -> Vec<Stored> {
        messages.into_iter().filter(|(_, message)| self.truth_of(message).is_some()).collect()
    }

    /// Records the events that a service is about to publish.
    async fn note_outbox(&mut self, service: Service) -> Result<()> {
        let mut claim = self.world.housekeeping(service).claim_outbox(SUBJECTS).await?;
        for row in claim.subjects().into_iter().flatten() {
            if let Some(truth) = self.truth_of(&row.message) {
                truth.noted(&row.message)?;
            }
        }
        Ok(())
    }

    /// Sends some of the waiting rows, those of each subject in order, like the relay.
    async fn relay(&mut self, service: Service, first: usize, most: usize, afterwards: Afterwards) -> Result<()> {
        // A process has one relay, which finishes its claim before the next one.
        self.finish_relay(service).await?;
        let mut claim = self.world.housekeeping(service).claim_outbox(SUBJECTS).await?;
        let mut subjects = claim.subjects();
        if subjects.is_empty() {
            return Ok(());
        }
        let first = first % subjects.len();
        subjects.rotate_left(first);
        let (mut sent, mut left) = (Vec::new(), most);
        for rows in subjects {
            for row in rows {
                if let Some(truth) = self.truth_of(&row.message) {
                    if left == 0 {
                        break;
                    }
                    left -= 1;
                    truth.verify(&row.message).with_context(|| format!("{} is sent", row.message.subject))?;
                    self.publish(row.message);
                }
                sent.push(row.id);
            }
        }
        match afterwards {
            Afterwards::Deleted => drop(self.world.housekeeping(service).delete_sent(claim.sent(&sent)).await?),
            Afterwards::Forgotten => self.coverage.count("a relay died before it deleted"),
            Afterwards::DeletedLate => self.claims[service as usize] = Some(claim.sent(&sent)),
        }
        Ok(())
    }

    async fn finish_relay(&mut self, service: Service) -> Result<()> {
        if let Some(sent) = self.claims[service as usize].take() {
            self.world.housekeeping(service).delete_sent(sent).await?;
        }
        Ok(())
    }

    /// Publishes a message as the relay does: each attempt has an id of its own.
    fn publish(&self, mut message: Message) {
        message.set_header(headers::PUBLICATION_ID, Uuid::new_v4().to_string());
        self.world.bus.stream().append(message);
    }

    /// Publishes as many late duplicates as the retention of the stream allows.
    fn straggle(&mut self, which: usize) {
        let bus = &self.world.bus;
        let all = (0..=bus.generation()).flat_map(|generation| bus.messages(generation, &[subjects::ALL])).collect();
        let all = self.ours(all);
        if self.stragglers < MOST_STRAGGLERS && !all.is_empty() {
            self.stragglers += 1;
            self.coverage.count("a straggler came");
            let (_, message) = &all[which % all.len()];
            self.publish((**message).clone());
        }
    }

    fn lose_tail(&mut self, count: u64) {
        self.coverage.count("the stream lost its tail");
        self.world.bus.lose_tail(count);
        self.owes_republish = true;
        self.intakes.iter_mut().for_each(|intake| intake.detach());
        self.view.detach();
    }

    async fn republish(&mut self, service: Service) -> Result<()> {
        self.intakes[service as usize].republish().await?;
        self.note_outbox(service).await
    }

    async fn attach(&mut self, service: Service) -> Result<usize> {
        let intake = &mut self.intakes[service as usize];
        if intake.attached_to().is_none() {
            intake.attach().await?;
            self.note_outbox(service).await?;
        }
        Ok(self.world.bus.generation())
    }

    /// Delivers selected messages to a service. A service that is attached to a lost stream still has the messages that
    /// it fetched before.
    async fn deliver(&mut self, service: Service, picks: &[usize], acknowledged: bool) -> Result<()> {
        let generation = match self.intakes[service as usize].attached_to() {
            Some(generation) => generation,
            None => self.attach(service).await?,
        };
        let intake = &self.intakes[service as usize];
        let (name, filters) = (intake.name(), intake.filters());
        let bus = &self.world.bus;
        let (all, new) = (bus.messages(generation, filters), bus.unacknowledged(generation, name, filters));
        let (all, new) = (self.ours(all), self.ours(new));
        let choose = |pick: &usize| {
            let among = if pick.is_multiple_of(2) { &new } else { &all };
            (!among.is_empty()).then(|| among[pick / 2 % among.len()].clone())
        };
        let batch: Vec<Stored> = picks.iter().filter_map(choose).collect();
        if generation != self.world.bus.generation() && !batch.is_empty() {
            self.coverage.count("a batch of a lost stream was applied");
        }
        self.hand_over(service, batch, acknowledged).await
    }

    async fn hand_over(&mut self, service: Service, batch: Vec<Stored>, acknowledged: bool) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.world.bus.lose_acknowledgements(!acknowledged);
        let applied = self.intakes[service as usize].apply(batch.iter().cloned().map(delivery).collect()).await;
        self.world.bus.lose_acknowledgements(false);
        applied?;
        for (_, message) in &batch {
            let Some(truth) = self.truth_of(message) else { continue };
            let (was_closed, held) = (truth.is_closed(), truth.holder().is_some());
            truth.delivered(service, message)?;
            if truth.is_closed() && !was_closed {
                let what =
                    if held { "a reservation was rejected" } else { "the ledger of an unheld ticket was closed" };
                self.coverage.count(what);
            }
        }
        self.note_outbox(service).await
    }

    /// Lets the view read on, or delivers arbitrary messages to it.
    async fn show(&mut self, picks: &[usize]) -> Result<()> {
        self.view.attach().await?;
        let generation = self.view.attached_to().context("attached")?;
        let read = if self.view_in_order {
            let batch = self.view.read_on(picks.len() * 2).await?;
            batch.into_iter().map(|delivery| (delivery.sequence, delivery.message)).collect()
        } else {
            let all = self.world.bus.messages(generation, &[subjects::ALL]);
            let all = self.ours(all);
            let chosen = picks.iter().filter(|_| !all.is_empty()).map(|pick| all[pick % all.len()].clone());
            let batch: Vec<Stored> = chosen.collect();
            if !batch.is_empty() {
                self.view.apply(batch.iter().cloned().map(delivery).collect()).await?;
            }
            batch
        };
        self.judge_after(&read).await
    }

    /// Checks that the view shows exactly what it must after reading these messages.
    async fn judge_after(&mut self, read: &[Stored]) -> Result<()> {
        for (_, message) in read {
            if let Some(truth) = self.truth_of(message) {
                truth.seen_by_view(message)?;
            }
        }
        for truth in &self.truths {
            let view = self.world.views.view(&truth.id).await?;
            judge(truth, view.as_ref(), self.coverage).with_context(|| format!("the view shows {view:#?}"))?;
        }
        Ok(())
    }
}

fn judge(truth: &Truth, view: Option<&View>, coverage: &Coverage) -> Result<()> {
    let seen = truth.seen_revisions();
    ensure!(view.is_some() == (seen[0] > 0), "it has read revisions {seen:?}");
    let Some(view) = view else { return Ok(()) };
    let shown = [
        view.ticket.as_ref().map_or(0, |part| part.revision),
        view.ledger.revision,
        view.price.as_ref().map_or(0, |part| part.revision),
    ];
    ensure!(shown == seen, "it has read revisions {seen:?} and shows {shown:?}");
    let (settled, complete) = (domain::settled(view), truth.has_all_reactions());
    ensure!(complete || !settled, "settled is early");
    ensure!(settled || !complete, "settled is late: {:?}", domain::missing(view));
    ensure!(
        view.unsettled_since.is_none() == settled,
        "settled is {settled}, unsettled since {:?}",
        view.unsettled_since
    );
    coverage.count(if settled { "a view was settled" } else { "a view was not settled" });
    for (token, applied, settled) in truth.tokens() {
        for (wait, expected) in [(Wait::Applied, applied), (Wait::Settled, settled)] {
            let answered = Condition::new(Some(token.clone()), wait).holds(view);
            ensure!(answered == expected, "{token:?} waits for {wait:?}: answered is {answered}, not {expected}");
        }
    }
    Ok(())
}

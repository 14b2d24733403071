//! The end of a schedule: delivers all remaining messages, and then all services must agree.

use anyhow::{Context, Result, ensure};
use eticket_proto::subjects;
use eticket_query::domain::{self, ReservationStatus, View};
use eticket_reservation::domain::{Reservation, Status};

use super::{Run, judge};
use crate::convergence::{
    bus::{Stored, delivery},
    schedule::Afterwards,
    truth::{Fate, Truth, won},
    world::Service,
};

/// Each round delivers the reactions to the previous one; a saga has only a few.
const MOST_ROUNDS: usize = 20;

impl Run<'_> {
    pub(super) async fn come_to_rest(&mut self, order: u64) -> Result<()> {
        self.let_all_go_on().await?;
        let current = self.world.bus.generation();
        for service in Service::ALL {
            self.finish_relay(service).await?;
            if self.intakes[service as usize].attached_to() != Some(current) {
                self.intakes[service as usize].detach();
            }
            self.attach(service).await?;
            if self.owes_republish {
                self.republish(service).await?;
            }
        }
        for round in 0.. {
            ensure!(round < MOST_ROUNDS, "events do not come to an end");
            if !self.round(order.rotate_left(round as u32)).await? {
                break;
            }
        }
        self.read_the_rest(order).await?;
        for truth in &self.truths {
            self.compare(truth).await.with_context(|| format!("ticket {}", truth.id))?;
        }
        for service in Service::ALL {
            let parked = self.world.housekeeping(service).parked("", 1).await?;
            ensure!(parked.is_empty(), "{service:?} has set aside {parked:?}");
        }
        let parked = self.world.views.parked("", 1).await?;
        ensure!(parked.is_empty(), "the view has set aside {parked:?}");
        Ok(())
    }

    /// Sends and delivers everything that is waiting; returns false if there was nothing.
    async fn round(&mut self, order: u64) -> Result<bool> {
        let mut any = false;
        for service in Service::ALL {
            any |= self.world.housekeeping(service).outbox_depth().await? > 0;
            self.relay(service, 0, usize::MAX, Afterwards::Deleted).await?;
        }
        for service in Service::ALL {
            let generation = self.attach(service).await?;
            let intake = &self.intakes[service as usize];
            let new = self.world.bus.unacknowledged(generation, intake.name(), intake.filters());
            let mut new = self.ours(new);
            any |= !new.is_empty();
            shuffle(&mut new, order);
            let rest = new.split_off(new.len() / 2);
            for batch in [new, rest] {
                self.hand_over(service, batch, true).await?;
            }
        }
        Ok(any)
    }

    async fn read_the_rest(&mut self, order: u64) -> Result<()> {
        let bus = self.world.bus.clone();
        if self.view.attached_to() != Some(bus.generation()) {
            self.view.detach();
        }
        self.view.attach().await?;
        if self.view_in_order {
            loop {
                let batch = self.view.read_on(7).await?;
                if batch.is_empty() {
                    break;
                }
                let read: Vec<Stored> =
                    batch.into_iter().map(|delivery| (delivery.sequence, delivery.message)).collect();
                self.judge_after(&read).await?;
            }
        } else {
            let all = bus.messages(bus.generation(), &[subjects::ALL]);
            // The last message stays last, so that an in-order reader continues after it.
            let last = all.last().cloned();
            let mut rest = self.ours(all);
            shuffle(&mut rest, order);
            rest.extend(last);
            for batch in rest.chunks(7) {
                self.view.apply(batch.iter().cloned().map(delivery).collect()).await?;
                self.judge_after(batch).await?;
            }
        }
        Ok(())
    }

    /// Checks ticket, price and view against the ledger.
    async fn compare(&self, truth: &Truth) -> Result<()> {
        let world = self.world;
        let ticket = world.tickets.ticket(&truth.id).await?;
        if truth.times().is_none() {
            let view = world.views.view(&truth.id).await?;
            ensure!(ticket.is_none() && view.is_none(), "never registered, but {ticket:?} and {view:?}");
            return Ok(());
        }
        let ticket = ticket.context("the ticket")?;
        let (_, ledger) = world.ledgers.read_snapshot(None, &truth.id).await?;
        let times = truth.times().context("a schedule")?;
        ensure!((ticket.schedule.start(), ticket.schedule.end()) == (times.start, times.end), "{ticket:?}");
        let (revision, active, closed) =
            ledger.as_ref().map_or((0, None, false), |ledger| (ledger.revision, ledger.active, ledger.closed));
        let held = truth.holder().map(|hold| hold.id);
        let expected = (truth.ledger_revision(), held, truth.is_closed());
        ensure!((revision, active, closed) == expected, "the ledger is {ledger:?}, not {expected:?}");
        ensure!((ticket.holder, ticket.reservation_revision) == (active, revision), "{ledger:?}, but {ticket:?}");
        ensure!(ticket.withdrawn == closed && closed == truth.is_withdrawn(), "{ledger:?}, but {ticket:?}");

        let row = world.prices.row(&truth.id).await?.context("a price")?;
        let price = row.price.as_ref().context("a price")?.discounted_price.units();
        let expected = won(times.start, truth.holder().map(|hold| hold.grade));
        ensure!(price == expected, "{price} won, not {expected}: {row:?}");
        let revisions = (ticket.schedule_revision, revision);
        ensure!((row.schedule_revision, row.reservation_revision) == revisions, "{revisions:?}, but {row:?}");

        let view = world.views.view(&truth.id).await?.context("a view")?;
        judge(truth, Some(&view), self.coverage)?;
        ensure!(domain::settled(&view), "at rest and not settled: {:?}", domain::missing(&view));
        for (token, applied, settled) in truth.tokens() {
            ensure!(applied && settled, "at rest {token:?} is not answered");
        }
        let part = view.ticket.as_ref().context("a ticket part")?;
        let shown = (part.start, part.end, part.withdrawn, part.holder, part.revision);
        let owned = (times.start, times.end, ticket.withdrawn, ticket.holder, ticket.revision);
        ensure!(shown == owned, "{owned:?} is shown as {shown:?}");
        ensure!(view.ledger == domain::LedgerPart { revision, active, closed }, "{ledger:?}: {:?}", view.ledger);
        let shown = view.price.as_ref().map(|part| (part.discounted_price.units, part.revision));
        ensure!(shown == Some((price, row.revision)), "{row:?} is shown as {shown:?}");
        self.compare_reservations(truth, &view).await
    }

    async fn compare_reservations(&self, truth: &Truth, view: &View) -> Result<()> {
        let ids: Vec<_> = truth.reservations.keys().copied().collect();
        let shown = self.world.views.reservations_of(&ids).await?;
        ensure!(shown.len() == ids.len(), "{} of {} reservations are shown", shown.len(), ids.len());
        for (id, (fate, revision)) in &truth.reservations {
            let owned = self.world.reservations.reservation(*id).await?.context("a reservation")?;
            let status = match fate {
                Fate::Reserved => Status::Reserved,
                Fate::Cancelled => Status::Cancelled,
                Fate::Rejected => Status::Rejected,
            };
            ensure!((owned.status, owned.revision) == (status, *revision), "{fate:?} at {revision}, but {owned:?}");
            let shown = shown.iter().find(|shown| shown.reservation_id == *id).context("a row")?;
            ensure!(is_same(&owned, shown), "{owned:?} is shown as {shown:?}");
        }
        let newest = truth.reservations.values().map(|(_, revision)| *revision).max();
        let shown = view.newest.as_ref().map(|newest| newest.revision);
        ensure!(shown == newest, "the newest reservation has revision {newest:?}, shown is {shown:?}");
        Ok(())
    }
}

fn is_same(owned: &Reservation, shown: &domain::Reservation) -> bool {
    let status = match owned.status {
        Status::Reserved => ReservationStatus::Reserved,
        Status::Cancelled => ReservationStatus::Cancelled,
        Status::Rejected => ReservationStatus::Rejected,
    };
    shown.ticket_id == owned.ticket
        && shown.user_id == owned.user
        && shown.user_grade == owned.grade
        && shown.status == status
        && shown.revision == owned.revision
        && (shown.reserve_time, shown.update_time) == (owned.reserve_time, owned.update_time)
}

/// Shuffles the messages in an order that depends on `order`.
fn shuffle(messages: &mut [Stored], order: u64) {
    messages.sort_by_key(|(sequence, _)| {
        (sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ order).rotate_left(29).wrapping_mul(order | 1)
    });
}

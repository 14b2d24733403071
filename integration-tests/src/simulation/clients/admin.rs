//! A client that registers, edits and withdraws tickets.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::telemetry::TraceContext;
use eticket_proto::{ids::TicketId, ticket::RegisterTicketResponse, token::Consistency};
use eticket_ticket::{
    application::{Command, Refusal, Tickets},
    domain::{self, Change, Schedule, Title},
};
use prost::Message as _;

use super::{Client, ticket_id};
use crate::{
    is_replay,
    simulation::{
        history::{Moment, Past, at_some_time},
        replicas::Fleet,
        scheduler::locked,
    },
};

pub(super) struct Admin {
    client: Client,
    edits: u64,
    withdrawn: BTreeSet<TicketId>,
}

/// An edit and what is needed to check it.
struct Edit {
    ticket: TicketId,
    command: Command,
    /// The title, which is unique to this edit; `None` for a withdrawal.
    title: Option<String>,
    etag: String,
}

fn title(text: &str) -> Title {
    Title::parse(text).expect("a title")
}

impl Admin {
    pub(super) fn new(fleet: &Fleet) -> Self {
        Self { client: Client::new(fleet, "admin".to_owned()), edits: 0, withdrawn: BTreeSet::new() }
    }

    pub(super) async fn live(mut self) {
        let scheduler = self.client.fleet.scheduler.clone();
        for number in 0..self.client.fleet.plan.tickets {
            scheduler.sleep(0..=300).await;
            self.register(ticket_id(number)).await;
        }
        while !scheduler.is_calm() {
            scheduler.sleep(50..=1_500).await;
            let ticket = ticket_id(scheduler.number(0..=self.client.fleet.plan.tickets - 1));
            match scheduler.number(0..=9) {
                0 => self.register(ticket).await,
                1..=2 => self.withdraw(ticket).await,
                _ => self.update(ticket).await,
            }
        }
    }

    /// Returns times on a discounted day or on another; some tickets end while clients use them.
    fn times(&self) -> (DateTime<Utc>, DateTime<Utc>) {
        let scheduler = &self.client.fleet.scheduler;
        let now = scheduler.now();
        let days = [-1, 0, 1, 2][scheduler.number(0..=3) as usize];
        let start = now + TimeDelta::days(days) - TimeDelta::hours(1);
        let soon = days <= 0 && scheduler.chance(500);
        let end = if soon {
            now + TimeDelta::milliseconds(scheduler.number(0..=4_000).cast_signed())
        } else {
            now + TimeDelta::days(30)
        };
        (start, end)
    }

    fn next_title(&mut self) -> String {
        self.edits += 1;
        format!("edit {}", self.edits)
    }

    async fn register(&mut self, ticket: TicketId) {
        let (start, end) = self.times();
        let text = self.next_title();
        let schedule = Schedule::new(start, end).expect("an end after its start");
        let command = Command::Register { id: ticket.clone(), title: title(&text), schedule };
        self.edit(Edit { ticket, command, title: Some(text), etag: String::new() }).await;
    }

    async fn update(&mut self, ticket: TicketId) {
        let text = self.next_title();
        let mut change = Change { title: Some(title(&text)), ..Change::default() };
        if self.client.fleet.scheduler.chance(600) {
            let (start, end) = self.times();
            (change.start, change.end) = (Some(start), Some(end));
        }
        let etag = self.etag(&ticket).await;
        let command = Command::Update { id: ticket.clone(), etag: etag.clone(), change };
        self.edit(Edit { ticket, command, title: Some(text), etag }).await;
    }

    /// Withdraws each ticket at most once, so that the withdrawal has a known author.
    async fn withdraw(&mut self, ticket: TicketId) {
        if self.withdrawn.contains(&ticket) {
            return;
        }
        let etag = self.etag(&ticket).await;
        let command = Command::Withdraw { id: ticket.clone(), etag: etag.clone() };
        if self.edit(Edit { ticket: ticket.clone(), command, title: None, etag }).await {
            self.client.fleet.scheduler.count("a ticket was withdrawn");
            self.withdrawn.insert(ticket);
        }
    }

    /// Returns no etag, the first one, or the current one.
    async fn etag(&self, ticket: &TicketId) -> String {
        match self.client.fleet.scheduler.number(0..=9) {
            0..=4 => String::new(),
            5 => "1".to_owned(),
            _ => {
                let call = async |tickets: Tickets| tickets.ticket(ticket).await;
                let found = self.client.attempt(&self.client.fleet.tickets, call).await;
                self.client.fleet.scheduler.sleep(0..=800).await;
                found.and_then(Result::ok).flatten().map(|ticket| ticket.etag()).unwrap_or_default()
            }
        }
    }

    /// Returns whether the edit succeeded.
    async fn edit(&self, edit: Edit) -> bool {
        let client = &self.client;
        let (idempotency, mut first) = (client.idempotency(), None);
        loop {
            let began = client.moment();
            client.log(&format!("commands {:?}", edit.command));
            let (command, trace) = (edit.command.clone(), TraceContext::new_root());
            let call = async |tickets: Tickets| tickets.command(command, Some(idempotency), trace, None).await;
            match client.attempt(&client.fleet.tickets, call).await {
                Some(Ok(Ok(answer))) => {
                    let response = RegisterTicketResponse::decode(answer.bytes.clone()).expect("an answer");
                    let token = Consistency::decode(&response.consistency_token).expect("a token");
                    client.log(&format!("received {token:?}"));
                    if first.replace(answer.clone()).is_some_and(|first| !is_replay(&first, &answer)) {
                        client.fail("a retry got another answer");
                    }
                    self.check_done(&edit);
                    client.acknowledged(&edit.ticket, token).await;
                    if !client.asks_again() {
                        return true;
                    }
                }
                Some(Ok(Err(refusal))) => {
                    client.log(&format!("is refused: {refusal:?}"));
                    if first.is_some() || !self.is_right(&edit, began, &refusal) {
                        client.fail(&format!("{:?} is refused without reason: {refusal:?}", edit.command));
                    }
                    return first.is_some();
                }
                Some(Err(error)) => client.not_run(&error),
                None => {}
            }
            client.back_off().await;
        }
    }

    /// Checks that an acknowledged edit exists and matched the etag.
    fn check_done(&self, edit: &Edit) {
        let verdict = {
            let history = locked(&self.client.fleet.history);
            let none = Past::default();
            let past = history.lookup(&edit.ticket).unwrap_or(&none);
            let states = past.tickets.iter().map(|(_, state)| state);
            let mut states = states.enumerate();
            let done = states.find(|(_, state)| match &edit.title {
                Some(title) => state.title == *title,
                None => state.withdrawn,
            });
            match done {
                None => Err("was acknowledged and is not there".to_owned()),
                Some((index, _)) if !edit.etag.is_empty() => {
                    match index.checked_sub(1).and_then(|it| past.tickets.get(it)) {
                        Some((_, before)) if before.etag == edit.etag => Ok(()),
                        before => Err(format!("went by etag {}, but there was {before:?}", edit.etag)),
                    }
                }
                Some(_) => Ok(()),
            }
        };
        if let Err(what) = verdict {
            self.client.fail(&format!("{:?} {what}", edit.command));
        }
    }

    fn is_right(&self, edit: &Edit, began: Moment, refusal: &Refusal) -> bool {
        let history = locked(&self.client.fleet.history);
        let none = Past::default();
        let past = history.lookup(&edit.ticket).unwrap_or(&none);
        let until = history.moment;
        // Another attempt of the same request succeeded before this one began: its response must be returned.
        let was_done = past
            .tickets
            .iter()
            .any(|(moment, state)| *moment <= began && edit.title.as_ref().is_some_and(|title| state.title == *title));
        let Refusal::Domain(refusal) = refusal else { return false };
        let right = match refusal {
            domain::Refusal::NotFound => past.tickets.first().is_none_or(|(registered, _)| *registered > began),
            domain::Refusal::AlreadyExists => !past.tickets.is_empty(),
            domain::Refusal::Withdrawn => {
                edit.title.is_some() && at_some_time(&past.tickets, began, until, |state| state.withdrawn)
            }
            domain::Refusal::EtagMismatch { .. } => {
                self.client.fleet.scheduler.count("an etag was out of date");
                !edit.etag.is_empty() && at_some_time(&past.tickets, began, until, |state| state.etag != edit.etag)
            }
            domain::Refusal::EndNotAfterStart
            | domain::Refusal::StartNotBeforeEnd { .. }
            | domain::Refusal::EndNotAfterItsStart { .. } => false,
        };
        right && !was_done
    }
}

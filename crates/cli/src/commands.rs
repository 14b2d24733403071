//! The commands: each makes its calls and prints what they returned.

mod generate;
mod health;
mod history;
mod pricing;
mod register;
mod reservations;
mod tickets;
mod token;
mod watch;
mod withdraw;

use std::time::Duration;

use clap::Command;
use eticket_proto::query::{GetTicketViewRequest, TicketView, query_service_client::QueryServiceClient};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    Outcome,
    args::{Common, Effect, Task, Wait},
    connection::Server,
    error::Error,
    json,
    output::{Format, Resource, Screen},
    resources::{self, Lines},
};

/// Entries that a page of a list may have at most.
const PAGE_SIZE: i32 = 1_000;
/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Runs one command to its end.
pub(crate) fn run(task: Task, servers: impl FnOnce() -> Command) -> Outcome {
    match task {
        Task::Completion { shell } => return generate::completion(shell, servers()),
        Task::Man { folder } => return generate::man(&folder, servers()),
        Task::Token(args) => return token::run(args),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::internal)?;
    let outcome = runtime.block_on(call(task));
    // A thread that reads standard input or resolves a name must not delay the end.
    runtime.shutdown_background();
    outcome
}

async fn call(task: Task) -> Outcome {
    match task {
        Task::Tickets(args) => tickets::list(args).await,
        Task::View(args) => tickets::view(args).await,
        Task::History(args) => history::list(args).await,
        Task::Watch(args) => watch::run(args).await,
        Task::Quote(args) => pricing::quote(args).await,
        Task::Reserve(args) => reservations::reserve(args).await,
        Task::Cancel(args) => reservations::cancel(args).await,
        Task::Reservations(args) => reservations::list(args).await,
        Task::Register(args) => register::run(args).await,
        Task::Update(args) => tickets::update(args).await,
        Task::Withdraw(args) => withdraw::run(args).await,
        Task::Policy(args) => pricing::policy(&args.common).await,
        Task::Health(args) => health::run(&args.common).await,
        Task::Token(_) | Task::Completion { .. } | Task::Man { .. } => Ok(()),
    }
}

/// A connection and where its results go.
#[derive(Debug, Clone)]
struct Session {
    server: Server,
    screen: Screen,
}

impl Session {
    async fn open(common: &Common) -> Result<Self, Error> {
        Ok(Self { server: Server::connect(common).await?, screen: Screen::new(common) })
    }

    /// The view of a ticket, once it shows what is waited for.
    async fn view(&self, ticket_id: &str, token: &str, wait: Option<Wait>) -> Result<TicketView, Error> {
        let wait = wait.map(|wait| wait.to_proto().into()).unwrap_or_default();
        let consistency_token = token.to_owned();
        let request = GetTicketViewRequest { ticket_id: ticket_id.to_owned(), consistency_token, wait };
        let call = |channel, request| async move { QueryServiceClient::new(channel).get_ticket_view(request).await };
        self.server.call(request, call).await?.view.ok_or_else(|| missing("view"))
    }

    /// Prints the effect of a command after the requested wait. If the wait fails, the command has taken effect all the same.
    async fn done<R: Resource>(&self, done: Done<R>, wait: Option<Wait>) -> Outcome {
        let waited = match wait {
            None => Ok(None),
            Some(_) => {
                let spinner = spinner("waiting for the view");
                let view = self.view(&done.ticket_id, &done.token, wait).await;
                spinner.finish_and_clear();
                view.map(Some)
            }
        };
        let view = waited.as_ref().ok().and_then(Option::as_ref);
        match self.screen.format {
            Format::Csv => self.screen.list(std::slice::from_ref(&done.resource))?,
            Format::Json => self.screen.json(&done.json(view)?)?,
            Format::Table => {
                let lines = view.map_or(done.lines, |view| resources::view_lines(view, self.screen.zone));
                self.screen.print(&self.screen.card(&done.headline, &lines))?;
            }
        }
        let note = "the command took effect; only the wait for the view failed";
        waited.map(drop).map_err(|error| error.with("note", note))
    }
}

/// The effect of a command.
struct Done<R> {
    /// As `Reserved seat-12 for alice`.
    headline: String,
    /// Name of the resource in the response.
    field: &'static str,
    resource: R,
    lines: Lines,
    ticket_id: String,
    token: String,
}

impl<R: Resource> Done<R> {
    /// The response as proto3 JSON, with the view if there was a wait.
    fn json(&self, view: Option<&TicketView>) -> Result<Value, Error> {
        let mut members = Map::new();
        members.insert(self.field.to_owned(), json::value(R::MESSAGE, &self.resource)?);
        members.insert("consistencyToken".to_owned(), self.token.clone().into());
        if let Some(view) = view {
            members.insert("view".to_owned(), json::value(TicketView::MESSAGE, view)?);
        }
        Ok(Value::Object(members))
    }
}

/// Reads a list page by page until it ends or `limit` entries are there. `page` gets the size of a page and its token, and returns
/// its entries and the token of the next page.
async fn pages<T>(
    limit: Option<u32>,
    page: impl AsyncFn(i32, String) -> Result<(Vec<T>, String), Error>,
) -> Result<Vec<T>, Error> {
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let (mut entries, mut token) = (Vec::new(), String::new());
    loop {
        let size = i32::try_from(limit - entries.len()).map_or(PAGE_SIZE, |wanted| wanted.min(PAGE_SIZE));
        let (found, next) = page(size, token).await?;
        entries.extend(found);
        if next.is_empty() || entries.len() >= limit {
            entries.truncate(limit);
            return Ok(entries);
        }
        token = next;
    }
}

/// The idempotency key of a command: the given one, or a new one.
fn request_id(effect: &Effect) -> Uuid {
    effect.request_id.unwrap_or_else(Uuid::new_v4)
}

/// A response lacks a field that the contract promises.
fn missing(field: &str) -> Error {
    Error::internal(format!("the server's response has no {field}"))
}

/// Turns on standard error while something takes its time; only on a terminal.
fn spinner(message: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(TICK);
    spinner
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn pages_are_read_until_the_list_or_the_limit_ends() {
        // Three pages of three entries each.
        let asked = RefCell::new(Vec::new());
        let page = async |size: i32, token: String| {
            asked.borrow_mut().push((size, token.clone()));
            let number = token.parse::<u32>().unwrap_or_default();
            let next = if number < 2 { (number + 1).to_string() } else { String::new() };
            Ok((vec![number; 3], next))
        };
        assert_eq!(pages(None, page).await.ok(), Some(vec![0, 0, 0, 1, 1, 1, 2, 2, 2]));
        assert_eq!(asked.take(), ["", "1", "2"].map(|token| (PAGE_SIZE, token.to_owned())));
        assert_eq!(pages(Some(4), page).await.ok(), Some(vec![0, 0, 0, 1]));
        assert_eq!(asked.take(), [(4, String::new()), (1, "1".to_owned())]);
    }
}

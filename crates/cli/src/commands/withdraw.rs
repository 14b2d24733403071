//! `withdraw`: named tickets, or all whose id matches a pattern.

use std::io::{self, IsTerminal};

use eticket_base::telemetry;
use eticket_proto::ticket::{
    GetTicketRequest, ListTicketsRequest, Ticket, TicketStatus, WithdrawTicketRequest, WithdrawTicketResponse,
    ticket_service_client::TicketServiceClient,
};
use uuid::Uuid;

use super::{Done, Session, missing, pages, request_id};
use crate::{
    Outcome,
    args::{Wait, Withdraw},
    bulk::{self, Kind, Line},
    error::Error,
    resources,
};

pub(super) async fn run(args: Withdraw) -> Outcome {
    let single = args.tickets.len() == 1 && !args.dry_run;
    if args.effect.request_id.is_some() && !single {
        return Err(Error::usage("--request-id belongs to one command: give one ticket, and no --dry-run"));
    }
    if args.etag.is_some() && args.tickets.len() != 1 {
        return Err(Error::usage("--etag belongs to one ticket: give one ticket"));
    }
    if args.yes && args.all_matching.is_none() {
        return Err(Error::usage("--yes belongs to --all-matching"));
    }
    let session = Session::open(&args.common).await?;
    if let Some(pattern) = &args.all_matching {
        return matching(&session, &args, pattern).await;
    }
    if single {
        return one(&session, args).await;
    }
    let (ids, wait) = (bulk::distinct(args.tickets), args.effect.wait);
    if args.dry_run {
        let plan = async |id: String| match get(&session, &id).await {
            Ok(ticket) => planned(&ticket),
            Err(error) => Line::failed(&id, &error),
        };
        return bulk::run(&session.screen, Kind::DryRun, ids, String::as_str, plan).await;
    }
    let work = |id: String| withdrawn(&session, id, String::new(), wait);
    bulk::run(&session.screen, Kind::Command, ids, String::as_str, work).await
}

async fn one(session: &Session, args: Withdraw) -> Outcome {
    let id = args.tickets.into_iter().next().unwrap_or_default();
    let request = request_id(&args.effect);
    let response = withdraw(session, &id, args.etag.unwrap_or_default(), request).await?;
    let ticket = response.ticket.ok_or_else(|| missing("ticket"))?;
    let done = Done {
        headline: format!("Withdrew {id}"),
        field: "ticket",
        lines: resources::ticket_lines(&ticket, args.common.zone),
        ticket_id: id,
        token: response.consistency_token,
        resource: ticket,
    };
    session.done(done, args.effect.wait).await
}

/// Withdraws what the plan shows: a ticket that was edited since then is refused by its etag.
async fn matching(session: &Session, args: &Withdraw, pattern: &str) -> Outcome {
    let mut tickets = list(session).await?;
    tickets.retain(|ticket| matches(pattern, &ticket.ticket_id) && !has_status(ticket, TicketStatus::Withdrawn));
    if args.dry_run || tickets.is_empty() {
        let plan = |ticket: Ticket| async move { planned(&ticket) };
        return match tickets.is_empty() {
            true => Err(Error::refused(format!("no ticket that could be withdrawn matches {pattern:?}"))),
            false => bulk::run(&session.screen, Kind::DryRun, tickets, id_of, plan).await,
        };
    }
    if !args.yes {
        confirm(&tickets)?;
    }
    let wait = args.effect.wait;
    let work = |ticket: Ticket| withdrawn(session, ticket.ticket_id, ticket.etag, wait);
    bulk::run(&session.screen, Kind::Command, tickets, id_of, work).await
}

fn confirm(tickets: &[Ticket]) -> Outcome {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::usage("nobody can be asked for confirmation: add --yes, or look first with --dry-run"));
    }
    let reserved = tickets.iter().filter(|ticket| has_status(ticket, TicketStatus::Reserved)).count();
    let noun = if tickets.len() == 1 { "ticket" } else { "tickets" };
    let mut question = format!("Withdraw {} {noun} for good?", tickets.len());
    match reserved {
        0 => {}
        1 => question += " One is reserved; its reservation will be rejected.",
        count => question += &format!(" {count} are reserved; their reservations will be rejected."),
    }
    telemetry::say(&format!("{question} [y/N] "));
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::refused("not confirmed: nothing was withdrawn")),
    }
}

fn id_of(ticket: &Ticket) -> &str {
    &ticket.ticket_id
}

fn has_status(ticket: &Ticket, status: TicketStatus) -> bool {
    TicketStatus::try_from(ticket.status) == Ok(status)
}

fn planned(ticket: &Ticket) -> Line {
    let id = &ticket.ticket_id;
    match TicketStatus::try_from(ticket.status) {
        Ok(TicketStatus::Withdrawn) => Line::unchanged(id, format!("{} is already withdrawn", ticket.title)),
        Ok(TicketStatus::Reserved) => {
            Line::done(id, "would withdraw", format!("{}; its reservation will be rejected", ticket.title))
        }
        _ => Line::done(id, "would withdraw", &ticket.title),
    }
}

async fn withdrawn(session: &Session, id: String, etag: String, wait: Option<Wait>) -> Line {
    let done = async {
        let response = withdraw(session, &id, etag, Uuid::new_v4()).await?;
        if wait.is_some() {
            session.view(&id, &response.consistency_token, wait).await?;
        }
        Ok(Line::done(&id, "withdrawn", response.ticket.unwrap_or_default().title))
    };
    done.await.unwrap_or_else(|error: Error| Line::failed(&id, &error))
}

async fn withdraw(session: &Session, id: &str, etag: String, request: Uuid) -> Result<WithdrawTicketResponse, Error> {
    let message = WithdrawTicketRequest { ticket_id: id.to_owned(), etag, request_id: request.to_string() };
    let call = |channel, request| async move { TicketServiceClient::new(channel).withdraw_ticket(request).await };
    session.server.call(message, call).await.map_err(|error| error.of_command(request))
}

/// The ticket as its owner stores it.
pub(super) async fn get(session: &Session, id: &str) -> Result<Ticket, Error> {
    let request = GetTicketRequest { ticket_id: id.to_owned() };
    let call = |channel, request| async move { TicketServiceClient::new(channel).get_ticket(request).await };
    session.server.call(request, call).await?.ticket.ok_or_else(|| missing("ticket"))
}

async fn list(session: &Session) -> Result<Vec<Ticket>, Error> {
    let tickets = pages(None, async |page_size, page_token| {
        let request = ListTicketsRequest { page_size, page_token, ..Default::default() };
        let call = |channel, request| async move { TicketServiceClient::new(channel).list_tickets(request).await };
        let page = session.server.call(request, call).await?;
        Ok((page.tickets, page.next_page_token))
    });
    tickets.await
}

/// Whether the whole text fits the pattern: `*` is any text, `?` any character. Ids of tickets are ASCII.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut seen) = (0, 0);
    // The last star, and where the text behind it begins: a mismatch lets that star take one character more.
    let mut star = None;
    while seen < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[seen] => (at, seen) = (at + 1, seen + 1),
            _ => {
                let Some((star_at, begin)) = star else { return false };
                star = Some((star_at, begin + 1));
                (at, seen) = (star_at + 1, begin + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_ids() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a"),
            ("a*", "abc"),
            ("*c", "abc"),
            ("a?c", "abc"),
            ("a*b*c", "axxbyyc"),
            ("*ab", "aab"),
            ("a", "a"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", "ab"), ("b*", "ab"), ("a?", "a"), ("a*b", "abc"), ("A", "a"), ("?", "")]
        {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}

//! `register`: one ticket, or the tickets of a CSV file.
//!
//! The whole file is checked before the first call. Then each row is compared with the ticket that has its id: a ticket that exists
//! with the same fields stays as it is. So a file can be registered again after a failure, or after rows were added. The request
//! id of a row follows from its fields: two runs at the same time register each ticket once, and both succeed.

mod file;

use chrono::{DateTime, Utc};
use eticket_proto::{
    ticket::{RegisterTicketRequest, RegisterTicketResponse, Ticket, ticket_service_client::TicketServiceClient},
    time::to_proto,
};
use uuid::Uuid;

use self::file::NewTicket;
use super::{Done, Session, missing, request_id, tickets::instant, withdraw::get};
use crate::{
    Outcome,
    args::{Register, Wait},
    bulk::{self, Kind, Line},
    error::Error,
    resources, time,
};

pub(super) async fn run(args: Register) -> Outcome {
    match &args.file {
        None if args.dry_run => Err(Error::usage("--dry-run belongs to --file")),
        None => one(args).await,
        Some(path) => {
            let rows = file::read(path, args.common.zone)?;
            let (session, wait) = (Session::open(&args.common).await?, args.effect.wait);
            let kind = if args.dry_run { Kind::DryRun } else { Kind::Command };
            let work = |row: NewTicket| registered(&session, row, kind, wait);
            bulk::run(&session.screen, kind, rows, |row| &row.ticket_id, work).await
        }
    }
}

async fn one(args: Register) -> Outcome {
    let zone = args.common.zone;
    let id = request_id(&args.effect);
    let request = RegisterTicketRequest {
        ticket_id: args.id.unwrap_or_default(),
        title: args.title.unwrap_or_default(),
        start_time: Some(instant(zone, "--start", &args.start.unwrap_or_default())?),
        end_time: Some(instant(zone, "--end", &args.end.unwrap_or_default())?),
        request_id: id.to_string(),
    };
    let session = Session::open(&args.common).await?;
    let response = register(&session, request).await.map_err(|error| error.of_command(id))?;
    let ticket = response.ticket.ok_or_else(|| missing("ticket"))?;
    let done = Done {
        headline: format!("Registered {}", ticket.title),
        field: "ticket",
        lines: resources::ticket_lines(&ticket, zone),
        ticket_id: ticket.ticket_id.clone(),
        token: response.consistency_token,
        resource: ticket,
    };
    session.done(done, args.effect.wait).await
}

async fn registered(session: &Session, row: NewTicket, kind: Kind, wait: Option<Wait>) -> Line {
    let id = row.ticket_id.clone();
    let result = async {
        match get(session, &id).await {
            Ok(existing) => return Ok(compared(&row, &existing)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        if kind == Kind::DryRun {
            return Ok(Line::done(&id, "would register", &row.title));
        }
        let response = register(session, row.request()).await?;
        if wait.is_some() {
            session.view(&id, &response.consistency_token, wait).await?;
        }
        Ok(Line::done(&id, "registered", &row.title))
    };
    result.await.unwrap_or_else(|error: Error| Line::failed(&id, &error))
}

async fn register(session: &Session, request: RegisterTicketRequest) -> Result<RegisterTicketResponse, Error> {
    let call = |channel, request| async move { TicketServiceClient::new(channel).register_ticket(request).await };
    session.server.call(request, call).await
}

/// A row whose ticket exists.
fn compared(row: &NewTicket, existing: &Ticket) -> Line {
    let same = |time: DateTime<Utc>, other: Option<&_>| time::read(other) == Some(time);
    let differs: Vec<_> = [
        ("title", row.title != existing.title),
        ("start_time", !same(row.start, existing.start_time.as_ref())),
        ("end_time", !same(row.end, existing.end_time.as_ref())),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(field, _)| field)
    .collect();
    match &differs[..] {
        [] => Line::unchanged(&row.ticket_id, &row.title),
        fields => {
            let detail = format!("a ticket with this id exists, with another {}", fields.join(", "));
            Line::refused(&row.ticket_id, "refused", detail)
        }
    }
}

impl NewTicket {
    fn request(&self) -> RegisterTicketRequest {
        RegisterTicketRequest {
            ticket_id: self.ticket_id.clone(),
            title: self.title.clone(),
            start_time: Some(to_proto(self.start)),
            end_time: Some(to_proto(self.end)),
            request_id: self.request_id().to_string(),
        }
    }

    /// The same for the same fields, whatever the file and the place of the row.
    fn request_id(&self) -> Uuid {
        use sha2::{Digest, Sha256};
        let times = [self.start, self.end].map(|time| time.timestamp_micros().to_be_bytes());
        let mut hash = Sha256::new();
        for part in [b"eticket register", self.ticket_id.as_bytes(), self.title.as_bytes(), &times[0], &times[1]] {
            // Lengths keep the parts apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> NewTicket {
        let time = |hour| format!("2099-01-07T{hour}:00:00Z").parse().expect("a time");
        NewTicket { ticket_id: "1".to_owned(), title: "Choir".to_owned(), start: time(10), end: time(12) }
    }

    #[test]
    fn the_same_row_has_the_same_request_id() {
        assert_eq!(row().request_id(), row().request_id());
        assert_eq!(row().request_id().get_version_num(), 8);
        let others = [
            NewTicket { ticket_id: "2".to_owned(), ..row() },
            NewTicket { title: "Choirs".to_owned(), ..row() },
            NewTicket { ticket_id: "1C".to_owned(), title: "hoir".to_owned(), ..row() },
            NewTicket { start: row().start + chrono::TimeDelta::minutes(1), ..row() },
            NewTicket { end: row().end + chrono::TimeDelta::minutes(1), ..row() },
        ];
        for other in others {
            assert_ne!(other.request_id(), row().request_id(), "{other:?}");
        }
    }

    #[test]
    fn a_ticket_with_the_same_fields_stays_as_it_is() {
        let RegisterTicketRequest { ticket_id, title, start_time, end_time, .. } = row().request();
        let existing = Ticket { ticket_id, title, start_time, end_time, ..Default::default() };
        assert_eq!(compared(&row(), &existing), Line::unchanged("1", "Choir"));
        let other = Ticket { title: "Jazz".to_owned(), end_time: start_time, ..existing };
        let detail = "a ticket with this id exists, with another title, end_time";
        assert_eq!(compared(&row(), &other), Line::refused("1", "refused", detail));
    }
}

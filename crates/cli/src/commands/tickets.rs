//! `tickets`, `view` and `update`.

use eticket_proto::{
    query::{ListTicketViewsRequest, query_service_client::QueryServiceClient},
    ticket::{UpdateTicketRequest, ticket_service_client::TicketServiceClient},
    time::to_proto,
};
use prost_types::{FieldMask, Timestamp};

use super::{Done, Session, missing, pages, request_id, spinner};
use crate::{
    Outcome,
    args::{Tickets, Update, View},
    error::Error,
    json,
    output::{Format, Resource},
    resources,
    time::Zone,
};

pub(super) async fn list(args: Tickets) -> Outcome {
    let zone = args.common.zone;
    let time = |text: &Option<String>, flag| text.as_deref().map(|text| instant(zone, flag, text)).transpose();
    let request = ListTicketViewsRequest {
        filter_status: args.status.map(|status| status.to_proto().into()).unwrap_or_default(),
        filter_user_id: args.user.unwrap_or_default(),
        start_time_from: time(&args.from, "--from")?,
        start_time_to: time(&args.to, "--to")?,
        order_by: args.order_by.unwrap_or_default(),
        ..Default::default()
    };
    let session = Session::open(&args.common).await?;
    let views = pages(args.limit, async |page_size, page_token| {
        let request = ListTicketViewsRequest { page_size, page_token, ..request.clone() };
        let call = |channel, request| async move { QueryServiceClient::new(channel).list_ticket_views(request).await };
        let page = session.server.call(request, call).await?;
        Ok((page.views, page.next_page_token))
    });
    session.screen.list(&views.await?)
}

pub(super) async fn view(args: View) -> Outcome {
    let session = Session::open(&args.common).await?;
    let spinner = args.wait.map(|_| spinner("waiting for the view"));
    let view = session.view(&args.ticket, args.consistency_token.as_deref().unwrap_or_default(), args.wait).await;
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let (view, screen) = (view?, &session.screen);
    match screen.format {
        Format::Csv => screen.list(&[view]),
        Format::Json => screen.json(&json::value(eticket_proto::query::TicketView::MESSAGE, &view)?),
        Format::Table => screen.print(&screen.card(&view.title, &resources::view_lines(&view, screen.zone))),
    }
}

pub(super) async fn update(args: Update) -> Outcome {
    let zone = args.common.zone;
    let time = |text: &Option<String>, flag| text.as_deref().map(|text| instant(zone, flag, text)).transpose();
    // An empty title must be refused, not ignored: so the mask names what was given.
    let given =
        [("title", args.title.is_some()), ("start_time", args.start.is_some()), ("end_time", args.end.is_some())];
    let paths = given.into_iter().filter(|(_, given)| *given).map(|(path, _)| path.to_owned()).collect();
    let id = request_id(&args.effect);
    let request = UpdateTicketRequest {
        ticket_id: args.ticket.clone(),
        title: args.title.unwrap_or_default(),
        start_time: time(&args.start, "--start")?,
        end_time: time(&args.end, "--end")?,
        update_mask: Some(FieldMask { paths }),
        etag: args.etag.unwrap_or_default(),
        request_id: id.to_string(),
    };
    let session = Session::open(&args.common).await?;
    let call = |channel, request| async move { TicketServiceClient::new(channel).update_ticket(request).await };
    let response = session.server.call(request, call).await.map_err(|error| error.of_command(id))?;
    let ticket = response.ticket.ok_or_else(|| missing("ticket"))?;
    let done = Done {
        headline: format!("Updated {}", args.ticket),
        field: "ticket",
        lines: resources::ticket_lines(&ticket, zone),
        ticket_id: args.ticket,
        token: response.consistency_token,
        resource: ticket,
    };
    session.done(done, args.effect.wait).await
}

/// A time of the command line as a message.
pub(super) fn instant(zone: Zone, flag: &str, text: &str) -> Result<Timestamp, Error> {
    zone.parse(text).map(to_proto).map_err(|error| Error::usage(format!("{flag}: {error}")))
}

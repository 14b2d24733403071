//! `history`.

use eticket_proto::query::{GetTicketHistoryRequest, query_service_client::QueryServiceClient};

use super::{Session, pages};
use crate::{Outcome, args::History};

pub(super) async fn list(args: History) -> Outcome {
    let session = Session::open(&args.common).await?;
    let entries = pages(args.limit, async |page_size, page_token| {
        let request = GetTicketHistoryRequest { ticket_id: args.ticket.clone(), page_size, page_token };
        let call = |channel, request| async move { QueryServiceClient::new(channel).get_ticket_history(request).await };
        let page = session.server.call(request, call).await?;
        Ok((page.entries, page.next_page_token))
    });
    session.screen.list(&entries.await?)
}

//! A client that watches all views, and after each break resumes with the last token that it got.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use eticket_proto::query::{TicketView, WatchTicketViewsRequest, query_service_client::QueryServiceClient};

use crate::api::channel;

/// Clones share what they have seen.
#[derive(Debug, Clone, Default)]
pub struct Watcher(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    token: String,
    views: BTreeMap<String, TicketView>,
}

impl Watcher {
    /// The newest view that it was sent of each ticket.
    pub fn views(&self) -> BTreeMap<String, TicketView> {
        self.0.lock().expect("nobody panics with it").views.clone()
    }

    /// Watches until the stream breaks.
    ///
    /// # Panics
    /// If what comes is older than what came, or everything although a token was given.
    pub async fn watch(self, address: String) {
        let resume_token = self.0.lock().expect("nobody panics with it").token.clone();
        let resumes = !resume_token.is_empty();
        let mut client = QueryServiceClient::new(channel(&address));
        let request = WatchTicketViewsRequest { ticket_ids: Vec::new(), resume_token };
        let Ok(stream) = client.watch_ticket_views(request).await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(sent)) = stream.message().await {
            assert!(!resumes || !sent.resume_token.is_empty(), "who resumes is sent what has changed: {sent:?}");
            let mut seen = self.0.lock().expect("nobody panics with it");
            if let Some(view) = sent.view {
                let before = seen.views.insert(view.ticket_id.clone(), view.clone());
                assert!(before.as_ref().is_none_or(|before| not_older(&view, before)), "{view:?} after {before:?}");
            }
            // Within a snapshot there is none: who breaks off there begins it again.
            if !sent.resume_token.is_empty() {
                seen.token = sent.resume_token;
            }
        }
    }
}

fn not_older(view: &TicketView, before: &TicketView) -> bool {
    let (now, then) = (view.revisions.unwrap_or_default(), before.revisions.unwrap_or_default());
    now.ticket >= then.ticket && now.reservation >= then.reservation && now.price >= then.price
}

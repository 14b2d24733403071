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
    /// Whether the stream may be made anew: its watchers begin with all views again.
    any_stream: bool,
}

impl Watcher {
    /// For a stream that may be lost.
    pub fn over_any_stream() -> Self {
        Self(Arc::new(Mutex::new(Seen { any_stream: true, ..Seen::default() })))
    }

    /// The newest view that it was sent of each ticket.
    pub fn views(&self) -> BTreeMap<String, TicketView> {
        self.0.lock().expect("nobody panics with it").views.clone()
    }

    /// Watches until the stream breaks.
    ///
    /// # Panics
    /// If what comes is older than what came, or everything although a token was given.
    pub async fn watch(self, address: String) {
        let (resume_token, any_stream) = {
            let seen = self.0.lock().expect("nobody panics with it");
            (seen.token.clone(), seen.any_stream)
        };
        let resumes = !resume_token.is_empty() && !any_stream;
        let mut client = QueryServiceClient::new(channel(&address));
        let request = WatchTicketViewsRequest { ticket_ids: Vec::new(), resume_token };
        let Ok(stream) = client.watch_ticket_views(request).await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(sent)) = stream.message().await {
            assert!(!resumes || !sent.resume_token.is_empty(), "who resumes is sent what has changed: {sent:?}");
            let mut seen = self.0.lock().expect("nobody panics with it");
            if let Some(view) = sent.view {
                let before = seen.views.get(&view.ticket_id);
                let newer = before.is_none_or(|before| not_older(&view, before));
                // All views again may come from a replica that lags: it sends the newer ones when it has them.
                assert!(newer || any_stream, "{view:?} after {before:?}");
                if newer {
                    seen.views.insert(view.ticket_id.clone(), view);
                }
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

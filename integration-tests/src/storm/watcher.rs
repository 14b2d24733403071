//! A client that watches all views and resumes with its last token after each disconnect.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use eticket_proto::query::{TicketView, WatchTicketViewsRequest, query_service_client::QueryServiceClient};

use crate::api::channel;

/// Clones share the received views.
#[derive(Debug, Clone, Default)]
pub struct Watcher(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    token: String,
    views: BTreeMap<String, TicketView>,
    /// Whether the stream may be created again: then a watch restarts with all views.
    any_stream: bool,
}

impl Watcher {
    /// Creates a watcher for a stream that may be lost.
    pub fn over_any_stream() -> Self {
        Self(Arc::new(Mutex::new(Seen { any_stream: true, ..Seen::default() })))
    }

    /// Returns the newest received view of each ticket.
    pub fn views(&self) -> BTreeMap<String, TicketView> {
        self.0.lock().expect("not poisoned").views.clone()
    }

    /// Watches until the stream breaks.
    ///
    /// # Panics
    /// If a view is older than an earlier one, or if all views are sent although a token was given.
    pub async fn watch(self, address: String) {
        let (resume_token, any_stream) = {
            let seen = self.0.lock().expect("not poisoned");
            (seen.token.clone(), seen.any_stream)
        };
        let resumes = !resume_token.is_empty() && !any_stream;
        let mut client = QueryServiceClient::new(channel(&address));
        let request = WatchTicketViewsRequest { ticket_ids: Vec::new(), resume_token };
        let Ok(stream) = client.watch_ticket_views(request).await else { return };
        let mut stream = stream.into_inner();
        while let Ok(Some(sent)) = stream.message().await {
            assert!(!resumes || !sent.resume_token.is_empty(), "a resumed watch starts with changes: {sent:?}");
            let mut seen = self.0.lock().expect("not poisoned");
            if let Some(view) = sent.view {
                let before = seen.views.get(&view.ticket_id);
                let newer = before.is_none_or(|before| not_older(&view, before));
                // A restarted snapshot may come from a replica that lags behind; it sends newer views later.
                assert!(newer || any_stream, "{view:?} after {before:?}");
                if newer {
                    seen.views.insert(view.ticket_id.clone(), view);
                }
            }
            // Messages of a snapshot have no token: after a disconnect the snapshot restarts.
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

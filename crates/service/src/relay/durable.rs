//! Rows whose messages may not be durable yet.
//!
//! A bus with a sync interval acknowledges a message before it is on the disk. Its server can lose the newest messages if
//! it crashes, so their rows stay in the outbox. They are deleted after twice the interval, if the bus is still connected
//! to the server process that acknowledged them and the newest of these messages is where it was stored. Otherwise they
//! are published again.

use std::collections::VecDeque;

use eticket_bus::Message;
use tokio::time::Instant;

use super::{Duration, Relay, Sent, headers};

/// Age of the first rows that are deleted, beyond the time that a sync takes, so that many rows are deleted at once.
const AT_ONCE: Duration = Duration::from_millis(250);
/// Maximum number of rows that are deleted at once.
const MOST: usize = 4_096;
/// Number of messages that are looked for. Newer messages of the same subject may have displaced some.
const LOOKS: usize = 5;

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Receipt {
    pub(super) sequence: u64,
    pub(super) publication_id: String,
}

impl Receipt {
    pub(super) fn of_message(sequence: u64, message: &Message) -> Self {
        let publication_id = message.header(headers::PUBLICATION_ID).unwrap_or_default().to_owned();
        Self { sequence, publication_id }
    }
}

/// The rows of one claim.
struct Batch {
    sent: Sent,
    /// The newest messages, the newest first.
    newest: Vec<Receipt>,
    /// The server process that has acknowledged them.
    server: String,
    since: Instant,
}

/// The rows that are on the stream and in the outbox, in the order of their publication.
#[derive(Default)]
pub(super) struct Held(VecDeque<Batch>);

impl Held {
    pub(super) fn add(&mut self, sent: Sent, mut newest: Vec<Receipt>, server: String) {
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(LOOKS);
        if !sent.is_empty() {
            self.0.push_back(Batch { sent, newest, server, since: Instant::now() });
        }
    }

    /// Gives back the rows that another server process has acknowledged. Returns how many batches they were.
    fn give_back_others(&mut self, server: &str) -> usize {
        let all = self.0.len();
        self.0.retain(|batch| batch.server == server);
        all - self.0.len()
    }

    /// Returns the number of batches that are old enough, and their newest messages, the newest first.
    fn old(&self, hold: Duration) -> (usize, Vec<Receipt>) {
        if self.0.front().is_none_or(|first| first.since.elapsed() < hold + AT_ONCE) {
            return (0, Vec::new());
        }
        let mut rows = 0;
        let old = self.0.iter().take_while(|batch| {
            // At least one batch, whatever its size.
            let fits = rows == 0 || rows + batch.sent.len() <= MOST;
            rows += batch.sent.len();
            fits && batch.since.elapsed() >= hold
        });
        let old: Vec<&Batch> = old.collect();
        let mut newest: Vec<Receipt> = old.iter().flat_map(|batch| &batch.newest).cloned().collect();
        newest.sort_unstable_by(|one, other| other.cmp(one));
        newest.truncate(LOOKS);
        (old.len(), newest)
    }

    fn take(&mut self, count: usize) -> Option<Sent> {
        self.0.drain(..count).map(|batch| batch.sent).reduce(|mut all, sent| {
            all.append(sent);
            all
        })
    }
}

impl Relay {
    /// Takes the rows whose messages are durable. Gives back those whose messages are lost, or may be.
    pub(super) async fn durable(&self) -> Option<Sent> {
        let interval = self.bus.sync_interval();
        if interval.is_zero() {
            let mut held = self.held();
            let all = held.0.len();
            return held.take(all);
        }
        let lost = self.held().give_back_others(&self.bus.server_id());
        if lost > 0 {
            self.seen().clear();
            tracing::warn!(
                service = self.service,
                "the bus is another server process: publishing again what it may lack"
            );
        }
        let (count, newest) = self.held().old(2 * interval);
        if count == 0 {
            return None;
        }
        match self.are_stored(&newest).await {
            Ok(true) => self.held().take(count),
            Ok(false) => {
                tracing::warn!(service = self.service, "the bus has lost messages: publishing them again");
                drop(self.held().take(count));
                self.seen().clear();
                None
            }
            Err(error) => {
                tracing::debug!(service = self.service, %error, "cannot look for the newest message");
                None
            }
        }
    }

    /// Returns whether the newest of these messages that the stream still keeps is where it was stored. A crash loses
    /// the end of a stream, so the older ones are there too.
    async fn are_stored(&self, newest: &[Receipt]) -> Result<bool, eticket_bus::Error> {
        let server = self.bus.server_id();
        let mut is_there = true;
        for receipt in newest {
            if let Some(message) = self.bus.message_at(receipt.sequence).await? {
                is_there = Receipt::of_message(receipt.sequence, &message) == *receipt;
                break;
            }
            // Otherwise newer messages of its subject have displaced it.
            if self.bus.state().await?.last_sequence < receipt.sequence {
                return Ok(false);
            }
        }
        Ok(is_there && self.bus.server_id() == server)
    }
}

//! The events of one ticket, read from the stream: the view itself keeps only the newest state.

use eticket_bus::{Delivery, Error};
use eticket_proto::{ids::TicketId, subjects};

use super::Views;

/// Number of messages that are read at a time. A message is below 1 MiB, so this bounds the memory of a call.
const CHUNK: usize = 64;

/// A position in the history of a ticket. Sequences of different epochs cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    pub epoch: String,
    pub sequence: u64,
}

/// Why a page of a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("the stream of events was replaced; start again with the first page")]
    StreamChanged,
    #[error("the bus does not respond: {0}")]
    Bus(#[source] Error),
}

/// Events, the newest first, and the epoch of their stream.
#[derive(Debug)]
pub struct Events {
    pub epoch: String,
    pub messages: Vec<Delivery>,
    /// Whether the size has ended the page, so that older events may be left.
    pub is_cut: bool,
}

impl Views {
    /// Returns the newest events of a ticket, its reservations and its price, up to `most`, or until their bodies have
    /// more than `most_bytes`.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub async fn history(
        &self,
        id: &TicketId,
        before: Option<&Before>,
        most: usize,
        most_bytes: usize,
    ) -> Result<Events, HistoryError> {
        let filters = [subjects::ticket(id), subjects::reservations_of(id), subjects::price(id)];
        let filters = filters.each_ref().map(String::as_str);
        let (mut epoch, mut below) = (before.map(|before| before.epoch.clone()), before.map(|before| before.sequence));
        let (mut messages, mut bytes) = (Vec::new(), 0);
        loop {
            let wanted = CHUNK.min(most - messages.len());
            let found = self.bus.history(&filters, below, wanted).await.map_err(HistoryError::Bus)?;
            if epoch.as_ref().is_some_and(|epoch| *epoch != found.epoch) {
                return Err(HistoryError::StreamChanged);
            }
            let is_last = found.messages.len() < wanted;
            below = found.messages.last().map(|oldest| oldest.sequence);
            bytes += found.messages.iter().map(|found| found.message.body.len()).sum::<usize>();
            messages.extend(found.messages);
            let is_cut = bytes > most_bytes && !is_last;
            if is_last || is_cut || messages.len() >= most {
                return Ok(Events { epoch: found.epoch, messages, is_cut });
            }
            epoch = Some(found.epoch);
        }
    }
}

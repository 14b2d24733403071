//! Broken rules of the network, and of what a view assumes about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use eticket_bus::{Delivery, Message};
use eticket_proto::headers;

use super::Wrong;
use crate::simulation::{history::History, scheduler::locked};

/// What one view has read.
#[derive(Default)]
struct Reading {
    /// Ids of messages that the rows reflect.
    known: BTreeSet<String>,
    /// Tickets whose row has a sequence of this stream.
    placed: BTreeSet<String>,
    /// Ids and tickets of the batch that is being applied.
    in_hand: Vec<(String, String)>,
    /// By sequence.
    remembered: BTreeMap<u64, Message>,
    /// The stream's sequence of each message, in reading order.
    counted: Vec<u64>,
}

/// The state of the broken rules; see the module documentation.
pub(in crate::simulation) struct Network {
    history: Arc<Mutex<History>>,
    /// The message ids that the server remembers.
    stored: Mutex<BTreeSet<String>>,
    readings: Mutex<BTreeMap<String, Reading>>,
}

impl Network {
    pub(in crate::simulation) fn new(history: Arc<Mutex<History>>) -> Self {
        Self { history, stored: Mutex::default(), readings: Mutex::default() }
    }

    /// Returns whether a sent message reaches the stream.
    pub(in crate::simulation) fn carries(&self, wrong: Option<Wrong>, message: &Message) -> bool {
        match wrong {
            Some(Wrong::NoEventWhenAnUnheldTicketIsClosed) => !message.subject.ends_with(".closed"),
            Some(Wrong::RepublishUnderTheFirstMessageId) => locked(&self.stored).insert(id(message)),
            Some(Wrong::RepublishMergesWithAWaitingRow) => {
                let trace = message.header(headers::TRACE_PARENT).unwrap_or_default();
                !locked(&self.history).put_beside_the_same.contains(trace)
            }
            _ => true,
        }
    }

    /// Returns the subject under which a message is published.
    pub(in crate::simulation) fn subject(wrong: Option<Wrong>, subject: String) -> String {
        match (wrong, subject.strip_prefix("eticket.v1.reservation.").and_then(|rest| rest.split_once('.'))) {
            (Some(Wrong::OneSubjectForAllOfATicket), Some((ticket, _))) => {
                format!("eticket.v1.reservation.{ticket}.all")
            }
            _ => subject,
        }
    }

    /// Returns whether the relay continues before a message is stored.
    pub(in crate::simulation) fn skips_acknowledgement(wrong: Option<Wrong>) -> bool {
        wrong == Some(Wrong::SentInAnyOrder)
    }

    /// Returns the message that a view assumes at a sequence without reading it.
    pub(in crate::simulation) fn remembered(
        &self,
        wrong: Option<Wrong>,
        process: &str,
        sequence: u64,
    ) -> Option<Message> {
        match wrong {
            Some(Wrong::PositionWithoutFingerprint | Wrong::PositionWithoutEpoch) => {
                locked(&self.readings).get(process)?.remembered.get(&sequence).cloned()
            }
            _ => None,
        }
    }

    /// Returns the stream's sequence for the one that a view has stored.
    pub(in crate::simulation) fn sequence_of(&self, wrong: Option<Wrong>, process: &str, kept: u64) -> u64 {
        if wrong != Some(Wrong::TokenCountsTheReplicasChanges) || kept == 0 {
            return kept;
        }
        let readings = locked(&self.readings);
        let counted = readings.get(process).and_then(|reading| reading.counted.get(kept as usize - 1));
        counted.copied().unwrap_or(kept)
    }

    /// Records and filters the messages of a batch for a view.
    pub(in crate::simulation) fn to_the_view(
        &self,
        wrong: Option<Wrong>,
        process: &str,
        batch: Vec<Delivery>,
    ) -> Vec<Delivery> {
        let mut readings = locked(&self.readings);
        let reading = readings.entry(process.to_owned()).or_default();
        // A view that reads on has applied its previous batch.
        for (id, ticket) in std::mem::take(&mut reading.in_hand) {
            reading.known.insert(id);
            reading.placed.insert(ticket);
        }
        batch.into_iter().filter_map(|delivery| reading.take(wrong, delivery)).collect()
    }

    /// A view starts to read; its previous batch may not have been applied.
    pub(in crate::simulation) fn attached(&self, process: &str) {
        locked(&self.readings).entry(process.to_owned()).or_default().in_hand.clear();
    }

    /// A view has lost its file.
    pub(in crate::simulation) fn forget(&self, process: &str) {
        locked(&self.readings).remove(process);
    }

    /// The stream was lost.
    pub(in crate::simulation) fn stream_is_lost(&self) {
        locked(&self.readings).values_mut().for_each(|reading| reading.placed.clear());
    }
}

impl Reading {
    fn take(&mut self, wrong: Option<Wrong>, delivery: Delivery) -> Option<Delivery> {
        let (id, ticket) = (id(&delivery.message), delivery.message.header(headers::SUBJECT).unwrap_or_default());
        let in_hand = |is: &dyn Fn(&(String, String)) -> bool| self.in_hand.iter().any(is);
        let is_news = !self.known.contains(&id) && !in_hand(&|(known, _)| *known == id);
        let is_first = !self.placed.contains(ticket) && !in_hand(&|(_, placed)| placed == ticket);
        self.in_hand.push((id, ticket.to_owned()));
        match wrong {
            Some(Wrong::PositionWithoutFingerprint | Wrong::PositionWithoutEpoch) => {
                self.remembered.insert(delivery.sequence, (*delivery.message).clone());
                Some(delivery)
            }
            Some(Wrong::TokenCountsTheReplicasChanges) => {
                self.counted.push(delivery.sequence);
                Some(Delivery { sequence: self.counted.len() as u64, ..delivery })
            }
            Some(Wrong::RowsKeepNoNewSequence) => is_news.then_some(delivery),
            Some(Wrong::RowsTakeOneNewSequenceForAllParts) => (is_news || is_first).then_some(delivery),
            _ => Some(delivery),
        }
    }
}

fn id(message: &Message) -> String {
    message.header(headers::ID).unwrap_or_default().to_owned()
}

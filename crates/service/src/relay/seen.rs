//! What the relay has learned of the stream about subjects whose rows come from the table.
//!
//! Several processes send from the table after an outage, at different speeds. A process that sends many old states of an
//! aggregate after another one has sent the newest would push the newest out of the stream. So only the first row of a
//! subject is sent without a look.

use std::collections::HashMap;

use eticket_store::WaitingRow;

use super::Receipt;

/// Maximum number of subjects. More are forgotten, so a row of each may be sent without a look again.
const MOST: usize = 100_000;

/// What to do with a row.
pub(super) enum Advice {
    Send,
    /// Find out first whether the stream has a newer state.
    Look,
    /// The stream has a newer state, there.
    Superseded(Receipt),
}

/// The newest known state of each subject: its revision and its place.
#[derive(Default)]
pub(super) struct Seen(HashMap<String, (i64, Receipt)>);

impl Seen {
    pub(super) fn advice(&self, row: &WaitingRow) -> Advice {
        match self.0.get(&row.message.subject) {
            _ if !row.was_read => Advice::Send,
            None => Advice::Send,
            Some((revision, receipt)) if *revision > row.revision => Advice::Superseded(receipt.clone()),
            Some(_) => Advice::Look,
        }
    }

    pub(super) fn note(&mut self, subject: &str, revision: i64, receipt: &Receipt) {
        match self.0.get_mut(subject) {
            Some(known) if known.0 >= revision => {}
            Some(known) => *known = (revision, receipt.clone()),
            None => {
                if self.0.len() >= MOST {
                    self.0.clear();
                }
                self.0.insert(subject.to_owned(), (revision, receipt.clone()));
            }
        }
    }

    /// Forgets everything: there are no rows of the table any more, or the stream may have lost messages.
    pub(super) fn clear(&mut self) {
        self.0 = HashMap::new();
    }
}

//! The rows of the newest commits in memory. A watcher that keeps up reads them, so the number of statements of a commit
//! does not grow with the number of watchers. A watcher that has fallen behind reads the store.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use eticket_proto::ids::TicketId;

use super::{Watched, watch::ResumePoint};
use crate::domain::View;

/// Maximum number of rows. Eight full batches of the reader.
pub(crate) const CAPACITY: usize = 8192;

/// Empty until [`Self::begin`], and after [`Self::clear`]: everything is then read from the store.
#[derive(Default)]
pub(super) struct Recent(Option<Rows>);

struct Rows {
    /// Epoch of the stream that the sequences belong to.
    epoch: String,
    /// Each stored row with a higher sequence is here.
    complete_above: u64,
    /// Two rows have the same sequence if an operator has resent a parked event.
    rows: BTreeMap<(u64, TicketId), Arc<View>>,
    /// Sequences of the tickets in `rows`, so that a ticket is there once.
    sequences: HashMap<TicketId, u64>,
}

impl Recent {
    /// Begins at a position of the reader, above which the store has no row.
    pub(super) fn begin(&mut self, at: ResumePoint) {
        let ResumePoint { epoch, sequence: complete_above, .. } = at;
        self.0 = Some(Rows { epoch, complete_above, rows: BTreeMap::new(), sequences: HashMap::new() });
    }

    /// Forgets all rows, because the store may have other ones.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Adds committed rows. The oldest rows are dropped if there are too many.
    pub(super) fn add(&mut self, rows: &[(TicketId, Arc<View>)]) {
        let Some(recent) = &mut self.0 else { return };
        // A row without a ticket part is not shown to watchers.
        for (id, view) in rows.iter().filter(|(_, view)| view.ticket.is_some()) {
            if let Some(before) = recent.sequences.insert(id.clone(), view.sequence) {
                recent.rows.remove(&(before, id.clone()));
            }
            recent.rows.insert((view.sequence, id.clone()), view.clone());
        }
        while recent.rows.len() > CAPACITY
            && let Some(((sequence, id), _)) = recent.rows.pop_first()
        {
            recent.sequences.remove(&id);
            recent.complete_above = recent.complete_above.max(sequence);
        }
    }

    /// Returns up to `most` of the watched rows above a position, in the order of their sequences, and `None` if only
    /// the store has all of them.
    pub(super) fn above(&self, at: &ResumePoint, watched: &Watched, most: usize) -> Option<Vec<(TicketId, Arc<View>)>> {
        let recent = self.0.as_ref()?;
        if recent.epoch != at.epoch || at.sequence < recent.complete_above {
            return None;
        }
        let newer = recent.rows.iter().rev().take_while(|((sequence, _), _)| *sequence > at.sequence);
        let mut found: Vec<_> = newer
            .filter(|((_, id), _)| match watched {
                Watched::All => true,
                Watched::These(ids) => ids.contains(id),
            })
            .map(|((_, id), view)| (id.clone(), view.clone()))
            .collect();
        found.reverse();
        found.truncate(most);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::TicketPart;

    fn at(epoch: &str, sequence: u64) -> ResumePoint {
        ResumePoint { epoch: epoch.to_owned(), sequence, mark: 0 }
    }

    fn row(id: &str, sequence: u64) -> (TicketId, Arc<View>) {
        let ticket = Some(TicketPart {
            revision: 1,
            schedule_revision: 1,
            reservation_revision: 0,
            title: String::new(),
            start: chrono::DateTime::UNIX_EPOCH,
            end: chrono::DateTime::UNIX_EPOCH,
            withdrawn: false,
            holder: None,
            update_time: chrono::DateTime::UNIX_EPOCH,
        });
        (id.parse().expect("an id"), Arc::new(View { ticket, sequence, ..View::default() }))
    }

    fn shown(recent: &Recent, sequence: u64, watched: &Watched) -> Option<Vec<(String, u64)>> {
        let rows = recent.above(&at("one", sequence), watched, 10)?;
        Some(rows.into_iter().map(|(id, view)| (id.as_str().to_owned(), view.sequence)).collect())
    }

    fn begun(sequence: u64) -> Recent {
        let mut recent = Recent::default();
        recent.begin(at("one", sequence));
        recent
    }

    #[test]
    fn a_ticket_is_returned_once_with_its_newest_state() {
        let mut recent = begun(4);
        recent.add(&[row("a", 5), row("b", 6)]);
        recent.add(&[row("a", 7)]);
        let [a, b] = [("a".to_owned(), 7), ("b".to_owned(), 6)];
        assert_eq!(shown(&recent, 4, &Watched::All), Some(vec![b.clone(), a.clone()]));
        assert_eq!(shown(&recent, 6, &Watched::All), Some(vec![a.clone()]));
        assert_eq!(shown(&recent, 7, &Watched::All), Some(vec![]));
        let only_a = Watched::These(["a".parse().expect("an id")].into());
        assert_eq!(shown(&recent, 4, &only_a), Some(vec![a]));
        assert_eq!(recent.above(&at("one", 4), &Watched::All, 1).map(|rows| rows.len()), Some(1), "a page");
    }

    #[test]
    fn rows_of_which_only_the_store_has_all_are_not_returned() {
        let mut recent = Recent::default();
        recent.add(&[row("a", 1)]);
        assert_eq!(shown(&recent, 1, &Watched::All), None, "before the reader has attached");
        recent.begin(at("one", 4));
        assert_eq!(shown(&recent, 3, &Watched::All), None, "below the position of the reader");
        assert_eq!(recent.above(&at("two", 9), &Watched::All, 10), None, "another stream");
        assert_eq!(shown(&recent, 4, &Watched::All), Some(vec![]));
        recent.clear();
        assert_eq!(shown(&recent, 4, &Watched::All), None, "after an exchange of all rows");
    }

    #[test]
    fn the_oldest_rows_are_dropped() {
        let mut recent = begun(0);
        let rows: Vec<_> = (1..=CAPACITY as u64 + 2).map(|sequence| row(&format!("t{sequence}"), sequence)).collect();
        recent.add(&rows);
        assert_eq!(shown(&recent, 1, &Watched::All), None, "row 2 was dropped");
        let rows = recent.above(&at("one", 2), &Watched::All, usize::MAX).expect("all are here");
        assert_eq!(rows.len(), CAPACITY);
        assert_eq!(recent.0.expect("begun").sequences.len(), CAPACITY);
    }

    #[test]
    fn a_row_without_a_ticket_part_is_not_shown() {
        let mut recent = begun(0);
        recent.add(&[("a".parse().expect("an id"), Arc::new(View { sequence: 1, ..View::default() }))]);
        assert_eq!(shown(&recent, 0, &Watched::All), Some(vec![]));
    }
}

//! Outbox, records, parked messages and epoch of the in-memory store.

use std::{collections::BTreeSet, ops::Bound};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use uuid::Uuid;

use super::{Shared, State, Store, Tables};
use crate::{
    Claim, Error, OutboxStore, Parked, ParkedStore, Record, RecordStore, StoreLifecycle, StreamEpochStore, WaitingRow,
    Work,
};

impl<T> State<T> {
    pub(super) fn write_bookkeeping<R>(&mut self, work: &Work<R>, now: DateTime<Utc>) {
        for row in &work.outbox {
            self.outbox_ids += 1;
            self.outbox.insert(self.outbox_ids, row.clone());
        }
        for (id, record) in &work.new_records {
            self.records.insert(*id, (record.clone(), now));
        }
        work.unparked.iter().for_each(|event_id| drop(self.parked.remove(event_id)));
        for parked in work.parked.iter().filter(|parked| !self.discarded.contains(&parked.event_id)) {
            self.parked.insert(parked.event_id.clone(), parked.clone());
        }
    }
}

/// Subjects claimed by a relay, with their rows. Dropping it releases the subjects.
struct MemoryClaim<T: Tables> {
    store: Store<T>,
    owned: BTreeSet<String>,
    subjects: Vec<Vec<WaitingRow>>,
}

#[async_trait]
impl<T: Tables> Claim for MemoryClaim<T> {
    fn subjects(&mut self) -> Vec<Vec<WaitingRow>> {
        std::mem::take(&mut self.subjects)
    }

    async fn done(self: Box<Self>, published: &[i64]) -> Result<(), Error> {
        self.store.step("delete").await?;
        self.store.shared.state().outbox.retain(|id, _| !published.contains(id));
        Ok(())
    }
}

impl<T: Tables> Drop for MemoryClaim<T> {
    fn drop(&mut self) {
        self.store.shared.state().claimed.retain(|subject| !self.owned.contains(subject));
    }
}

impl<T> Shared<T> {
    /// Claims up to `most` unclaimed subjects; those that have waited longest come first.
    fn claim(&self, most: usize) -> (BTreeSet<String>, Vec<Vec<WaitingRow>>) {
        let mut state = self.state();
        let mut subjects: Vec<(&str, Vec<WaitingRow>)> = Vec::new();
        for (id, row) in &state.outbox {
            let subject = row.message.subject.as_str();
            let waiting = WaitingRow { id: *id, revision: row.revision, message: row.message.clone() };
            let full = subjects.len() == most;
            match subjects.iter_mut().find(|(known, _)| *known == subject) {
                Some((_, rows)) => rows.push(waiting),
                None if state.claimed.contains(subject) || full => {}
                None => subjects.push((subject, vec![waiting])),
            }
        }
        let owned: BTreeSet<String> = subjects.iter().map(|(subject, _)| (*subject).to_owned()).collect();
        let mut rows: Vec<Vec<WaitingRow>> = subjects.into_iter().map(|(_, rows)| rows).collect();
        rows.iter_mut().for_each(|rows| rows.sort_by_key(|row| (row.revision, row.id)));
        state.claimed.extend(owned.iter().cloned());
        (owned, rows)
    }
}

#[async_trait]
impl<T: Tables> StoreLifecycle for Store<T> {
    async fn ping(&self) -> Result<(), Error> {
        self.step("ping").await
    }

    async fn close(&self) {
        self.closed.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[async_trait]
impl<T: Tables> OutboxStore for Store<T> {
    async fn claim_outbox(&self, most: usize) -> Result<Box<dyn Claim>, Error> {
        self.step("claim").await?;
        let (owned, subjects) = self.shared.claim(most);
        Ok(Box::new(MemoryClaim { store: self.clone(), owned, subjects }))
    }

    async fn outbox_depth(&self) -> Result<i64, Error> {
        self.step("read").await?;
        Ok(i64::try_from(self.shared.state().outbox.len()).unwrap_or(i64::MAX))
    }

    // For metrics, which change nothing: not a step at which a simulation may stop a process.
    async fn oldest_waiting(&self) -> Result<Option<Message>, Error> {
        Ok(self.shared.state().outbox.first_key_value().map(|(_, row)| row.message.clone()))
    }
}

#[async_trait]
impl<T: Tables> StreamEpochStore for Store<T> {
    async fn stream_epoch(&self) -> Result<Option<String>, Error> {
        self.step("read").await?;
        Ok(self.shared.state().stream_epoch.clone())
    }

    async fn set_stream_epoch(&self, epoch: &str) -> Result<(), Error> {
        self.step("note the stream").await?;
        self.shared.state().stream_epoch = Some(epoch.to_owned());
        Ok(())
    }
}

#[async_trait]
impl<T: Tables> RecordStore for Store<T> {
    async fn record(&self, request_id: Uuid) -> Result<Option<Record>, Error> {
        Ok(self.look_with_record(Some(request_id), |_| ()).await?.0)
    }

    async fn purge_records(&self, before: DateTime<Utc>) -> Result<u64, Error> {
        self.step("purge").await?;
        let mut state = self.shared.state();
        let all = state.records.len();
        state.records.retain(|_, (_, made)| *made >= before);
        Ok((all - state.records.len()) as u64)
    }
}

impl<T: Tables> Store<T> {
    /// Returns the ids of the discarded events.
    ///
    /// # Errors
    /// Like [`Self::look`].
    pub async fn discarded(&self) -> Result<Vec<String>, Error> {
        self.step("read").await?;
        Ok(self.shared.state().discarded.iter().cloned().collect())
    }

    /// Remembers these events as discarded too, and deletes them from the parked ones.
    ///
    /// # Errors
    /// Like [`Self::look`].
    pub async fn keep_discarded(&self, event_ids: &[String]) -> Result<(), Error> {
        self.step("discard").await?;
        let mut state = self.shared.state();
        for event_id in event_ids {
            state.parked.remove(event_id);
            state.discarded.insert(event_id.clone());
        }
        Ok(())
    }
}

#[async_trait]
impl<T: Tables> ParkedStore for Store<T> {
    async fn parked(&self, after: &str, most: i64) -> Result<Vec<Parked>, Error> {
        self.step("read").await?;
        let state = self.shared.state();
        let above = state.parked.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        Ok(above.take(usize::try_from(most).unwrap_or(0)).map(|(_, parked)| parked.clone()).collect())
    }

    async fn parked_by_id(&self, event_id: &str) -> Result<Option<Parked>, Error> {
        self.step("read").await?;
        Ok(self.shared.state().parked.get(event_id).cloned())
    }

    async fn parked_count(&self) -> Result<i64, Error> {
        Ok(i64::try_from(self.shared.state().parked.len()).unwrap_or(i64::MAX))
    }

    async fn discard_parked(&self, event_id: &str) -> Result<bool, Error> {
        self.step("discard").await?;
        let mut state = self.shared.state();
        let was_there = state.parked.remove(event_id).is_some();
        if was_there {
            state.discarded.insert(event_id.to_owned());
        }
        Ok(was_there)
    }

    async fn is_discarded(&self, event_id: &str) -> Result<bool, Error> {
        self.step("read").await?;
        Ok(self.shared.state().discarded.contains(event_id))
    }
}

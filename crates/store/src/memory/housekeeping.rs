//! Outbox, records, parked messages and epoch of the in-memory store.

use std::{collections::BTreeSet, ops::Bound, sync::atomic::Ordering};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use eticket_bus::Message;
use uuid::Uuid;

use super::{State, Store, Tables};
use crate::{
    Claim, Error, OutboxRow, OutboxStore, Parked, ParkedStore, Record, RecordStore, Sent, StoreLifecycle,
    StreamEpochStore, WaitingRow, Work,
};

impl<T> State<T> {
    /// Returns the rows that were added to the outbox.
    pub(super) fn write_bookkeeping<R>(
        &mut self,
        work: &Work<R>,
        session: u64,
        first_id: i64,
        now: DateTime<Utc>,
    ) -> Vec<WaitingRow> {
        let mut added = Vec::with_capacity(work.outbox.len());
        for (id, row) in (first_id..).zip(&work.outbox) {
            self.outbox.insert(id, (session, row.clone()));
            added.push(waiting(id, row, false));
        }
        for (id, record) in &work.new_records {
            self.records.insert(*id, (record.clone(), now));
        }
        work.unparked.iter().for_each(|event_id| drop(self.parked.remove(event_id)));
        for parked in work.parked.iter().filter(|parked| !self.discarded.contains(&parked.event_id)) {
            self.parked.insert(parked.event_id.clone(), parked.clone());
        }
        added
    }

    /// Draws consecutive ids of outbox rows; returns the first.
    pub(super) fn draw_ids(&mut self, count: i64) -> i64 {
        let first = self.outbox_ids + 1;
        self.outbox_ids += count;
        first
    }

    /// Gives up to `page` rows of ended sessions to this one.
    fn adopt(&mut self, session: u64, page: usize) -> Vec<WaitingRow> {
        let writers: BTreeSet<u64> = self.outbox.values().map(|(writer, _)| *writer).collect();
        let ended: BTreeSet<u64> = writers.into_iter().filter(|writer| !self.lives(*writer)).collect();
        let rows = self.outbox.iter_mut().filter(|(_, (writer, _))| ended.contains(writer));
        let adopted = rows.take(page).map(|(id, (writer, row))| {
            *writer = session;
            waiting(*id, row, true)
        });
        adopted.collect()
    }

    fn rows_of(&self, session: u64, above: i64, page: usize) -> Vec<WaitingRow> {
        let above = self.outbox.range((Bound::Excluded(above), Bound::Unbounded));
        let own = above.filter(|(_, (writer, _))| *writer == session);
        own.take(page).map(|(id, (_, row))| waiting(*id, row, true)).collect()
    }
}

impl<T: Tables> Store<T> {
    /// Returns the rows of this process that are not on the stream.
    fn waiting_rows<'a>(&self, state: &'a State<T>) -> impl Iterator<Item = &'a OutboxRow> {
        let session = self.session.load(Ordering::Relaxed);
        let own = state.outbox.iter().filter(move |(_, (writer, _))| *writer == session);
        let handover = self.handover.clone();
        own.filter(move |(id, _)| !handover.is_sent(**id)).map(|(_, (_, row))| row)
    }
}

fn waiting(id: i64, row: &OutboxRow, was_read: bool) -> WaitingRow {
    WaitingRow { id, revision: row.revision, message: row.message.clone(), was_read }
}

#[async_trait]
impl<T: Tables> StoreLifecycle for Store<T> {
    async fn ping(&self) -> Result<(), Error> {
        self.step("ping").await
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl<T: Tables> OutboxStore for Store<T> {
    async fn claim_outbox(&self, most: usize) -> Result<Claim, Error> {
        self.step("claim").await?;
        let session = self.session.load(Ordering::Relaxed);
        while let Some(above) = self.handover.begin_read() {
            let own = self.shared.state().rows_of(session, above, self.handover.limits.page);
            self.handover.end_read(own);
        }
        if self.handover.may_adopt() {
            let adopted = self.shared.state().adopt(session, self.handover.limits.page);
            self.handover.adopt(adopted);
        }
        Ok(self.handover.claim(most))
    }

    async fn delete_sent(&self, mut sent: Sent) -> Result<Vec<i64>, Error> {
        self.step("delete").await?;
        let ids = sent.ids();
        let mut state = self.shared.state();
        ids.iter().for_each(|id| drop(state.outbox.remove(id)));
        sent.deleted(ids);
        Ok(Vec::new())
    }

    async fn outbox_depth(&self) -> Result<i64, Error> {
        self.step("read").await?;
        let state = self.shared.state();
        let own = self.waiting_rows(&state).count();
        Ok(i64::try_from(own).unwrap_or(i64::MAX))
    }

    // For metrics, which change nothing: not a step at which a simulation may stop a process.
    async fn oldest_waiting(&self) -> Result<Option<Message>, Error> {
        Ok(self.waiting_rows(&self.shared.state()).next().map(|row| row.message.clone()))
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

//! A stream of changed rows, with tokens from which a client can resume on any replica.
//!
//! No changes are queued for a watcher. It stores the sequence up to which it has sent rows, and reads the rows above
//! it from the newest ones in memory, or from the store if it has fallen behind those. A slow client receives the newest
//! state of each row; nothing is buffered for it. Sequences are those of the stream, so a token is valid on every replica
//! that reads the same stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use eticket_bus as bus;
use eticket_proto::ids::TicketId;
use eticket_store as store;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Position, StreamRows, ViewStore, Views, Watched,
    changes::{Changes, Registration, StreamInfo},
    ordered_watch::Listener,
    reader::{fingerprint, mark},
};
use crate::domain::View;

/// Number of rows that are read at a time.
const PAGE: u16 = 256;

/// Interval at which a watch without changes sends its token alone. Proxies close connections that are idle for longer,
/// and gRPC-Web has no pings.
pub const HEARTBEAT: Duration = Duration::from_secs(20);

/// A position in a stream from which a watcher resumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    pub epoch: String,
    pub sequence: u64,
    /// Identifies the message at the sequence; 0 if it is not known.
    pub mark: u32,
}

/// One message to a watcher.
#[derive(Debug, PartialEq, Eq)]
pub struct Sent {
    pub row: Option<(TicketId, Arc<View>)>,
    /// A message without a row has only this: the snapshot was empty, or nothing has changed for [`HEARTBEAT`]. `None`
    /// within a snapshot: an interrupted snapshot is taken again from the start.
    pub resume: Option<ResumePoint>,
}

/// Why a watch ends.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("the service is shutting down; resume with the last token")]
    ShuttingDown,
    #[error("the stream of events was replaced; resume with the last token")]
    StreamChanged,
    #[error("too many concurrent watches")]
    TooMany,
    #[error("the bus does not respond, so the resume_token cannot be checked: {0}")]
    Bus(#[source] bus::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

enum Phase {
    /// The rows with ids above `after` are still to be sent. The row before them is held back until it is known whether
    /// it is the last one, because the last row carries the token.
    Snapshot {
        after: String,
        held: Option<Box<(TicketId, View)>>,
    },
    Live,
}

/// A running watch.
pub struct Watch {
    store: Arc<dyn ViewStore>,
    changes: Changes,
    watched: Watched,
    at: ResumePoint,
    phase: Phase,
    ready: VecDeque<Sent>,
    stream_info: Listener<StreamInfo>,
    repairs: u64,
    forks: u64,
    wakeup: Wakeup,
    draining: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

/// The notification that a watched row may have changed.
enum Wakeup {
    Commits(Listener<u64>),
    Tickets { wake: Arc<Notify>, _registration: Registration },
}

impl Views {
    /// Starts a watch: from `resume` if it is a position in the stream that the rows reflect, otherwise with a
    /// snapshot. A position beyond the end of the stream is not valid. If no stream is known yet, this waits for one.
    ///
    /// # Errors
    /// See [`WatchError`].
    pub async fn watch(
        &self,
        watched: Watched,
        resume: Option<ResumePoint>,
        draining: CancellationToken,
    ) -> Result<Watch, WatchError> {
        let permit = self.watches.clone().try_acquire_owned().map_err(|_| WatchError::TooMany)?;
        // Register before the first read, so that no change is missed.
        let wakeup = match &watched {
            Watched::All => Wakeup::Commits(self.changes.commits()),
            Watched::These(tickets) => {
                let wake = Arc::new(Notify::new());
                let registration = self.changes.wake(tickets.iter().cloned(), &wake);
                Wakeup::Tickets { wake, _registration: registration }
            }
        };
        let mut stream_info = self.changes.stream_info();
        let mut known = stream_info.latest();
        while known.epoch.is_none() {
            known = tokio::select! {
                biased;
                () = draining.cancelled() => return Err(WatchError::ShuttingDown),
                known = stream_info.changed() => known,
            };
        }
        let StreamInfo { repairs, forks, .. } = known;
        let position = self.store.position().await?.ok_or(WatchError::StreamChanged)?;
        let (at, phase) = match resume {
            Some(resume) if self.is_place(&resume, &position).await? => (resume, Phase::Live),
            // Read the position before the first row: changes during the snapshot have higher sequences.
            _ => {
                let mark = position.mark();
                let at = ResumePoint { epoch: position.epoch, sequence: position.sequence, mark };
                (at, Phase::Snapshot { after: String::new(), held: None })
            }
        };
        let (store, changes, ready) = (self.store.clone(), self.changes.clone(), VecDeque::new());
        Ok(Watch {
            store,
            changes,
            watched,
            at,
            phase,
            ready,
            stream_info,
            repairs,
            forks,
            wakeup,
            draining,
            _permit: permit,
        })
    }

    /// Returns whether a token is a position in the stream that the rows reflect. A replica that lags has not read up
    /// to it yet, and the stream may have assigned the sequence again, so only the stream itself can show whether the
    /// position exists.
    async fn is_place(&self, resume: &ResumePoint, position: &Position) -> Result<bool, WatchError> {
        if resume.epoch != position.epoch {
            return Ok(false);
        }
        if resume.sequence == position.sequence && resume.mark == position.mark() {
            return Ok(true);
        }
        match self.is_in_stream(resume).await {
            // Without the bus the rows do not change, so a position that they have passed is as good as before.
            Err(_) if resume.sequence <= position.sequence => Ok(true),
            outcome => outcome.map_err(WatchError::Bus),
        }
    }

    async fn is_in_stream(&self, resume: &ResumePoint) -> Result<bool, bus::Error> {
        let stream = self.bus.state().await?;
        if stream.epoch != resume.epoch || resume.sequence > stream.last_sequence {
            return Ok(false);
        }
        if resume.mark == 0 {
            return Ok(true);
        }
        // If newer messages of its subject have displaced it, nothing shows that it was there.
        let message = self.bus.message_at(resume.sequence).await?;
        Ok(message.is_some_and(|message| mark(&fingerprint(&message, resume.sequence)) == resume.mark))
    }
}

impl Watch {
    /// Waits for the next message, at most for [`HEARTBEAT`]; then the token is sent alone. It is cancel safe: no
    /// change is lost.
    ///
    /// # Errors
    /// The reason why the watch ends. A client can resume with its last token.
    pub async fn next(&mut self) -> Result<Sent, WatchError> {
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            if let Some(sent) = self.next_now().await? {
                return Ok(sent);
            }
            tokio::select! {
                biased;
                () = sleep_until(heartbeat) => return Ok(Sent { row: None, resume: Some(self.at.clone()) }),
                rung = self.wait() => rung?,
            }
        }
    }

    /// Returns the next message if it is already available.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_now(&mut self) -> Result<Option<Sent>, WatchError> {
        loop {
            if self.draining.is_cancelled() {
                return Err(WatchError::ShuttingDown);
            }
            if let Some(sent) = self.ready.pop_front() {
                return Ok(Some(sent));
            }
            self.check_epoch()?;
            match &self.phase {
                Phase::Snapshot { after, .. } => {
                    let page = self.store.snapshot(&self.watched, after, PAGE.into()).await?;
                    self.same_stream(&page)?;
                    self.take_snapshot(page);
                }
                Phase::Live => {
                    let rows = self.changed_rows().await?;
                    if rows.is_empty() {
                        return Ok(None);
                    }
                    self.take_changes(rows);
                }
            }
        }
    }

    fn take_snapshot(&mut self, page: StreamRows) {
        let Phase::Snapshot { after, held } = &mut self.phase else { return };
        if let Some((id, _)) = page.rows.last() {
            id.as_str().clone_into(after);
            for row in page.rows {
                let before = held.replace(Box::new(row));
                self.ready.extend(before.map(|row| Sent { row: Some(shared(*row)), resume: None }));
            }
            return;
        }
        self.ready.push_back(Sent { row: held.take().map(|row| shared(*row)), resume: Some(self.at.clone()) });
        self.phase = Phase::Live;
    }

    /// Returns the next page of changed rows.
    async fn changed_rows(&self) -> Result<Vec<(TicketId, Arc<View>)>, WatchError> {
        if let Some(rows) = self.changes.rows_above(&self.at, &self.watched, PAGE.into()) {
            return Ok(rows);
        }
        let page = self.store.changed_above(&self.watched, self.at.sequence, PAGE.into()).await?;
        self.same_stream(&page)?;
        Ok(page.rows.into_iter().map(shared).collect())
    }

    fn take_changes(&mut self, rows: Vec<(TicketId, Arc<View>)>) {
        for (id, view) in rows {
            (self.at.sequence, self.at.mark) = (view.sequence, view.mark);
            self.ready.push_back(Sent { row: Some((id, view)), resume: Some(self.at.clone()) });
        }
    }

    fn same_stream(&self, page: &StreamRows) -> Result<(), WatchError> {
        match &page.epoch {
            Some(epoch) if *epoch != self.at.epoch => Err(WatchError::StreamChanged),
            _ => Ok(()),
        }
    }

    /// Ends the watch if the rows now belong to another stream. If a row was repaired, moves back to the sequence of
    /// the repair.
    fn check_epoch(&mut self) -> Result<(), WatchError> {
        let stream_info = self.stream_info.latest();
        if stream_info.epoch.as_ref() != Some(&self.at.epoch) || stream_info.forks != self.forks {
            return Err(WatchError::StreamChanged);
        }
        if stream_info.repairs != self.repairs {
            self.repairs = stream_info.repairs;
            let before_the_repair = stream_info.repaired_at.saturating_sub(1);
            if before_the_repair < self.at.sequence {
                (self.at.sequence, self.at.mark) = (before_the_repair, 0);
            }
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), WatchError> {
        let rung = async {
            match &mut self.wakeup {
                Wakeup::Commits(commits) => drop(commits.changed().await),
                Wakeup::Tickets { wake, .. } => wake.notified().await,
            }
        };
        tokio::select! {
            biased;
            () = self.draining.cancelled() => Err(WatchError::ShuttingDown),
            _ = self.stream_info.changed() => Ok(()),
            () = rung => Ok(()),
        }
    }
}

fn shared((id, view): (TicketId, View)) -> (TicketId, Arc<View>) {
    (id, Arc::new(view))
}

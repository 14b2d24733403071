//! Builds new rows beside the old ones. The old rows serve until the new ones have caught up.
//!
//! The reader of the old rows is stopped for the last part, so that no client sees an older row after the exchange.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eticket_base::tasks::Tasks;
use eticket_bus as bus;
use eticket_rpc_server::health::Health;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, watch},
    time::timeout,
};

use super::{
    ViewStore,
    changes::Changes,
    completeness::Completeness,
    reader::{Error, Reader, Session},
};

/// Time without a message, although the stream holds more, after which the rebuild fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time without a message after which the rebuild checks whether the stream has ended.
const SOON: Duration = Duration::from_secs(1);

/// Progress of a rebuild, in sequences of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    Reading {
        applied: u64,
        total: u64,
    },
    Done {
        applied: u64,
    },
    /// The rebuild failed; the old rows continue to serve.
    Failed {
        /// The bus failed, not the store of the rows.
        by_bus: bool,
        reason: String,
    },
}

/// Rebuilds the view. Only one rebuild runs at a time.
#[derive(Clone)]
pub struct Rebuild {
    reader: Reader,
    tasks: Tasks,
    completeness: Option<Completeness>,
    running: Arc<Mutex<Option<watch::Receiver<Progress>>>>,
}

impl Rebuild {
    /// `reader` is the reader whose rows are exchanged.
    pub fn new(reader: Reader, tasks: Tasks) -> Self {
        Self { reader, tasks, completeness: None, running: Arc::default() }
    }

    /// Exchanges the rows only after the new ones hold all states of the owners.
    #[must_use]
    pub fn checked_by(self, completeness: Completeness) -> Self {
        Self { completeness: Some(completeness), ..self }
    }

    /// Starts a rebuild, or joins the running one. It continues if the caller is cancelled.
    pub fn start(&self) -> watch::Receiver<Progress> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = running.as_ref().filter(|progress| progress.has_changed().is_ok()) {
            return progress.clone();
        }
        let (sender, progress) = watch::channel(Progress::Reading { applied: 0, total: 0 });
        *running = Some(progress.clone());
        let (rebuild, stopping) = (self.clone(), self.tasks.stopping());
        rebuild.reader.changes.set_rebuilding(true);
        self.tasks.spawn("rebuild", async move {
            let outcome = stopping.run_until_cancelled(rebuild.run(&sender)).await;
            rebuild.reader.changes.set_rebuilding(false);
            sender.send_replace(match outcome {
                Some(Ok(applied)) => Progress::Done { applied },
                Some(Err(error)) => {
                    tracing::warn!(%error, "rebuilding the view failed");
                    Progress::Failed { by_bus: !matches!(error, Error::Store(_)), reason: error.to_string() }
                }
                None => Progress::Failed { by_bus: false, reason: "the service is shutting down".to_owned() },
            });
        });
        progress
    }

    async fn keep_discarded(&self, beside: &dyn ViewStore) -> Result<(), Error> {
        match self.reader.store.discarded().await {
            Ok(discarded) => Ok(beside.keep_discarded(&discarded).await?),
            Err(error) => {
                // A view that cannot be read must still be rebuilt.
                tracing::warn!(%error, "discarded events may be parked again");
                Ok(())
            }
        }
    }

    async fn run(&self, progress: &watch::Sender<Progress>) -> Result<u64, Error> {
        let beside = self.reader.store.beside().await?;
        self.keep_discarded(&*beside).await?;
        // No call waits for these rows yet, and the health must still reflect the old ones.
        let reader = Reader {
            store: beside.clone(),
            changes: Changes::default(),
            health: Health::new(Vec::<String>::new()),
            turn: Arc::new(AsyncMutex::new(())),
            reattach: Arc::new(Notify::new()),
            reached_end: None,
            ..self.reader.clone()
        };
        let mut session = reader.attach().await?;
        let (_, total) = session.progress();
        let tell = |session: &Session<'_>| {
            let (applied, _) = session.progress();
            progress.send_replace(Progress::Reading { applied, total: total.max(applied) });
        };
        read_until(&mut session, total, &tell).await?;
        if let Some(completeness) = &self.completeness {
            read_until_complete(&mut session, completeness, &beside, &tell).await?;
        }
        let _turn = self.reader.turn.lock().await;
        if let Some(old) = self.reader.store.position().await? {
            if session.position().epoch != old.epoch {
                return Err(bus::Error::StreamChanged.into());
            }
            read_until(&mut session, old.sequence, &tell).await?;
        }
        let (applied, _) = session.progress();
        drop(session);
        // The session has done so only if it has read all messages that the stream had when it was attached.
        reader.complete().await?;
        // Copy them again, since more events may have been discarded during the rebuild.
        self.keep_discarded(&*beside).await?;
        self.reader.store.exchange(beside).await?;
        self.reader.changes.exchanged();
        self.reader.reattach.notify_one();
        tracing::info!(applied, "rebuilt the view");
        Ok(applied)
    }
}

async fn read_until(session: &mut Session<'_>, until: u64, tell: &impl Fn(&Session<'_>)) -> Result<(), Error> {
    while session.progress().0 < until {
        let batch = match timeout(SOON, session.next()).await {
            Ok(batch) => batch?,
            // The messages up to that sequence may have been purged or deleted.
            Err(_) if session.is_at_end().await? => return Ok(()),
            Err(_) => {
                let stalled = Error::Stalled { read: session.progress().0, last: until };
                timeout(PATIENCE, session.next()).await.map_err(|_| stalled)??
            }
        };
        session.apply(batch).await?;
        tell(session);
    }
    Ok(())
}

/// Reads while the completeness is checked: the owners republish missing states, which must be read from the stream.
async fn read_until_complete(
    session: &mut Session<'_>,
    completeness: &Completeness,
    beside: &Arc<dyn ViewStore>,
    tell: &impl Fn(&Session<'_>),
) -> Result<(), Error> {
    let mut complete = std::pin::pin!(completeness.reached(beside));
    loop {
        let batch = tokio::select! {
            biased;
            () = &mut complete => return Ok(()),
            batch = session.next() => batch?,
        };
        session.apply(batch).await?;
        tell(session);
    }
}

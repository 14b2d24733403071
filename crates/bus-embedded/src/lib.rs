//! The embedded bus: a SQLite file, for all services in one process.
//!
//! Publishing uses group commit: one writer appends all waiting messages and syncs once. The newest messages are also
//! kept in memory, so that consumers that keep up do not read the file. The position of a consumer is written with the
//! next batch or within a second. If a crash loses it, messages are delivered again, which receivers must tolerate
//! anyway.

#![warn(missing_docs)]

mod consumer;
mod log;

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use eticket_base::{error::chain, tasks::Tasks};
use eticket_bus::{
    Bus, Consumer, Delivery, Error, History, Message, Reader, Requests, StreamState, local::Switchboard, matches,
};
use eticket_store as store;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::log::inspect;
use self::{consumer::EmbeddedConsumer, consumer::Progress, log::Log};

/// Number of newest messages kept in memory.
const TAIL: usize = 4096;
/// Maximum number of messages per read of the file.
const PAGE: usize = 512;
/// Maximum number of messages per transaction, and capacity of the queue to the writer.
const BATCH: usize = 512;
const QUEUE: usize = 4096;

/// A message of the stream with its sequence.
#[derive(Debug, Clone)]
struct Stored {
    sequence: u64,
    message: Arc<Message>,
}

/// The newest messages: all messages of the stream from the sequence `from` on.
struct Tail {
    from: u64,
    messages: BTreeMap<u64, Arc<Message>>,
}

struct Publish {
    message: Message,
    reply: oneshot::Sender<Result<u64, Error>>,
}

enum Request {
    Publish(Publish),
    /// Writes the positions to the file now.
    WritePositions(oneshot::Sender<Result<(), Error>>),
}

struct Shared {
    epoch: String,
    log: Log,
    tail: Mutex<Tail>,
    /// The newest sequence; consumers and readers wait for changes.
    last_sequence: watch::Sender<u64>,
    consumers: Mutex<HashMap<String, Arc<Mutex<Progress>>>>,
    switchboard: Switchboard,
}

/// The embedded bus.
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    tasks: Tasks,
}

impl Embedded {
    /// Opens the file. Creates it, with a new epoch, if it does not exist.
    ///
    /// # Errors
    /// `Unavailable` if the file cannot be opened, created or written.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        let (log, contents) = Log::open(path).await.map_err(unavailable)?;
        let consumers = contents.positions.into_iter().map(|position| {
            (position.name.clone(), Arc::new(Mutex::new(Progress::new(position.filters, position.floor))))
        });
        let shared = Arc::new(Shared {
            epoch: contents.epoch,
            log,
            tail: Mutex::new(Tail { from: contents.last_sequence + 1, messages: BTreeMap::new() }),
            last_sequence: watch::Sender::new(contents.last_sequence),
            consumers: Mutex::new(consumers.collect()),
            switchboard: Switchboard::default(),
        });
        let tasks = Tasks::new();
        let (requests, waiting) = mpsc::channel(QUEUE);
        tasks.spawn("bus-writer", write(shared.clone(), waiting, tasks.stopping()));
        Ok(Self { shared, requests, tasks })
    }

    async fn write_positions(&self) -> Result<(), Error> {
        let (reply, written) = oneshot::channel();
        self.requests.send(Request::WritePositions(reply)).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())?
    }
}

fn unavailable(error: store::Error) -> Error {
    // Without the words of a store.
    Error::Unavailable(std::error::Error::source(&error).map_or_else(|| error.to_string(), chain))
}

fn closed() -> Error {
    Error::Unavailable("it is closed".into())
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every change is one step, so a panic elsewhere leaves no partial change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Returns up to one page of messages after the sequence `after`, in order.
    async fn messages_after(&self, after: u64) -> Result<Vec<Stored>, Error> {
        if after >= *self.last_sequence.borrow() {
            return Ok(Vec::new());
        }
        {
            let tail = locked(&self.tail);
            if tail.from <= after + 1 {
                let page = tail.messages.range(after + 1..).take(PAGE);
                return Ok(page
                    .map(|(sequence, message)| Stored { sequence: *sequence, message: message.clone() })
                    .collect());
            }
        }
        self.log.after(after, PAGE).await.map_err(unavailable)
    }

    /// Counts the messages after the sequence `after` that match one of the filters.
    async fn count_after(&self, filters: &[String], after: u64) -> Result<u64, Error> {
        if after >= *self.last_sequence.borrow() {
            return Ok(0);
        }
        {
            let tail = locked(&self.tail);
            if tail.from <= after + 1 {
                let wanted = |message: &Message| filters.iter().any(|filter| matches(filter, &message.subject));
                let count = tail.messages.range(after + 1..).filter(|(_, message)| wanted(message)).count();
                return Ok(u64::try_from(count).unwrap_or(u64::MAX));
            }
        }
        self.log.count_after(filters, after).await.map_err(unavailable)
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Arc<Message>>, Error> {
        let in_tail = locked(&self.tail).messages.get(&sequence).cloned();
        match in_tail {
            Some(message) => Ok(Some(message)),
            None => self.log.at(sequence).await.map_err(unavailable),
        }
    }

    /// Appends a batch. Readers see it only after it is durable.
    async fn append(&self, batch: Vec<Publish>) {
        let mut sequence = *self.last_sequence.borrow();
        let (mut stored, mut replies) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for Publish { message, reply } in batch {
            sequence += 1;
            stored.push(Stored { sequence, message: Arc::new(message) });
            replies.push((sequence, reply));
        }
        let outcome = self.write_batch(stored.clone(), self.unwritten_positions()).await;
        if let Ok(trimmed) = &outcome {
            let mut tail = locked(&self.tail);
            tail.messages.extend(stored.into_iter().map(|stored| (stored.sequence, stored.message)));
            for sequence in trimmed {
                tail.messages.remove(sequence);
            }
            while tail.messages.len() > TAIL
                && let Some((oldest, _)) = tail.messages.pop_first()
            {
                tail.from = oldest + 1;
            }
            drop(tail);
            self.last_sequence.send_replace(sequence);
        }
        for (sequence, reply) in replies {
            // The publisher may have stopped waiting.
            let _ = reply.send(outcome.as_ref().map(|_| sequence).map_err(Error::clone));
        }
    }

    /// Writes messages and positions. Positions that cannot be written are written later.
    async fn write_batch(&self, messages: Vec<Stored>, positions: Vec<log::Position>) -> Result<Vec<u64>, Error> {
        let names: Vec<String> = positions.iter().map(|position| position.name.clone()).collect();
        let outcome = self.log.append(messages, positions).await.map_err(unavailable);
        if outcome.is_err() {
            let consumers = locked(&self.consumers);
            for progress in names.iter().filter_map(|name| consumers.get(name)) {
                locked(progress).mark_unwritten();
            }
        }
        outcome
    }

    /// Returns the positions that are not in the file yet.
    fn unwritten_positions(&self) -> Vec<log::Position> {
        let consumers = locked(&self.consumers);
        consumers.iter().filter_map(|(name, progress)| locked(progress).take_unwritten(name)).collect()
    }
}

async fn write(
    shared: Arc<Shared>,
    mut waiting: mpsc::Receiver<Request>,
    stopping: tokio_util::sync::CancellationToken,
) {
    let mut every_second = tokio::time::interval(std::time::Duration::from_secs(1));
    loop {
        let mut requests = Vec::new();
        tokio::select! {
            biased;
            count = waiting.recv_many(&mut requests, BATCH) => if count == 0 { break },
            _ = every_second.tick() => write_positions(&shared, Vec::new()).await,
            () = stopping.cancelled() => waiting.close(),
        }
        let (mut batch, mut position_replies) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Publish(publish) => batch.push(publish),
                Request::WritePositions(reply) => position_replies.push(reply),
            }
        }
        if !batch.is_empty() {
            shared.append(batch).await;
        }
        if !position_replies.is_empty() {
            write_positions(&shared, position_replies).await;
        }
    }
    write_positions(&shared, Vec::new()).await;
    shared.log.close().await;
}

async fn write_positions(shared: &Shared, replies: Vec<oneshot::Sender<Result<(), Error>>>) {
    let positions = shared.unwritten_positions();
    let outcome = match positions[..] {
        [] => Ok(()),
        [_, ..] => shared.write_batch(Vec::new(), positions).await.map(drop),
    };
    if let Err(error) = &outcome {
        tracing::warn!(%error, "cannot write the positions of consumers to the bus file");
    }
    for reply in replies {
        let _ = reply.send(outcome.clone());
    }
}

#[async_trait]
impl Bus for Embedded {
    async fn state(&self) -> Result<StreamState, Error> {
        Ok(StreamState { epoch: self.shared.epoch.clone(), last_sequence: *self.shared.last_sequence.borrow() })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        let (reply, sequence) = oneshot::channel();
        self.requests.send(Request::Publish(Publish { message, reply })).await.map_err(|_| closed())?;
        sequence.await.map_err(|_| closed())?
    }

    async fn attach(&self, name: &str, filters: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let progress = locked(&self.shared.consumers)
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Mutex::new(Progress::new(filters.clone(), 0))))
            .clone();
        // New filters may match messages below the position, so the consumer starts again.
        locked(&progress).set_filters(filters);
        self.write_positions().await?;
        Ok(Box::new(EmbeddedConsumer::new(self.shared.clone(), progress)))
    }

    async fn restart(&self, name: &str) -> Result<(), Error> {
        if let Some(progress) = locked(&self.shared.consumers).get(name) {
            locked(progress).restart();
        }
        // Wakes consumers that wait for a new message: old messages are due again.
        self.shared.last_sequence.send_modify(|_| ());
        self.write_positions().await
    }

    async fn lag(&self, name: &str) -> Result<Option<u64>, Error> {
        let Some(progress) = locked(&self.shared.consumers).get(name).cloned() else { return Ok(None) };
        let (filters, cursor, delivered) = locked(&progress).unfinished();
        Ok(Some(delivered + self.shared.count_after(&filters, cursor).await?))
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        let changes = self.shared.last_sequence.subscribe();
        Ok(Box::new(EmbeddedReader { shared: self.shared.clone(), position: after, changes }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        Ok(self.shared.message_at(sequence).await?.map(|message| (*message).clone()))
    }

    async fn history(&self, filters: &[&str], before: Option<u64>, most: usize) -> Result<History, Error> {
        // A message that is not visible to readers yet is not part of the past.
        let before = before.unwrap_or(u64::MAX).min(*self.shared.last_sequence.borrow() + 1);
        let messages = self.shared.log.history(filters, before, most).await.map_err(unavailable)?;
        let delivery = |stored: Stored| Delivery { sequence: stored.sequence, attempts: 1, message: stored.message };
        Ok(History { epoch: self.shared.epoch.clone(), messages: messages.into_iter().map(delivery).collect() })
    }

    async fn serve(&self, service: &str) -> Result<Box<dyn Requests>, Error> {
        Ok(self.shared.switchboard.serve(service))
    }

    async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        self.shared.switchboard.request(service, payload).await
    }

    async fn close(&self) {
        self.tasks.stop().await;
    }
}

struct EmbeddedReader {
    shared: Arc<Shared>,
    position: u64,
    changes: watch::Receiver<u64>,
}

#[async_trait]
impl Reader for EmbeddedReader {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            self.changes.borrow_and_update();
            let mut page = self.shared.messages_after(self.position).await?;
            page.truncate(most);
            if let Some(last) = page.last() {
                self.position = last.sequence;
                let delivery =
                    |stored: Stored| Delivery { sequence: stored.sequence, attempts: 1, message: stored.message };
                return Ok(page.into_iter().map(delivery).collect());
            }
            self.changes.changed().await.map_err(|_| closed())?;
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.shared.messages_after(self.position).await?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use eticket_bus::contract;
    use eticket_store::sqlite::migrate;
    use sqlx::{
        SqlSafeStr,
        migrate::{Migration, MigrationType, Migrator},
        sqlite::SqliteConnectOptions,
    };

    use super::*;

    #[tokio::test]
    async fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.db");
        contract::suite(async || Arc::new(Embedded::open(&path).await.unwrap()) as Arc<dyn Bus>).await;
    }

    #[tokio::test]
    async fn after_a_deletion_of_the_file_the_stream_has_another_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.db");
        let first = Embedded::open(&path).await.unwrap();
        let epoch = first.state().await.unwrap().epoch;
        first.close().await;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
        let second = Embedded::open(&path).await.unwrap();
        assert_ne!(second.state().await.unwrap().epoch, epoch);
    }

    #[tokio::test]
    async fn a_file_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.db");
        let first = Embedded::open(&path).await.unwrap();
        let Err(Error::Unavailable(refused)) = Embedded::open(&path).await else {
            panic!("two writers would give two messages one sequence")
        };
        assert!(refused.contains("in use by another process"), "{refused}");
        first.publish(Message { subject: "a.1".to_owned(), ..Message::default() }).await.expect("it works on");
        first.close().await;
        let second = Embedded::open(&path).await.expect("it is free again");
        assert_eq!(second.state().await.unwrap().last_sequence, 1);
    }

    #[tokio::test]
    async fn an_older_program_continues_a_file_that_a_newer_one_has_migrated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.db");
        let message = || Message { subject: "a.1".to_owned(), ..Message::default() };
        let bus = Embedded::open(&path).await.unwrap();
        let epoch = bus.state().await.unwrap().epoch;
        bus.publish(message()).await.unwrap();
        bus.close().await;
        let columns = "alter table message add column more text; alter table position add column more text;
            alter table stream add column more text";
        let newer = Migration::new(2, "of a test".into(), MigrationType::Simple, columns.into_sql_str(), false);
        let newer = Migrator::with_migrations(log::MIGRATIONS.iter().cloned().chain([newer]).collect());
        migrate(SqliteConnectOptions::new().filename(&path), &newer).await.unwrap();

        let bus = Embedded::open(&path).await.unwrap();
        assert_eq!(bus.state().await.unwrap().epoch, epoch);
        let mut consumer = bus.attach("reader", &["a.>"]).await.unwrap();
        assert_eq!(bus.publish(message()).await.unwrap(), 2);
        assert_eq!(consumer.next(10).await.unwrap().len(), 2);
        consumer.ack(&[1, 2]).await.unwrap();
        bus.close().await;
    }

    #[tokio::test]
    async fn after_a_full_disk_the_bus_continues_at_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bus.db");
        let message = |length: usize| Message {
            subject: format!("a.{length}"),
            body: vec![0; length].into(),
            ..Message::default()
        };
        let bus = Embedded::open(&path).await.unwrap();
        let mut consumer = bus.attach("reader", &["a.>"]).await.unwrap();
        assert_eq!(bus.publish(message(1)).await.unwrap(), 1);
        assert_eq!(consumer.next(10).await.unwrap().len(), 1);
        bus.shared.log.set_full(true).await;
        consumer.ack(&[1]).await.unwrap();
        assert!(matches!(bus.publish(message(1_000_000)).await, Err(Error::Unavailable(_))));
        bus.shared.log.set_full(false).await;
        assert_eq!(bus.state().await.unwrap().last_sequence, 1);
        assert_eq!(bus.publish(message(2)).await.unwrap(), 2);
        bus.close().await;

        let bus = Embedded::open(&path).await.unwrap();
        let mut consumer = bus.attach("reader", &["a.>"]).await.unwrap();
        let deliveries = consumer.next(10).await.unwrap();
        let sequences: Vec<u64> = deliveries.iter().map(|delivery| delivery.sequence).collect();
        assert_eq!(sequences, [2], "the position that could not be written at first was written later");
    }

    #[tokio::test]
    async fn messages_no_longer_in_memory_are_read_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Arc::new(Embedded::open(&folder.path().join("bus.db")).await.unwrap());
        let count = u64::try_from(TAIL + 100).unwrap();
        let publish = |number: u64| {
            let bus = bus.clone();
            async move { bus.publish(Message { subject: format!("a.{number}"), ..Message::default() }).await.unwrap() }
        };
        futures::future::join_all((1..=count).map(publish)).await;
        assert!(locked(&bus.shared.tail).from > 1);
        let filters = ["a.*", "b.>", "a.7.*", "a.7"];
        for (filter, expected) in filters.into_iter().zip([count, 0, 0, 1]) {
            let _consumer = bus.attach(filter, &[filter]).await.unwrap();
            assert_eq!(bus.lag(filter).await.unwrap(), Some(expected), "{filter}");
        }
        let mut reader = bus.read(0).await.unwrap();
        let mut read = 0;
        while read < count {
            for delivery in reader.next(100).await.unwrap() {
                read += 1;
                assert_eq!(delivery.sequence, read);
            }
        }
    }
}

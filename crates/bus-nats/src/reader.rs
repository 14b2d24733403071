//! An ordered reader of the whole stream, with an ephemeral consumer of its own.
//!
//! Any failure ends the reader: the caller keeps the position, and continues there with a new reader.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use eticket_base::tasks::Tasks;
use eticket_bus::{Delivery, Error, Reader};
use futures::FutureExt;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::{
    durable::{self, Progress},
    message::delivery_of,
    pull::{AGAIN, Event, Pull},
    stream::{Stream, StreamInfo},
};

/// The server deletes the consumer of a reader that has sent no request for this time.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(300);

/// An ordered reader of the stream.
pub(super) struct NatsReader {
    stream: Arc<Stream>,
    tasks: Tasks,
    name: String,
    found: StreamInfo,
    pull: Pull,
    ready: VecDeque<Delivery>,
    /// Number of deliveries received. A gap means lost messages.
    delivered: u64,
    /// The sequence of the last received message, or where the reader was opened.
    position: u64,
    progress: Progress,
    next_check: Instant,
}

impl NatsReader {
    pub(super) async fn open(stream: Arc<Stream>, tasks: Tasks, after: u64) -> Result<Self, Error> {
        let info = stream.ensure().await?;
        let name = format!("reader-{}", Uuid::new_v4().simple());
        let settings = json!({
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": u64::try_from(INACTIVE_THRESHOLD.as_nanos()).unwrap_or(u64::MAX),
        });
        durable::create(&stream, &name, &settings).await?;
        stream.check_unchanged(&info).await?;
        let pull = Pull::new(&stream.connection, &name).await?;
        Ok(Self {
            found: info,
            next_check: Instant::now() + stream.connection.bounds.look,
            ready: VecDeque::new(),
            delivered: 0,
            position: after,
            progress: Progress::default(),
            stream,
            tasks,
            name,
            pull,
        })
    }

    fn receive(&mut self, message: async_nats::Message) -> Result<(), Error> {
        self.progress.received();
        let Some((delivery, place, _)) = delivery_of(message) else { return Ok(()) };
        if place.delivered != self.delivered + 1 {
            return Err(Error::Unavailable("messages were lost in transit and will be read again".to_owned()));
        }
        self.delivered = place.delivered;
        self.position = delivery.sequence;
        self.ready.push_back(delivery);
        Ok(())
    }

    async fn step(&mut self, most: usize) -> Result<(), Error> {
        self.pull.ask(&self.stream.connection, most).await?;
        let event = tokio::select! {
            biased;
            event = self.pull.next() => event,
            () = sleep_until(self.next_check) => return self.check().await,
        };
        match event {
            Event::Message(message) => self.receive(*message),
            Event::Over => Ok(()),
            Event::Silent => self.check().await,
            Event::NoResponders => {
                self.check().await?;
                sleep(AGAIN).await;
                Ok(())
            }
            Event::Gone(status) => Err(self.lost(&status).await),
        }
    }

    async fn lost(&self, status: &str) -> Error {
        match self.stream.check_unchanged(&self.found).await {
            Err(error) => error,
            Ok(()) => Error::Unavailable(format!("the server has deleted this reader: {status}")),
        }
    }

    /// The watchdog, like that of durable consumers.
    async fn check(&mut self) -> Result<(), Error> {
        let Some(info) = durable::info(&self.stream, &self.name).await? else {
            return Err(self.lost("it does not exist").await);
        };
        if durable::is_ahead(&self.stream, &info).await? {
            return Err(Error::Unavailable("the stream has lost its last messages".to_owned()));
        }
        let bounds = self.stream.connection.bounds;
        self.next_check = Instant::now() + bounds.look;
        // A delivery that has not arrived counts as pending.
        let has_pending = info.num_pending > 0 || info.delivered.consumer_seq > self.delivered;
        if !self.progress.is_stalled(info.delivered.consumer_seq, has_pending.then_some(bounds.stall)) {
            return Ok(());
        }
        super::count_stall("reader");
        let text = format!("none of {} pending messages was delivered for {:?}", info.num_pending, bounds.stall);
        Err(Error::Unavailable(text))
    }
}

#[async_trait]
impl Reader for NatsReader {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        while self.ready.is_empty() {
            self.step(most).await?;
        }
        // Adds messages that have arrived already.
        while self.ready.len() < most
            && let Some(Event::Message(message)) = self.pull.next().now_or_never()
        {
            self.receive(*message)?;
        }
        // Without a request, the server would wait until the caller has processed these messages.
        self.pull.ask(&self.stream.connection, most).await?;
        Ok(self.ready.drain(..most.min(self.ready.len())).collect())
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        self.stream.check_unchanged(&self.found).await?;
        Ok(self.ready.is_empty() && !self.stream.has_message_after(self.position).await?)
    }
}

impl Drop for NatsReader {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            let (stream, name) = (self.stream.clone(), std::mem::take(&mut self.name));
            self.tasks.spawn("bus-forget", async move {
                // Only saves time: the server also deletes it after a while.
                durable::delete(&stream, &name).await.ok();
            });
        }
    }
}

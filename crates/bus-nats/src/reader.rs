//! One that reads the whole stream in order, by a consumer of its own that the server forgets.
//!
//! Whatever goes wrong ends it: who reads keeps the position, and reads on from there with another.

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

/// A reader that has not asked for so long is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct NatsReader {
    stream: Arc<Stream>,
    tasks: Tasks,
    name: String,
    found: StreamInfo,
    pull: Pull,
    ready: VecDeque<Delivery>,
    /// Deliveries that have come: none may be missing between them.
    delivered: u64,
    /// The sequence of the last message that has come, or of where the reader was opened.
    position: u64,
    progress: Progress,
    look_at: Instant,
}

impl NatsReader {
    pub(super) async fn open(stream: Arc<Stream>, tasks: Tasks, after: u64) -> Result<Self, Error> {
        let info = stream.look().await?;
        let name = format!("reader-{}", Uuid::new_v4().simple());
        let asked = json!({
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": after + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": true,
            "num_replicas": 1,
            "inactive_threshold": u64::try_from(FORGOTTEN_AFTER.as_nanos()).unwrap_or(u64::MAX),
        });
        durable::create(&stream, &name, &asked).await?;
        stream.is_still(&info).await?;
        let pull = Pull::new(&stream.connection, &name).await?;
        Ok(Self {
            found: info,
            look_at: Instant::now() + stream.connection.bounds.look,
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

    fn came(&mut self, message: async_nats::Message) -> Result<(), Error> {
        self.progress.came();
        let Some((delivery, place, _)) = delivery_of(message) else { return Ok(()) };
        if place.delivered != self.delivered + 1 {
            return Err(Error::Unavailable("messages were lost on their way, reading them again".to_owned()));
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
            () = sleep_until(self.look_at) => return self.look().await,
        };
        match event {
            Event::Message(message) => self.came(*message),
            Event::Over => Ok(()),
            Event::Silent => self.look().await,
            Event::Nobody => {
                self.look().await?;
                sleep(AGAIN).await;
                Ok(())
            }
            Event::Gone(said) => Err(self.gone(&said).await),
        }
    }

    async fn gone(&self, said: &str) -> Error {
        match self.stream.is_still(&self.found).await {
            Err(error) => error,
            Ok(()) => Error::Unavailable(format!("the server has forgotten this reader: {said}")),
        }
    }

    /// The watchdog, as that of consumers.
    async fn look(&mut self) -> Result<(), Error> {
        let Some(info) = durable::info(&self.stream, &self.name).await? else {
            return Err(self.gone("it is not there").await);
        };
        if durable::is_ahead(&self.stream, &info).await? {
            return Err(Error::Unavailable("the stream has lost its end: looking where to go on".to_owned()));
        }
        let bounds = self.stream.connection.bounds;
        self.look_at = Instant::now() + bounds.look;
        // What was delivered and has not come is as good as not delivered.
        let owes = info.num_pending > 0 || info.delivered.consumer_seq > self.delivered;
        if !self.progress.is_stalled(info.delivered.consumer_seq, owes.then_some(bounds.stall)) {
            return Ok(());
        }
        super::count_stall("reader");
        let text = format!("none of {} messages has been delivered for {:?}", info.num_pending, bounds.stall);
        Err(Error::Unavailable(text))
    }
}

#[async_trait]
impl Reader for NatsReader {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        while self.ready.is_empty() {
            self.step(most).await?;
        }
        // What came with the first.
        while self.ready.len() < most
            && let Some(Event::Message(message)) = self.pull.next().now_or_never()
        {
            self.came(*message)?;
        }
        Ok(self.ready.drain(..most.min(self.ready.len())).collect())
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        self.stream.is_still(&self.found).await?;
        Ok(self.ready.is_empty() && !self.stream.has_message_after(self.position).await?)
    }
}

impl Drop for NatsReader {
    fn drop(&mut self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            let (stream, name) = (self.stream.clone(), std::mem::take(&mut self.name));
            self.tasks.spawn("bus-forget", async move {
                // The server forgets it by itself too.
                durable::delete(&stream, &name).await.ok();
            });
        }
    }
}

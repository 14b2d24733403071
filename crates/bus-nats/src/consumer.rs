//! One that shares a durable consumer.
//!
//! Acknowledgements are sent and not waited for: one that is lost brings its message again, which readers must bear anyway, and a
//! confirmed one would cost each message a way to the server and back.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_nats::Subject;
use async_trait::async_trait;
use eticket_base::tasks::Tasks;
use eticket_bus::{Consumer, Delivery, Error};
use futures::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    durable::{self, Durable, MAX_ACK_PENDING, Progress},
    message::delivery_of,
    pull::{AGAIN, Event, Pull},
    stream::{Stream, StreamInfo},
};

/// For giving back what is left when a consumer is dropped.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct NatsConsumer {
    stream: Arc<Stream>,
    tasks: Tasks,
    durable: Durable,
    found: StreamInfo,
    /// Until it is dropped.
    pull: Option<Pull>,
    /// What came and was not handed out yet.
    ready: VecDeque<Delivery>,
    /// Where what was handed out is acknowledged.
    out: BTreeMap<u64, Subject>,
    progress: Progress,
    look_at: Instant,
}

impl NatsConsumer {
    pub(super) async fn attach(stream: Arc<Stream>, tasks: Tasks, name: &str, filters: &[&str]) -> Result<Self, Error> {
        let info = stream.look().await?;
        let bounds = stream.connection.bounds;
        let durable = Durable::new(&info, name, filters, bounds.ack_wait);
        durable.find_or_make(&stream).await?;
        // Else it might be in the next stream under the name that it has in this one.
        stream.is_still(&info).await?;
        let pull = Pull::new(&stream.connection, &durable.name).await?;
        Ok(Self {
            found: info,
            look_at: Instant::now() + bounds.look,
            pull: Some(pull),
            ready: VecDeque::new(),
            out: BTreeMap::new(),
            progress: Progress::default(),
            stream,
            tasks,
            durable,
        })
    }

    fn came(&mut self, message: async_nats::Message) {
        self.progress.came();
        if let Some((delivery, _, reply)) = delivery_of(message) {
            self.out.insert(delivery.sequence, reply);
            self.ready.push_back(delivery);
        }
    }

    /// Waits for one thing to happen. Cancellation loses nothing: what came is kept in `self` at once.
    async fn step(&mut self, most: usize) -> Result<(), Error> {
        let closed = || Error::Unavailable("the consumer is closed".to_owned());
        let pull = self.pull.as_mut().ok_or_else(closed)?;
        pull.ask(&self.stream.connection, most).await?;
        let event = tokio::select! {
            biased;
            event = pull.next() => event,
            () = sleep_until(self.look_at) => return self.look().await,
        };
        match event {
            Event::Message(message) => {
                self.came(*message);
                Ok(())
            }
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

    /// Why a consumer does not answer: its stream is another, or it was deleted.
    async fn gone(&self, said: &str) -> Error {
        match self.stream.is_still(&self.found).await {
            Err(error) => error,
            Ok(()) => {
                let text = format!("the consumer {} was put back to the start, or deleted: {said}", self.durable.name);
                Error::Unavailable(text)
            }
        }
    }

    /// The watchdog: whether the consumer is still there and in its stream, and messages that wait are delivered. That the stream
    /// is another shows in that the consumer is gone.
    async fn look(&mut self) -> Result<(), Error> {
        let Some(info) = durable::info(&self.stream, &self.durable.name).await? else {
            return Err(self.gone("it is not there").await);
        };
        if durable::is_ahead(&self.stream, &info).await? {
            return Err(Error::Unavailable(format!("the consumer {} is ahead of the stream", self.durable.name)));
        }
        let bounds = self.stream.connection.bounds;
        let patience = match (info.num_pending, info.num_ack_pending) {
            (0, 0) => None,
            (1.., ..MAX_ACK_PENDING) => Some(bounds.stall),
            // They are out, here or with others who share it, and come again when their time is over.
            _ => Some(bounds.ack_wait + bounds.stall),
        };
        self.look_at = Instant::now() + bounds.look;
        if !self.progress.is_stalled(info.delivered.consumer_seq, patience) {
            return Ok(());
        }
        super::count_stall(&self.durable.label);
        self.durable.remake(&self.stream, &info).await?;
        let (name, pending) = (&self.durable.name, info.num_pending + info.num_ack_pending);
        let text = format!("the consumer {name} has delivered none of {pending} messages for {patience:?}: made anew");
        Err(Error::Unavailable(text))
    }

    async fn answer(&mut self, sequence: u64, words: String) -> Result<(), Error> {
        if let Some(reply) = self.out.get(&sequence) {
            self.stream.connection.send(reply.clone(), None, words.into()).await?;
            self.out.remove(&sequence);
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for NatsConsumer {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        while self.ready.is_empty() {
            self.step(most).await?;
        }
        // What is here already. More is not waited for: it comes while this batch is worked on, and is the next one.
        while self.ready.len() < most
            && let Some(Some(Event::Message(message))) = self.pull.as_mut().map(|pull| pull.next().now_or_never())
        {
            self.came(*message);
        }
        Ok(self.ready.drain(..most.min(self.ready.len())).collect())
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        for sequence in sequences {
            self.answer(*sequence, "+ACK".to_owned()).await?;
        }
        Ok(())
    }

    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error> {
        self.answer(sequence, format!("-NAK {{\"delay\": {}}}", after.as_nanos())).await
    }
}

impl Drop for NatsConsumer {
    /// Gives back what has not been acknowledged: others need not wait until its time is over.
    fn drop(&mut self) {
        let Some(pull) = self.pull.take().filter(|_| tokio::runtime::Handle::try_current().is_ok()) else { return };
        let (stream, mut left) = (self.stream.clone(), std::mem::take(&mut self.out));
        self.tasks.spawn("bus-give-back", async move {
            let mut taken = Vec::new();
            pull.finish(GIVE_BACK, |message| taken.extend(delivery_of(message))).await;
            left.extend(taken.into_iter().map(|(delivery, _, reply)| (delivery.sequence, reply)));
            for reply in left.into_values() {
                if stream.connection.send(reply, None, "-NAK".into()).await.is_err() {
                    return;
                }
            }
        });
    }
}

//! A member of a durable consumer.
//!
//! Acknowledgements are not confirmed. If one is lost, its message is delivered again, which receivers must tolerate
//! anyway; a confirmation would cost a round trip per message.

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

/// Timeout for giving back the remaining messages when a consumer is dropped.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// A member of a durable consumer.
pub(super) struct NatsConsumer {
    stream: Arc<Stream>,
    tasks: Tasks,
    durable: Durable,
    found: StreamInfo,
    /// `None` after it was dropped.
    pull: Option<Pull>,
    /// Messages received and not yet returned.
    ready: VecDeque<Delivery>,
    /// The reply subjects of unacknowledged messages.
    out: BTreeMap<u64, Subject>,
    progress: Progress,
    next_check: Instant,
}

impl NatsConsumer {
    pub(super) async fn attach(stream: Arc<Stream>, tasks: Tasks, name: &str, filters: &[&str]) -> Result<Self, Error> {
        let info = stream.ensure().await?;
        let bounds = stream.connection.bounds;
        let durable = Durable::new(&info, name, filters, bounds.ack_wait);
        durable.find_or_create(&stream).await?;
        // Otherwise the consumer could be in the next stream, under the name for this one.
        stream.check_unchanged(&info).await?;
        let pull = Pull::new(&stream.connection, &durable.name).await?;
        Ok(Self {
            found: info,
            next_check: Instant::now() + bounds.look,
            pull: Some(pull),
            ready: VecDeque::new(),
            out: BTreeMap::new(),
            progress: Progress::default(),
            stream,
            tasks,
            durable,
        })
    }

    fn receive(&mut self, message: async_nats::Message) {
        self.progress.received();
        if let Some((delivery, _, reply)) = delivery_of(message) {
            self.out.insert(delivery.sequence, reply);
            self.ready.push_back(delivery);
        }
    }

    /// Waits for one event. Cancel safe: received messages are stored in `self` at once.
    async fn step(&mut self, most: usize) -> Result<(), Error> {
        let closed = || Error::Unavailable("the consumer is closed".to_owned());
        let pull = self.pull.as_mut().ok_or_else(closed)?;
        pull.ask(&self.stream.connection, most).await?;
        let event = tokio::select! {
            biased;
            event = pull.next() => event,
            () = sleep_until(self.next_check) => return self.check().await,
        };
        match event {
            Event::Message(message) => {
                self.receive(*message);
                Ok(())
            }
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

    /// Why a consumer does not respond: the stream has changed, or the consumer was deleted.
    async fn lost(&self, status: &str) -> Error {
        match self.stream.check_unchanged(&self.found).await {
            Err(error) => error,
            Ok(()) => {
                let text =
                    format!("the consumer {} was moved back to the start or deleted: {status}", self.durable.name);
                Error::Unavailable(text)
            }
        }
    }

    /// The watchdog: checks that the consumer exists in its stream and delivers pending messages. If the stream has
    /// changed, the consumer is missing.
    async fn check(&mut self) -> Result<(), Error> {
        let Some(info) = durable::info(&self.stream, &self.durable.name).await? else {
            return Err(self.lost("it does not exist").await);
        };
        if durable::is_ahead(&self.stream, &info).await? {
            return Err(Error::Unavailable(format!("the consumer {} is ahead of the stream", self.durable.name)));
        }
        let bounds = self.stream.connection.bounds;
        let limit = match (info.num_pending, info.num_ack_pending) {
            (0, 0) => None,
            (1.., ..MAX_ACK_PENDING) => Some(bounds.stall),
            // The pending messages are with this or other members, and are delivered again after `ack_wait`.
            _ => Some(bounds.ack_wait + bounds.stall),
        };
        self.next_check = Instant::now() + bounds.look;
        if !self.progress.is_stalled(info.delivered.consumer_seq, limit) {
            return Ok(());
        }
        super::count_stall(&self.durable.label);
        self.durable.recreate(&self.stream, &info).await?;
        let (name, pending) = (&self.durable.name, info.lag());
        let text =
            format!("the consumer {name} has delivered none of {pending} messages for {limit:?}: created it again");
        Err(Error::Unavailable(text))
    }

    async fn reply(&mut self, sequence: u64, payload: String) -> Result<(), Error> {
        if let Some(reply) = self.out.get(&sequence) {
            self.stream.connection.send(reply.clone(), None, payload.into()).await?;
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
        // Adds messages that have arrived already, without waiting for more: those arrive while the caller works on
        // this batch.
        while self.ready.len() < most
            && let Some(Some(Event::Message(message))) = self.pull.as_mut().map(|pull| pull.next().now_or_never())
        {
            self.receive(*message);
        }
        Ok(self.ready.drain(..most.min(self.ready.len())).collect())
    }

    async fn ack(&mut self, sequences: &[u64]) -> Result<(), Error> {
        for sequence in sequences {
            self.reply(*sequence, "+ACK".to_owned()).await?;
        }
        Ok(())
    }

    async fn retry(&mut self, sequence: u64, after: Duration) -> Result<(), Error> {
        self.reply(sequence, format!("-NAK {{\"delay\": {}}}", after.as_nanos())).await
    }
}

impl Drop for NatsConsumer {
    /// Gives back unacknowledged messages, so that other members get them before `ack_wait` ends.
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

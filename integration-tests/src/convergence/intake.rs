//! Drives the services' consumers and the view's reader under a schedule, one batch at a time.

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use eticket_bus::{self as bus, Delivery};
use eticket_query::application::reader::{Reader, Session as ReaderSession};
use eticket_service::{
    audit,
    consumer::{Consumer, Error, EventHandler, Session},
    event::Event as _,
};
use futures::FutureExt;

use super::bus::TestBus;

/// A service's consumer, independent of its event type.
#[async_trait(?Send)]
pub trait Intake {
    fn name(&self) -> &'static str;
    fn filters(&self) -> &'static [&'static str];

    /// The number of the stream that the consumer is attached to; `None` if it is detached.
    fn attached_to(&self) -> Option<usize>;

    /// Attaches the consumer if it is detached. On a new stream the service publishes all its states.
    async fn attach(&mut self) -> Result<()>;

    fn detach(&mut self);

    /// Applies a batch. If the bus rejects a message afterwards, the session ends, as in production.
    async fn apply(&mut self, batch: Vec<Delivery>) -> Result<()>;

    /// Runs the operator's command.
    async fn republish(&mut self) -> Result<()>;
}

pub struct ConsumerIntake<'w, H: EventHandler> {
    consumer: &'w Consumer<H>,
    bus: TestBus,
    session: Option<(Session<'w, H>, usize)>,
}

impl<'w, H: EventHandler> ConsumerIntake<'w, H> {
    pub fn new(consumer: &'w Consumer<H>, bus: TestBus) -> Self {
        Self { consumer, bus, session: None }
    }
}

#[async_trait(?Send)]
impl<H: EventHandler> Intake for ConsumerIntake<'_, H> {
    fn name(&self) -> &'static str {
        self.consumer.name
    }

    fn filters(&self) -> &'static [&'static str] {
        H::Event::FILTERS
    }

    fn attached_to(&self) -> Option<usize> {
        self.session.as_ref().map(|(_, generation)| *generation)
    }

    async fn attach(&mut self) -> Result<()> {
        if self.session.is_none() {
            let session = self.consumer.attach().await.context("attaching")?;
            self.session = Some((session, self.bus.generation()));
        }
        Ok(())
    }

    fn detach(&mut self) {
        self.session = None;
    }

    async fn apply(&mut self, batch: Vec<Delivery>) -> Result<()> {
        let (session, _) = self.session.as_mut().context("attached")?;
        match session.apply(batch).await {
            Ok(()) => Ok(()),
            Err(Error::Bus(bus::Error::StreamChanged | bus::Error::Unavailable(_))) => {
                self.session = None;
                Ok(())
            }
            Err(error) => Err(error).context("applying a batch"),
        }
    }

    async fn republish(&mut self) -> Result<()> {
        self.consumer.bus.restart(self.consumer.name).await?;
        audit::republish_all(&*self.consumer.owner, &|_| ()).await?;
        Ok(())
    }
}

/// The view's reader.
pub struct ViewIntake<'w> {
    reader: &'w Reader,
    bus: TestBus,
    session: Option<(ReaderSession<'w>, usize)>,
}

impl<'w> ViewIntake<'w> {
    pub fn new(reader: &'w Reader, bus: TestBus) -> Self {
        Self { reader, bus, session: None }
    }

    pub fn attached_to(&self) -> Option<usize> {
        self.session.as_ref().map(|(_, generation)| *generation)
    }

    pub async fn attach(&mut self) -> Result<()> {
        if self.session.is_none() {
            let session = self.reader.attach().await.context("attaching the view")?;
            self.session = Some((session, self.bus.generation()));
        }
        Ok(())
    }

    pub fn detach(&mut self) {
        self.session = None;
    }

    /// Reads and applies the next messages in order; returns none at the end of the stream.
    pub async fn read_on(&mut self, most: usize) -> Result<Vec<Delivery>> {
        self.bus.stream().deliver_at_most(most.max(1));
        let (session, _) = self.session.as_mut().context("attached")?;
        // The reader waits at the end of the stream; before it, its messages are in memory.
        match session.next().now_or_never().unwrap_or_else(|| Ok(Vec::new())) {
            Ok(batch) if batch.is_empty() => Ok(batch),
            Ok(batch) => {
                session.apply(batch.clone()).await.context("applying to the view")?;
                Ok(batch)
            }
            Err(bus::Error::StreamChanged) => {
                self.session = None;
                Ok(Vec::new())
            }
            Err(error) => Err(error).context("reading"),
        }
    }

    /// Applies arbitrary messages.
    pub async fn apply(&mut self, batch: Vec<Delivery>) -> Result<()> {
        ensure!(!batch.is_empty(), "an empty batch has no last message to keep as the position");
        let (session, _) = self.session.as_mut().context("attached")?;
        session.apply(batch).await.context("applying to the view")
    }
}

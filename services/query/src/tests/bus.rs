//! An in-memory stream that tests can lose, truncate and replace.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use eticket_bus::{Bus, Bytes, Consumer, Delivery, Error, History, Message, Reader, Requests, StreamState};
use tokio::sync::watch;

pub(super) struct MemoryBus {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

struct State {
    epoch: u32,
    messages: Vec<Arc<Message>>,
    /// Maximum number of messages that a reader receives at a time.
    page: usize,
    /// The next read finds a new stream.
    lost_at_read: bool,
    /// The bus does not return the end of the stream.
    out: bool,
}

impl MemoryBus {
    pub(super) fn new() -> Arc<Self> {
        let state = State { epoch: 1, messages: Vec::new(), page: usize::MAX, lost_at_read: false, out: false };
        Arc::new(Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()) })
    }

    pub(super) fn append(&self, message: Message) {
        self.state.lock().unwrap().messages.push(Arc::new(message));
        self.changed.send_replace(());
    }

    /// Replaces the stream with an empty one of a new epoch.
    pub(super) fn renew(&self) {
        let mut state = self.state.lock().unwrap();
        state.epoch += 1;
        state.messages.clear();
    }

    /// Drops all messages and keeps the epoch.
    pub(super) fn lose_all(&self) {
        self.state.lock().unwrap().messages.clear();
    }

    /// Replaces the stream between the next check of its state and the next read.
    pub(super) fn renew_at_read(&self) {
        self.state.lock().unwrap().lost_at_read = true;
    }

    /// Makes the bus unavailable.
    pub(super) fn go_out(&self) {
        self.state.lock().unwrap().out = true;
    }

    pub(super) fn set_page(&self, page: usize) {
        self.state.lock().unwrap().page = page;
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn state(&self) -> Result<StreamState, Error> {
        let state = self.state.lock().unwrap();
        if state.out {
            return Err(Error::Unavailable("unavailable".to_owned()));
        }
        Ok(StreamState { epoch: state.epoch.to_string(), last_sequence: state.messages.len() as u64 })
    }

    async fn publish(&self, message: Message) -> Result<u64, Error> {
        self.append(message);
        Ok(self.state.lock().unwrap().messages.len() as u64)
    }

    async fn attach(&self, _: &str, _: &[&str]) -> Result<Box<dyn Consumer>, Error> {
        Err(Error::Unavailable("the view has no durable consumer".to_owned()))
    }

    async fn restart(&self, _: &str) -> Result<(), Error> {
        Err(Error::Unavailable("the view has no durable consumer".to_owned()))
    }

    async fn lag(&self, _: &str) -> Result<Option<u64>, Error> {
        Ok(None)
    }

    async fn read(&self, after: u64) -> Result<Box<dyn Reader>, Error> {
        if std::mem::take(&mut self.state.lock().unwrap().lost_at_read) {
            self.renew();
        }
        let epoch = self.state.lock().unwrap().epoch;
        let (state, changed) = (self.state.clone(), self.changed.subscribe());
        Ok(Box::new(MemoryReader { state, changed, epoch, after: usize::try_from(after).unwrap() }))
    }

    async fn message_at(&self, sequence: u64) -> Result<Option<Message>, Error> {
        let index = usize::try_from(sequence).unwrap().checked_sub(1);
        let state = self.state.lock().unwrap();
        Ok(index.and_then(|index| state.messages.get(index)).map(|message| (**message).clone()))
    }

    async fn history(&self, _: &[&str], _: Option<u64>, _: usize) -> Result<History, Error> {
        Err(Error::Unavailable("this bus has no history".to_owned()))
    }

    async fn serve(&self, _: &str) -> Result<Box<dyn Requests>, Error> {
        Err(Error::Unavailable("the view serves nothing".to_owned()))
    }

    async fn request(&self, _: &str, _: Bytes) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn close(&self) {}
}

struct MemoryReader {
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<()>,
    epoch: u32,
    after: usize,
}

#[async_trait]
impl Reader for MemoryReader {
    async fn next(&mut self, most: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            self.changed.borrow_and_update();
            let page = {
                let state = self.state.lock().unwrap();
                if state.epoch != self.epoch {
                    return Err(Error::StreamChanged);
                }
                let messages = state.messages.iter().enumerate().skip(self.after).take(most.min(state.page));
                let delivery = |(index, message): (usize, &Arc<Message>)| Delivery {
                    sequence: index as u64 + 1,
                    attempts: 1,
                    message: message.clone(),
                };
                messages.map(delivery).collect::<Vec<_>>()
            };
            if !page.is_empty() {
                self.after += page.len();
                return Ok(page);
            }
            let more = tokio::time::timeout(Duration::from_secs(20), self.changed.changed()).await;
            more.map_err(|_| Error::Unavailable("no more messages".to_owned()))?.unwrap();
        }
    }

    async fn is_at_end(&mut self) -> Result<bool, Error> {
        Ok(self.state.lock().unwrap().messages.len() <= self.after)
    }
}

//! Requests and responses within one process, for the adapters whose stream is in the process too.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{Error, Request, Requests};

/// Requests that wait for one server; who sends more waits.
const QUEUE: usize = 16;
/// A request without a response.
const RESPONSE: Duration = Duration::from_secs(5);

/// Who serves which service; those that serve the same take turns.
#[derive(Default)]
pub struct Switchboard(Mutex<BTreeMap<String, VecDeque<mpsc::Sender<Request>>>>);

impl Switchboard {
    /// Receives requests to a service until what it returns is dropped.
    pub fn serve(&self, service: &str) -> Box<dyn Requests> {
        let (requests, waiting) = mpsc::channel(QUEUE);
        self.servers().entry(service.to_owned()).or_default().push_back(requests);
        Box::new(LocalRequests(waiting))
    }

    /// Sends a request to one that serves; `None` if nobody does.
    ///
    /// # Errors
    /// If there is no response within 5 seconds.
    pub async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        while let Some(server) = self.next_server(service) {
            let (request, answer) = Request::new(payload.clone());
            let answer = async {
                server.send(request).await.ok()?;
                Some(answer.await)
            };
            return match timeout(RESPONSE, answer).await {
                // It ended after it was chosen.
                Ok(None) => continue,
                Ok(Some(Ok(payload))) => Ok(Some(payload)),
                Ok(Some(Err(_))) => Err(Error::Unavailable(format!("{service} gave no response"))),
                Err(_) => Err(Error::Unavailable(format!("{service} gave no response in {RESPONSE:?}"))),
            };
        }
        Ok(None)
    }

    fn next_server(&self, service: &str) -> Option<mpsc::Sender<Request>> {
        let mut servers = self.servers();
        let of_service = servers.get_mut(service)?;
        of_service.retain(|server| !server.is_closed());
        of_service.rotate_left(1.min(of_service.len()));
        of_service.back().cloned()
    }

    fn servers(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, VecDeque<mpsc::Sender<Request>>>> {
        // Changed in single steps; a panic elsewhere leaves nothing half done in it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct LocalRequests(mpsc::Receiver<Request>);

#[async_trait]
impl Requests for LocalRequests {
    async fn next(&mut self) -> Result<Request, Error> {
        self.0.recv().await.ok_or_else(|| Error::Unavailable("it is closed".to_owned()))
    }
}

//! Requests and responses within one process, for adapters whose stream is in the process.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::{Error, Request, Requests};

/// Requests that one server queues; further senders wait.
const QUEUE: usize = 16;
/// Timeout of a request.
const RESPONSE: Duration = Duration::from_secs(5);

/// The servers of each service; requests to one service go to its servers in turn.
#[derive(Default)]
pub struct Switchboard(Mutex<BTreeMap<String, VecDeque<mpsc::Sender<Request>>>>);

impl Switchboard {
    /// Registers a server of `service`. Dropping the returned value unregisters it.
    pub fn serve(&self, service: &str) -> Box<dyn Requests> {
        let (requests, waiting) = mpsc::channel(QUEUE);
        self.servers().entry(service.to_owned()).or_default().push_back(requests);
        Box::new(LocalRequests(waiting))
    }

    /// Sends a request to one server and returns its response; `None` if the service has no server.
    ///
    /// # Errors
    /// Fails if there is no response within 5 seconds.
    pub async fn request(&self, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
        while let Some(server) = self.next_server(service) {
            let (request, answer) = Request::new(payload.clone());
            let answer = async {
                server.send(request).await.ok()?;
                Some(answer.await)
            };
            return match timeout(RESPONSE, answer).await {
                // The server ended after it was chosen.
                Ok(None) => continue,
                Ok(Some(Ok(payload))) => Ok(Some(payload)),
                Ok(Some(Err(_))) => Err(Error::Unavailable(format!("{service} sent no response"))),
                Err(_) => Err(Error::Unavailable(format!("{service} sent no response within {RESPONSE:?}"))),
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
        // Every change is one step, so a panic elsewhere leaves no partial change.
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

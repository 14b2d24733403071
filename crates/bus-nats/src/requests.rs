//! Requests and responses over core NATS, on subjects outside of the stream.

use std::sync::Arc;

use async_nats::Subscriber;
use async_trait::async_trait;
use bytes::Bytes;
use eticket_base::{error::chain, tasks::Tasks};
use eticket_bus::{Error, Request, Requests};
use futures::StreamExt;
use tokio::time::timeout;

use super::connection::{Connection, Failure};

/// The subject of requests to a service. Its servers form a queue group, so that each request reaches one of them.
fn subject(service: &str) -> String {
    format!("eticket.audit.v1.{service}")
}

/// The requests to one server of a service.
pub(super) struct NatsRequests {
    connection: Arc<Connection>,
    tasks: Tasks,
    subscriber: Subscriber,
}

impl NatsRequests {
    pub(super) async fn serve(connection: Arc<Connection>, tasks: Tasks, service: &str) -> Result<Self, Error> {
        let client = connection.client().await?;
        let unavailable = |reason: String| Error::Unavailable(format!("{}: {reason}", connection.shown()));
        let subscribed = client.queue_subscribe(subject(service), service.to_owned()).await;
        let subscriber = subscribed.map_err(|error| unavailable(chain(&error)))?;
        // Ensures that the first requests find the subscription.
        match timeout(connection.bounds.request, client.flush()).await {
            Ok(Ok(())) => Ok(Self { connection, tasks, subscriber }),
            Ok(Err(error)) => Err(unavailable(chain(&error))),
            Err(_) => Err(unavailable("the server does not accept the subscription".to_owned())),
        }
    }
}

#[async_trait]
impl Requests for NatsRequests {
    async fn next(&mut self) -> Result<Request, Error> {
        loop {
            let message = self.subscriber.next().await;
            let message = message.ok_or_else(|| Error::Unavailable("the connection is closed".to_owned()))?;
            let Some(reply) = message.reply else { continue };
            let (request, answer) = Request::new(message.payload);
            let connection = self.connection.clone();
            self.tasks.spawn("bus-respond", async move {
                if let Ok(payload) = answer.await
                    && let Err(error) = connection.send(reply, None, payload).await
                {
                    tracing::debug!(%error, "cannot send a response");
                }
            });
            return Ok(request);
        }
    }
}

/// Sends a request to one server of a service; `None` if there is no server.
pub(super) async fn request(connection: &Connection, service: &str, payload: Bytes) -> Result<Option<Bytes>, Error> {
    match connection.request(subject(service), None, payload).await {
        Ok(answer) => Ok(Some(answer.payload)),
        Err(Failure::NoResponders) => Ok(None),
        Err(Failure::Bus(error) | Failure::Unanswered(error)) => Err(error),
        Err(Failure::Refused(refusal)) => Err(Error::Unavailable(refusal.description)),
    }
}

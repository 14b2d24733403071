//! The side that owns states: responds to requests for them.

use std::{sync::Arc, time::Duration};

use eticket_bus::{self as bus, Bus, Bytes};
use eticket_proto::{
    audit::{
        AuditRequest, AuditResponse, CountResponse, ListStatesRequest, ListStatesResponse, RepublishStatesResponse,
        audit_request::Request as Asked, audit_response::Response as Answer,
    },
    headers,
};
use eticket_store::OutboxStore;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use super::{Owner, PAGE, PAGE_BYTES, State};
use crate::batch;

/// Pause before serving again after the bus has failed.
const PAUSE: Duration = Duration::from_secs(1);
/// With more outbox rows than this, missing states are probably still waiting to be sent, so nothing is republished.
const BEHIND: i64 = 1_000;

/// Responds to the requests for the states of one service.
pub struct Responder {
    /// Name of the service that owns the states.
    pub service: &'static str,
    /// Source of the requests.
    pub bus: Arc<dyn Bus>,
    /// Provides the states.
    pub owner: Arc<dyn Owner>,
    /// Provides the depth of the outbox.
    pub store: Arc<dyn OutboxStore>,
}

impl Responder {
    /// Responds until `stopping` is cancelled. Subscribes again after each failure of the bus.
    pub async fn run(self, stopping: CancellationToken) {
        let serving = async {
            loop {
                let Err(error) = self.serve().await else { continue };
                tracing::debug!(service = self.service, %error, "cannot serve requests for comparisons; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        };
        stopping.run_until_cancelled(serving).await;
    }

    async fn serve(&self) -> Result<(), bus::Error> {
        let mut requests = self.bus.serve(self.service).await?;
        loop {
            let request = requests.next().await?;
            let response = self.answer(&request.payload).await;
            request.respond(response);
        }
    }

    async fn answer(&self, payload: &Bytes) -> Bytes {
        let asked = AuditRequest::decode(payload.clone()).ok().and_then(|request| request.request);
        let answer = match asked {
            Some(Asked::Count(_)) => {
                self.owner.count().await.map(|count| Answer::Count(CountResponse { count: signed(count) }))
            }
            Some(Asked::ListStates(request)) => self.list(request).await.map(Answer::ListStates),
            Some(Asked::RepublishStates(request)) => {
                let republished = self.republish(&request.subjects).await;
                let response = |count| RepublishStatesResponse { republished_count: signed(count) };
                republished.map(|count| Answer::RepublishStates(response(count)))
            }
            None => Err(batch::Error::Failed("this version does not know the request".to_owned())),
        };
        let answer = answer.unwrap_or_else(|error| Answer::Failure(error.to_string()));
        AuditResponse { response: Some(answer) }.encode_to_vec().into()
    }

    async fn list(&self, request: ListStatesRequest) -> Result<ListStatesResponse, batch::Error> {
        let most = usize::try_from(request.page_size).unwrap_or(1).clamp(1, PAGE);
        let found = self.owner.states(&request.after, most).await?;
        let (mut more, mut bytes) = (found.len() == most, 0);
        let (mut states, mut next) = (Vec::with_capacity(found.len()), String::new());
        for State { key, message } in found {
            bytes += message.subject.len() + message.body.len();
            if bytes > PAGE_BYTES && !states.is_empty() {
                more = true;
                break;
            }
            let event_id = message.header(headers::ID).unwrap_or_default().to_owned();
            next = key;
            states.push(eticket_proto::audit::State {
                subject: message.subject,
                event_id,
                body: message.body.to_vec(),
            });
        }
        Ok(ListStatesResponse { states, next: if more { next } else { String::new() } })
    }

    async fn republish(&self, subjects: &[String]) -> Result<u64, batch::Error> {
        let waiting = self.store.outbox_depth().await.map_err(|_| batch::Error::Unavailable)?;
        if waiting > BEHIND {
            return Ok(0);
        }
        let subjects = &subjects[..subjects.len().min(PAGE)];
        let count = self.owner.republish(subjects).await?;
        metrics::counter!("eticket_audit_republished_total", "service" => self.service).increment(count);
        tracing::info!(service = self.service, count, "republished states that another service is missing");
        Ok(count)
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

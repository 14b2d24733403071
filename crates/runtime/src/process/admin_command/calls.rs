//! The calls of admin commands, and their output.

use std::{future::Future, path::Path, time::Duration};

use chrono::Utc;
use eticket_base::{config::Error, credentials::Credentials, error::chain, exit::StartError};
use eticket_proto::{
    error_text, headers,
    operations::{
        CompareViewRequest, DiscardParkedEventRequest, GetStatusRequest, ListParkedEventsRequest, ListUnsettledRequest,
        RebuildViewRequest, RepublishRequest, ResendParkedEventRequest,
        operations_service_client::OperationsServiceClient,
    },
    time,
};
use eticket_rpc_client::authorization;
use eticket_rpc_server::error::ApiError;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming, metadata::AsciiMetadataValue, transport::Channel};
use tonic_types::StatusExt;

use super::{
    Task,
    connection::Peer,
    status::{self, HEADER},
};
use crate::process::ready::print;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a call, or of the first response of a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a call that applies all parked events.
const LONG_CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout between two messages of a stream.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// The deadline sent to the server is later by this, so that this program reports its own timeout.
const MARGIN: Duration = Duration::from_secs(1);
/// Interval of keep-alive pings, and timeout of their response.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Why an admin command failed at one service.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server does not respond or is not a gateway, so calls to other services would fail too.
    Lost(StartError),
    /// The service refused the command.
    Refused(StartError),
    /// The event is not parked at this service.
    NotParked(StartError),
}

/// Why a call has no result.
enum CallError {
    Status(Status),
    /// The server sent nothing for this time.
    TimedOut(Duration),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, CallError> {
    Ok(timeout(limit, call).await.map_err(|_| CallError::TimedOut(limit))??)
}

/// A connection to a service, or to the gateway.
pub(super) struct Server {
    address: String,
    client: OperationsServiceClient<Channel>,
    authorization: Option<AsciiMetadataValue>,
    service: Option<&'static str>,
    /// The header of a table is printed once, above the rows of all services.
    has_header: bool,
}

impl Server {
    pub(super) async fn connect(peer: &Peer, token_file: Option<&Path>) -> Result<Self, StartError> {
        let invalid = |what: String| StartError::Config(Error::new("--token-file", None, what));
        let credentials = Credentials::read(token_file).map_err(invalid)?;
        let authorization = credentials.as_ref().map(authorization).transpose().map_err(StartError::failed)?;
        let (address, endpoint) = (&peer.address, peer.endpoint()?);
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        let channel = endpoint.connect().await.map_err(|error| {
            let what =
                format!("no server responds at {address}: start it, or set --address to the address where it runs");
            // The text of the error itself is generic; its cause is specific.
            let cause = std::error::Error::source(&error).map(chain);
            StartError::unavailable(what, cause.unwrap_or_else(|| error.to_string()))
        })?;
        Ok(Self {
            address: address.to_owned(),
            client: OperationsServiceClient::new(channel),
            authorization,
            service: None,
            has_header: false,
        })
    }

    /// Sets the service to which the gateway forwards further calls.
    pub(super) fn select(&mut self, service: Option<&'static str>) {
        self.service = service;
    }

    /// Runs an operation; returns the number of differences or of replicas that are not ready, if it looks for them.
    pub(super) async fn run(&mut self, task: &Task) -> Result<u64, Failure> {
        let done = match task {
            Task::Status => self.status().await,
            Task::Republish => self.republish().await,
            Task::Parked => self.parked().await,
            Task::Resend(event) => self.resend(event.clone().unwrap_or_default()).await,
            Task::Discard(event) => self.discard(event.clone()).await,
            Task::RebuildView => self.rebuild_view().await,
            Task::CompareView => self.compare_view().await,
            Task::Unsettled => self.unsettled().await,
        };
        done.map_err(|error| match error {
            CallError::Status(status) => self.failure(&status),
            CallError::TimedOut(limit) => {
                let what = format!("{} did not respond within {} s: check its log", self.peer(), limit.as_secs());
                Failure::Lost(StartError::Unavailable { what, source: None })
            }
        })
    }

    fn peer(&self) -> String {
        self.service.map_or_else(|| self.address.clone(), |name| format!("{name} at {}", self.address))
    }

    fn failure(&self, status: &Status) -> Failure {
        let (peer, message) = (self.peer(), status.message());
        if let Some(source) = std::error::Error::source(status) {
            let what = format!("the connection to {} broke", self.address);
            return Failure::Lost(StartError::unavailable(what, chain(source)));
        }
        let reason = ApiError::from_status(status).map(|reason| error_text::name(reason).to_owned());
        let reason = reason.unwrap_or_else(|| format!("{:?}", status.code()));
        let what = format!("{peer}: {message} ({reason})");
        let fields = status.get_details_bad_request().map(|wrong| wrong.field_violations).unwrap_or_default();
        let names = |field: &str| fields.iter().any(|violation| violation.field == field);
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => {
                Failure::Refused(StartError::Unavailable { what, source: None })
            }
            Code::InvalidArgument if names(headers::SERVICE) => {
                let what = format!(
                    "{} is a service, not a gateway: set --address to a gateway, or --service to this service: {message}",
                    self.address
                );
                Failure::Lost(StartError::Refused(what))
            }
            Code::InvalidArgument if names("event_id") => Failure::NotParked(StartError::Refused(what)),
            _ => Failure::Refused(StartError::Refused(what)),
        }
    }

    /// Creates a request. Streams have no deadline: they last as long as messages arrive.
    fn request<T>(&self, message: T, deadline: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline + MARGIN);
        }
        if let Some(authorization) = self.authorization.clone() {
            request.metadata_mut().insert("authorization", authorization);
        }
        if let Some(service) = self.service {
            let name = tonic::metadata::MetadataValue::from_static(service);
            request.metadata_mut().insert(headers::SERVICE, name);
        }
        request
    }

    /// The prefix of output lines, which names the service if there may be several.
    fn label(&self) -> String {
        self.service.map(|service| format!("{service}: ")).unwrap_or_default()
    }

    async fn status(&mut self) -> Result<u64, CallError> {
        let request = self.request(GetStatusRequest {}, Some(CALL_TIMEOUT));
        let replicas = within(CALL_TIMEOUT, self.client.get_status(request)).await?.into_inner().replicas;
        if !std::mem::replace(&mut self.has_header, true) {
            print(&format!("{HEADER}\n"));
        }
        let now = Utc::now();
        for replica in &replicas {
            print(&status::lines(replica, now));
        }
        Ok(replicas.iter().map(|replica| u64::from(!replica.ready)).sum())
    }

    async fn republish(&mut self) -> Result<u64, CallError> {
        let request = self.request(RepublishRequest {}, None);
        let mut stream = within(CALL_TIMEOUT, self.client.republish(request)).await?.into_inner();
        let done = follow(&mut stream, |response| (response.republished_count, response.total_count), |_| {}).await?;
        print(&format!("{}{done} states added to the outbox\n", self.label()));
        Ok(0)
    }

    async fn rebuild_view(&mut self) -> Result<u64, CallError> {
        let request = self.request(RebuildViewRequest {}, None);
        let mut stream = within(CALL_TIMEOUT, self.client.rebuild_view(request)).await?.into_inner();
        let done = follow(&mut stream, |response| (response.applied_count, response.total_count), |_| {}).await?;
        print(&format!("{}{done} messages applied to the new view\n", self.label()));
        Ok(0)
    }

    async fn compare_view(&mut self) -> Result<u64, CallError> {
        let request = self.request(CompareViewRequest {}, None);
        let mut stream = within(CALL_TIMEOUT, self.client.compare_view(request)).await?.into_inner();
        let mut differences = 0;
        let counts =
            |response: &eticket_proto::operations::CompareViewResponse| (response.compared_count, response.total_count);
        let done = follow(&mut stream, counts, |response| {
            if let Some(difference) = response.difference {
                differences += 1;
                let (field, view, owner) = (difference.field, difference.view_value, difference.owner_value);
                print(&format!("{}\t{field}\tview {view:?}\towner {owner:?}\n", difference.ticket_id));
            }
        })
        .await?;
        print(&format!("{}{done} rows compared, {differences} differences\n", self.label()));
        Ok(differences)
    }

    async fn parked(&mut self) -> Result<u64, CallError> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request =
                self.request(ListParkedEventsRequest { page_token, ..Default::default() }, Some(CALL_TIMEOUT));
            let page = within(CALL_TIMEOUT, self.client.list_parked_events(request)).await?.into_inner();
            for event in page.parked_events {
                count += 1;
                let since = rfc3339(event.park_time);
                let (id, kind, attempts, reason) = (event.event_id, event.event_type, event.attempts, event.reason);
                print(&format!("{}{id}\t{kind}\t{since}\t{attempts} attempts\t{reason}\n", self.label()));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                print(&format!("{}{count} parked\n", self.label()));
                return Ok(0);
            }
        }
    }

    async fn resend(&mut self, event_id: String) -> Result<u64, CallError> {
        let request = self.request(ResendParkedEventRequest { event_id }, Some(LONG_CALL_TIMEOUT));
        let response = within(LONG_CALL_TIMEOUT, self.client.resend_parked_event(request)).await?.into_inner();
        print(&format!("{}{} applied again\n", self.label(), response.resent_count));
        Ok(0)
    }

    async fn discard(&mut self, event_id: String) -> Result<u64, CallError> {
        let request = self.request(DiscardParkedEventRequest { event_id }, Some(CALL_TIMEOUT));
        let response = within(CALL_TIMEOUT, self.client.discard_parked_event(request)).await?.into_inner();
        print(&format!("{}{} discarded\n", self.label(), response.discarded_count));
        Ok(0)
    }

    async fn unsettled(&mut self) -> Result<u64, CallError> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request = self.request(ListUnsettledRequest { page_token, ..Default::default() }, Some(CALL_TIMEOUT));
            let page = within(CALL_TIMEOUT, self.client.list_unsettled(request)).await?.into_inner();
            for view in page.unsettled {
                count += 1;
                print(&format!("{}\t{}\t{}\n", view.ticket_id, rfc3339(view.since_time), view.missing.join(", ")));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                print(&format!("{}{count} unsettled\n", self.label()));
                return Ok(0);
            }
        }
    }
}

/// Reads a stream to its end, with a progress bar on a terminal. Returns the final count.
async fn follow<T>(
    stream: &mut Streaming<T>,
    counts: impl Fn(&T) -> (i64, i64),
    mut each: impl FnMut(T),
) -> Result<u64, CallError> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} to go") {
        bar.set_style(style);
    }
    let mut last = 0;
    while let Some(message) = within(MESSAGE_TIMEOUT, stream.message()).await? {
        let (done, total) = counts(&message);
        last = u64::try_from(done).unwrap_or_default();
        bar.set_length(u64::try_from(total).unwrap_or_default());
        bar.set_position(last);
        bar.suspend(|| each(message));
    }
    bar.finish_and_clear();
    Ok(last)
}

fn rfc3339(time: Option<prost_types::Timestamp>) -> String {
    let time = time.as_ref().and_then(time::from_proto);
    time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)).unwrap_or_default()
}

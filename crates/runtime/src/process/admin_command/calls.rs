//! The calls behind the commands, and what people see of them.

use std::{future::Future, time::Duration};

use eticket_base::{error::chain, exit::StartError};
use eticket_proto::{
    error_text, headers,
    operations::{
        CompareViewRequest, DiscardParkedEventRequest, ListParkedEventsRequest, ListUnsettledRequest,
        RebuildViewRequest, RepublishRequest, ResendParkedEventRequest,
        operations_service_client::OperationsServiceClient,
    },
    time,
};
use eticket_rpc_server::error::ApiError;
use http::uri::Authority;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::Task;
use crate::process::ready::print;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a call, or the start of a stream.
const CALL: Duration = Duration::from_secs(10);
/// For a call that applies everything that is parked.
const LONG_CALL: Duration = Duration::from_secs(60);
/// Between two messages of a stream.
const SILENCE: Duration = Duration::from_secs(60);
/// The server hears of a deadline that is longer by so much: this program's own is the one that is told.
const MARGIN: Duration = Duration::from_secs(1);
/// How often a connection is asked whether it is alive, and how long it may take to say so.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));

/// Why an order was not carried out at a service.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody answers, or this is no gateway: there is no use in asking for other services.
    Lost(StartError),
    /// The service said no.
    Refused(StartError),
    /// The event is not parked there.
    NotParked(StartError),
}

/// Why a call has no answer.
enum Trouble {
    Status(Status),
    /// Nothing came for so long.
    Mute(Duration),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Trouble> {
    Ok(timeout(limit, call).await.map_err(|_| Trouble::Mute(limit))??)
}

/// `host:port`, and nothing else.
fn authority(address: &str) -> Result<Authority, StartError> {
    let parsed = address.parse::<Authority>().ok();
    let parsed = parsed.filter(|parsed| !parsed.host().is_empty() && !parsed.as_str().contains('@'));
    parsed.filter(|parsed| parsed.port_u16().is_some_and(|port| port > 0)).ok_or_else(|| {
        let expected = match address.contains("://") {
            true => "expected host:port, without http:// or the like, as 127.0.0.1:8088",
            false => "expected host:port, as 127.0.0.1:8088",
        };
        StartError::config("--address", address, expected)
    })
}

/// A service, or the gateway that hands on to one.
pub(super) struct Server {
    address: String,
    client: OperationsServiceClient<Channel>,
    service: Option<&'static str>,
}

impl Server {
    pub(super) async fn connect(address: &str) -> Result<Self, StartError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", authority(address)?)).map_err(StartError::failed)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        let channel = endpoint.connect().await.map_err(|error| {
            let what = format!("no server answers at {address}: start it, or say with --address where it runs");
            // The library's own words say nothing: the cause does.
            let cause = std::error::Error::source(&error).map(chain);
            StartError::unavailable(what, cause.unwrap_or_else(|| error.to_string()))
        })?;
        Ok(Self { address: address.to_owned(), client: OperationsServiceClient::new(channel), service: None })
    }

    /// From now on all is for this service.
    pub(super) fn hand_on_to(&mut self, service: Option<&'static str>) {
        self.service = service;
    }

    /// Answers how many differences were found, if that was the task.
    pub(super) async fn carry_out(&mut self, task: &Task) -> Result<u64, Failure> {
        let done = match task {
            Task::Republish => self.republish().await,
            Task::Parked => self.parked().await,
            Task::Resend(event) => self.resend(event.clone().unwrap_or_default()).await,
            Task::Discard(event) => self.discard(event.clone()).await,
            Task::RebuildView => self.rebuild_view().await,
            Task::CompareView => self.compare_view().await,
            Task::Unsettled => self.unsettled().await,
        };
        done.map_err(|trouble| match trouble {
            Trouble::Status(status) => self.failure(&status),
            Trouble::Mute(limit) => {
                let what = format!("{} did not answer within {} s: look at its log", self.who(), limit.as_secs());
                Failure::Lost(StartError::Unavailable { what, source: None })
            }
        })
    }

    fn who(&self) -> String {
        self.service.map_or_else(|| self.address.clone(), |name| format!("{name} at {}", self.address))
    }

    fn failure(&self, status: &Status) -> Failure {
        let (who, message) = (self.who(), status.message());
        if let Some(source) = std::error::Error::source(status) {
            let what = format!("the connection to {} broke", self.address);
            return Failure::Lost(StartError::unavailable(what, chain(source)));
        }
        let reason = ApiError::from_status(status).map(|reason| error_text::name(reason).to_owned());
        let reason = reason.unwrap_or_else(|| format!("{:?}", status.code()));
        let what = format!("{who}: {message} ({reason})");
        let fields = status.get_details_bad_request().map(|wrong| wrong.field_violations).unwrap_or_default();
        let names = |field: &str| fields.iter().any(|violation| violation.field == field);
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => {
                Failure::Refused(StartError::Unavailable { what, source: None })
            }
            Code::InvalidArgument if names(headers::SERVICE) => {
                let what = format!(
                    "{} is no gateway, but a service: give the gateway's address, or --service with that one: {message}",
                    self.address
                );
                Failure::Lost(StartError::Refused(what))
            }
            Code::InvalidArgument if names("event_id") => Failure::NotParked(StartError::Refused(what)),
            _ => Failure::Refused(StartError::Refused(what)),
        }
    }

    /// A stream has no deadline: it goes on as long as messages come.
    fn request<T>(&self, message: T, deadline: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = deadline {
            request.set_timeout(deadline + MARGIN);
        }
        if let Some(service) = self.service {
            let name = tonic::metadata::MetadataValue::from_static(service);
            request.metadata_mut().insert(headers::SERVICE, name);
        }
        request
    }

    /// In front of a line, where lines of several services follow each other.
    fn label(&self) -> String {
        self.service.map(|service| format!("{service}: ")).unwrap_or_default()
    }

    async fn republish(&mut self) -> Result<u64, Trouble> {
        let request = self.request(RepublishRequest {}, None);
        let mut stream = within(CALL, self.client.republish(request)).await?.into_inner();
        let done = follow(&mut stream, |answer| (answer.republished_count, answer.total_count), |_| {}).await?;
        print(&format!("{}{done} states put into the outbox again\n", self.label()));
        Ok(0)
    }

    async fn rebuild_view(&mut self) -> Result<u64, Trouble> {
        let request = self.request(RebuildViewRequest {}, None);
        let mut stream = within(CALL, self.client.rebuild_view(request)).await?.into_inner();
        let done = follow(&mut stream, |answer| (answer.applied_count, answer.total_count), |_| {}).await?;
        print(&format!("{}{done} messages applied to the new view\n", self.label()));
        Ok(0)
    }

    async fn compare_view(&mut self) -> Result<u64, Trouble> {
        let request = self.request(CompareViewRequest {}, None);
        let mut stream = within(CALL, self.client.compare_view(request)).await?.into_inner();
        let mut differences = 0;
        let counts =
            |answer: &eticket_proto::operations::CompareViewResponse| (answer.compared_count, answer.total_count);
        let done = follow(&mut stream, counts, |answer| {
            if let Some(difference) = answer.difference {
                differences += 1;
                let (field, view, owner) = (difference.field, difference.view_value, difference.owner_value);
                print(&format!("{}\t{field}\tview {view:?}\towner {owner:?}\n", difference.ticket_id));
            }
        })
        .await?;
        print(&format!("{}{done} rows compared, {differences} differences\n", self.label()));
        Ok(differences)
    }

    async fn parked(&mut self) -> Result<u64, Trouble> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request = self.request(ListParkedEventsRequest { page_token, ..Default::default() }, Some(CALL));
            let page = within(CALL, self.client.list_parked_events(request)).await?.into_inner();
            for event in page.parked_events {
                count += 1;
                let since = moment(event.park_time);
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

    async fn resend(&mut self, event_id: String) -> Result<u64, Trouble> {
        let request = self.request(ResendParkedEventRequest { event_id }, Some(LONG_CALL));
        let answer = within(LONG_CALL, self.client.resend_parked_event(request)).await?.into_inner();
        print(&format!("{}{} applied again\n", self.label(), answer.resent_count));
        Ok(0)
    }

    async fn discard(&mut self, event_id: String) -> Result<u64, Trouble> {
        let request = self.request(DiscardParkedEventRequest { event_id }, Some(CALL));
        let answer = within(CALL, self.client.discard_parked_event(request)).await?.into_inner();
        print(&format!("{}{} discarded\n", self.label(), answer.discarded_count));
        Ok(0)
    }

    async fn unsettled(&mut self) -> Result<u64, Trouble> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request = self.request(ListUnsettledRequest { page_token, ..Default::default() }, Some(CALL));
            let page = within(CALL, self.client.list_unsettled(request)).await?.into_inner();
            for view in page.unsettled {
                count += 1;
                print(&format!("{}\t{}\t{}\n", view.ticket_id, moment(view.since_time), view.missing.join(", ")));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                print(&format!("{}{count} unsettled\n", self.label()));
                return Ok(0);
            }
        }
    }
}

/// Reads a stream to its end under a progress bar, which is there on a terminal only; answers how much was done at the end.
async fn follow<T>(
    stream: &mut Streaming<T>,
    counts: impl Fn(&T) -> (i64, i64),
    mut each: impl FnMut(T),
) -> Result<u64, Trouble> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} to go") {
        bar.set_style(style);
    }
    let mut last = 0;
    while let Some(message) = within(SILENCE, stream.message()).await? {
        let (done, total) = counts(&message);
        last = u64::try_from(done).unwrap_or_default();
        bar.set_length(u64::try_from(total).unwrap_or_default());
        bar.set_position(last);
        bar.suspend(|| each(message));
    }
    bar.finish_and_clear();
    Ok(last)
}

fn moment(time: Option<prost_types::Timestamp>) -> String {
    let time = time.as_ref().and_then(time::from_proto);
    time.map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for address in ["127.0.0.1:8088", "gateway.example:8088", "[::1]:8088"] {
            assert_eq!(authority(address).expect(address).as_str(), address);
        }
        for address in [
            "",
            "nowhere",
            "nowhere:",
            ":1",
            "h:port",
            "h:70000",
            "h:0",
            "u@h:1",
            "h:1/",
            "h:1/x",
            "http://h:1",
            "h h:1",
        ] {
            let error = authority(address).expect_err(address);
            assert_eq!(error.code(), 78, "{address}");
            assert!(error.to_string().contains("expected host:port"), "{error}");
        }
        assert!(authority("http://h:1").expect_err("a URL").to_string().contains("without http://"));
    }
}

//! The calls behind the commands, and what people see of them.

use std::time::Duration;

use eticket_proto::{
    headers,
    operations::{
        CompareViewRequest, ListParkedEventsRequest, ListUnsettledRequest, RebuildViewRequest, RepublishRequest,
        ResendParkedEventRequest, operations_service_client::OperationsServiceClient,
    },
    time,
};
use indicatif::{ProgressBar, ProgressStyle};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::Task;
use crate::{exit::StartError, process::ready::print};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A service, or the gateway that hands on to one.
pub(super) struct Server {
    address: String,
    client: OperationsServiceClient<Channel>,
    service: Option<&'static str>,
}

impl Server {
    pub(super) async fn connect(address: &str) -> Result<Self, StartError> {
        let malformed = || StartError::config("--address", address, "expected host:port");
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
        port.ok_or_else(malformed)?;
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| malformed())?;
        let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect().await.map_err(|error| {
            let what = format!("no server answers at {address}: start it, or say with --address where it runs");
            StartError::unavailable(what, error)
        })?;
        Ok(Self { address: address.to_owned(), client: OperationsServiceClient::new(channel), service: None })
    }

    /// From now on all is for this service.
    pub(super) fn hand_on_to(&mut self, service: Option<&'static str>) {
        self.service = service;
    }

    /// Answers how many differences were found, if that was the task.
    pub(super) async fn carry_out(&mut self, task: &Task) -> Result<u64, StartError> {
        let done = match task {
            Task::Republish => self.republish().await,
            Task::Parked => self.parked().await,
            Task::Resend(event) => self.resend(event.clone().unwrap_or_default()).await,
            Task::RebuildView => self.rebuild_view().await,
            Task::CompareView => self.compare_view().await,
            Task::Unsettled => self.unsettled().await,
        };
        done.map_err(|status| self.failure(&status))
    }

    fn failure(&self, status: &Status) -> StartError {
        let who = self.service.map_or_else(|| self.address.clone(), |name| format!("{name} at {}", self.address));
        let what = format!("{who} answers {}: {}", status.code(), status.message());
        match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => StartError::Unavailable { what, source: None },
            _ => StartError::Refused(what),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
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

    async fn republish(&mut self) -> Result<u64, Status> {
        let request = self.request(RepublishRequest {});
        let mut stream = self.client.republish(request).await?.into_inner();
        let done = follow(&mut stream, |answer| (answer.republished_count, answer.total_count), |_| {}).await?;
        print(&format!("{}{done} states put into the outbox again\n", self.label()));
        Ok(0)
    }

    async fn rebuild_view(&mut self) -> Result<u64, Status> {
        let request = self.request(RebuildViewRequest {});
        let mut stream = self.client.rebuild_view(request).await?.into_inner();
        let done = follow(&mut stream, |answer| (answer.applied_count, answer.total_count), |_| {}).await?;
        print(&format!("{}{done} messages applied to the new view\n", self.label()));
        Ok(0)
    }

    async fn compare_view(&mut self) -> Result<u64, Status> {
        let request = self.request(CompareViewRequest {});
        let mut stream = self.client.compare_view(request).await?.into_inner();
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

    async fn parked(&mut self) -> Result<u64, Status> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request = self.request(ListParkedEventsRequest { page_token, ..Default::default() });
            let page = self.client.list_parked_events(request).await?.into_inner();
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

    async fn resend(&mut self, event_id: String) -> Result<u64, Status> {
        let request = self.request(ResendParkedEventRequest { event_id });
        let count = self.client.resend_parked_event(request).await?.into_inner().resent_count;
        print(&format!("{}{count} applied again\n", self.label()));
        Ok(0)
    }

    async fn unsettled(&mut self) -> Result<u64, Status> {
        let (mut count, mut page_token) = (0, String::new());
        loop {
            let request = self.request(ListUnsettledRequest { page_token, ..Default::default() });
            let page = self.client.list_unsettled(request).await?.into_inner();
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
) -> Result<u64, Status> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len}, {eta} to go") {
        bar.set_style(style);
    }
    let mut last = 0;
    while let Some(message) = stream.message().await? {
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

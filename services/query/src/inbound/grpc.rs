//! `eticket.query.v1.QueryService`: parses requests, and converts the results of the application into messages of the
//! contract.

mod history;
mod session;

use std::time::Duration;

use chrono::{DateTime, Utc};
use eticket_base::tasks::Tasks;
use eticket_proto::{
    error::ErrorReason,
    field_text,
    ids::{ReservationId, TicketId, UserId},
    query::{
        GetTicketHistoryRequest, GetTicketHistoryResponse, GetTicketViewRequest, GetTicketViewResponse,
        ListTicketViewsRequest, ListTicketViewsResponse, ListUserReservationsRequest, ListUserReservationsResponse,
        TicketView, WaitFor, WatchTicketViewsRequest, WatchTicketViewsResponse, query_service_server::QueryService,
    },
    time::from_proto,
    token::{self, Consistency, Kind},
};
use eticket_rpc_server::{
    auth::{self, Caller},
    call::Call,
    error::ApiError,
    on_demand::on_demand,
    paging::{self, Page},
    server::Draining,
};
use eticket_service::failure;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use prost_types::Timestamp;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use self::session::Session;
use crate::{
    application::{
        Views, Watched,
        listing::{Filter, KeyPart, SortOrder},
        waiting::{Patience, WaitError},
        watch::{ResumePoint, Sent, WatchError},
    },
    convert::{status_filter, to_message, to_user_reservation},
    domain::{Reservation, View, Wait},
};

/// A wait ends before the deadline by one part in this many of the remaining time, so that the reason still reaches the
/// client.
const MARGIN_SHARE: u32 = 20;
const MARGIN_LEAST: Duration = Duration::from_millis(20);
const MARGIN_MOST: Duration = Duration::from_millis(250);

/// With more ids than this, a watch must cover all tickets.
const MOST_WATCHED: usize = 1000;

/// Retry delay for clients while the view is being built.
const BUILDING: Duration = Duration::from_secs(1);

pub struct Grpc {
    pub views: Views,
    /// Deadline of calls that have none and did not pass a server layer.
    pub default_deadline: Duration,
    /// Tasks of watches. They end when their client disconnects or the server drains.
    pub tasks: Tasks,
}

#[tonic::async_trait]
impl QueryService for Grpc {
    async fn get_ticket_view(
        &self,
        request: Request<GetTicketViewRequest>,
    ) -> Result<Response<GetTicketViewResponse>, Status> {
        let (call, session) = (Call::from_request(&request), Session::from_metadata(request.metadata()));
        let message = request.into_inner();
        let (id, wait) = (ticket_id("ticket_id", &message.ticket_id), wait(message.wait));
        invalid([id.as_ref().err(), wait.as_ref().err()], &session)?;
        let (id, wait, session) = (id?, wait?, session?);
        let token = consistency(&message.consistency_token, &id)?;
        let condition = session.condition_of(&id);
        let has_token = token.is_some() || !condition.is_empty();
        // The fields count as one more token. If `wait` is not set, the wait of the metadata applies.
        let condition = match wait.unwrap_or_else(|| session.wait()) {
            Some(wait) => condition.and(token, wait),
            None => condition,
        };
        let view = if condition.is_empty() {
            self.is_complete()?;
            let view = self.views.view(&id).await.map_err(failure::store_status)?;
            view.ok_or_else(|| unknown(&id))?
        } else {
            let view = self.views.view_once(&id, &condition, self.patience(&call)).await;
            view.map_err(|error| not_waited(error, has_token))?
        };
        Ok(Response::new(GetTicketViewResponse { view: Some(shown(&id, &view, self.views.now(), &call.caller)) }))
    }

    async fn list_ticket_views(
        &self,
        request: Request<ListTicketViewsRequest>,
    ) -> Result<Response<ListTicketViewsResponse>, Status> {
        let (call, session) = (Call::from_request(&request), Session::from_metadata(request.metadata()));
        let message = request.into_inner();
        let order = SortOrder::parse(&message.order_by);
        let order = order.map_err(|error| ApiError::invalid_field("order_by", error.to_string()));
        let (filter, size) = (filter(&message, &call.caller), Page::size(message.page_size));
        invalid([filter.as_ref().err(), order.as_ref().err(), size.as_ref().err()], &session)?;
        let (filter, order, session) = (filter?, order?, session?);
        let scope = format!("ListTicketViews {filter:?} {order}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let after = page.after.as_deref().map(|key| list_key(key, &order)).transpose()?;
        self.is_complete()?;
        self.caught_up_with(&session, &call, |_| true).await?;
        let found = self
            .views
            .page(&filter, &order, after.as_deref(), page.rows_to_read())
            .await
            .map_err(failure::store_status)?;
        let now = self.views.now();
        let (views, last) = page.fill(found, |(id, view)| Some(shown(id, view, now, &call.caller)));
        let next_page_token = match last {
            Some((id, view)) => paging::token(&scope, &encoded(&order.key(&id, &view))?),
            None => String::new(),
        };
        Ok(Response::new(ListTicketViewsResponse { views, next_page_token }))
    }

    async fn list_user_reservations(
        &self,
        request: Request<ListUserReservationsRequest>,
    ) -> Result<Response<ListUserReservationsResponse>, Status> {
        let (call, session) = (Call::from_request(&request), Session::from_metadata(request.metadata()));
        let message = request.into_inner();
        let named = if call.caller.is_admin() { &message.user_id } else { call.caller.only(&message.user_id)? };
        let (user, size) = (user_id("user_id", named), Page::size(message.page_size));
        invalid([user.as_ref().err(), size.as_ref().err()], &session)?;
        let (user, session) = (user?, session?);
        let scope = format!("ListUserReservations {user}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let before = page.after.as_deref().map(reservation_key).transpose()?;
        self.is_complete()?;
        self.caught_up_with(&session, &call, |_| true).await?;
        let found =
            self.views.user_reservations(&user, before, page.rows_to_read()).await.map_err(failure::store_status)?;
        let now = self.views.now();
        let shown = |(reservation, view): &(Reservation, View)| Some(to_user_reservation(reservation, view, now));
        let (reservations, last) = page.fill(found, shown);
        let next_page_token = last.map(|(last, _)| paging::token(&scope, &key_of(&last))).unwrap_or_default();
        Ok(Response::new(ListUserReservationsResponse { reservations, next_page_token }))
    }

    type WatchTicketViewsStream = BoxStream<'static, Result<WatchTicketViewsResponse, Status>>;

    async fn watch_ticket_views(
        &self,
        request: Request<WatchTicketViewsRequest>,
    ) -> Result<Response<Self::WatchTicketViewsStream>, Status> {
        // Also end when only this connection drains, so that the client reconnects before the connection is closed.
        let draining = request.extensions().get::<Draining>().map(|Draining(token)| token.clone());
        let draining = draining.unwrap_or_else(|| self.views.draining.clone());
        let (call, session) = (Call::from_request(&request), Session::from_metadata(request.metadata()));
        let message = request.into_inner();
        let (watched, resume) = (watched(&message.ticket_ids), resume_point(&message.resume_token));
        invalid([watched.as_ref().err(), resume.as_ref().err()], &session)?;
        let (watched, resume, session) = (watched?, resume?, session?);
        self.is_complete()?;
        let is_watched = |id: &TicketId| match &watched {
            Watched::All => true,
            Watched::These(ids) => ids.contains(id),
        };
        self.caught_up_with(&session, &call, is_watched).await?;
        let watch = self.views.watch(watched, resume, draining.clone()).await.map_err(not_watched)?;
        let views = self.views.clone();
        let (state, expires) = (Some((watch, message.resume_token)), call.caller.expires());
        let sent = stream::unfold(state, move |state| {
            let (views, caller) = (views.clone(), call.caller.clone());
            async move {
                let (mut watch, token) = state?;
                let sent = tokio::select! {
                    biased;
                    () = passed(expires) => return Some((Err(expired(&token)), None)),
                    sent = watch.next() => sent,
                };
                match sent {
                    Ok(sent) => {
                        let response = to_response(sent, views.now(), &caller);
                        // Messages within a snapshot have no token: keep the last one.
                        let token =
                            if response.resume_token.is_empty() { token } else { response.resume_token.clone() };
                        Some((Ok(response), Some((watch, token))))
                    }
                    Err(error) => Some((Err(not_watched(error)), None)),
                }
            }
        });
        // A watch reads the store only on demand, so that a client that stops reading holds nothing of the store.
        Ok(Response::new(on_demand(&self.tasks, "watch", draining, sent.boxed())))
    }

    async fn get_ticket_history(
        &self,
        request: Request<GetTicketHistoryRequest>,
    ) -> Result<Response<GetTicketHistoryResponse>, Status> {
        let (call, session) = (Call::from_request(&request), Session::from_metadata(request.metadata()));
        let message = request.into_inner();
        let (id, size) = (ticket_id("ticket_id", &message.ticket_id), Page::size(message.page_size));
        invalid([id.as_ref().err(), size.as_ref().err()], &session)?;
        let (id, session) = (id?, session?);
        let scope = format!("GetTicketHistory {id}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let before = page.after.as_deref().map(history::before).transpose()?;
        self.caught_up_with(&session, &call, |of| *of == id).await?;
        let most = usize::try_from(page.rows_to_read()).unwrap_or(usize::MAX);
        let found = self.views.history(&id, before.as_ref(), most, paging::MOST_BYTES).await;
        let found = found.map_err(history::not_read)?;
        if found.messages.is_empty() && before.is_none() {
            // The events of a known ticket may be lost.
            self.is_complete()?;
            self.views.view(&id).await.map_err(failure::store_status)?.ok_or_else(|| unknown(&id))?;
        }
        let oldest = found.messages.last().filter(|_| found.is_cut).cloned();
        let (entries, last) = page.fill(found.messages, |found| Some(history::entry(found, &call.caller)));
        let last = last.or(oldest);
        let token = |last| paging::token(&scope, &history::key(&found.epoch, &last));
        Ok(Response::new(GetTicketHistoryResponse { entries, next_page_token: last.map(token).unwrap_or_default() }))
    }
}

impl Grpc {
    /// Fails until the view has caught up for the first time: before that, a missing row proves nothing. Calls that
    /// wait for a condition do not need this check.
    fn is_complete(&self) -> Result<(), ApiError> {
        if self.views.changes.has_caught_up() {
            return Ok(());
        }
        let message = "the view is being built from the stream and has not caught up yet; try again shortly";
        Err(ApiError::new(ErrorReason::StoreUnavailable).message(message).retry_after(BUILDING))
    }

    /// Waits until the view includes the commands of the session's tokens of the wanted tickets.
    async fn caught_up_with(
        &self,
        session: &Session,
        call: &Call,
        is_wanted: impl Fn(&TicketId) -> bool,
    ) -> Result<(), Status> {
        let waited = self.views.caught_up_with(&session.conditions(is_wanted), self.patience(call)).await;
        waited.map_err(|error| not_waited(error, true))
    }

    fn patience(&self, call: &Call) -> Patience {
        patience(Instant::now(), call.deadline, self.default_deadline)
    }
}

/// Returns one error with all invalid fields and headers.
fn invalid<const N: usize>(
    fields: [Option<&ApiError>; N],
    session: &Result<Session, ApiError>,
) -> Result<(), ApiError> {
    let header = session.as_ref().err().filter(|error| error.reason() == ErrorReason::InvalidField);
    ApiError::all([ApiError::all(fields).as_ref().err(), header])
}

fn unknown(id: &TicketId) -> ApiError {
    ApiError::new(ErrorReason::TicketNotFound).with("ticket_id", id)
}

fn watched(ids: &[String]) -> Result<Watched, ApiError> {
    if ids.is_empty() {
        return Ok(Watched::All);
    }
    if ids.len() > MOST_WATCHED {
        let expected = format!("expected at most {MOST_WATCHED} ids, or none for all tickets; got {}", ids.len());
        return Err(ApiError::invalid_field("ticket_ids", expected));
    }
    let id = |(index, id): (usize, &String)| ticket_id(&format!("ticket_ids[{index}]"), id);
    let parsed: Vec<Result<TicketId, ApiError>> = ids.iter().enumerate().map(id).collect();
    ApiError::all(parsed.iter().map(|id| id.as_ref().err()))?;
    Ok(Watched::These(parsed.into_iter().collect::<Result<_, _>>()?))
}

/// Encodes a position in the stream, sequence, epoch and mark, as a token. To replicas of earlier versions, the mark is a
/// part of the epoch, so they begin with a snapshot.
fn resume_token(point: &ResumePoint) -> String {
    let mut payload = point.sequence.to_be_bytes().to_vec();
    payload.extend_from_slice(point.epoch.as_bytes());
    if point.mark != 0 {
        payload.extend_from_slice(format!("#{:x}", point.mark).as_bytes());
    }
    token::seal(Kind::Resume, &payload)
}

fn resume_point(text: &str) -> Result<Option<ResumePoint>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = token::open(Kind::Resume, text).ok().and_then(|payload| {
        let (sequence, epoch) = payload.split_first_chunk::<8>()?;
        let epoch = std::str::from_utf8(epoch).ok()?;
        let (epoch, mark) = match epoch.rsplit_once('#') {
            Some((epoch, mark)) => (epoch, u32::from_str_radix(mark, 16).ok()?),
            None => (epoch, 0),
        };
        Some(ResumePoint { epoch: epoch.to_owned(), sequence: u64::from_be_bytes(*sequence), mark })
    });
    let expected = "expected a resume_token of an earlier WatchTicketViews, or nothing";
    parsed.map(Some).ok_or_else(|| ApiError::invalid_field("resume_token", expected))
}

/// Returns a row for a caller. Users see the holder of a ticket only if they are the holder.
fn shown(id: &TicketId, view: &View, now: DateTime<Utc>, caller: &Caller) -> TicketView {
    let message = to_message(id, view, now);
    if message.user_id.is_empty() || caller.may_see(&message.user_id) {
        return message;
    }
    TicketView { reservation_id: String::new(), user_id: String::new(), user_grade: 0, ..message }
}

fn to_response(sent: Sent, now: DateTime<Utc>, caller: &Caller) -> WatchTicketViewsResponse {
    WatchTicketViewsResponse {
        view: sent.row.map(|(id, view)| shown(&id, &view, now, caller)),
        resume_token: sent.resume.as_ref().map(resume_token).unwrap_or_default(),
    }
}

/// Waits for a time; forever without one.
async fn passed(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns the error of a watch whose token has expired. The client requests a new token from its identity provider and
/// resumes from `resume_token`.
fn expired(resume_token: &str) -> Status {
    auth::expired().with("resume_token", resume_token).into()
}

fn not_watched(error: WatchError) -> Status {
    match error {
        WatchError::ShuttingDown => ApiError::new(ErrorReason::ShuttingDown).into(),
        // Not an overload: the rows are being read again, and the client can restart the watch at once.
        WatchError::StreamChanged => ApiError::new(ErrorReason::StoreUnavailable).message(error.to_string()).into(),
        WatchError::TooMany => ApiError::new(ErrorReason::ServiceOverloaded).message(error.to_string()).into(),
        WatchError::Bus(_) => {
            ApiError::new(ErrorReason::UpstreamUnavailable).message(error.to_string()).with("upstream", "bus").into()
        }
        WatchError::Store(error) => failure::store_status(error),
    }
}

/// Returns when a wait that starts now must end. Half of the margin is for the search of the cause.
fn patience(now: Instant, deadline: Option<Instant>, default: Duration) -> Patience {
    let deadline = deadline.unwrap_or(now + default);
    let given = deadline.saturating_duration_since(now);
    let margin = (given / MARGIN_SHARE).clamp(MARGIN_LEAST, MARGIN_MOST);
    Patience { until: deadline.checked_sub(margin).unwrap_or(now).max(now), diagnosis: margin / 2 }
}

fn not_waited(error: WaitError, has_token: bool) -> Status {
    match error {
        WaitError::NotCaughtUp(behind) => session::not_caught_up(&behind, has_token).into(),
        WaitError::ShuttingDown => ApiError::new(ErrorReason::ShuttingDown).into(),
        WaitError::TooMany => ApiError::new(ErrorReason::ServiceOverloaded).message(error.to_string()).into(),
        WaitError::Store(error) => failure::store_status(error),
    }
}

/// Parses the field `wait`; `None` if it is unspecified.
fn wait(number: i32) -> Result<Option<Option<Wait>>, ApiError> {
    match WaitFor::try_from(number) {
        Ok(WaitFor::Unspecified) => Ok(None),
        Ok(WaitFor::None) => Ok(Some(None)),
        Ok(WaitFor::Applied) => Ok(Some(Some(Wait::Applied))),
        Ok(WaitFor::Settled) => Ok(Some(Some(Wait::Settled))),
        Err(_) => Err(ApiError::invalid_field("wait", field_text::WAITS)),
    }
}

fn ticket_id(field: &str, text: &str) -> Result<TicketId, ApiError> {
    let parsed = text.parse();
    parsed.map_err(|error: eticket_proto::ids::InvalidId| ApiError::invalid_field(field, error.to_string()))
}

fn user_id(field: &str, text: &str) -> Result<UserId, ApiError> {
    let parsed = text.parse();
    parsed.map_err(|error: eticket_proto::ids::InvalidId| ApiError::invalid_field(field, error.to_string()))
}

fn consistency(token: &str, id: &TicketId) -> Result<Option<Consistency>, ApiError> {
    if token.is_empty() {
        return Ok(None);
    }
    let token = Consistency::decode(token).map_err(|_| session::malformed("consistency_token"))?;
    if token.ticket() == id {
        return Ok(Some(token));
    }
    let of = token.ticket();
    let other = format!("consistency_token: it is of ticket {of}, but the request is about ticket {id}");
    Err(ApiError::new(ErrorReason::InvalidConsistencyToken).message(other).with("ticket_id", id))
}

fn filter(message: &ListTicketViewsRequest, caller: &Caller) -> Result<Filter, ApiError> {
    let status = status_filter(message.filter_status)
        .map_err(|_| ApiError::invalid_field("filter_status", field_text::TICKET_STATUSES));
    let user = Some(message.filter_user_id.as_str()).filter(|user| !user.is_empty());
    if let Some(user) = user.filter(|_| !caller.is_admin()) {
        caller.only(user)?;
    }
    let user = user.map(|user| user_id("filter_user_id", user)).transpose();
    let start_from = optional_time("start_time_from", message.start_time_from.as_ref());
    let start_to = optional_time("start_time_to", message.start_time_to.as_ref());
    let wrong = [status.as_ref().err(), user.as_ref().err(), start_from.as_ref().err(), start_to.as_ref().err()];
    ApiError::all(wrong)?;
    Ok(Filter { status: status?, user: user?, start_from: start_from?, start_to: start_to? })
}

fn optional_time(field: &str, time: Option<&Timestamp>) -> Result<Option<DateTime<Utc>>, ApiError> {
    let expected = "expected a time in the years 1 to 9999, with nanos from 0 to 999999999";
    time.map(|time| from_proto(time).ok_or_else(|| ApiError::invalid_field(field, expected))).transpose()
}

fn encoded(key: &[KeyPart]) -> Result<String, Status> {
    serde_json::to_string(key).map_err(|error| ApiError::internal(&error))
}

fn list_key(key: &str, order: &SortOrder) -> Result<Vec<KeyPart>, ApiError> {
    let key = serde_json::from_str(key).ok().filter(|key: &Vec<KeyPart>| order.fits(key));
    key.ok_or_else(|| ApiError::new(ErrorReason::InvalidPageToken))
}

fn key_of(reservation: &Reservation) -> String {
    format!("{} {}", reservation.reserve_time.timestamp_micros(), reservation.reservation_id)
}

fn reservation_key(key: &str) -> Result<(DateTime<Utc>, ReservationId), ApiError> {
    let parsed = key.split_once(' ').and_then(|(time, id)| {
        let time = DateTime::from_timestamp_micros(time.parse().ok()?)?;
        Some((time, id.parse().ok()?))
    });
    parsed.ok_or_else(|| ApiError::new(ErrorReason::InvalidPageToken))
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt;

    use super::*;

    #[test]
    fn all_invalid_ids_of_a_watch_are_named() {
        let ids = ["a", "b.c", "d", "e f"].map(str::to_owned);
        let Err(error) = watched(&ids) else { panic!("expected an error") };
        let status = Status::from(error);
        let named = status.get_details_bad_request().expect("a BadRequest").field_violations;
        let named: Vec<_> = named.iter().map(|wrong| wrong.field.as_str()).collect();
        assert_eq!(named, ["ticket_ids[1]", "ticket_ids[3]"]);
    }

    #[test]
    fn a_wait_ends_before_the_deadline() {
        let now = Instant::now();
        for (given_ms, margin_ms) in [(100, 20), (400, 20), (1_000, 50), (5_000, 250), (10_000, 250), (600_000, 250)] {
            let given = Duration::from_millis(given_ms);
            let expected = now + given - Duration::from_millis(margin_ms);
            assert_eq!(patience(now, Some(now + given), Duration::ZERO).until, expected, "{given_ms} ms");
            let by_default = patience(now, None, given);
            assert_eq!(by_default.until, expected, "{given_ms} ms by default");
            assert!(by_default.until + by_default.diagnosis < now + given, "the diagnosis ends before the deadline");
        }
        assert_eq!(patience(now, Some(now), Duration::ZERO).until, now, "a wait never ends before it begins");
    }
}

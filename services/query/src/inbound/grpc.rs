//! `eticket.query.v1.QueryService`: parses requests, and converts the results of the application into messages of the
//! contract.

use std::time::Duration;

use chrono::{DateTime, Utc};
use eticket_base::tasks::Tasks;
use eticket_proto::{
    error::ErrorReason,
    field_text,
    ids::{ReservationId, TicketId, UserId},
    query::{
        GetTicketViewRequest, GetTicketViewResponse, ListTicketViewsRequest, ListTicketViewsResponse,
        ListUserReservationsRequest, ListUserReservationsResponse, TicketView, WaitFor, WatchTicketViewsRequest,
        WatchTicketViewsResponse, query_service_server::QueryService,
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

use crate::{
    application::{
        Views, WaitError, Watched,
        listing::{Filter, KeyPart, SortOrder},
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
        let call = Call::from_request(&request);
        let message = request.into_inner();
        let (id, wait) = (ticket_id("ticket_id", &message.ticket_id), wait(message.wait));
        ApiError::all([id.as_ref().err(), wait.as_ref().err()])?;
        let (id, wait) = (id?, wait?);
        let token = consistency(&message.consistency_token, &id)?;
        let view = match wait {
            None => {
                self.is_complete()?;
                let view = self.views.view(&id).await.map_err(failure::store_status)?;
                view.ok_or_else(|| ApiError::new(ErrorReason::TicketNotFound).with("ticket_id", &id))?
            }
            Some(wait) => {
                let until = wait_until(Instant::now(), call.deadline, self.default_deadline);
                let has_token = token.is_some();
                let view = self.views.view_with(&id, token, wait, until).await;
                view.map_err(|error| not_waited(error, &id, has_token))?
            }
        };
        Ok(Response::new(GetTicketViewResponse { view: Some(shown(&id, &view, self.views.now(), &call.caller)) }))
    }

    async fn list_ticket_views(
        &self,
        request: Request<ListTicketViewsRequest>,
    ) -> Result<Response<ListTicketViewsResponse>, Status> {
        let caller = Call::from_request(&request).caller;
        let message = request.into_inner();
        let order = SortOrder::parse(&message.order_by);
        let order = order.map_err(|error| ApiError::invalid_field("order_by", error.to_string()));
        let (filter, size) = (filter(&message, &caller), Page::size(message.page_size));
        ApiError::all([filter.as_ref().err(), order.as_ref().err(), size.as_ref().err()])?;
        let (filter, order) = (filter?, order?);
        let scope = format!("ListTicketViews {filter:?} {order}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let after = page.after.as_deref().map(|key| list_key(key, &order)).transpose()?;
        self.is_complete()?;
        let found = self
            .views
            .page(&filter, &order, after.as_deref(), page.rows_to_read())
            .await
            .map_err(failure::store_status)?;
        let now = self.views.now();
        let (views, last) = page.fill(found, |(id, view)| Some(shown(id, view, now, &caller)));
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
        let caller = Call::from_request(&request).caller;
        let message = request.into_inner();
        let named = if caller.is_admin() { &message.user_id } else { caller.only(&message.user_id)? };
        let (user, size) = (user_id("user_id", named), Page::size(message.page_size));
        ApiError::all([user.as_ref().err(), size.as_ref().err()])?;
        let user = user?;
        let scope = format!("ListUserReservations {user}");
        let page = Page::parse(message.page_size, &message.page_token, &scope)?;
        let before = page.after.as_deref().map(reservation_key).transpose()?;
        self.is_complete()?;
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
        let caller = Call::from_request(&request).caller;
        let message = request.into_inner();
        let (watched, resume) = (watched(&message.ticket_ids), resume_point(&message.resume_token));
        ApiError::all([watched.as_ref().err(), resume.as_ref().err()])?;
        let (watched, resume) = (watched?, resume?);
        self.is_complete()?;
        let watch = self.views.watch(watched, resume, draining.clone()).await.map_err(not_watched)?;
        let views = self.views.clone();
        let state = Some((watch, message.resume_token));
        let sent = stream::unfold(state, move |state| {
            let (views, caller) = (views.clone(), caller.clone());
            async move {
                let (mut watch, token) = state?;
                let sent = tokio::select! {
                    biased;
                    () = token_expires(&caller) => return Some((Err(expired(&token)), None)),
                    sent = watch.next() => sent,
                };
                match sent {
                    Ok(sent) => {
                        let response = to_response(sent, views.now(), &caller);
                        // Messages within a burst have no token of their own.
                        let token =
                            if response.resume_token.is_empty() { token } else { response.resume_token.clone() };
                        Some((Ok(response), Some((watch, token))))
                    }
                    Err(error) => Some((Err(not_watched(error)), None)),
                }
            }
        });
        // A watch reads the store only on demand, so that a client that stops reading holds no connection of the store.
        Ok(Response::new(on_demand(&self.tasks, "watch", draining, sent.boxed())))
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
    Ok(Watched::These(ids.iter().enumerate().map(id).collect::<Result<_, _>>()?))
}

/// Encodes a position in the stream, sequence and epoch, as a token.
fn resume_token(point: &ResumePoint) -> String {
    let mut payload = point.sequence.to_be_bytes().to_vec();
    payload.extend_from_slice(point.epoch.as_bytes());
    token::seal(Kind::Resume, &payload)
}

fn resume_point(text: &str) -> Result<Option<ResumePoint>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = token::open(Kind::Resume, text).ok().and_then(|payload| {
        let (sequence, epoch) = payload.split_first_chunk::<8>()?;
        let epoch = String::from_utf8(epoch.to_vec()).ok()?;
        Some(ResumePoint { epoch, sequence: u64::from_be_bytes(*sequence) })
    });
    let expected = "expected a resume_token of an earlier WatchTicketViews, or nothing";
    parsed.map(Some).ok_or_else(|| ApiError::invalid_field("resume_token", expected))
}

/// Returns a row for a caller. Users see who holds a ticket only if it is they.
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

async fn token_expires(caller: &Caller) {
    match caller.expires() {
        Some(expires) => tokio::time::sleep_until(expires).await,
        None => std::future::pending().await,
    }
}

/// The client gets a new token of its identity provider and goes on from `resume_token`.
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

/// Returns the time at which a wait that starts now must end.
fn wait_until(now: Instant, deadline: Option<Instant>, default: Duration) -> Instant {
    let deadline = deadline.unwrap_or(now + default);
    let given = deadline.saturating_duration_since(now);
    let margin = (given / MARGIN_SHARE).clamp(MARGIN_LEAST, MARGIN_MOST);
    deadline.checked_sub(margin).unwrap_or(now).max(now)
}

fn not_waited(error: WaitError, id: &TicketId, has_token: bool) -> Status {
    match error {
        WaitError::NotCaughtUp => {
            let message = match has_token {
                true => "the view has not caught up with the token yet; ask again with the same token",
                false => "the view has not caught up yet; ask again, or wait with a command's token",
            };
            ApiError::new(ErrorReason::ViewNotCaughtUp).message(message).with("ticket_id", id).into()
        }
        WaitError::ShuttingDown => ApiError::new(ErrorReason::ShuttingDown).into(),
        WaitError::TooMany => ApiError::new(ErrorReason::ServiceOverloaded).message(error.to_string()).into(),
        WaitError::Store(error) => failure::store_status(error),
    }
}

fn wait(number: i32) -> Result<Option<Wait>, ApiError> {
    match WaitFor::try_from(number) {
        Ok(WaitFor::Unspecified | WaitFor::None) => Ok(None),
        Ok(WaitFor::Applied) => Ok(Some(Wait::Applied)),
        Ok(WaitFor::Settled) => Ok(Some(Wait::Settled)),
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
    let refused = |message: String| ApiError::new(ErrorReason::InvalidConsistencyToken).message(message);
    let token = Consistency::decode(token).map_err(|_| {
        refused(
            "consistency_token: it is altered, cut, or no consistency token; send one as a command answered it, or nothing"
                .to_owned(),
        )
    })?;
    if token.ticket() == id {
        return Ok(Some(token));
    }
    let of = token.ticket();
    let other = format!("consistency_token: it is of ticket {of}, and this request is about ticket {id}");
    Err(refused(other).with("ticket_id", id))
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
    use super::*;

    #[test]
    fn a_wait_leaves_the_answer_time_to_arrive() {
        let now = Instant::now();
        for (given_ms, margin_ms) in [(100, 20), (400, 20), (1_000, 50), (5_000, 250), (10_000, 250), (600_000, 250)] {
            let given = Duration::from_millis(given_ms);
            let expected = now + given - Duration::from_millis(margin_ms);
            assert_eq!(wait_until(now, Some(now + given), Duration::ZERO), expected, "{given_ms} ms");
            assert_eq!(wait_until(now, None, given), expected, "{given_ms} ms by default");
        }
        assert_eq!(wait_until(now, Some(now), Duration::ZERO), now, "it never ends before it began");
    }
}

//! Ends each call at its caller's deadline, or at the server's default deadline if a unary call has none.
//!
//! tonic's own timeout returns CANCELLED and does not cover response streams; this layer returns DEADLINE_EXCEEDED with
//! a reason and covers the whole response. It is outside of the admission layer, so that an expired call releases its
//! permit. It also limits every `grpc-retry-pushback-ms` of inner layers and handlers to the time left until the
//! deadline.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use eticket_proto::error::ErrorReason;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use super::{
    grace::{Deadlines, Held},
    methods, reply,
};
use crate::error::ApiError;

const HEADER: &str = "grpc-timeout";
const UNARY_FRAMES: u64 = 2;

/// Longer timeouts are clamped to one year; `Instant + Duration` could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The deadline of the call: of the caller, or else the server's default. An extension of every request that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub Instant);

impl Deadline {
    /// The time left; zero once the deadline has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Parses the caller's timeout; `None` if there is none.
///
/// # Errors
/// INVALID_ARGUMENT that names the header, unless the value is 1 to 8 digits and a unit.
pub fn timeout_of(map: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let Some(value) = map.get(HEADER) else { return Ok(None) };
    let malformed =
        || ApiError::invalid_field(HEADER, "must be 1 to 8 digits and a unit of H, M, S, m, u or n, as 250m");
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let amount: u64 = digits.parse().map_err(|_| malformed())?;
    let time = match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return Err(malformed()),
    };
    Ok(Some(time.min(LONGEST)))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer {
    /// For unary calls without a deadline.
    pub(crate) default: Duration,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner, default: self.default }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct DeadlineService<S> {
    inner: S,
    default: Duration,
}

impl<S> DeadlineService<S> {
    fn deadline_of<A>(&self, request: &Request<A>) -> Result<Option<Deadline>, ApiError> {
        let given = timeout_of(request.headers())?;
        let unary = methods::of(request).is_some_and(|method| !method.streams);
        let time = given.or(unary.then_some(self.default));
        if time.is_some_and(|time| time.is_zero()) {
            return Err(expired());
        }
        Ok(time.map(|time| Deadline(Instant::now() + time)))
    }
}

/// The time left; zero once the deadline has passed, `None` without a deadline.
fn left_until(at: Option<Instant>) -> Option<Duration> {
    at.map(|at| Deadline(at).remaining())
}

/// Keeps the connection open until the call's deadline. Finite streams of work have no deadline and may take as long as
/// the connection allows.
fn hold<A>(request: &Request<A>, deadline: Option<Deadline>) -> Option<Held> {
    let finishes = || methods::of(request).is_some_and(|method| method.finishes);
    let until = deadline.map(|deadline| deadline.0).or_else(|| finishes().then(|| Instant::now() + LONGEST))?;
    request.extensions().get::<Deadlines>().map(|deadlines| deadlines.hold(until))
}

fn expired() -> ApiError {
    ApiError::new(ErrorReason::DeadlineExceeded)
}

impl<S, A, B> Service<Request<A>> for DeadlineService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<DeadlineBody<B>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        match self.deadline_of(&request) {
            Ok(deadline) => {
                let held = hold(&request, deadline);
                if let Some(deadline) = deadline {
                    request.extensions_mut().insert(deadline);
                }
                let sleep = deadline.map(|deadline| sleep_until(deadline.0));
                DeadlineFuture { inner: Some(self.inner.call(request)), sleep, refusal: None, held }
            }
            Err(error) => DeadlineFuture { inner: None, sleep: None, refusal: Some(error), held: None },
        }
    }
}

pin_project! {
    pub(crate) struct DeadlineFuture<F> {
        // None only if the call was rejected at once.
        #[pin]
        inner: Option<F>,
        #[pin]
        sleep: Option<Sleep>,
        refusal: Option<ApiError>,
        held: Option<Held>,
    }
}

impl<F, B, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<DeadlineBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            let refusal = this.refusal.take().unwrap_or_else(expired);
            return Poll::Ready(Ok(reply::only_trailers(refusal)));
        };
        if let Poll::Ready(response) = inner.poll(context) {
            let at = this.sleep.as_pin_mut().map(|sleep| sleep.deadline());
            let held = this.held.take();
            return Poll::Ready(response.map(|mut response| {
                reply::limit_pushback(response.headers_mut(), left_until(at));
                response.map(|inner| DeadlineBody::new(inner, at, held))
            }));
        }
        let Some(sleep) = this.sleep.as_mut().as_pin_mut() else { return Poll::Pending };
        ready!(sleep.poll(context));
        // Releases the resources of the call now instead of after the response is sent.
        this.inner.set(None);
        Poll::Ready(Ok(reply::only_trailers(expired())))
    }
}

/// A body that ends with DEADLINE_EXCEEDED at the deadline; empty afterwards.
#[derive(Debug)]
pub(crate) struct DeadlineBody<B> {
    inner: Option<B>,
    at: Option<Instant>,
    /// Created at the first pending poll, which a unary response does not have.
    sleep: Option<Pin<Box<Sleep>>>,
    frames: u64,
    /// Held until the response is sent.
    _held: Option<Held>,
}

impl<B> DeadlineBody<B> {
    fn new(inner: B, at: Option<Instant>, held: Option<Held>) -> Self {
        Self { inner: Some(inner), at, sleep: None, frames: 0, _held: held }
    }
}

impl<B> Default for DeadlineBody<B> {
    fn default() -> Self {
        Self { inner: None, at: None, sleep: None, frames: 0, _held: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> DeadlineBody<B> {
    fn has_expired(&mut self, context: &mut Context<'_>) -> bool {
        let Some(at) = self.at else { return false };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        sleep.as_mut().poll(context).is_ready()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for DeadlineBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        // A unary body has two frames, message and trailers. A body with more frames is a stream. If a
        // stream is always ready, only this comparison ends it: the timer is polled while the body is pending.
        let is_late = this.frames >= UNARY_FRAMES && this.at.is_some_and(|at| at <= Instant::now());
        if !is_late {
            if let Poll::Ready(mut frame) = Pin::new(inner).poll_frame(context) {
                this.frames += 1;
                if let Some(trailers) = frame.as_mut().and_then(|frame| frame.as_mut().ok()?.trailers_mut()) {
                    reply::limit_pushback(trailers, left_until(this.at));
                }
                return Poll::Ready(frame);
            }
            if !this.has_expired(context) {
                return Poll::Pending;
            }
        }
        this.inner = None;
        Poll::Ready(Some(reply::trailers(expired())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(text: &'static str) -> Result<Option<Duration>, ApiError> {
        let mut map = HeaderMap::new();
        map.insert(HEADER, HeaderValue::from_static(text));
        timeout_of(&map)
    }

    #[test]
    fn all_units_are_understood() {
        for (text, expected) in [
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("4S", Duration::from_secs(4)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
            ("0S", Duration::ZERO),
            ("99999999H", LONGEST),
        ] {
            assert_eq!(parse(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(timeout_of(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn a_malformed_timeout_names_the_header() {
        for text in ["", "S", "5", "5s", "5 S", "-1S", "+1S", "1.5S", "123456789S", "5SS"] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.reason(), ErrorReason::InvalidField);
            assert!(error.to_string().starts_with("grpc-timeout: "), "{error}");
        }
        let mut map = HeaderMap::new();
        map.insert(HEADER, HeaderValue::from_bytes(&[b'5', 0xff]).expect("a header"));
        assert!(timeout_of(&map).is_err());
    }
}

//! Calls with a deadline, a bearer token, and a retry when that is safe and the server asks for it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use eticket_proto::headers::RETRY_PUSHBACK;
use tokio::time::{Instant, sleep};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
};
use tonic_types::StatusExt;

/// For a call with all its attempts. Servers read the rest of it from each attempt and do not work longer than that.
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(2);

/// Makes the calls of one user.
pub(crate) struct Caller {
    authorization: Option<MetadataValue<Ascii>>,
}

impl Caller {
    /// # Errors
    /// If the token has a character that a header cannot have.
    pub(crate) fn new(token: Option<&str>) -> Result<Self> {
        let header = |token| format!("Bearer {token}").parse().context("ETICKET_TOKEN cannot be sent in a header");
        Ok(Self { authorization: token.map(header).transpose()? })
    }

    /// Sends a request until the response is final or the deadline would pass.
    ///
    /// The caller must send only requests that are safe to repeat: reads, and commands with a `request_id`.
    ///
    /// # Errors
    /// The reason and the text of the last attempt.
    pub(crate) async fn call<Q: Clone, R>(
        &self,
        message: Q,
        send: impl AsyncFn(Request<Q>) -> Result<Response<R>, Status>,
    ) -> Result<R> {
        let until = Instant::now() + DEADLINE;
        let mut backoff = FIRST_BACKOFF;
        loop {
            let mut request = Request::new(message.clone());
            request.set_timeout(until - Instant::now());
            if let Some(authorization) = &self.authorization {
                request.metadata_mut().insert("authorization", authorization.clone());
            }
            let status = match send(request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            match pause(&status, backoff) {
                Some(pause) if Instant::now() + pause < until => sleep(pause).await,
                _ => return Err(explain(&status)),
            }
            backoff = (2 * backoff).min(LONGEST_BACKOFF);
        }
    }
}

/// How long to wait before the next attempt; none if there must be no other.
///
/// Only UNAVAILABLE says that another attempt may succeed. The server knows best when: a negative pushback forbids the attempt. Without
/// a wish of the server the pause is random, so that clients that failed together do not return together.
fn pause(status: &Status, backoff: Duration) -> Option<Duration> {
    if status.code() != Code::Unavailable {
        return None;
    }
    if let Some(pushback) = status.metadata().get(RETRY_PUSHBACK) {
        let millis = pushback.to_str().ok()?.parse().ok()?;
        return Some(Duration::from_millis(millis));
    }
    let wish = status.get_details_retry_info().and_then(|info| info.retry_delay);
    Some(wish.unwrap_or_else(|| backoff.mul_f64(rand::random_range(0.5..=1.0))))
}

/// The reason is for programs, the message for people.
fn explain(status: &Status) -> anyhow::Error {
    let reason = status.get_details_error_info().map(|info| info.reason);
    anyhow!("{}: {}", reason.unwrap_or_else(|| format!("{:?}", status.code())), status.message())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tonic_types::ErrorDetails;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn with_pushback(value: &'static str) -> Status {
        let mut status = Status::unavailable("busy");
        status.metadata_mut().insert(RETRY_PUSHBACK, MetadataValue::from_static(value));
        status
    }

    fn with_retry_info(delay: Duration) -> Status {
        Status::with_error_details(Code::Unavailable, "busy", ErrorDetails::with_retry_info(Some(delay)))
    }

    #[test]
    fn the_server_chooses_the_pause() {
        assert_eq!(pause(&with_pushback("300"), SECOND), Some(Duration::from_millis(300)));
        assert_eq!(pause(&with_pushback("-1"), SECOND), None);
        assert_eq!(pause(&with_retry_info(3 * SECOND), SECOND), Some(3 * SECOND));
        let random = pause(&Status::unavailable("gone"), SECOND).unwrap();
        assert!((SECOND / 2..=SECOND).contains(&random), "{random:?}");
        assert_eq!(pause(&Status::internal("broken"), SECOND), None);
    }

    /// Answers each attempt with the next of these, and success after the last.
    async fn call(failures: &[Status]) -> (Result<()>, Vec<Duration>) {
        let (begin, attempts) = (Instant::now(), Mutex::new(Vec::new()));
        let caller = Caller::new(Some("secret")).unwrap();
        let outcome = caller
            .call((), async |request| {
                assert_eq!(request.metadata().get("authorization").unwrap(), "Bearer secret");
                assert!(request.metadata().contains_key("grpc-timeout"));
                let mut attempts = attempts.lock().unwrap();
                attempts.push(begin.elapsed());
                failures.get(attempts.len() - 1).map_or(Ok(Response::new(())), |status| Err(status.clone()))
            })
            .await;
        (outcome, attempts.into_inner().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_follows_when_the_server_wants_it() {
        let (outcome, attempts) = call(&[with_pushback("300"), with_retry_info(SECOND)]).await;
        outcome.unwrap();
        assert_eq!(attempts, [0, 300, 1300].map(Duration::from_millis));
    }

    #[tokio::test(start_paused = true)]
    async fn no_attempt_follows_an_error_that_is_final_or_a_pause_beyond_the_deadline() {
        for last in [Status::not_found("gone"), with_pushback("-1"), with_retry_info(DEADLINE)] {
            let (outcome, attempts) = call(&[with_pushback("300"), last.clone()]).await;
            assert!(outcome.unwrap_err().to_string().contains(last.message()), "{last:?}");
            assert_eq!(attempts.len(), 2, "{last:?}");
        }
    }
}

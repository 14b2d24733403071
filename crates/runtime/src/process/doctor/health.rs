//! Calls to the health service of a server, and what to do if there is no response.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use eticket_base::{doctor::Check, error::chain};
use eticket_proto::health::{
    HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic::{Code, Response, Status, transport::Endpoint};

/// The header `date` has whole seconds, and the response takes a while.
const LARGEST_DIFFERENCE: TimeDelta = TimeDelta::seconds(2);

/// The response of a server.
pub(super) struct Answer<T> {
    pub(super) health: T,
    /// The check of its clock; `None` if the response has no time.
    pub(super) clock: Option<Check>,
}

/// Why there is no response about the health of a server.
#[derive(Debug)]
pub(super) enum Problem {
    /// The connection was not made.
    NotConnected(String),
    /// It accepts connections and says nothing.
    Silent(Duration),
    /// It responded with an error.
    Refused(Status),
}

/// Asks for the health of one service.
pub(super) async fn ask(
    endpoint: Endpoint,
    service: String,
    patience: Duration,
) -> Result<Answer<ServingStatus>, Problem> {
    within(patience, async {
        let mut client = HealthClient::new(connect(&endpoint).await?);
        let asked = Utc::now();
        let response = client.check(HealthCheckRequest { service }).await.map_err(Problem::of)?;
        let clock = clock(&response, asked);
        Ok(Answer { health: response.into_inner().status(), clock })
    })
    .await
}

/// Asks for the health of all services of a server.
pub(super) async fn list(
    endpoint: Endpoint,
    patience: Duration,
) -> Result<Answer<BTreeMap<String, ServingStatus>>, Problem> {
    within(patience, async {
        let mut client = HealthClient::new(connect(&endpoint).await?);
        let asked = Utc::now();
        let response = client.list(HealthListRequest {}).await.map_err(Problem::of)?;
        let clock = clock(&response, asked);
        let statuses = response.into_inner().statuses.into_iter();
        Ok(Answer { health: statuses.map(|(name, entry)| (name, entry.status())).collect(), clock })
    })
    .await
}

async fn connect(endpoint: &Endpoint) -> Result<tonic::transport::Channel, Problem> {
    // The text of the error itself is generic; its cause is specific.
    let cause = |error: tonic::transport::Error| error.source().map_or_else(|| error.to_string(), chain);
    endpoint.connect().await.map_err(|error| Problem::NotConnected(cause(error)))
}

async fn within<T>(patience: Duration, answer: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    tokio::time::timeout(patience, answer).await.unwrap_or(Err(Problem::Silent(patience)))
}

/// Compares the header `date` with the time of the request and of the response.
fn clock<T>(response: &Response<T>, asked: DateTime<Utc>) -> Option<Check> {
    let theirs = response.metadata().get("date")?.to_str().ok()?;
    let theirs = DateTime::parse_from_rfc2822(theirs).ok()?.with_timezone(&Utc);
    Some(Check::clock("the server", difference(theirs, asked, Utc::now()), LARGEST_DIFFERENCE))
}

fn difference(theirs: DateTime<Utc>, asked: DateTime<Utc>, answered: DateTime<Utc>) -> TimeDelta {
    match theirs {
        early if early < asked => early - asked,
        late if late > answered => late - answered,
        _ => TimeDelta::zero(),
    }
}

impl Problem {
    fn of(status: Status) -> Self {
        match status.source() {
            Some(cause) => Self::NotConnected(chain(cause)),
            None => Self::Refused(status),
        }
    }

    /// What happened.
    pub(super) fn detail(&self, address: &str) -> String {
        match self {
            Self::NotConnected(cause) => format!("{address} cannot be reached: {cause}"),
            Self::Silent(patience) => format!("{address} did not respond within {} s", patience.as_secs()),
            Self::Refused(status) => format!("{address} responded with {:?}: {}", status.code(), status.message()),
        }
    }

    /// What to do about it. `start` says which server to start, `correct` where its address is set, and `tls` which
    /// keys or flags have the certificates.
    pub(super) fn remedy(&self, start: &str, correct: &str, tls: &str) -> String {
        match self {
            Self::NotConnected(cause) if cause.to_lowercase().contains("certificate") => {
                format!("check the certificates: {tls}")
            }
            Self::NotConnected(_) => format!("start {start}, or correct {correct}"),
            Self::Silent(_) => format!(
                "look at the process at this address and at its log: it hangs, is overloaded, or is another program; or \
                 correct {correct}"
            ),
            Self::Refused(status) => match status.code() {
                Code::NotFound | Code::Unimplemented => {
                    format!("another server listens there: correct {correct}")
                }
                Code::PermissionDenied | Code::Unauthenticated => {
                    format!("let this client in: tls.allowed_clients of the server, and here {tls}")
                }
                _ => format!("look at the log of {start}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_as_far_as_whole_seconds_allow() {
        let at = |milliseconds: i64| DateTime::from_timestamp_millis(1_800_000_000_000 + milliseconds).expect("a time");
        let whole_seconds = difference(at(0), at(999), at(1_500));
        assert!(whole_seconds.abs() <= LARGEST_DIFFERENCE, "{whole_seconds}");
        assert_eq!(difference(at(5_000), at(0), at(6_000)), TimeDelta::zero(), "the response took a while");
        assert_eq!(difference(at(0), at(90_000), at(90_001)), TimeDelta::seconds(-90));
        assert_eq!(difference(at(90_000), at(0), at(0)), TimeDelta::seconds(90));
    }

    #[test]
    fn a_response_without_a_time_has_no_check_of_the_clock() {
        let mut response = Response::new(());
        assert!(clock(&response, Utc::now()).is_none());
        response.metadata_mut().insert("date", "Tue, 14 Nov 2023 22:13:20 GMT".parse().expect("a header"));
        let status = |seconds: i64| {
            let asked = DateTime::from_timestamp(1_700_000_000 + seconds, 0).expect("a time");
            clock(&response, asked).expect("a time").status
        };
        assert_eq!(status(0), eticket_base::doctor::Status::Ok, "sent after the request");
        assert_eq!(status(90), eticket_base::doctor::Status::Warn, "sent before the request");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_waited_for_no_longer_than_told() {
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", mute.local_addr().expect("an address"));
        let endpoint = Endpoint::from_shared(url).expect("a URL");
        let patience = Duration::from_millis(200);
        let asking = ask(endpoint, "a".to_owned(), patience);
        let answer = tokio::time::timeout(Duration::from_secs(10), asking).await.expect("it ends by itself");
        assert!(matches!(answer.map(|answer| answer.health), Err(Problem::Silent(waited)) if waited == patience));
    }

    #[test]
    fn each_problem_has_its_own_remedy() {
        let remedy =
            |problem: Problem| problem.remedy("the ticket server", "upstream.ticket.url", "upstream.ticket.tls");
        assert!(remedy(Problem::NotConnected("Connection refused".to_owned())).starts_with("start the ticket server"));
        let untrusted = Problem::NotConnected("invalid peer certificate: UnknownIssuer".to_owned());
        assert!(remedy(untrusted).contains("upstream.ticket.tls"));
        assert!(remedy(Problem::Silent(Duration::from_secs(3))).contains("another program"));
        assert!(remedy(Problem::Refused(Status::not_found("x"))).contains("another server listens"));
        assert!(remedy(Problem::Refused(Status::permission_denied("x"))).contains("tls.allowed_clients"));
    }
}

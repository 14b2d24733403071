//! Callers with tokens: who passes, and what a handler learns of them.

use std::time::Duration;

use eticket_auth::{
    config::{AuthConfig, AuthMode},
    development::{DevelopmentKey, NewToken},
};
use http::HeaderValue;
use tempfile::TempDir;
use tonic::Code;
use tower::ServiceExt;

use super::*;
use crate::auth::{Authentication, Caller, until_expiry};

const HEALTH: &str = "/grpc.health.v1.Health/Check";

struct World {
    key: DevelopmentKey,
    authentication: Authentication,
    _folder: TempDir,
}

impl World {
    fn new(anonymous_reads: bool) -> Self {
        let folder = TempDir::new().expect("a folder");
        let key = DevelopmentKey::open(folder.path()).expect("a key");
        let config = AuthConfig {
            mode: Some(AuthMode::Jwt),
            jwks: key.jwks().to_str().map(str::to_owned),
            issuer: Some("issuer".to_owned()),
            audience: Some("audience".to_owned()),
            anonymous_reads,
            ..AuthConfig::default()
        };
        Self { key, authentication: Authentication::start(&config).expect("a valid section"), _folder: folder }
    }

    fn token(&self, role: &str) -> String {
        let token = NewToken {
            subject: "kim".to_owned(),
            roles: vec![role.to_owned()],
            grade: None,
            issuer: "issuer".to_owned(),
            audience: "audience".to_owned(),
            lifetime: Duration::from_secs(60),
        };
        format!("Bearer {}", self.key.sign(&token).expect("a token"))
    }

    /// Makes a call to a service that returns the caller in a header.
    async fn ask(&self, path: &str, authorization: &[&str]) -> HttpResponse {
        let handler = tower::service_fn(|request: Request<Body>| async move {
            let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
            let mut response = http::Response::new(Body::empty());
            let text = format!("{} {:?}", caller.is_admin(), caller.subject());
            response.headers_mut().insert("caller", HeaderValue::try_from(text).expect("a header"));
            response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
            Ok::<_, Infallible>(response)
        });
        let stack = layered("test", &limits(8), &self.authentication, handler);
        let mut request = Request::post(path).header("content-type", "application/grpc");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let Ok(response) = stack.oneshot(request.body(Body::empty()).expect("a request")).await;
        read(response).await
    }

    async fn outcome(&self, path: &str, authorization: &[&str]) -> Option<ErrorReason> {
        self.ask(path, authorization).await.reason()
    }
}

#[tokio::test]
async fn each_access_needs_its_role() {
    let world = World::new(false);
    let [admin, user, guest] = ["admin", "user", "guest"].map(|role| world.token(role));
    let denied = Some(ErrorReason::NotAllowed);
    for (path, expected) in [
        (LIST, [None, denied, denied]),
        ("/eticket.ticket.v1.TicketService/RegisterTicket", [None, denied, denied]),
        ("/eticket.reservation.v1.ReservationService/CancelReservation", [None, None, denied]),
        ("/eticket.query.v1.QueryService/GetTicketView", [None, None, None]),
    ] {
        for (token, expected) in [&admin, &user, &guest].into_iter().zip(expected) {
            assert_eq!(world.outcome(path, &[token]).await, expected, "{path}");
        }
    }
    let response = world.ask("/eticket.query.v1.QueryService/GetTicketView", &[&user]).await;
    assert_eq!(response.headers["caller"], "false Some(\"kim\")");
    assert_eq!(world.ask(LIST, &[&admin]).await.headers["caller"], "true Some(\"kim\")");
    let response = world.ask(LIST, &[&user]).await;
    assert_eq!(response.status.code(), Code::PermissionDenied);
    assert!(!response.headers.contains_key("caller"), "the handler is not called");
}

#[tokio::test]
async fn exactly_one_bearer_token_is_accepted() {
    let world = World::new(false);
    let token = world.token("admin");
    let lowercase = token.replace("Bearer", "bearer");
    assert_eq!(world.outcome(LIST, &[&lowercase]).await, None);
    assert_eq!(world.outcome(LIST, &[]).await, Some(ErrorReason::TokenMissing));
    let basic = token.replace("Bearer", "Basic");
    for wrong in [&["Bearer"][..], &["Bearer "], &["Bearer x"], &[&basic], &[&token, &token], &[""]] {
        assert_eq!(world.outcome(LIST, wrong).await, Some(ErrorReason::TokenInvalid), "{wrong:?}");
    }
    let response = world.ask(LIST, &["Bearer x"]).await;
    assert_eq!(response.status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn anonymous_callers_read_only_if_configured() {
    let read = "/eticket.query.v1.QueryService/GetTicketView";
    assert_eq!(World::new(false).outcome(read, &[]).await, Some(ErrorReason::TokenMissing));
    let world = World::new(true);
    assert_eq!(world.ask(read, &[]).await.headers["caller"], "false None");
    assert_eq!(world.outcome(read, &["Bearer x"]).await, Some(ErrorReason::TokenInvalid));
    for path in [LIST, "/eticket.reservation.v1.ReservationService/ReserveTicket"] {
        assert_eq!(world.outcome(path, &[]).await, Some(ErrorReason::TokenMissing), "{path}");
    }
}

#[tokio::test]
async fn health_and_reflection_need_no_token() {
    let world = World::new(false);
    for path in [HEALTH, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        assert_eq!(world.ask(path, &[]).await.headers["caller"], "false None", "{path}");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let world = World::new(false);
    let caller = caller_with(&world, -29).await;
    let endless = stream::pending::<Result<(), Status>>().boxed();
    let mut ends = until_expiry(&caller, endless);
    let status =
        tokio::time::timeout(BOUND, ends.next()).await.expect("it ends").expect("an item").expect_err("an end");
    assert_eq!(ApiError::from_status(&status), Some(ErrorReason::TokenInvalid));
    assert!(ends.next().await.is_none());
    let finite = until_expiry(&caller_with(&world, 60).await, stream::iter([Ok(1), Ok(2)]).boxed());
    assert_eq!(finite.map(|item| item.expect("an item")).collect::<Vec<_>>().await, [1, 2], "ends by itself");
}

/// The caller of a token that expires in this many seconds; the leeway of 30 s comes after.
async fn caller_with(world: &World, seconds: i64) -> Caller {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs().cast_signed();
    let claims = serde_json::json!({
        "sub": "kim", "iss": "issuer", "aud": "audience", "exp": now + seconds, "eticket_roles": ["user"],
    });
    let token = world.key.sign_claims(&claims).expect("a token");
    let (verifier, _) = world.authentication.tokens().expect("on");
    let claims = verifier.verify_with_new_keys(&token).await.expect("valid");
    Caller::with_token(claims, eticket_base::credentials::Credentials::new(format!("Bearer {token}")))
}

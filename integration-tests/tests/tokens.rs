//! Tokens of callers on real servers: who may call which method over which protocol, and what each caller sees.
//!
//! The first test writes the table of `docs/authorization.md`: with `UPDATE=1` it renews the file, otherwise it compares.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fmt::Write, fs, path::Path, time::Duration};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Protocol, aftermath,
    api::reason,
    calendar,
    eventually::{SOON, eventually},
    process::Launch,
    rest::Http,
    tokens::{IdentityProvider, in_seconds, signed_with_public_key, unsigned, with_token},
};
use eticket_proto::{
    query::{
        GetTicketViewRequest, GetTicketViewResponse, ListTicketViewsRequest, ListTicketViewsResponse,
        ListUserReservationsRequest, ListUserReservationsResponse, WaitFor, WatchTicketViewsRequest,
        query_service_client::QueryServiceClient,
    },
    reservation::{
        CancelReservationRequest, CancelReservationResponse, GetReservationRequest, GetReservationResponse,
        ListReservationsRequest, ListReservationsResponse, ReserveTicketRequest, ReserveTicketResponse, UserGrade,
    },
    ticket::{GetTicketRequest, GetTicketResponse, RegisterTicketRequest, RegisterTicketResponse},
};
use futures::{StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, Status, transport::Endpoint};
use tonic_types::StatusExt;
use uuid::Uuid;

const TICKET: &str = "eticket.ticket.v1.TicketService";
const RESERVATION: &str = "eticket.reservation.v1.ReservationService";
const QUERY: &str = "eticket.query.v1.QueryService";

/// The methods of the contract, as `service/method`, and whether their responses are streams.
fn methods() -> Vec<(&'static str, bool)> {
    let pool = eticket_proto::descriptor_pool().expect("descriptors");
    let services = pool.services().filter(|service| service.full_name().starts_with("eticket."));
    let mut methods = Vec::new();
    for service in services {
        for method in service.methods() {
            let name = format!("{}/{}", service.full_name(), method.name());
            methods.push((&*name.leak(), method.is_server_streaming()));
        }
    }
    methods
}

fn outcome(answer: Result<(), Status>) -> &'static str {
    match answer {
        Ok(()) => "passes",
        // A method that the service does not have is UNIMPLEMENTED, without a reason.
        Err(status) => match status.get_details_error_info().map(|info| info.reason).as_deref() {
            Some("TOKEN_MISSING") => "TOKEN_MISSING",
            Some("TOKEN_INVALID") => "TOKEN_INVALID",
            Some("NOT_ALLOWED") => "NOT_ALLOWED",
            _ => "passes",
        },
    }
}

/// One call with an empty message: whatever the handler thinks of it, the caller has passed.
async fn call(api: &Api, method: &'static str, token: Option<&str>) -> &'static str {
    let mut request = token.map_or_else(|| Request::new(()), |token| with_token((), token));
    // Streams would last longer.
    request.set_timeout(Duration::from_secs(2));
    request.metadata_mut().insert("eticket-service", "query".parse().expect("a header"));
    if method.starts_with("eticket.operations") {
        return outcome(api.call_with(method, request).await);
    }
    request.metadata_mut().remove("eticket-service");
    outcome(api.call_with(method, request).await)
}

/// The outcome that a JSON error names.
fn outcome_of_json(body: &[u8]) -> &'static str {
    let text = String::from_utf8_lossy(body);
    let refusals = ["TOKEN_MISSING", "TOKEN_INVALID", "NOT_ALLOWED"];
    refusals.into_iter().find(|reason| text.contains(&format!("\"{reason}\""))).unwrap_or("passes")
}

/// One call by Connect with JSON, with an empty message.
async fn call_by_connect(http: &Http, method: &str, streams: bool, token: Option<&str>) -> &'static str {
    let bearer = token.map(|token| format!("Bearer {token}"));
    // Streams would last longer.
    let mut headers = vec![("connect-protocol-version", "1"), ("connect-timeout-ms", "2000")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    headers.extend(method.starts_with("eticket.operations").then_some(("eticket-service", "query")));
    // The envelope of a stream's message: no flags, and a length of 2.
    let (media_type, body) =
        if streams { ("application/connect+json", "\0\0\0\0\u{2}{}") } else { ("application/json", "{}") };
    headers.push(("content-type", media_type));
    let response = http.open("POST", &format!("/{method}"), &headers, body).await;
    outcome_of_json(&response.into_body().collect().await.expect("a whole body").to_bytes())
}

/// One call by REST. The body of a response that has begun well is not read: a watch would last.
async fn call_by_rest(http: &Http, verb: &str, path: &str, token: Option<&str>) -> &'static str {
    let bearer = token.map(|token| format!("Bearer {token}"));
    let mut headers: Vec<_> = bearer.as_deref().map(|bearer| ("authorization", bearer)).into_iter().collect();
    let body = if verb == "GET" { "" } else { "{}" };
    headers.extend((verb != "GET").then_some(("content-type", "application/json")));
    let response = http.open(verb, path, &headers, body).await;
    let (status, challenge) = (response.status(), response.headers().contains_key("www-authenticate"));
    if status == StatusCode::OK {
        return "passes";
    }
    let outcome = outcome_of_json(&response.into_body().collect().await.expect("a whole body").to_bytes());
    let expected = match outcome {
        "TOKEN_MISSING" | "TOKEN_INVALID" => (StatusCode::UNAUTHORIZED, true),
        "NOT_ALLOWED" => (StatusCode::FORBIDDEN, false),
        _ => (status, false),
    };
    assert_eq!((status, challenge), expected, "{verb} {path}: {outcome}");
    outcome
}

/// The REST paths of each method, from the OpenAPI document, as HTTP methods and paths. The user in a path is `kim`.
fn rest_paths() -> Vec<(String, Vec<(String, String)>)> {
    let document: Value = serde_json::from_str(include_str!("../../gateway-grpc-web/openapi.json")).expect("JSON");
    let mut paths = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let path = path.replace("{user_id}", "kim").replace("{ticket_id}", "x").replace("{reservation_id}", "x");
        for (verb, operation) in operations.as_object().expect("operations") {
            paths.push((
                operation["operationId"].as_str().expect("an id").to_owned(),
                verb.to_uppercase(),
                path.clone(),
            ));
        }
    }
    let of = |method: &str| {
        let id = method.rsplit('.').next().unwrap_or_default().replace('/', "_");
        paths.iter().filter(|(name, ..)| *name == id).map(|(_, verb, path)| (verb.clone(), path.clone())).collect()
    };
    let found: Vec<_> = methods().into_iter().map(|(method, _)| (method.to_owned(), of(method))).collect();
    assert_eq!(
        found.iter().map(|(_, paths): &(_, Vec<_>)| paths.len()).sum::<usize>(),
        paths.len(),
        "each path is called"
    );
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_refuses_the_same_callers_over_every_protocol() {
    let provider = IdentityProvider::default();
    let data = TempDir::new().expect("a folder");
    let eticket = provider.demanded_by(Launch::all_in_one(data.path())).start().await;
    let callers: [(&str, Option<String>); 14] = [
        ("no token", None),
        ("malformed", Some("a.b.c".to_owned())),
        ("expired", Some(provider.with_claims(&json!({ "exp": in_seconds(-60) })))),
        ("not yet valid", Some(provider.with_claims(&json!({ "nbf": in_seconds(600) })))),
        ("wrong audience", Some(provider.with_claims(&json!({ "aud": "other" })))),
        ("wrong issuer", Some(provider.with_claims(&json!({ "iss": "https://other.test" })))),
        ("without `exp`", Some(provider.with_claims(&json!({ "exp": null })))),
        ("without `sub`", Some(provider.with_claims(&json!({ "sub": "" })))),
        ("unknown key", Some(provider.of_a_stranger())),
        ("`alg: none`", Some(unsigned())),
        ("`HS256` with the public key", Some(signed_with_public_key(&provider))),
        ("no role", Some(provider.token("guest", "guest", None))),
        ("user", Some(provider.token("kim", "user", None))),
        ("admin", Some(provider.token("root", "admin", None))),
    ];
    let (http, paths) = (Http::new(&eticket), rest_paths());
    let mut table = String::from("| method |");
    for (name, _) in &callers {
        write!(table, " {name} |").expect("written");
    }
    write!(table, "\n|{}\n", " --- |".repeat(callers.len() + 1)).expect("written");
    for (method, streams) in methods() {
        write!(table, "| `{}` |", method.trim_start_matches("eticket.")).expect("written");
        for (name, token) in &callers {
            let mut outcomes = Vec::new();
            for protocol in Protocol::ALL {
                // Operations go through the gateway, which selects the service.
                if method.starts_with("eticket.operations") && protocol == Protocol::Direct {
                    continue;
                }
                // The client of gRPC-Web reads unary responses only; a refused stream has none.
                if streams && outcomes.contains(&"passes") {
                    continue;
                }
                outcomes.push(call(&Api::new(&eticket, protocol), method, token.as_deref()).await);
            }
            outcomes.push(call_by_connect(&http, method, streams, token.as_deref()).await);
            for (verb, path) in paths.iter().filter(|(name, _)| name == method).flat_map(|(_, paths)| paths) {
                outcomes.push(call_by_rest(&http, verb, path, token.as_deref()).await);
            }
            outcomes.dedup();
            assert_eq!(outcomes.len(), 1, "{method} with {name}: the protocols differ: {outcomes:?}");
            write!(table, " {} |", outcomes[0]).expect("written");
        }
        table.push('\n');
    }
    eticket.stop().await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/authorization.md");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let (begin, end) = ("<!-- table: begin -->\n", "<!-- table: end -->");
    let (before, rest) = text.split_once(begin).expect("the mark before the table");
    let (found, after) = rest.split_once(end).expect("the mark after the table");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).expect("written");
        return;
    }
    assert!(found == table, "docs/authorization.md is not up to date; run this test with UPDATE=1. Expected:\n{table}");
}

struct World {
    provider: IdentityProvider,
    eticket: eticket_integration_tests::Eticket,
    api: Api,
    _data: TempDir,
}

impl World {
    async fn start() -> Self {
        let provider = IdentityProvider::default();
        let data = TempDir::new().expect("a folder");
        let launch = provider.demanded_by(Launch::all_in_one(data.path())).key("log.level", "debug");
        let eticket = launch.start().await;
        let api = Api::new(&eticket, Protocol::Gateway);
        Self { provider, eticket, api, _data: data }
    }

    async fn register(&self, ticket_id: &str) {
        let slot = calendar::upcoming(Weekday::Wed);
        let request = RegisterTicketRequest {
            ticket_id: ticket_id.to_owned(),
            title: "Concert".to_owned(),
            start_time: Some(eticket_proto::time::to_proto(slot.start)),
            end_time: Some(eticket_proto::time::to_proto(slot.end)),
            request_id: String::new(),
        };
        let request = with_token(request, &self.provider.token("root", "admin", None));
        let _: RegisterTicketResponse =
            self.call(&format!("{TICKET}/RegisterTicket"), request).await.expect("registered");
    }

    async fn call<Q: Message + 'static, A: Message + Default + 'static>(
        &self,
        method: &str,
        request: Request<Q>,
    ) -> Result<A, Status> {
        self.api.call_with(method.to_owned().leak(), request).await
    }

    async fn reserve(
        &self,
        token: &str,
        change: impl FnOnce(&mut ReserveTicketRequest),
    ) -> Result<ReserveTicketResponse, Status> {
        let mut request = ReserveTicketRequest { ticket_id: "t".to_owned(), ..ReserveTicketRequest::default() };
        change(&mut request);
        self.call(&format!("{RESERVATION}/ReserveTicket"), with_token(request, token)).await
    }

    async fn cancel(&self, token: &str, id: &str) -> Result<CancelReservationResponse, Status> {
        let request = CancelReservationRequest { reservation_id: id.to_owned(), request_id: String::new() };
        self.call(&format!("{RESERVATION}/CancelReservation"), with_token(request, token)).await
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    reason(&answer.expect_err("refused"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_act_and_see_only_for_themselves() {
    let world = World::start().await;
    let (kim, lee) = (world.provider.token("kim", "user", Some("VIP")), world.provider.token("lee", "user", None));
    let root = world.provider.token("root", "admin", None);
    world.register("t").await;
    assert_eq!(refusal(world.reserve(&kim, |request| request.user_id = "lee".to_owned()).await), "NOT_ALLOWED");
    assert_eq!(refusal(world.reserve(&lee, |request| request.user_grade = UserGrade::Vip.into()).await), "NOT_ALLOWED");
    let odd = world.provider.with_claims(&json!({ "eticket_grade": "PLATINUM" }));
    assert_eq!(refusal(world.reserve(&odd, |_| ()).await), "TOKEN_INVALID");
    assert_eq!(refusal(world.reserve(&root, |_| ()).await), "INVALID_FIELD");
    let reserved = world.reserve(&kim, |_| ()).await.expect("reserved");
    let reservation = reserved.reservation.expect("a reservation");
    assert_eq!((reservation.user_id.as_str(), reservation.user_grade()), ("kim", UserGrade::Vip));
    let id = reservation.reservation_id;
    // Another user neither cancels nor reads it.
    assert_eq!(refusal(world.cancel(&lee, &id).await), "NOT_YOUR_RESERVATION");
    let get = |token: &str| with_token(GetReservationRequest { reservation_id: id.clone() }, token);
    let method = format!("{RESERVATION}/GetReservation");
    assert_eq!(refusal(world.call::<_, GetReservationResponse>(&method, get(&lee)).await), "NOT_YOUR_RESERVATION");
    assert!(world.call::<_, GetReservationResponse>(&method, get(&kim)).await.is_ok());
    let list = |user: &str, token: &str| {
        with_token(ListReservationsRequest { filter_user_id: user.to_owned(), ..Default::default() }, token)
    };
    let method = format!("{RESERVATION}/ListReservations");
    for (user, token, count) in [("", &kim, 1), ("kim", &kim, 1), ("", &lee, 0), ("", &root, 1), ("kim", &root, 1)] {
        let found: ListReservationsResponse = world.call(&method, list(user, token)).await.expect("listed");
        assert_eq!(found.reservations.len(), count, "{user}");
    }
    assert_eq!(refusal(world.call::<_, ListReservationsResponse>(&method, list("kim", &lee)).await), "NOT_ALLOWED");
    // The view and the ticket show the holder to the holder and to admins.
    let settled = GetTicketViewRequest {
        ticket_id: "t".to_owned(),
        consistency_token: reserved.consistency_token,
        wait: WaitFor::Settled.into(),
    };
    for (token, holder) in [(&kim, "kim"), (&lee, ""), (&root, "kim")] {
        let found: GetTicketViewResponse =
            world.call(&format!("{QUERY}/GetTicketView"), with_token(settled.clone(), token)).await.expect("settled");
        let view = found.view.expect("a view");
        assert_eq!(view.user_id, holder);
        assert_eq!((view.reservation_id.is_empty(), view.user_grade == 0), (holder.is_empty(), holder.is_empty()));
        let found: ListTicketViewsResponse = world
            .call(&format!("{QUERY}/ListTicketViews"), with_token(ListTicketViewsRequest::default(), token))
            .await
            .expect("listed");
        assert_eq!(found.views[0].user_id, holder);
    }
    let filter = ListTicketViewsRequest { filter_user_id: "kim".to_owned(), ..Default::default() };
    let method = format!("{QUERY}/ListTicketViews");
    assert_eq!(
        refusal(world.call::<_, ListTicketViewsResponse>(&method, with_token(filter, &lee)).await),
        "NOT_ALLOWED"
    );
    let own = |user: &str, token: &str| {
        with_token(ListUserReservationsRequest { user_id: user.to_owned(), ..Default::default() }, token)
    };
    let method = format!("{QUERY}/ListUserReservations");
    assert_eq!(refusal(world.call::<_, ListUserReservationsResponse>(&method, own("kim", &lee)).await), "NOT_ALLOWED");
    let found: ListUserReservationsResponse = world.call(&method, own("", &kim)).await.expect("listed");
    assert_eq!(found.reservations.len(), 1);
    for (token, shown) in [(&kim, false), (&root, true)] {
        let request = with_token(GetTicketRequest { ticket_id: "t".to_owned() }, token);
        let found: GetTicketResponse = world.call(&format!("{TICKET}/GetTicket"), request).await.expect("found");
        assert_eq!(!found.ticket.expect("a ticket").reservation_id.is_empty(), shown);
    }
    world.cancel(&root, &id).await.expect("admins cancel for others");
    assert!(!world.eticket.log().contains("kim") && !world.eticket.log().contains(&kim), "a log names no user");
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_belong_to_their_caller() {
    let world = World::start().await;
    let (kim, lee) = (world.provider.token("kim", "user", None), world.provider.token("lee", "user", None));
    world.register("t").await;
    world.register("u").await;
    let id = Uuid::now_v7().to_string();
    let reserve = |token: String, ticket: &'static str| {
        let (world, id) = (&world, id.clone());
        async move {
            let change = |request: &mut ReserveTicketRequest| {
                request.ticket_id = ticket.to_owned();
                request.request_id = id;
            };
            world.reserve(&token, change).await
        }
    };
    let first = reserve(kim.clone(), "t").await.expect("reserved");
    assert_eq!(reserve(kim.clone(), "t").await.expect("the same response"), first);
    let second = reserve(lee.clone(), "u").await.expect("another caller's id");
    assert_ne!(second.reservation, first.reservation);
    assert_eq!(refusal(reserve(kim, "u").await), "REQUEST_ID_REUSED");
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_token_and_resumes_with_a_new_one() {
    let world = World::start().await;
    world.register("t").await;
    // Within the leeway of 30 s, for two more seconds.
    let short = world.provider.with_claims(&json!({ "exp": in_seconds(-28) }));
    let channel = Endpoint::from_shared(format!("http://{}", world.eticket.address("gateway"))).expect("an address");
    let mut client = QueryServiceClient::new(channel.connect_lazy());
    let mut watch = client
        .watch_ticket_views(with_token(WatchTicketViewsRequest::default(), &short))
        .await
        .expect("a watch")
        .into_inner();
    let ended = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ends with an error"),
                Err(status) => return status,
            }
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the token expires");
    assert_eq!(reason(&status), "TOKEN_INVALID");
    let resume_token = status.get_details_error_info().expect("an ErrorInfo").metadata["resume_token"].clone();
    world.register("u").await;
    let request = WatchTicketViewsRequest { resume_token, ..Default::default() };
    let request = with_token(request, &world.provider.token("kim", "user", None));
    let mut watch = client.watch_ticket_views(request).await.expect("a watch").into_inner();
    let first = async {
        loop {
            let message = watch.message().await.expect("no error").expect("no end");
            if let Some(view) = message.view {
                return view.ticket_id;
            }
        }
    };
    let first = tokio::time::timeout(Duration::from_secs(20), first).await.expect("a change");
    assert_eq!(first, "u", "only what changed since");
    world.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_and_metrics_contain_no_user_token_or_key_under_load() {
    const USERS: usize = 40;
    let world = World::start().await;
    let (world, http) = (&world, &Http::new(&world.eticket));
    // Names and ids that occur nowhere by chance.
    let secrets: Vec<[String; 4]> = (0..USERS)
        .map(|_| {
            let user = format!("user-{}", Uuid::new_v4());
            let bad = world.provider.with_claims(&json!({ "sub": user, "exp": in_seconds(-600) }));
            [world.provider.token(&user, "user", Some("GOLD")), bad, Uuid::now_v7().to_string(), user]
        })
        .collect();
    let calls = secrets.iter().enumerate().map(|(number, [token, bad, request_id, _])| async move {
        let ticket = format!("t-{number}");
        world.register(&ticket).await;
        let change = |request: &mut ReserveTicketRequest| {
            request.ticket_id.clone_from(&ticket);
            request.request_id.clone_from(request_id);
        };
        world.reserve(token, change).await.expect("reserved");
        assert_eq!(refusal(world.reserve(bad, change).await), "TOKEN_INVALID");
        let path = format!("/v1/views/{ticket}");
        assert_eq!(call_by_rest(http, "GET", &path, Some(token)).await, "passes");
        assert_eq!(call_by_rest(http, "GET", &path, Some(bad)).await, "TOKEN_INVALID");
        let method = "eticket.query.v1.QueryService/ListTicketViews";
        assert_eq!(call_by_connect(http, method, false, Some(token)).await, "passes");
    });
    // So few that a busy machine refuses none.
    stream::iter(calls).buffer_unordered(8).collect::<()>().await;
    let metrics = aftermath::metrics(&world.eticket).await;
    let log = world.eticket.log();
    assert!(log.contains("correlation_id"), "the log shows commands and events");
    let key = fs::read_to_string(world.provider.private_key()).expect("the key");
    let key = key.lines().nth(1).expect("a line of base64");
    for secret in secrets.iter().flatten().map(String::as_str).chain([key]) {
        for (place, text) in [("log", &log), ("metrics", &metrics)] {
            // The signature alone would be enough to recognize a token.
            let part = secret.rsplit('.').next().unwrap_or(secret);
            assert!(!text.contains(part), "the {place} contains {secret}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anonymous_reads_and_nothing_else() {
    let provider = IdentityProvider::default();
    let data = TempDir::new().expect("a folder");
    let launch = provider.demanded_by(Launch::all_in_one(data.path())).key("auth.anonymous_reads", "true");
    let eticket = launch.start().await;
    for protocol in Protocol::ALL {
        let api = Api::new(&eticket, protocol);
        assert_eq!(call(&api, "eticket.query.v1.QueryService/ListTicketViews", None).await, "passes");
        let named = ListTicketViewsRequest { filter_user_id: "kim".to_owned(), ..Default::default() };
        let answer: Result<ListTicketViewsResponse, _> =
            api.call("eticket.query.v1.QueryService/ListTicketViews", named).await;
        assert_eq!(refusal(answer), "NOT_ALLOWED");
        let method = "eticket.reservation.v1.ReservationService/ReserveTicket";
        assert_eq!(call(&api, method, None).await, "TOKEN_MISSING");
        assert_eq!(call(&api, "eticket.query.v1.QueryService/ListTicketViews", Some("a.b.c")).await, "TOKEN_INVALID");
    }
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_keys_are_in_force_without_a_restart() {
    let (old, new) = (IdentityProvider::default(), IdentityProvider::default());
    let data = TempDir::new().expect("a folder");
    let eticket = old.demanded_by(Launch::all_in_one(data.path())).start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    let method = "eticket.ticket.v1.TicketService/ListTickets";
    let (before, after) = (old.token("kim", "user", None), new.token("kim", "user", None));
    assert_eq!(call(&api, method, Some(&before)).await, "passes");
    assert_eq!(call(&api, method, Some(&after)).await, "TOKEN_INVALID");
    fs::copy(new.jwks(), old.jwks()).expect("copied");
    eventually(SOON, "the new key is in force everywhere, the old one nowhere", async || {
        let outcomes = (call(&api, method, Some(&after)).await, call(&api, method, Some(&before)).await);
        if outcomes == ("passes", "TOKEN_INVALID") { Ok(()) } else { Err(outcomes) }
    })
    .await;
    eticket.stop().await;
}

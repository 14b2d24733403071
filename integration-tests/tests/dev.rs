//! `eticket dev`: demo tickets in a folder that is removed at the end.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::path::PathBuf;

use eticket_integration_tests::{
    Api, Eticket, Protocol,
    eventually::{SOON, eventually},
    process::Launch,
    rest::Http,
};
use eticket_proto::{
    query::{ListTicketViewsRequest, ListTicketViewsResponse},
    ticket::TicketStatus,
};
use http_body_util::BodyExt;
use tempfile::TempDir;

/// `eticket dev` whose temporary files are in this folder.
fn dev(temporary: &TempDir) -> Launch {
    let folder = temporary.path().to_str().expect("test folders are UTF-8");
    Launch::program("eticket").argument("dev").argument("--no-open").variable("TMPDIR", folder)
}

fn folders(temporary: &TempDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(temporary.path()).expect("it can be read");
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[tokio::test]
async fn demo_tickets_are_there_once_it_is_ready_and_nothing_is_left_behind() {
    let temporary = TempDir::new().expect("a folder");
    let eticket = dev(&temporary).key("gateway.listen", "127.0.0.1:8088").start().await;
    assert_ne!(eticket.address("gateway"), "127.0.0.1:8088", "a free port, whatever else is configured");
    let api = Api::new(&eticket, Protocol::Gateway);
    let first = first(&api).await;
    eventually(SOON, "the earliest demo ticket is reserved", async || {
        let ticket = api.ticket(&first).await.expect("a demo ticket");
        if ticket.status() == TicketStatus::Reserved { Ok(()) } else { Err(ticket) }
    })
    .await;
    let [folder] = &folders(&temporary)[..] else { panic!("one folder: {:?}", folders(&temporary)) };
    assert!(folder.join("ticket.db").exists(), "{:?}", folder.display());
    let exit = eticket.stop().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert_eq!(folders(&temporary), Vec::<PathBuf>::new());
}

/// The id of the earliest ticket of the view, once the view shows all of them.
async fn first(api: &Api) -> String {
    let request = ListTicketViewsRequest { order_by: "start_time".to_owned(), page_size: 100, ..Default::default() };
    eventually(SOON, "the view shows all demo tickets", async || {
        let response: ListTicketViewsResponse =
            api.call("eticket.query.v1.QueryService/ListTicketViews", request.clone()).await.expect("a list");
        let ids: Vec<String> = response.views.into_iter().map(|view| view.ticket_id).collect();
        if ids.len() == 36 { Ok(ids[0].clone()) } else { Err(ids) }
    })
    .await
}

#[tokio::test]
async fn links_log_in_once_where_tokens_are_required() {
    let temporary = TempDir::new().expect("a folder");
    let eticket = dev(&temporary).argument("--tokens").start().await;
    let gateway = format!("http://{}", eticket.address("gateway"));
    let links = login_links(&eticket).await;
    let who: Vec<&str> = links.iter().map(|(who, _)| who.as_str()).collect();
    assert_eq!(who, ["admin", "user mina VIP"]);
    let http = Http::new(&eticket);
    let views = async |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        let headers = if token.is_empty() { &headers[..0] } else { &headers[..] };
        http.send("GET", "/v1/views?page_size=1", headers, "").await.status
    };
    assert_eq!(views("").await, 401);
    for (who, link) in &links {
        let code = link.strip_prefix(&format!("{gateway}/#/login/")).expect("a code behind the console's address");
        let exchange = async |origin: &str| {
            let response = http.open("POST", "/login", &[("origin", origin)], code).await;
            let (status, body) = (response.status().as_u16(), response.into_body().collect().await.expect("whole"));
            (status, String::from_utf8(body.to_bytes().to_vec()).expect("text"))
        };
        assert_eq!(exchange("https://stranger.example").await.0, 403, "{who}");
        let (status, token) = exchange(&gateway).await;
        assert_eq!((status, views(&token).await), (200, 200), "{who}");
        assert_eq!(exchange(&gateway).await.0, 403, "{who}: once");
    }
    // The demo tickets are registered with a token, too.
    let log = eticket.log();
    assert!(!log.contains("no demo tickets are registered"), "{log}");
    eticket.stop().await;
}

/// Who each link logs in, and the link.
async fn login_links(eticket: &Eticket) -> Vec<(String, String)> {
    eventually(SOON, "both links are printed", async || {
        let log = eticket.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let links: Vec<_> = lines
            .filter_map(|line| Some((line.get("who")?.as_str()?.to_owned(), line.get("link")?.as_str()?.to_owned())))
            .collect();
        if links.len() == 2 { Ok(links) } else { Err(log) }
    })
    .await
}

#[tokio::test]
async fn a_retained_folder_opens_again() {
    let temporary = TempDir::new().expect("a folder");
    let eticket = dev(&temporary).argument("--retain").start().await;
    assert_eq!(eticket.stop().await.code, Some(0));
    let [folder] = &folders(&temporary)[..] else { panic!("one folder: {:?}", folders(&temporary)) };
    let eticket = Launch::all_in_one(folder).start().await;
    first(&Api::new(&eticket, Protocol::Gateway)).await;
    eticket.stop().await;
}

#[tokio::test]
async fn a_store_or_bus_of_its_own_is_refused() {
    let temporary = TempDir::new().expect("a folder");
    for (key, value) in [
        ("store.url", "postgres://eticket@127.0.0.1/eticket"),
        ("ticket.store.url", "sqlite:elsewhere.db"),
        ("bus.url", "nats://127.0.0.1:4222"),
    ] {
        let exit = dev(&temporary).key(key, value).run().await;
        assert_eq!(exit.code, Some(78), "{key}: {exit:?}");
        assert!(exit.log.contains("or run without dev"), "{key}: {}", exit.log);
    }
    let exit = dev(&temporary).argument("--data").argument("/nowhere").run().await;
    assert_eq!(exit.code, Some(78), "{exit:?}");
    assert!(exit.log.contains("dev makes a folder of its own"), "{}", exit.log);
    assert_eq!(folders(&temporary), Vec::<PathBuf>::new());
}

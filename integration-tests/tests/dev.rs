//! `eticket dev`: demo tickets in a folder that is removed at the end.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::path::PathBuf;

use eticket_integration_tests::{
    Api, Protocol,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_proto::{
    query::{ListTicketViewsRequest, ListTicketViewsResponse},
    ticket::TicketStatus,
};
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
    let held = api.ticket(&first(&api).await).await.expect("a demo ticket");
    assert_eq!(held.status(), TicketStatus::Reserved);
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

//! Tests of a program with two trivial servers, from its configuration to its end.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use eticket_base::{
    config::{self, bus::BusConfig, urls::StoreSupport},
    data::DataFolder,
};
use eticket_bus::{Bus, memory::Stream};
use eticket_rpc_server::{
    config::{LimitsConfig, ShutdownConfig},
    health::Health,
    server::{Running, Server},
};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{run::Started, *};
use crate::{config::Settings, context::Context};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    note: String,
}

/// The events of servers whose note is `watched`, in order. Only one test uses it.
static EVENTS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

fn record(config: &Keys, what: &'static str) {
    if config.note == "watched" {
        EVENTS.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

fn events() -> Vec<&'static str> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

struct First;
struct Second;

fn open_bus<'a>(_: &'a BusConfig, _: &'a DataFolder) -> BoxFuture<'a, Result<Arc<dyn Bus>, StartError>> {
    Box::pin(async { Ok(Arc::new(Stream::default().connect()) as Arc<dyn Bus>) })
}

impl Service for First {
    const NAME: &'static str = "first";
    const DEFAULTS: &'static str = "listen = '127.0.0.1:0'\nnote = 'usual'";
    const OPEN_BUS: Option<OpenBus> = Some(open_bus);
    type Config = Keys;

    fn check(config: &Keys, _: &Settings, place: Deployment) -> Result<(), config::Error> {
        match (config.note.as_str(), place) {
            ("", _) => Err(config::Error::new("note", Some(String::new()), "expected some text")),
            _ => Ok(()),
        }
    }

    async fn build(context: &Context, config: Keys) -> Result<Running, StartError> {
        record(&config, "first starts");
        context.bus()?;
        let store = context.store_path()?;
        if !store.starts_with(context.data()?.path()) {
            return Err(StartError::failed("the path of the store is wrong"));
        }
        let health = Health::new(["first"]).with_store();
        health.set_store(true);
        let running = context.server().health(health).start().await?;
        Ok(running.then(move || async move { record(&config, "first stops") }))
    }
}

impl Service for Second {
    const NAME: &'static str = "second";
    const DEFAULTS: &'static str = "listen = '127.0.0.1:0'\nnote = 'usual'";
    const STORE: StoreSupport = StoreSupport::None;
    type Config = Keys;

    async fn build(context: &Context, config: Keys) -> Result<Running, StartError> {
        if context.data.is_some() || context.bus.is_some() || context.upstream("first", None).is_none() {
            return Err(StartError::failed("unexpected data folder, bus or sibling"));
        }
        if config.note == "broken" {
            return Err(StartError::unavailable("no resource", "not available"));
        }
        let running = context.server().start().await?;
        record(&config, "second has started");
        Ok(running.then(move || async move { record(&config, "second stops") }))
    }
}

fn sources(variables: &[(&str, &str)], data: &std::path::Path) -> Sources {
    let own = |(name, value): &(&str, &str)| (format!("ETICKET__{name}"), (*value).to_owned());
    Sources { environment: variables.iter().map(own).collect(), data: Some(data.to_owned()), file: None }
}

fn both() -> Program {
    Program { name: "both".into(), entries: vec![entry::<First>(), entry::<Second>()], together: true }
}

#[test]
fn a_service_checks_its_own_keys() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = both().configure(&sources(&[("FIRST__NOTE", "")], folder.path())).map(|_| ()).expect_err("empty");
    assert_eq!(error.key(), "first.note");
    let alone = Program { name: "one".into(), entries: vec![entry::<First>()], together: false };
    let variables = [("NOTE", ""), ("BUS__URL", "embedded")];
    let error = alone.configure(&sources(&variables, folder.path())).map(|_| ()).expect_err("empty");
    assert_eq!((error.key(), StartError::from(error.clone()).code()), ("note", 78));
    let error = both().configure(&sources(&[("SECOND__X", "1")], folder.path())).map(|_| ()).expect_err("unknown");
    assert_eq!(error.key(), "second.x");
}

#[test]
fn the_effective_configuration_is_complete() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = both().configure(&sources(&[("FIRST__NOTE", "mine")], folder.path())).expect("valid");
    let table: toml::Table = program.effective().expect("TOML").parse().expect("TOML");
    assert_eq!(table["first"]["note"].as_str(), Some("mine"));
    assert_eq!(table["second"]["limits"]["concurrency"].as_integer(), Some(4096));
    assert_eq!(table["bus"]["url"].as_str(), Some("embedded"));
    let url = format!("sqlite:{}", folder.path().join("first.db").display());
    assert_eq!(table["first"]["store"]["url"].as_str(), Some(url.as_str()));
    assert!(!table["second"].as_table().expect("a section").contains_key("store"));
    assert!(folder.path().read_dir().expect("readable").next().is_none(), "nothing was opened");
}

#[test]
fn servers_of_one_process_have_different_addresses_and_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = |variables: &[(&str, &str)]| {
        both().configure(&sources(variables, folder.path())).map(|_| ()).expect_err("refused").to_string()
    };
    let text = refusal(&[("FIRST__LISTEN", "127.0.0.1:7001"), ("SECOND__LISTEN", "127.0.0.1:7001")]);
    assert!(text.contains("second.listen = 127.0.0.1:7001: conflicts with first.listen"), "{text}");
    let anywhere = [("ADMIN__LISTEN", "0.0.0.0:7001"), ("SECOND__LISTEN", "127.0.0.1:7001")];
    let text = refusal(&anywhere);
    assert!(text.contains("second.listen") && text.contains("admin.listen = 0.0.0.0:7001"), "{text}");
    let bus = format!("sqlite:{}", folder.path().join("bus.db").display());
    let text = refusal(&[("FIRST__STORE__URL", &bus)]);
    assert!(text.contains("first.store.url") && text.contains("is the file of the bus"), "{text}");
    let apart =
        [("FIRST__LISTEN", "127.0.0.1:7001"), ("SECOND__LISTEN", "127.0.0.2:7001"), ("ADMIN__LISTEN", "127.0.0.1:0")];
    both().configure(&sources(&apart, folder.path())).expect("apart");
}

#[tokio::test]
async fn servers_start_in_order_and_stop_in_reverse_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let watched = [("FIRST__NOTE", "watched"), ("SECOND__NOTE", "watched")];
    let program = both().configure(&sources(&watched, folder.path())).expect("valid");
    let stop = CancellationToken::new();
    let asks = async {
        while !events().contains(&"second has started") {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (outcome, ()) =
        tokio::time::timeout(Duration::from_secs(30), async { tokio::join!(program.serve(stop.clone()), asks) })
            .await
            .expect("in time");
    outcome.expect("a clean end");
    assert_eq!(events(), ["first starts", "second has started", "second stops", "first stops"]);
    // The folder is unlocked again.
    eticket_base::data::DataFolder::open(folder.path()).expect("free");
}

#[tokio::test]
async fn a_server_that_cannot_start_stops_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = both().configure(&sources(&[("SECOND__NOTE", "broken")], folder.path())).expect("valid");
    let error = program.serve(CancellationToken::new()).await.expect_err("broken");
    assert_eq!(error.code(), 69);
    assert_eq!(eticket_base::error::chain(&error), "no resource: not available");
    eticket_base::data::DataFolder::open(folder.path()).expect("free again");
}

#[tokio::test]
async fn a_port_or_folder_in_use_ends_the_process_with_69() {
    let folder = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let configure = |variables: &[(&str, &str)]| both().configure(&sources(variables, folder.path())).expect("valid");
    for key in ["FIRST__LISTEN", "SECOND__LISTEN", "ADMIN__LISTEN"] {
        let error = configure(&[(key, &address)]).serve(CancellationToken::new()).await.expect_err("taken");
        assert_eq!(error.code(), 69, "{key}");
        assert!(error.to_string().contains(&address), "{error}");
    }
    let _held = eticket_base::data::DataFolder::open(folder.path()).expect("free");
    let error = configure(&[]).serve(CancellationToken::new()).await.expect_err("in use");
    assert_eq!(error.code(), 69);
    assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn drain_delays_of_several_servers_overlap() {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let shutdown = ShutdownConfig { drain_delay_ms: 5_000, hard_cap_ms: 25_000 };
    let mut running = Vec::new();
    let healths = ["a", "b", "c"].map(|name| Health::new([name]));
    for (name, health) in ["a", "b", "c"].into_iter().zip(&healths) {
        let server = Server::new(name, listen, &LimitsConfig::default(), &shutdown).health(health.clone());
        running.push(server.start().await.expect("started"));
    }
    let start = tokio::time::Instant::now();
    Started { running, bus: None }.stop(Duration::from_secs(25)).await;
    assert!(start.elapsed().abs_diff(Duration::from_secs(5)) < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(healths.iter().all(|health| !health.is_ready()));
}

/// The first server to stop, such as the gateway, waits for calls that wait in a server behind it.
#[tokio::test(start_paused = true)]
async fn waits_of_all_servers_end_before_the_first_one_stops() {
    let settings = Settings::for_tests();
    let new = |name| Server::new(name, settings.listen, &settings.limits, &settings.shutdown);
    let (behind, front) = (new("behind"), new("front"));
    let waits = behind.draining();
    let front = front.start().await.expect("started").then(move || async move { waits.cancelled().await });
    let running = vec![behind.start().await.expect("started"), front];
    let start = tokio::time::Instant::now();
    Started { running, bus: None }.stop(Duration::from_secs(25)).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

//! `doctor` of the real binaries: healthy and broken systems, and that it changes nothing and always ends.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use eticket_integration_tests::{
    Eticket,
    binary::root,
    health::{ServingStatus, shows},
    process::{Exit, Launch, SERVERS},
};
use eticket_local_servers::{
    certificates::Authority,
    free_port,
    nats::Nats,
    postgres::{Postgres, Settings},
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// The whole ends after three times the timeout of a step, which is 3 s, and a second. The rest is the start of the process.
const BOUND: Duration = Duration::from_secs(13);

/// The results of a run.
struct Results {
    exit: Exit,
    checks: Vec<Value>,
}

impl Results {
    /// The checks with this name and status.
    fn with(&self, name: &str, status: &str) -> Vec<&Value> {
        self.checks.iter().filter(|check| check["name"] == name && check["status"] == status).collect()
    }

    /// The only failure with this name; its remedy must contain these words.
    fn fails(&self, name: &str, remedy: &str) -> &Value {
        assert_eq!(self.exit.code, Some(1), "{}", self.exit.output);
        let failures = self.with(name, "fail");
        let [failure] = failures[..] else { panic!("{name} fails {} times: {}", failures.len(), self.exit.output) };
        let text = failure["remedy"].as_str().expect("a text");
        assert!(text.contains(remedy), "{text}");
        failure
    }

    fn is_healthy(&self) {
        let wrong: Vec<_> = self.checks.iter().filter(|check| check["status"] != "ok").collect();
        assert_eq!((self.exit.code, wrong), (Some(0), Vec::new()), "{}", self.exit.log);
    }
}

/// Runs `doctor`, and checks what holds for every result.
async fn doctor(launch: Launch) -> Results {
    doctor_with(launch, &[]).await
}

async fn doctor_with(launch: Launch, arguments: &[&str]) -> Results {
    let begun = Instant::now();
    let launch = ["doctor", "--output", "json"].iter().chain(arguments).fold(launch, |launch, it| launch.argument(it));
    let exit = launch.run().await;
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
    let checks: Vec<Value> =
        serde_json::from_str(&exit.output).unwrap_or_else(|error| panic!("{error}: {}{}", exit.output, exit.log));
    let page = fs::read_to_string(root().join("docs/doctor.md")).expect("readable");
    for check in &checks {
        let text = |member: &str| check[member].as_str().unwrap_or_else(|| panic!("{member} is no text: {check}"));
        let (name, is_ok) = (text("name"), text("status") == "ok");
        assert!(is_ok || ["warn", "fail"].contains(&text("status")), "{check}");
        assert!(!text("group").is_empty() && !text("detail").is_empty(), "{check}");
        assert_eq!((text("remedy").is_empty(), text("link").is_empty()), (is_ok, is_ok), "{check}");
        assert!(is_ok || text("link").ends_with(&format!("/docs/doctor.md#{name}")), "{check}");
        assert!(page.contains(&format!("\n### {name}\n")), "docs/doctor.md has no section {name}");
    }
    let fails = checks.iter().any(|check| check["status"] == "fail");
    assert_eq!(exit.code, Some(i32::from(fails)), "{}", exit.output);
    Results { exit, checks }
}

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

/// A ticket server alone, with the embedded bus.
fn ticket(data: &Path) -> Launch {
    Launch::program("eticket-ticket").data(data).key("bus.url", "embedded")
}

/// A gateway whose four upstreams have this URL.
fn gateway(url: &str) -> Launch {
    let upstreams = SERVERS.iter().filter(|server| **server != "gateway");
    upstreams.fold(Launch::program("eticket-gateway"), |launch, name| launch.key(&format!("upstream.{name}.url"), url))
}

/// All files with sizes and times. The `-shm` files belong to the readers of a database too.
fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable"));
    let files = entries.map(|entry| {
        let metadata = entry.metadata().expect("readable");
        (entry.path(), (metadata.len(), metadata.modified().expect("known")))
    });
    files.filter(|(path, _)| !path.to_string_lossy().ends_with("-shm")).collect()
}

#[tokio::test]
async fn a_healthy_system_has_no_failures_beside_its_running_server() {
    let data = folder();
    let server = Eticket::start(data.path()).await;
    let launch = || Launch::all_in_one(data.path());
    let results = doctor_with(launch(), &["--address", server.address("gateway")]).await;
    results.is_healthy();
    let in_use = results.with("data-lock", "ok");
    assert!(in_use[0]["detail"].as_str().is_some_and(|detail| detail.contains("in use")), "{in_use:?}");
    for (name, count) in
        [("store-integrity", 5), ("migrations", 5), ("server-health", 5), ("clock-difference", 1), ("versions", 1)]
    {
        assert_eq!(results.with(name, "ok").len(), count, "{name}: {}", results.exit.output);
    }
    server.stop().await;
}

#[tokio::test]
async fn nothing_in_the_data_folder_is_changed() {
    let data = folder();
    let server = Eticket::start(data.path()).await;
    // A server that stands still changes nothing itself.
    server.signal(Signal::STOP);
    let before = files(data.path());
    doctor(Launch::all_in_one(data.path())).await.is_healthy();
    assert_eq!(files(data.path()), before);
    server.signal(Signal::CONT);
    server.stop().await;

    let before = files(data.path());
    doctor(Launch::all_in_one(data.path())).await.is_healthy();
    assert_eq!(files(data.path()), before);
    // Nor is a lock left behind.
    Eticket::start(data.path()).await.kill().await;
    let before = files(data.path());
    doctor(Launch::all_in_one(data.path())).await.is_healthy();
    assert_eq!(files(data.path()), before, "after a crash");
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_fine_and_is_not_created() {
    let parent = folder();
    doctor(Launch::all_in_one(&parent.path().join("data"))).await.is_healthy();
    assert_eq!(files(parent.path()), BTreeMap::new());
}

#[tokio::test]
async fn a_wrong_key_fails_and_what_needs_the_configuration_is_left_out() {
    let data = folder();
    let results = doctor(Launch::all_in_one(data.path()).key("ticket.lisen", "127.0.0.1:1")).await;
    let failure = results.fails("configuration", "ETICKET__TICKET__LISEN");
    assert!(failure["detail"].as_str().is_some_and(|detail| detail.contains("unknown key")), "{failure}");
    let mut names: Vec<_> = results.checks.iter().filter_map(|check| check["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["clock", "configuration"]);
}

#[tokio::test]
async fn a_folder_below_a_file_fails_with_the_flag_that_sets_another() {
    let parent = folder();
    let file = parent.path().join("file");
    fs::write(&file, "").expect("written");
    let results = doctor(Launch::all_in_one(&file.join("data"))).await;
    results.fails("data-folder", "--data");
}

#[tokio::test]
async fn a_damaged_store_fails_and_the_others_are_checked() {
    let data = folder();
    Eticket::start(data.path()).await.stop().await;
    fs::write(data.path().join("ticket.db"), "something else").expect("written");
    let results = doctor(Launch::all_in_one(data.path())).await;
    let failure = results.fails("store-connection", "backup");
    assert_eq!(failure["subject"], "ticket");
    assert_eq!(results.with("store-connection", "ok").len(), 3);
}

#[tokio::test]
async fn an_upstream_that_is_down_fails() {
    let url = format!("http://127.0.0.1:{}", free_port().expect("a port"));
    let results = doctor(gateway(&url)).await;
    let failures = results.with("upstream", "fail");
    assert_eq!(failures.len(), 4, "{}", results.exit.output);
    let remedy = failures[0]["remedy"].as_str().expect("a text");
    assert!(remedy.contains("start the") && remedy.contains("upstream."), "{remedy}");
}

#[tokio::test]
async fn an_upstream_that_says_nothing_fails_in_time() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", mute.local_addr().expect("an address"));
    let begun = Instant::now();
    let address = url.trim_start_matches("http://");
    let results = doctor_with(gateway(&url), &["--address", address]).await;
    // All at once: five servers that say nothing take no longer than one.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(results.with("upstream", "fail").len(), 4);
    results.fails("server-connection", "correct --address");
}

#[tokio::test]
async fn another_server_at_the_address_of_an_upstream_fails() {
    let data = folder();
    let server = ticket(data.path()).key("listen", "127.0.0.1:0").start().await;
    let results = doctor(gateway(&format!("http://{}", server.address("ticket")))).await;
    assert_eq!(results.with("upstream", "ok").len(), 1, "{}", results.exit.output);
    let failures = results.with("upstream", "fail");
    assert!(failures.len() == 3 && failures[0]["remedy"].as_str().is_some_and(|text| text.contains("another server")));
    // The bus connects after the server is ready.
    shows(server.address("ticket"), "bus", ServingStatus::Serving).await;
    // The gateway is not needed for a server alone.
    let results = doctor_with(ticket(data.path()), &["--address", server.address("ticket")]).await;
    results.is_healthy();
    server.stop().await;
}

#[tokio::test]
async fn an_expired_certificate_fails_and_a_key_of_another_is_a_wrong_configuration() {
    let data = folder();
    let authority = Authority::new().expect("a certificate");
    let write = |name: &str, expired: bool| {
        let names = ["ticket.eticket"];
        let files = if expired { authority.issue_expired(&names) } else { authority.issue(&names) };
        let (certificate, key) = files.expect("a certificate").write(data.path(), name).expect("written");
        [certificate, key].map(|path| path.to_str().expect("UTF-8").to_owned())
    };
    let ([old, old_key], [new, new_key]) = (write("old", true), write("new", false));
    let launch = |certificate: &str, key: &str| {
        ticket(&data.path().join("data")).key("tls.cert_file", certificate).key("tls.key_file", key)
    };
    let results = doctor(launch(&old, &old_key)).await;
    let failure = results.fails("tls-certificate", "renew");
    assert!(failure["detail"].as_str().is_some_and(|detail| detail.contains("2020-01-02")), "{failure}");
    doctor(launch(&new, &new_key)).await.is_healthy();
    let results = doctor(launch(&new, &old_key)).await;
    let failure = results.fails("configuration", "tls.key_file");
    assert!(failure["detail"].as_str().is_some_and(|detail| detail.contains("not the key")), "{failure}");
}

#[tokio::test]
async fn a_password_is_never_printed() {
    let data = folder();
    let port = free_port().expect("a port");
    let launch = || {
        ticket(data.path())
            .key("store.url", &format!("postgres://eticket:s3cret@127.0.0.1:{port}/e"))
            .key("bus.url", &format!("nats://eticket:s3cret@127.0.0.1:{port}"))
    };
    let results = doctor(launch()).await;
    results.fails("store-connection", "start PostgreSQL");
    results.fails("bus-connection", "start nats-server");
    let people = launch().argument("doctor").run().await;
    for text in [&results.exit.output, &results.exit.log, &people.output, &people.log] {
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert!(people.output.contains("eticket:***@"), "{}", people.output);
}

#[tokio::test]
async fn people_get_a_list_and_wrong_arguments_are_usage() {
    let data = folder();
    let exit = Launch::all_in_one(data.path()).argument("doctor").run().await;
    assert_eq!(exit.code, Some(0), "{}", exit.output);
    assert!(exit.output.starts_with("configuration\n  ok   configuration "), "{}", exit.output);
    assert!(exit.output.ends_with(" ok, 0 warnings, 0 failures\n"), "{}", exit.output);
    for wrong in [["--output", "xml"], ["--timeout", "0"], ["--address", "nowhere"]] {
        let launch = Launch::all_in_one(data.path()).argument("doctor");
        let exit = wrong.iter().fold(launch, |launch, word| launch.argument(word)).run().await;
        assert_eq!((exit.code, exit.output.as_str()), (Some(2), ""), "{wrong:?}: {}", exit.log);
    }
    let help = Launch::program("eticket").argument("doctor").argument("--help").run().await;
    for words in ["--address", "--timeout", "--output", "nothing is changed", "eticket doctor --config"] {
        assert!(help.output.contains(words), "{words}: {}", help.output);
    }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn nats_is_checked_and_no_stream_is_created() {
    let data = folder();
    let mut nats = Nats::start().expect("it starts");
    let launch = || ticket(data.path()).key("bus.url", &nats.url());
    let results = doctor(launch()).await;
    results.is_healthy();
    assert!(results.with("stream", "ok")[0]["detail"].as_str().is_some_and(|text| text.contains("no stream")));
    // A second run would see a stream that the first had made.
    assert!(
        doctor(launch()).await.with("stream", "ok")[0]["detail"].as_str().is_some_and(|it| it.contains("no stream"))
    );
    launch().key("listen", "127.0.0.1:0").start().await.stop().await;
    let results = doctor(launch()).await;
    results.is_healthy();
    for name in ["nats-version", "jetstream", "stream", "stream-protection", "stream-replicas", "clock-difference"] {
        assert_eq!(results.with(name, "ok").len(), 1, "{name}: {}", results.exit.output);
    }
    nats.signal(Signal::STOP).expect("stopped");
    let results = doctor(launch()).await;
    results.fails("bus-connection", "nats");
    nats.signal(Signal::CONT).expect("continued");
    nats.stop().expect("it stops");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn nats_without_jetstream_fails() {
    let data = folder();
    let lines = "accounts { PLAIN { users: [{ user: plain, password: plain }] } }\nno_auth_user: plain";
    let nats = Nats::start_with(lines).expect("it starts");
    let results = doctor(ticket(data.path()).key("bus.url", &nats.url())).await;
    results.fails("jetstream", "enable JetStream");
    assert!(results.with("stream", "fail").is_empty(), "{}", results.exit.output);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn postgresql_without_fsync_fails_and_no_schema_is_created() {
    let data = folder();
    let unsynced = Postgres::start().expect("it starts");
    let launch = |url: &str| ticket(data.path()).key("store.url", url);
    let results = doctor(launch(&unsynced.url("postgres"))).await;
    results.fails("store-durability", "fsync = on");
    for name in ["store-connection", "store-version", "store-rights", "migrations", "clock-difference"] {
        assert_eq!(results.with(name, "ok").len(), 1, "{name}: {}", results.exit.output);
    }
    const SCHEMAS: &str = "select count(*) from pg_namespace where nspname = 'ticket'";
    assert_eq!(unsynced.sql("postgres", SCHEMAS).expect("read"), "0");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: cargo xtask test runs it"]
async fn rights_in_postgresql_that_are_missing_fail_with_the_statement_that_grants_them() {
    let data = folder();
    let server = Postgres::start_with(&Settings { synced: true, ..Settings::default() }).expect("it starts");
    let url = server.create_database("tickets").expect("created");
    let sql = |statements: &str| server.sql("tickets", statements).expect("done");
    sql("create role app login");
    let launch = || ticket(data.path()).key("store.url", &url.replace("postgres@", "app@"));
    doctor(launch()).await.fails("store-rights", "GRANT CREATE ON DATABASE \"tickets\" TO \"app\"");
    sql("grant create on database tickets to app");
    doctor(launch()).await.is_healthy();
    launch().key("listen", "127.0.0.1:0").start().await.stop().await;
    let results = doctor(launch()).await;
    results.is_healthy();
    let current = results.with("migrations", "ok")[0]["detail"].as_str().is_some_and(|text| text.contains("current"));
    assert!(current, "{}", results.exit.output);
    sql("revoke all on schema ticket from app; alter schema ticket owner to postgres");
    doctor(launch()).await.fails("store-rights", "ON SCHEMA ticket");
    sql(
        "alter schema ticket owner to app; grant all on schema ticket to app; revoke insert on all tables in schema ticket from app",
    );
    doctor(launch()).await.fails("store-rights", "ON ALL TABLES IN SCHEMA ticket");
    sql("grant insert on all tables in schema ticket to app; alter database tickets set synchronous_commit = off");
    let results = doctor(launch()).await;
    assert_eq!((results.exit.code, results.with("store-durability", "warn").len()), (Some(0), 1));
    sql("insert into ticket._sqlx_migrations values (999, 'newer', now(), true, '\\x00', 0)");
    let newer = doctor(launch()).await;
    assert_eq!((newer.exit.code, newer.with("migrations", "warn").len()), (Some(0), 1), "{}", newer.exit.output);
    server.signal(Signal::STOP).expect("stopped");
    doctor(launch()).await.fails("store-connection", "start PostgreSQL");
    server.signal(Signal::CONT).expect("continued");
}

//! The client commands of `eticket`, each run as a process of its own.

#![expect(clippy::expect_used, reason = "a test that cannot make its files fails")]

use std::{fs, path::Path, process::Stdio};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Exit, Protocol, binary, calendar,
    calendar::Slot,
    eventually::{SOON, eventually},
    process::Launch,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

/// The client commands, against one process with all servers.
struct Cli {
    data: TempDir,
    eticket: Eticket,
}

impl Cli {
    async fn start() -> Self {
        let data = TempDir::new().expect("a folder");
        let eticket = Eticket::start(data.path()).await;
        Self { data, eticket }
    }

    fn launch(&self, arguments: &[&str]) -> Launch {
        let launch = Launch::program("eticket").variable("ETICKET_ADDRESS", self.eticket.address("gateway"));
        arguments.iter().fold(launch.variable("LANG", "C"), |launch, argument| launch.argument(argument))
    }

    /// Runs a command that must end with this code.
    async fn run(&self, code: i32, arguments: &[&str]) -> Exit {
        let exit = self.launch(arguments).run().await;
        assert_eq!(exit.code, Some(code), "{arguments:?}: {exit:?}");
        exit
    }

    /// Runs a command that must succeed, and reads its JSON.
    async fn json(&self, arguments: &[&str]) -> Value {
        let exit = self.run(0, &[arguments, &["--output", "json"]].concat()).await;
        serde_json::from_str(&exit.output).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", exit.output))
    }

    async fn register(&self, id: &str, slot: Slot) {
        let (start, end) = (slot.start.to_rfc3339(), slot.end.to_rfc3339());
        let title = format!("Ticket {id}");
        let arguments = ["register", "--id", id, "--title", &title, "--start", &start, "--end", &end];
        self.run(0, &[&arguments[..], &["--wait", "settled"]].concat()).await;
    }

    fn api(&self) -> Api {
        Api::new(&self.eticket, Protocol::Gateway)
    }

    fn file(&self, name: &str, rows: &[String]) -> String {
        let path = self.data.path().join(name);
        fs::write(&path, format!("ticket_id,title,start_time,end_time\n{}\n", rows.join("\n"))).expect("written");
        path.to_str().expect("test folders are UTF-8").to_owned()
    }
}

fn row(id: &str) -> String {
    format!("{id},\"Choir, row {id}\",2099-01-07 19:00,2099-01-07T21:00:00+09:00")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_registered_reserved_and_cancelled() {
    let cli = Cli::start().await;
    cli.register("1", calendar::upcoming(Weekday::Wed)).await;
    cli.register("2", calendar::upcoming(Weekday::Tue)).await;

    let tickets = cli.json(&["tickets", "--order-by", "ticket_id"]).await;
    let ids: Vec<_> = tickets.as_array().expect("a list").iter().map(|ticket| ticket["ticketId"].as_str()).collect();
    assert_eq!(ids, [Some("1"), Some("2")]);
    let csv = cli.run(0, &["tickets", "--output", "csv", "--order-by", "ticket_id"]).await.output;
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines[0].starts_with("ticket_id,title,ticket_status,start_time"), "{csv}");
    assert!(lines.len() == 3 && lines[1].starts_with("1,Ticket 1,AVAILABLE,"), "{csv}");
    let table = cli.run(0, &["tickets", "--zone", "Asia/Seoul"]).await.output;
    assert!(table.contains("8,000 KRW") && table.contains("10:00") && table.contains("Asia/Seoul"), "{table}");
    assert!(!table.contains('\u{1b}'), "no colours in a pipe: {table:?}");

    let start = calendar::upcoming(Weekday::Wed).start.to_rfc3339();
    let quote = cli.json(&["quote", "--start", &start, "--grade", "vip"]).await;
    assert_eq!(quote["discountedPrice"]["units"], "7000");

    let reserve = ["reserve", "1", "--user", "B", "--grade", "VIP", "--wait", "settled"];
    let reserved = cli.json(&reserve).await;
    let id = reserved["reservation"]["reservationId"].as_str().expect("an id").to_owned();
    assert_eq!(reserved["view"]["discountedPrice"]["units"], "7000");
    assert_eq!(reserved["view"]["settled"], true);
    assert!(!reserved["consistencyToken"].as_str().expect("a token").is_empty());
    let history = cli.json(&["history", "1"]).await;
    let events: Vec<_> = history.as_array().expect("a list").iter().map(|entry| entry["eventType"].clone()).collect();
    assert!(
        events.contains(&"ReservationPlaced".into()) && events.last() == Some(&"TicketRegistered".into()),
        "{events:?}"
    );
    let csv = cli.run(0, &["history", "1", "--limit", "3", "--output", "csv"]).await.output;
    assert!(csv.lines().count() == 4 && csv.starts_with("event_time,event_type,about,revision,state"), "{csv}");
    let table = cli.run(0, &["history", "1", "--zone", "Asia/Seoul"]).await.output;
    assert!(table.contains("TicketRegistered") && table.contains(" entries, times in"), "{table}");
    assert!(cli.run(1, &["history", "nobody"]).await.log.contains("TICKET_NOT_FOUND"));
    let taken = cli.run(1, &reserve).await;
    assert!(taken.log.contains("TICKET_ALREADY_RESERVED") && taken.output.is_empty(), "{taken:?}");
    let view = cli.run(0, &["view", "1"]).await.output;
    assert!(view.contains("RESERVED") && view.contains("B (VIP)") && view.contains(&id), "{view}");

    for filter in
        [&["--user", "B"][..], &["--ticket", "1"], &["--user", "B", "--status", "reserved"], &["--limit", "1"]]
    {
        let found = cli.run(0, &[&["reservations", "--output", "csv"], filter].concat()).await.output;
        assert!(found.lines().count() == 2 && found.contains(&id), "{filter:?}: {found}");
    }
    let none = cli.json(&["reservations", "--user", "B", "--status", "cancelled"]).await;
    assert_eq!(none, serde_json::json!([]));

    let plan = cli.run(0, &["cancel", &id, "--dry-run"]).await.output;
    assert!(plan.contains("would cancel") && plan.contains("nothing was changed"), "{plan}");
    let cancelled = cli.json(&["cancel", &id, "--wait", "settled"]).await;
    assert_eq!(cancelled["reservation"]["status"], "RESERVATION_STATUS_CANCELLED");
    assert_eq!(cancelled["view"]["ticketStatus"], "TICKET_STATUS_AVAILABLE");
    let again = cli.run(1, &["cancel", &id, &id, "01a2b3c4-0000-7000-8000-000000000001"]).await.output;
    assert!(again.contains("RESERVATION_NOT_ACTIVE") && again.contains("RESERVATION_NOT_FOUND"), "{again}");

    let updated = cli.json(&["update", "2", "--title", "Jazz", "--etag", "1"]).await;
    assert_eq!(updated["ticket"]["title"], "Jazz");
    let stale = cli.run(1, &["update", "2", "--title", "Blues", "--etag", "1"]).await;
    assert!(stale.log.contains("ETAG_MISMATCH"), "{stale:?}");
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_registered_once() {
    let cli = Cli::start().await;
    let mut rows: Vec<_> = (1..=20).map(|number| row(&format!("seat-{number:02}"))).collect();
    let file = cli.file("tickets.csv", &rows);
    let register = ["register", "--zone", "Asia/Seoul", "--output", "csv", "--file"];
    let of = |exit: &Exit, result: &str| exit.output.lines().filter(|line| line.contains(result)).count();

    let plan = cli.run(0, &[&register[..], &[&file, "--dry-run"]].concat()).await;
    assert_eq!(of(&plan, ",would register,"), 20, "{plan:?}");
    assert!(cli.api().ticket("seat-01").await.is_err(), "a dry run registers nothing");

    // Two runs at once: the same row is the same request, so each succeeds.
    let first = [&register[..], &[&file]].concat();
    let (one, other) = tokio::join!(cli.run(0, &first), cli.run(0, &first));
    assert_eq!(of(&one, ",registered,") + of(&one, ",unchanged,"), 20, "{one:?}");
    assert_eq!(of(&other, ",registered,") + of(&other, ",unchanged,"), 20, "{other:?}");

    let second = cli.run(0, &first).await;
    assert_eq!((of(&second, ",unchanged,"), of(&second, ",registered,")), (20, 0), "{second:?}");
    assert_eq!(cli.api().ticket("seat-20").await.expect("registered").revision, 1);

    // A row more, and one that contradicts the ticket that exists.
    rows.push(row("seat-21"));
    rows[0] = rows[0].replace("Choir", "Jazz");
    let file = cli.file("more.csv", &rows);
    let more = cli.run(1, &[&register[..], &[&file]].concat()).await;
    let counts = [",unchanged,", ",registered,", ",refused,"].map(|result| of(&more, result));
    assert_eq!(counts, [19, 1, 1], "{more:?}");
    assert_eq!(cli.api().ticket("seat-01").await.expect("registered").title, "Choir, row seat-01");
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_if_a_row_is_wrong() {
    let cli = Cli::start().await;
    let file = cli.file("wrong.csv", &[row("good"), row("not good"), row("last").replace("21:00", "18:00")]);
    let exit = cli.run(2, &["register", "--file", &file, "--zone", "Asia/Seoul"]).await;
    for word in ["2 rows are wrong", "nothing was sent", "line 3", "ticket_id", "line 4", "end_time"] {
        assert!(exit.log.contains(word), "{word}: {exit:?}");
    }
    let found = cli.api().ticket("good").await;
    assert_eq!(found.expect_err("no row was sent").code(), tonic::Code::NotFound);
    cli.run(2, &["register", "--file", "/no/such/file"]).await;
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_are_withdrawn_by_a_pattern_after_a_look() {
    let cli = Cli::start().await;
    let file = cli.file("tickets.csv", &["tour-1", "tour-2", "gala-1"].map(row));
    cli.run(0, &["register", "--file", &file, "--zone", "Asia/Seoul"]).await;
    let pattern = ["withdraw", "--all-matching", "tour-*"];
    let plan = cli.run(0, &[&pattern[..], &["--dry-run"]].concat()).await.output;
    assert!(plan.contains("tour-1") && plan.contains("2 would withdraw") && !plan.contains("gala"), "{plan}");
    let unasked = cli.run(2, &pattern).await;
    assert!(unasked.log.contains("--yes"), "{unasked:?}");
    let status = async |id: &str| cli.api().ticket(id).await.expect("registered").status();
    assert_eq!(status("tour-1").await, eticket_proto::ticket::TicketStatus::Available, "neither changed anything");

    let done = cli.run(0, &[&pattern[..], &["--yes"]].concat()).await.output;
    assert!(done.contains("2 withdrawn"), "{done}");
    assert_eq!(status("tour-2").await, eticket_proto::ticket::TicketStatus::Withdrawn);
    assert_eq!(status("gala-1").await, eticket_proto::ticket::TicketStatus::Available);
    cli.run(1, &[&pattern[..], &["--yes"]].concat()).await;
    let gone = cli.run(1, &["reserve", "tour-1", "--user", "A", "--grade", "gold"]).await;
    assert!(gone.log.contains("TICKET_WITHDRAWN"), "{gone:?}");
    let withdrawn = cli.json(&["withdraw", "gala-1", "--wait", "settled"]).await;
    assert_eq!(withdrawn["view"]["ticketStatus"], "TICKET_STATUS_WITHDRAWN");
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_in_a_pipe_gets_each_change() {
    let cli = Cli::start().await;
    cli.register("1", calendar::upcoming(Weekday::Wed)).await;
    let mut watch = Command::new(binary::binary("eticket"))
        .args(["watch", "1", "--address", cli.eticket.address("gateway"), "--output", "json"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut next = async || {
        let line = timeout(SOON, lines.next_line()).await.expect("a change comes soon").expect("readable");
        serde_json::from_str::<Value>(&line.expect("the watch goes on")).expect("JSON")
    };
    assert_eq!(next().await["ticketStatus"], "TICKET_STATUS_AVAILABLE", "first what is");
    cli.run(0, &["reserve", "1", "--user", "A", "--grade", "silver"]).await;
    loop {
        let view = next().await;
        if view["ticketStatus"] == "TICKET_STATUS_RESERVED" && view["settled"] == true {
            assert_eq!(view["userId"], "A");
            break;
        }
    }
    let id = watch.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs");
    kill_process(id, Signal::INT).expect("a child can be signalled");
    let status = timeout(SOON, watch.wait()).await.expect("it ends").expect("a child can be waited for");
    assert_eq!(status.code(), Some(130));

    let counted = cli.run(0, &["watch", "--count", "1"]).await.output;
    assert!(counted.lines().count() == 1 && counted.contains("\t1\tRESERVED\t"), "{counted:?}");
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_say_what_to_do_and_have_their_codes() {
    let cli = Cli::start().await;
    for (code, arguments, words) in [
        (1, &["view", "nothing"][..], &["TICKET_NOT_FOUND"][..]),
        (1, &["reserve", "1"], &["INVALID_FIELD", "--user", "--grade"]),
        (2, &["reserve"], &["<TICKET>"]),
        (2, &["quote", "--start", "tomorrow"], &["--start", "tomorrow"]),
        (2, &["tickets", "--zone", "Nowhere/Town"], &["--zone"]),
        (69, &["tickets", "--address", "127.0.0.1:1"], &["127.0.0.1:1", "--address"]),
        (69, &["tickets", "--address", &format!("https://{}", cli.eticket.address("gateway"))], &["http://"]),
        (78, &["tickets", "--address", "nowhere"], &["nowhere", "host:port"]),
        (78, &["tickets", "--token-file", "/no/such/file"], &["--token-file"]),
        // A service instead of the gateway.
        (1, &["tickets", "--address", cli.eticket.address("ticket")], &["gateway"]),
    ] {
        let exit = cli.run(code, arguments).await;
        assert!(exit.output.is_empty(), "{arguments:?}: {exit:?}");
        for word in words {
            assert!(exit.log.contains(word), "{arguments:?}: {word}: {}", exit.log);
        }
    }
    let korean = cli.launch(&["view", "nothing"]).variable("LC_ALL", "ko_KR.UTF-8").run().await;
    assert!(korean.log.contains("티켓이 없습니다"), "{korean:?}");

    let health = cli.run(0, &["health", "--output", "csv"]).await.output;
    assert!(health.contains("readiness,SERVING"), "{health}");
    let policy = cli.run(0, &["policy"]).await.output;
    assert!(policy.contains("midweek") && policy.contains("Wed, Thu") && policy.contains("10,000 KRW"), "{policy}");
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_not_accepted_on_the_command_line() {
    for arguments in [&["tickets", "--token", "top-secret"][..], &["tickets", "--token=top-secret"]] {
        let launch = arguments.iter().fold(Launch::program("eticket"), |launch, argument| launch.argument(argument));
        let exit = launch.run().await;
        assert_eq!(exit.code, Some(2), "{exit:?}");
        assert!(exit.log.contains("--token-file") && exit.log.contains("ETICKET_TOKEN"), "{exit:?}");
        assert!(!format!("{exit:?}").contains("top-secret"), "{exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_gets_colours_and_lines_that_fit() {
    let cli = Cli::start().await;
    let long = "seat-with-a-long-name-12345678901234567890".to_owned();
    let file = cli.file("tickets.csv", &[row("1"), row(&long)]);
    cli.run(0, &["register", "--file", &file, "--zone", "Asia/Seoul", "--wait", "applied"]).await;
    let on_terminal = async |variables: &str| {
        let (program, gateway) = (binary::binary("eticket"), cli.eticket.address("gateway"));
        let command = format!("stty cols 80; {variables} {} tickets --address {gateway}", program.display());
        let exit = Launch::as_shown(&format!("script --quiet --return --command '{command}' /dev/null"));
        let exit = exit.variable("TERM", "xterm-256color").run().await;
        assert_eq!(exit.code, Some(0), "{exit:?}");
        exit.output
    };
    let colored = on_terminal("env -u NO_COLOR").await;
    assert!(colored.contains("\u{1b}[") && colored.contains("AVAILABLE"), "{colored:?}");
    let plain = on_terminal("NO_COLOR=1").await;
    assert!(!plain.contains('\u{1b}') && plain.contains(&long), "{plain:?}");
    for line in plain.lines() {
        assert!(line.trim_end().chars().count() <= 80, "{line}");
    }
    cli.eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completion_and_man_pages_need_no_server() {
    let script = Launch::program("eticket").argument("completion").argument("bash").run().await;
    assert_eq!(script.code, Some(0), "{script:?}");
    // Commands of clients and of operators.
    for word in ["--all-matching", "reservations", "compare-view", "--check-config"] {
        assert!(script.output.contains(word), "{word}");
    }
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("man");
    let shown = path.to_str().expect("test folders are UTF-8");
    let man = Launch::program("eticket").argument("man").argument(shown).run().await;
    assert_eq!(man.code, Some(0), "{man:?}");
    let exists = |page: &str| Path::new(shown).join(page).is_file();
    assert!(exists("eticket.1") && exists("eticket-reserve.1") && exists("eticket-admin-parked.1"), "{man:?}");
    let help = Launch::program("eticket").argument("--help").run().await;
    assert!(help.output.contains("Client commands") && help.output.contains("reservations"), "{help:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_repeated_with_its_request_id() {
    let cli = Cli::start().await;
    cli.register("1", calendar::upcoming(Weekday::Wed)).await;
    let id = "6b1f7e7e-51a5-4f8f-9f0e-2f0a4f2b8a11";
    let reserve = ["reserve", "1", "--user", "A", "--grade", "gold", "--request-id", id];
    let first = cli.json(&reserve).await;
    assert_eq!(cli.json(&reserve).await["reservation"], first["reservation"], "it takes effect once");

    // The server does not answer in time: whether the command took effect is open, so it says how to repeat it.
    eventually(SOON, "the ticket is settled", async || {
        let view = cli.json(&["view", "1"]).await;
        if view["settled"] == true { Ok(()) } else { Err(view) }
    })
    .await;
    cli.eticket.signal(Signal::STOP);
    let late = cli.launch(&[&reserve[..], &["--timeout", "300ms"]].concat()).run().await;
    cli.eticket.signal(Signal::CONT);
    assert_eq!(late.code, Some(69), "{late:?}");
    assert!(late.log.contains(&format!("--request-id {id}")), "{late:?}");
    cli.eticket.stop().await;
}

//! Admin commands on the command line, sent to a service or through the gateway.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use chrono::Weekday;
use eticket_bus::{Bus, Message};
use eticket_bus_embedded::Embedded;
use eticket_integration_tests::{
    Api, Eticket, Exit, Protocol, binary, calendar,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_proto::reservation::UserGrade;
use tempfile::TempDir;

/// Runs `eticket admin …` against the gateway of this process.
async fn admin(eticket: &Eticket, arguments: &[&str]) -> Exit {
    let mut launch = Launch::program("eticket").argument("admin");
    for argument in arguments {
        launch = launch.argument(argument);
    }
    launch.argument("--address").argument(eticket.address("gateway")).run().await
}

fn lines(exit: &Exit) -> Vec<&str> {
    exit.output.lines().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_command_prints_its_result() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    for number in 0..3 {
        let ticket = format!("t-{number}");
        api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        let answer = api.reserve(&ticket, "A", UserGrade::Vip).await.expect("reserved");
        api.settled(&ticket, &answer.consistency_token).await;
    }
    for (arguments, expected) in [
        (
            &["republish"][..],
            &[
                "ticket: 3 states added to the outbox",
                "reservation: 3 states added to the outbox",
                "pricing: 3 states added to the outbox",
            ][..],
        ),
        (&["republish", "--service", "pricing"], &["pricing: 3 states added to the outbox"]),
        (&["parked", "--service", "query"], &["query: 0 parked"]),
        (&["resend", "--service", "ticket"], &["ticket: 0 applied again"]),
        (&["compare-view"], &["query: 9 rows compared, 0 differences"]),
        (&["unsettled"], &["query: 0 unsettled"]),
    ] {
        let exit = admin(&eticket, arguments).await;
        assert_eq!((exit.code, lines(&exit)), (Some(0), expected.to_vec()), "{arguments:?}: {}", exit.log);
    }
    let rebuilt = admin(&eticket, &["rebuild-view"]).await;
    assert!(rebuilt.output.ends_with("messages applied to the new view\n"), "{rebuilt:?}");
    // Sent to a service directly; the output names no service.
    let direct = Launch::program("eticket-ticket").argument("republish").argument("--address");
    let exit = direct.argument(eticket.address("ticket")).run().await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["3 states added to the outbox"]), "{}", exit.log);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_shows_every_server() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    // The lag is known two seconds after a consumer has attached.
    let complete = async || {
        let exit = admin(&eticket, &["status"]).await;
        let lags = lines(&exit).into_iter().skip(1).take(4).map(|line| line.split_whitespace().nth(6));
        if lags.eq([Some("0"); 4]) { Ok(exit) } else { Err(exit) }
    };
    let exit = eventually(SOON, "each consumer is at the end", complete).await;
    assert_eq!((exit.code, exit.log.as_str()), (Some(0), ""), "{exit:?}");
    assert!(lines(&exit).iter().all(|line| line.len() <= 80), "{}", exit.output);
    let rows: Vec<Vec<_>> = lines(&exit).iter().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let row = |service, address, outbox, counts: [&'static str; 2]| {
        vec![service, address, env!("CARGO_PKG_VERSION"), "", "ready", outbox, counts[0], counts[1]]
    };
    let [ticket, reservation, pricing, query] =
        ["ticket", "reservation", "pricing", "query"].map(|service| eticket.address(service));
    let expected = [
        row("ticket", ticket, "0", ["0", "0"]),
        row("reservation", reservation, "0", ["0", "0"]),
        row("pricing", pricing, "0", ["0", "0"]),
        row("query", query, "-", ["0", "0"]),
        row("gateway", "-", "-", ["-", "-"]),
    ];
    let without_age = rows.into_iter().map(|mut row| {
        row[3] = "";
        row
    });
    assert_eq!(without_age.collect::<Vec<_>>(), expected);

    let exit = admin(&eticket, &["status", "--service", "pricing"]).await;
    assert_eq!((exit.code, lines(&exit).len()), (Some(0), 2), "{exit:?}");
    // A service itself does not know by which address others call it.
    let direct = Launch::program("eticket-ticket").argument("status").argument("--address");
    let exit = direct.argument(eticket.address("ticket")).run().await;
    let row = lines(&exit).get(1).map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
    assert_eq!((exit.code, row), (Some(0), Some(vec!["ticket", "-"])), "{exit:?}");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_a_bar_on_a_terminal() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Protocol::Gateway);
    for number in 0..10 {
        api.register(&format!("t-{number}"), calendar::upcoming(Weekday::Wed)).await.expect("registered");
    }
    let (program, gateway) = (binary::binary("eticket"), eticket.address("gateway"));
    let command = format!("{} admin republish --service ticket --address {gateway}", program.display());
    // `script` runs the command on a terminal and prints its output.
    let exit = Launch::as_shown(&format!("script --quiet --return --command '{command}' /dev/null")).run().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.output.contains("10 of 10") && exit.output.contains("ticket: 10 states"), "{exit:?}");
    // Without a terminal only the result is written.
    let exit = admin(&eticket, &["republish", "--service", "ticket"]).await;
    assert!(!exit.output.contains(" of ") && exit.log.is_empty(), "{exit:?}");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_differs_from_its_owners_is_reported() {
    // Another ticket service, with tickets that the view does not have.
    let (data, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let other = Launch::program("eticket-ticket").data(elsewhere.path());
    let other = other.key("listen", "127.0.0.1:0").key("bus.url", "embedded").key("shutdown.drain_delay_ms", "0");
    let other = other.start().await;
    let url = format!("http://{}", other.address("ticket"));
    let eticket = Launch::all_in_one(data.path()).key("query.upstream.ticket.url", &url).start().await;
    let (here, there) = (Api::new(&eticket, Protocol::Gateway), Api::at(other.address("ticket")));
    for (api, tickets) in [(&here, ["both", "here"]), (&there, ["both", "there"])] {
        for ticket in tickets {
            api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        }
    }
    let edited = there.withdraw("both", "").await;
    edited.expect("withdrawn there, not here");
    for ticket in ["both", "here"] {
        here.settled(ticket, "").await;
    }

    let exit = admin(&eticket, &["compare-view"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    for ticket in ["both\t", "here\t", "there\t"] {
        assert!(lines(&exit).iter().any(|line| line.starts_with(ticket)), "{ticket}: {}", exit.output);
    }
    let of_both = |field: &str| lines(&exit).iter().any(|line| line.starts_with(&format!("both\t{field}\t")));
    assert!(of_both("ticket.status") || of_both("ticket.withdrawn"), "{}", exit.output);

    // A missing owner is not reported as a difference.
    other.stop().await;
    let exit = admin(&eticket, &["compare-view"]).await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    assert!(exit.log.contains("ticket"), "{}", exit.log);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_servers_produce_an_actionable_error() {
    let orphan = Launch::program("eticket-query").argument("unsettled").argument("--address").argument("127.0.0.1:1");
    let exit = orphan.run().await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    assert!(exit.log.contains("127.0.0.1:1") && exit.log.contains("--address"), "{}", exit.log);

    for address in ["nowhere", "nowhere:", ":1", "host:port", "host:70000", "http://127.0.0.1:8088"] {
        let exit = Launch::program("eticket").argument("admin").argument("--address").argument(address);
        let exit = exit.argument("unsettled").run().await;
        assert_eq!(exit.code, Some(78), "{address}: {exit:?}");
        assert!(exit.log.contains(address) && exit.log.contains("expected host:port"), "{}", exit.log);
    }

    // Without `--address` the configuration names the server, but it cannot name a port that is chosen at start. The
    // rest of the configuration may be missing: here there is no bus and no upstream.
    let exit = Launch::program("eticket-reservation").argument("parked").key("listen", "127.0.0.1:1").run().await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    let anywhere = Launch::program("eticket-query").argument("unsettled");
    let exit = anywhere.key("listen", "127.0.0.1:0").run().await;
    assert_eq!(exit.code, Some(78), "{exit:?}");
    assert!(exit.log.contains("listen") && exit.log.contains("--address"), "{}", exit.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_command_prints_a_plain_error() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let exit = admin(&eticket, &["resend", "no-such-event", "--service", "ticket"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.log.contains("event_id: expected") && !exit.log.contains("could not be built"), "{}", exit.log);
    eticket.stop().await;

    // A service without the addresses of the owners cannot compare, and without the bus it cannot rebuild.
    let data = TempDir::new().expect("a folder");
    let query = Launch::program("eticket-query").data(data.path()).key("listen", "127.0.0.1:0");
    let query = query.key("bus.url", "embedded").key("shutdown.drain_delay_ms", "0").start().await;
    let order = Launch::program("eticket-query").argument("compare-view").argument("--address");
    let exit = order.argument(query.address("query")).run().await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.log.contains("upstream.ticket.url"), "{}", exit.log);
    query.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_serves_only_its_own_operations() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let at_ticket = async |arguments: &[&str]| {
        let launch = Launch::program("eticket").argument("admin").argument("--address");
        let launch = launch.argument(eticket.address("ticket"));
        arguments.iter().fold(launch, |launch, argument| launch.argument(argument)).run().await
    };
    let exit = at_ticket(&["parked"]).await;
    assert_eq!((exit.code, lines(&exit)), (Some(1), vec!["ticket: 0 parked"]), "{}", exit.log);
    assert!(
        exit.log.contains("is a service, not a gateway") && exit.log.contains("this is the ticket service"),
        "{}",
        exit.log
    );
    let exit = at_ticket(&["parked", "--service", "ticket"]).await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["ticket: 0 parked"]), "{}", exit.log);
    for arguments in [&["parked", "--service", "query"][..], &["compare-view"], &["resend", "--service", "pricing"]] {
        let exit = at_ticket(arguments).await;
        assert_eq!((exit.code, exit.output.as_str()), (Some(1), ""), "{arguments:?}: {}", exit.log);
    }
    // The view does not support commands that only owners have.
    let exit = admin(&eticket, &["republish", "--service", "query"]).await;
    assert_eq!(exit.code, Some(2), "{}", exit.log);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_times_out() {
    // Accepts connections and never responds.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = mute.local_addr().expect("bound").to_string();
    let began = Instant::now();
    let order = async |arguments: &[&str]| {
        let launch = Launch::program("eticket").argument("admin").argument("--address").argument(&address);
        arguments.iter().fold(launch, |launch, argument| launch.argument(argument)).run().await
    };
    let exits = tokio::join!(order(&["parked"]), order(&["resend"]), order(&["compare-view"]));
    for exit in [exits.0, exits.1, exits.2] {
        assert_eq!(exit.code, Some(69), "{exit:?}");
        assert!(exit.log.contains(&address) && !exit.log.contains("The "), "{}", exit.log);
    }
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_can_never_be_applied_is_discarded() {
    let data = TempDir::new().expect("a folder");
    Eticket::start(data.path()).await.stop().await;
    let bus = Embedded::open(&data.path().join("bus.db")).await.expect("a bus");
    let headers = vec![("ce-id".into(), "odd/1".to_owned())];
    let odd = Message { subject: "eticket.v1.ticket.odd".to_owned(), headers, body: vec![0xff].into() };
    bus.publish(odd).await.expect("published");
    bus.close().await;
    let eticket = Eticket::start(data.path()).await;
    for service in ["reservation", "pricing", "query"] {
        eventually(SOON, "it is parked", async || {
            let exit = admin(&eticket, &["parked", "--service", service]).await;
            if exit.output.contains(&format!("{service}: 1 parked")) { Ok(()) } else { Err(exit) }
        })
        .await;
    }
    let exit = admin(&eticket, &["resend", "odd/1"]).await;
    let still = vec!["reservation: 0 applied again", "pricing: 0 applied again", "query: 0 applied again"];
    assert_eq!((exit.code, lines(&exit)), (Some(0), still), "every service with the event was called: {}", exit.log);
    let exit = admin(&eticket, &["discard", "odd/1", "--service", "pricing"]).await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["pricing: 1 discarded"]), "{}", exit.log);
    let direct = Launch::program("eticket-query").argument("discard").argument("odd/1").argument("--address");
    let exit = direct.argument(eticket.address("query")).run().await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["1 discarded"]), "{}", exit.log);
    let exit = admin(&eticket, &["discard", "odd/1"]).await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["reservation: 1 discarded"]), "{}", exit.log);
    for order in ["discard", "resend"] {
        let exit = admin(&eticket, &[order, "odd/1"]).await;
        assert_eq!((exit.code, exit.output.as_str()), (Some(1), ""), "{order}: {}", exit.log);
        assert!(exit.log.contains("event_id: expected"), "{}", exit.log);
    }
    eticket.stop().await;
}

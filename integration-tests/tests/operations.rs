//! What operators do on the command line, to a service or through the gateway.

use chrono::Weekday;
use eticket_integration_tests::{Api, Eticket, Exit, Wire, binary, calendar, process::Launch};
use eticket_proto::reservation::UserGrade;
use tempfile::TempDir;

/// `eticket admin …`, to the gateway of this one.
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
async fn each_command_says_what_it_did() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Wire::Gateway);
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
                "ticket: 3 states put into the outbox again",
                "reservation: 3 states put into the outbox again",
                "pricing: 3 states put into the outbox again",
            ][..],
        ),
        (&["republish", "--service", "pricing"], &["pricing: 3 states put into the outbox again"]),
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
    // To a service itself, which names nobody else.
    let direct = Launch::program("eticket-ticket").argument("republish").argument("--address");
    let exit = direct.argument(eticket.address("ticket")).run().await;
    assert_eq!((exit.code, lines(&exit)), (Some(0), vec!["3 states put into the outbox again"]), "{}", exit.log);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_progress_is_a_bar() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let api = Api::new(&eticket, Wire::Gateway);
    for number in 0..10 {
        api.register(&format!("t-{number}"), calendar::upcoming(Weekday::Wed)).await.expect("registered");
    }
    let (program, gateway) = (binary::binary("eticket"), eticket.address("gateway"));
    let command = format!("{} admin republish --service ticket --address {gateway}", program.display());
    // `script` gives it a terminal, of which it shows what is drawn there.
    let exit = Launch::as_shown(&format!("script --quiet --return --command '{command}' /dev/null")).run().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.output.contains("10 of 10") && exit.output.contains("ticket: 10 states"), "{exit:?}");
    // Where none is, nothing but the result is written.
    let exit = admin(&eticket, &["republish", "--service", "ticket"]).await;
    assert!(!exit.output.contains(" of ") && exit.log.is_empty(), "{exit:?}");
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_differs_from_its_owners_is_seen() {
    // Another ticket service, whose tickets are not those that the view has heard of.
    let (data, elsewhere) = (TempDir::new().expect("a folder"), TempDir::new().expect("a folder"));
    let other = Launch::program("eticket-ticket").data(elsewhere.path());
    let other = other.key("listen", "127.0.0.1:0").key("bus.url", "embedded").key("shutdown.drain_delay_ms", "0");
    let other = other.start().await;
    let url = format!("http://{}", other.address("ticket"));
    let eticket = Launch::all_in_one(data.path()).key("query.upstream.ticket.url", &url).start().await;
    let (here, there) = (Api::new(&eticket, Wire::Gateway), Api::at(other.address("ticket")));
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

    // An owner that is not there is no difference.
    other.stop().await;
    let exit = admin(&eticket, &["compare-view"]).await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    assert!(exit.log.contains("ticket"), "{}", exit.log);
    eticket.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_reach_nobody_say_what_to_do() {
    let orphan = Launch::program("eticket-query").argument("unsettled").argument("--address").argument("127.0.0.1:1");
    let exit = orphan.run().await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    assert!(exit.log.contains("127.0.0.1:1") && exit.log.contains("--address"), "{}", exit.log);

    for address in ["nowhere", "nowhere:", ":1", "host:port", "host:70000"] {
        let exit = Launch::program("eticket").argument("admin").argument("--address").argument(address);
        let exit = exit.argument("unsettled").run().await;
        assert_eq!(exit.code, Some(78), "{address}: {exit:?}");
        assert!(exit.log.contains(address) && exit.log.contains("expected host:port"), "{}", exit.log);
    }

    // Without an address the configuration says where the server is; a free port it cannot know. It needs no more of it: this
    // has neither a bus nor, for a reservation service, an upstream.
    let exit = Launch::program("eticket-reservation").argument("parked").key("listen", "127.0.0.1:1").run().await;
    assert_eq!(exit.code, Some(69), "{exit:?}");
    let anywhere = Launch::program("eticket-query").argument("unsettled");
    let exit = anywhere.key("listen", "127.0.0.1:0").run().await;
    assert_eq!(exit.code, Some(78), "{exit:?}");
    assert!(exit.log.contains("listen") && exit.log.contains("--address"), "{}", exit.log);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_refused_is_told_plainly() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let exit = admin(&eticket, &["resend", "no-such-event", "--service", "ticket"]).await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.log.contains("event_id: expected") && !exit.log.contains("could not be built"), "{}", exit.log);
    eticket.stop().await;

    // A service that was never told of its owners cannot compare; nor can it rebuild without the bus.
    let data = TempDir::new().expect("a folder");
    let query = Launch::program("eticket-query").data(data.path()).key("listen", "127.0.0.1:0");
    let query = query.key("bus.url", "embedded").key("shutdown.drain_delay_ms", "0").start().await;
    let order = Launch::program("eticket-query").argument("compare-view").argument("--address");
    let exit = order.argument(query.address("query")).run().await;
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.log.contains("upstream.ticket.url"), "{}", exit.log);
    query.stop().await;
}

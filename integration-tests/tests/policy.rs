//! An invalid pricing policy: at the start it is rejected with file, line and rule; at run time the old policy stays in
//! force, and the log reports the error.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

use std::{fs, path::Path};

use chrono::Weekday;
use eticket_integration_tests::{
    Api, Eticket, Protocol, aftermath, calendar,
    eventually::{SOON, eventually},
    process::Launch,
};
use eticket_proto::{
    pricing::{
        GetPricingPolicyRequest, GetPricingPolicyResponse, ListPricesRequest, ListPricesResponse, PricingPolicy,
    },
    query::{ListTicketViewsRequest, ListTicketViewsResponse, TicketView},
    reservation::UserGrade,
    ticket::{UpdateTicketRequest, UpdateTicketResponse},
    time::to_proto,
};
use tempfile::TempDir;

const GOOD: &str = "version: 1\nbase_price: 5000 KRW\nrules:\n  - rule_id: all\n    percent: 10\n";

async fn policy(api: &Api) -> PricingPolicy {
    let method = "eticket.pricing.v1.PricingService/GetPricingPolicy";
    let answer: GetPricingPolicyResponse = api.call(method, GetPricingPolicyRequest {}).await.expect("an answer");
    answer.policy.expect("an answer has its resource")
}

fn with_policy(launch: Launch, key: &str, file: &Path) -> Launch {
    launch.key(key, file.to_str().expect("UTF-8"))
}

/// Starts all servers with a policy file that is read often and adopted once it has been unchanged for `settle_ms`.
fn following(data: &TempDir, file: &Path, settle_ms: &str) -> Launch {
    with_policy(Launch::all_in_one(data.path()), "pricing.policy.file", file)
        .key("pricing.policy.reload_interval_ms", "50")
        .key("pricing.policy.settle_ms", settle_ms)
}

#[tokio::test]
async fn an_invalid_policy_is_rejected_with_file_line_and_rule() {
    let data = TempDir::new().expect("a folder");
    let file = data.path().join("prices.yaml");
    let rule = |body: &str| format!("{GOOD}  - rule_id: bad\n{body}");
    for (text, parts) in [
        (rule("    percent: 101\n"), ["line 6", "rule bad", "1 to 100"]),
        (rule("    weekdays: [WENDSDAY]\n    percent: 1\n"), ["line 7", "rule bad", "WENDSDAY"]),
        (rule("    percent: 5\n    amount: 100 KRW\n"), ["line 6", "rule bad", "either percent or amount"]),
        (rule("    date_from: 2027-02-30\n    percent: 5\n"), ["line 7", "rule bad", "2027-02-30"]),
        (rule("    discount: 5\n"), ["line 7", "rule bad", "discount"]),
        (GOOD.replace("version: 1", "version: 0"), ["version", "at least 1", "0"]),
        (GOOD.replace("5000 KRW", "5000 won"), ["line 2", "base_price", "won"]),
        ("rules: [\n".to_owned(), ["line", "prices.yaml", "policy.file"]),
    ] {
        fs::write(&file, &text).expect("written");
        let alone = Launch::program("eticket-pricing").data(data.path()).key("bus.url", "embedded");
        for launch in [
            with_policy(Launch::all_in_one(data.path()), "pricing.policy.file", &file),
            with_policy(Launch::program("eticket"), "pricing.policy.file", &file).argument("--check-config"),
            with_policy(alone, "policy.file", &file),
        ] {
            let exit = launch.run().await;
            assert_eq!(exit.code, Some(78), "{text}\n{}{}", exit.output, exit.log);
            for part in parts.into_iter().chain(["policy.file", "prices.yaml"]) {
                assert!(exit.log.contains(part), "{part:?} is not in:\n{}", exit.log);
            }
        }
    }
}

/// Registers a ticket for a Wednesday and waits until it has a price.
async fn priced(api: &Api, ticket: &str) -> TicketView {
    let registered = api.register(ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled(ticket, &registered.consistency_token).await
}

fn units(view: &TicketView) -> i64 {
    view.discounted_price.as_ref().expect("a price").units
}

/// Waits until the log has a line with the reason why the file is not used.
async fn log_has_reason(eticket: &Eticket, part: &str) {
    eventually(SOON, "the log has the reason", async || {
        let log = eticket.log();
        let logged = log.lines().any(|line| line.contains("the policy file is not used") && line.contains(part));
        if logged { Ok(()) } else { Err(part.to_owned()) }
    })
    .await;
    let metrics = aftermath::metrics(eticket).await;
    assert!(metrics.lines().any(|line| line == "eticket_policy_file_used 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_policy_at_run_time_changes_nothing() {
    let data = TempDir::new().expect("a folder");
    let file = data.path().join("prices.yaml");
    fs::write(&file, GOOD).expect("written");
    let launch = following(&data, &file, "200");
    let eticket = launch.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    assert_eq!(units(&priced(&api, "free").await), 4_500);
    priced(&api, "held").await;
    let reserved = api.reserve("held", "A", UserGrade::Vip).await.expect("reserved");
    assert_eq!(units(&api.settled("held", &reserved.consistency_token).await), 4_500);

    let first = policy(&api).await;
    for (number, (text, said)) in [
        (GOOD.replace("percent: 10", "percent: 1000"), "line 4: rule all: percent: expected 1 to 100, got 1000"),
        ("not a policy".to_owned(), "it contains no valid policy"),
        (GOOD.replace("percent: 10", "percent: 50"), "raise the version"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(&file, text).expect("written");
        log_has_reason(&eticket, said).await;
        assert_eq!(policy(&api).await, first, "the old policy is in force: {said}");
        assert_eq!(units(&priced(&api, &format!("new-{number}")).await), 4_500);
    }
    fs::remove_file(&file).expect("removed");
    log_has_reason(&eticket, "it cannot be read").await;
    assert_eq!(policy(&api).await, first);

    // The corrected file is adopted; holders keep the price that they were given.
    let right = GOOD.replace("version: 1", "version: 2").replace("percent: 10", "percent: 50");
    fs::write(&file, right).expect("written");
    eventually(SOON, "the new policy is in force", async || match policy(&api).await.version {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    for (ticket, expected) in [("free", 2_500), ("held", 4_500)] {
        eventually(SOON, "the price is that of the policy", async || match units(&api.settled(ticket, "").await) {
            units if units == expected => Ok(()),
            other => Err((ticket, other)),
        })
        .await;
    }
    aftermath::ends_well(eticket).await;
}

/// Clients and services accept messages up to 4 MiB, and a row may have many discounts with long descriptions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_long_rows_stay_within_the_message_limit() {
    let data = TempDir::new().expect("a folder");
    let file = data.path().join("prices.yaml");
    let description = "한".repeat(200);
    let rule = |number| format!("  - rule_id: r{number}\n    description: {description}\n    amount: 1 KRW\n");
    let rules: String = (0..100).map(rule).collect();
    fs::write(&file, format!("version: 1\nbase_price: 5000 KRW\nrules:\n{rules}")).expect("written");
    let eticket = with_policy(Launch::all_in_one(data.path()), "pricing.policy.file", &file).start().await;
    let api = Api::new(&eticket, Protocol::Direct);
    // Rows of more than 60 KiB each.
    let tickets: Vec<String> = (0..80).map(|number| format!("t-{number:02}")).collect();
    for ticket in &tickets {
        assert_eq!(units(&priced(&api, ticket).await), 4_900);
    }
    let (mut prices, mut views) = (Vec::new(), Vec::new());
    let mut page_token = String::new();
    loop {
        let request = ListPricesRequest { page_size: 1000, page_token };
        let answer: Result<ListPricesResponse, _> =
            api.call("eticket.pricing.v1.PricingService/ListPrices", request).await;
        let answer = answer.expect("a page that a client takes");
        prices.extend(answer.prices.into_iter().map(|price| price.ticket_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    loop {
        let order_by = "ticket_id".to_owned();
        let request = ListTicketViewsRequest { page_size: 1000, page_token, order_by, ..Default::default() };
        let answer: Result<ListTicketViewsResponse, _> =
            api.call("eticket.query.v1.QueryService/ListTicketViews", request).await;
        let answer = answer.expect("a page that a client takes");
        views.extend(answer.views.into_iter().map(|view| view.ticket_id));
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((&prices, &views), (&tickets, &tickets), "each row once and in order");
    let compare = Launch::program("eticket").argument("admin").argument("compare-view");
    let exit = compare.argument("--address").argument(eticket.address("gateway")).run().await;
    assert_eq!((exit.code, exit.output.trim()), (Some(0), "query: 160 rows compared, 0 differences"), "{}", exit.log);
    aftermath::ends_well(eticket).await;
}

/// A file that is written in pieces: its first half is a valid policy too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partially_written_policy_is_not_adopted() {
    let data = TempDir::new().expect("a folder");
    let file = data.path().join("prices.yaml");
    fs::write(&file, GOOD).expect("written");
    // The file is old, so the start does not wait until it has settled.
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(3_600);
    fs::File::options().write(true).open(&file).and_then(|file| file.set_modified(past)).expect("an old file");
    let launch = following(&data, &file, "10000");
    let eticket = launch.start().await;
    let whole = GOOD.replace("version: 1", "version: 2") + "  - rule_id: more\n    percent: 20\n";
    let half: String = whole.split_inclusive('\n').take(5).collect();
    fs::write(&file, half).expect("written");
    eventually(SOON, "the half has been read", async || {
        let log = eticket.log();
        if log.contains("the policy file has changed") { Ok(()) } else { Err(log) }
    })
    .await;
    fs::write(&file, whole).expect("written");
    let api = Api::new(&eticket, Protocol::Gateway);
    let adopted = eventually(SOON, "the policy is in force", async || match policy(&api).await {
        policy if policy.version == 2 => Ok(policy),
        other => Err(other.version),
    })
    .await;
    let rules: Vec<_> = adopted.rules.iter().map(|rule| rule.rule_id.as_str()).collect();
    assert_eq!(rules, ["all", "more"], "all rules are adopted");
    assert!(!eticket.log().contains("the policy file is not used"), "{}", eticket.log());
    aftermath::ends_well(eticket).await;
}

#[tokio::test]
async fn a_policy_that_is_not_a_regular_file_is_rejected_unread() {
    let data = TempDir::new().expect("a folder");
    let fifo = data.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let link = data.path().join("link.yaml");
    std::os::unix::fs::symlink(&fifo, &link).expect("a link");
    for file in [&fifo, &link] {
        let launch = with_policy(Launch::program("eticket"), "pricing.policy.file", file).argument("--check-config");
        let exit = launch.run().await;
        assert_eq!(exit.code, Some(78), "{}{}", exit.output, exit.log);
        assert!(exit.log.contains("policy.file") && exit.log.contains("no regular file"), "{}", exit.log);
    }
}

/// A changed end does not change the price of a holder: a new policy applies to later reservations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_keeps_the_price_when_only_the_end_changes() {
    let data = TempDir::new().expect("a folder");
    let file = data.path().join("prices.yaml");
    fs::write(&file, GOOD).expect("written");
    let launch = following(&data, &file, "200");
    let eticket = launch.start().await;
    let api = Api::new(&eticket, Protocol::Gateway);
    priced(&api, "held").await;
    let reserved = api.reserve("held", "A", UserGrade::Vip).await.expect("reserved");
    api.settled("held", &reserved.consistency_token).await;
    fs::write(&file, GOOD.replace("version: 1", "version: 2").replace("5000", "9000")).expect("written");
    eventually(SOON, "the new policy is in force", async || match policy(&api).await.version {
        2 => Ok(()),
        other => Err(other),
    })
    .await;
    let slot = calendar::upcoming(Weekday::Wed);
    let update = async |start_time, end_time| {
        let request = UpdateTicketRequest { ticket_id: "held".into(), start_time, end_time, ..Default::default() };
        let answer: UpdateTicketResponse =
            api.call("eticket.ticket.v1.TicketService/UpdateTicket", request).await.expect("updated");
        api.settled("held", &answer.consistency_token).await
    };
    let longer = update(None, Some(to_proto(slot.end + chrono::TimeDelta::hours(1)))).await;
    assert_eq!((longer.settled, units(&longer)), (true, 4_500), "the holder keeps the price");
    let moved = update(Some(to_proto(slot.start + chrono::TimeDelta::minutes(1))), None).await;
    assert_eq!((moved.settled, units(&moved)), (true, 8_100), "another start changes the price");
    aftermath::ends_well(eticket).await;
}

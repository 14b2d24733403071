//! Configuration from an operator's view: the precedence of sources, and the errors for invalid values.

use std::fs;

use eticket_integration_tests::{Exit, binary, process::Launch};
use tempfile::TempDir;

async fn check(launch: Launch) -> Exit {
    launch.argument("--check-config").run().await
}

/// Checks that the process exits with 78 and that its log contains all parts.
async fn refused(launch: Launch, parts: &[&str]) {
    let exit = check(launch).await;
    assert_eq!(exit.code, Some(78), "expected an error that contains {parts:?}:\n{}{}", exit.output, exit.log);
    for part in parts {
        assert!(exit.log.contains(part), "{part:?} is not in:\n{}", exit.log);
    }
}

#[tokio::test]
async fn the_defaults_are_those_of_the_documentation() {
    let exit = check(Launch::program("eticket")).await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    for line in [
        "listen = \"127.0.0.1:8081\"",
        "listen = \"127.0.0.1:8082\"",
        "listen = \"127.0.0.1:8083\"",
        "listen = \"127.0.0.1:8084\"",
        "listen = \"127.0.0.1:8088\"",
        "[reservation.upstream.ticket]",
        "deadline_ms = 1200",
        "attempt_timeout_ms = 400",
        "retries = 2",
        "concurrency = 4096",
        "default_deadline_ms = 10000",
        "hard_cap_ms = 25000",
        "drain_delay_ms = 0",
        "[reservation.upstream.ticket.breaker]",
        "window_ms = 10000",
        "min_calls = 20",
        "failure_ratio = 0.5",
        "slow_call_ms = 250",
        "open_ms = 5000",
        "half_open_calls = 3",
        "[ticket.sweep]\ninterval_ms = 1000",
        "[ticket.fault]\nerror_ratio = 0.0\nlatency_ms = 0\nonly = \"\"",
        "[ticket.idempotency]\nkept_hours = 48",
        "[reservation.idempotency]\nkept_hours = 48",
        "[pricing.audit]\nconfirm_after_ms = 10000\nrows_per_second = 200",
        "[query.audit]\nconfirm_after_ms = 10000\nrows_per_second = 200",
        "[admin]\nlisten = \"127.0.0.1:0\"",
        "[bus]\nreplicas = 1\nsync_interval_ms = 0\nurl = \"embedded\"",
    ] {
        assert!(exit.output.contains(line), "{line:?} is not in:\n{}", exit.output);
    }
    // A standalone server has a drain delay, because a load balancer in front of it must notice the drain.
    let alone = check(Launch::program("eticket-ticket").key("bus.url", "embedded")).await;
    assert!(alone.output.contains("drain_delay_ms = 5000"), "{}", alone.output);
}

#[tokio::test]
async fn a_text_value_may_look_like_a_number() {
    let exit = check(Launch::program("eticket").key("data", "2024").key("ticket.sweep.interval_ms", "70")).await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.output.contains("data = \"2024\"") && exit.output.contains("interval_ms = 70"), "{}", exit.output);
}

#[tokio::test]
async fn invalid_arguments_exit_with_2() {
    for arguments in [&["--no-such-flag"][..], &["admin"], &["admin", "no-such-order"], &["--data"]] {
        let launch = arguments.iter().fold(Launch::program("eticket"), |launch, argument| launch.argument(argument));
        let exit = launch.run().await;
        assert_eq!(exit.code, Some(2), "{arguments:?}: {}", exit.log);
        assert!(exit.log.contains("--help"), "{}", exit.log);
    }
}

#[tokio::test]
async fn the_environment_overrides_the_file_and_the_file_the_defaults() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("eticket.toml");
    fs::write(&file, "[ticket]\nlisten = \"127.0.0.1:7001\"\n[query]\nlisten = \"127.0.0.1:7002\"\n").expect("written");
    let launch = || Launch::program("eticket").argument("--config").argument(file.to_str().expect("UTF-8"));
    let exit = check(launch().key("query.listen", "127.0.0.1:7003")).await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.output.contains("127.0.0.1:7001") && exit.output.contains("127.0.0.1:7003"), "{}", exit.output);
    assert!(!exit.output.contains("127.0.0.1:7002") && !exit.output.contains("127.0.0.1:8082"), "{}", exit.output);
}

#[tokio::test]
async fn the_printed_configuration_is_valid_input() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("printed.toml");
    let first = check(Launch::program("eticket").key("reservation.upstream.ticket.deadline_ms", "900")).await;
    fs::write(&file, &first.output).expect("written");
    let second = check(Launch::program("eticket").argument("--config").argument(file.to_str().expect("UTF-8"))).await;
    assert_eq!(second.code, Some(0), "{}", second.log);
    assert_eq!(first.output, second.output);
}

#[tokio::test]
async fn a_check_has_no_side_effects() {
    let folder = TempDir::new().expect("a folder");
    let data = folder.path().join("data");
    let exit = check(Launch::program("eticket").data(&data)).await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    assert!(exit.output.contains(data.to_str().expect("UTF-8")), "{}", exit.output);
    assert!(!data.exists(), "a check creates no data folder");
}

#[tokio::test]
async fn an_invalid_value_is_named_with_the_expected_one() {
    refused(
        Launch::program("eticket").key("ticket.listen", "no-address"),
        &["ticket.listen", "no-address", "expected an address and a port"],
    )
    .await;
    let deadline = Launch::program("eticket").key("reservation.upstream.ticket.deadline_ms", "soon");
    refused(deadline, &["reservation.upstream.ticket.deadline_ms", "soon", "expected a whole number"]).await;
    let slow = Launch::program("eticket").key("reservation.upstream.ticket.breaker.failure_ratio", "2");
    refused(slow, &["reservation.upstream.ticket.breaker.failure_ratio = 2: expected a number above 0"]).await;
    let kept = Launch::program("eticket").key("ticket.idempotency.kept_hours", "23");
    refused(kept, &["ticket.idempotency.kept_hours = 23: expected 24 to"]).await;
    refused(Launch::program("eticket").key("log.format", "xml"), &["log.format", "xml", "json"]).await;
    refused(Launch::program("eticket").key("auth.mode", "maybe"), &["auth.mode", "maybe", "off"]).await;
}

#[tokio::test]
async fn an_unknown_key_is_refused() {
    refused(Launch::program("eticket").key("ticket.lisen", "127.0.0.1:0"), &["lisen"]).await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("eticket.toml");
    fs::write(&file, "[reservation.upstream.tiket]\nurl = \"http://127.0.0.1:1\"\n").expect("written");
    let launch = Launch::program("eticket").argument("--config").argument(file.to_str().expect("UTF-8"));
    refused(launch, &["reservation.upstream.tiket.url = http://127.0.0.1:1: unknown key"]).await;
    let upstreams = ["ticket", "reservation", "pricing", "query"].into_iter();
    let gateway = upstreams.fold(Launch::program("eticket-gateway").key("bus.url", "embedded"), |launch, name| {
        launch.key(&format!("upstream.{name}.url"), "http://127.0.0.1:1")
    });
    let exit = check(gateway).await;
    let (_, known) = exit.log.split_once("bus.url = embedded: unknown key; expected one of ").expect("it is refused");
    assert!(!known.contains("bus") && known.contains("upstream"), "{}", exit.log);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_named() {
    let missing = Launch::program("eticket").argument("--config").argument("not-there.toml");
    refused(missing, &["not-there.toml"]).await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("broken.toml");
    fs::write(&file, "listen = [\n").expect("written");
    let broken = Launch::program("eticket").argument("--config").argument(file.to_str().expect("UTF-8"));
    refused(broken, &["broken.toml"]).await;
}

#[tokio::test]
async fn disabled_authentication_on_the_network_needs_explicit_consent() {
    let open = || Launch::program("eticket").key("gateway.listen", "0.0.0.0:0");
    refused(open(), &["auth.mode"]).await;
    refused(open().key("auth.mode", "off"), &["auth.allow_off_anywhere"]).await;
    let exit = check(open().key("auth.mode", "off").key("auth.allow_off_anywhere", "true")).await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
}

#[tokio::test]
async fn a_standalone_service_needs_a_bus_url() {
    for service in ["eticket-ticket", "eticket-reservation", "eticket-pricing", "eticket-query"] {
        let launch = || Launch::program(service).key("upstream.ticket.url", "http://127.0.0.1:8082");
        let launch = || if service == "eticket-reservation" { launch() } else { Launch::program(service) };
        refused(launch(), &["bus.url"]).await;
        let exit = check(launch().key("bus.url", "embedded")).await;
        assert_eq!(exit.code, Some(0), "{service}: {}", exit.log);
    }
}

#[tokio::test]
async fn every_binary_prints_version_and_help() {
    let binaries =
        ["eticket", "eticket-ticket", "eticket-reservation", "eticket-pricing", "eticket-query", "eticket-gateway"];
    for binary in binaries {
        let version = Launch::program(binary).argument("--version").run().await;
        assert_eq!(version.code, Some(0), "{}", version.log);
        assert!(
            version.output.starts_with(binary) && version.output.contains(env!("CARGO_PKG_VERSION")),
            "{version:?}"
        );
        let help = Launch::program(binary).argument("--help").run().await;
        assert!(help.output.contains("--config") && help.output.contains("--check-config"), "{help:?}");
        assert_eq!(help.output.contains("--data "), binary != "eticket-gateway", "{}", help.output);
        for part in ["Exit codes:", "  78 ", "Example:", "log.level"] {
            let is_there = help.output.contains(part) || (part == "log.level" && help.output.contains("[log]"));
            assert!(is_there || binary == "eticket", "{part} is not in:\n{}", help.output);
        }
    }
    for (name, port, keys) in [
        ("ticket", "127.0.0.1:8082", &["interval_ms = 1000", "bus.url", "[limits]", "# data = "][..]),
        ("reservation", "127.0.0.1:8081", &["upstream.ticket.url", "attempt_timeout_ms = 400"]),
        ("pricing", "127.0.0.1:8083", &["policy.file", "bus.url"]),
        ("query", "127.0.0.1:8084", &["[watch]", "bus.url"]),
        ("gateway", "127.0.0.1:8088", &["upstream.{ticket,reservation,pricing,query}.url", "max_message_bytes"]),
    ] {
        let help = Launch::program(&format!("eticket-{name}")).argument("--help").run().await.output;
        assert!(help.starts_with(&format!("eticket-{name}: the {name} server of eTicket. ")), "{help}");
        for part in [port].iter().chain(keys) {
            assert!(help.contains(part), "{part} is not in:\n{help}");
        }
        let all = Launch::program("eticket").argument("--help").run().await.output;
        assert!(all.contains(port) && all.contains("Exit codes:") && all.contains("Example:"), "{all}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_regular_one_is_refused_unread() {
    let folder = TempDir::new().expect("a folder");
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let fifo = fifo.to_str().expect("UTF-8");
    // Nobody writes to the FIFO, so a program that opened it would not end.
    let whole = || Launch::program("eticket");
    let alone = || Launch::program("eticket-gateway");
    let jwt = || whole().key("auth.mode", "jwt").key("auth.issuer", "i").key("auth.audience", "a");
    let tls = |cert: &str, key: &str| alone().key("tls.cert_file", cert).key("tls.key_file", key);
    let upstream = || {
        let launch = Launch::program("eticket-reservation").key("bus.url", "embedded");
        launch.key("upstream.ticket.url", "https://localhost:1")
    };
    let ticket = || Launch::program("eticket-ticket").key("bus.url", "tls://localhost:4222");
    let database = format!("postgres://localhost/e?sslrootcert={fifo}");
    for (launch, name) in [
        (whole().argument("--config").argument(fifo), "--config"),
        (jwt().key("auth.jwks", fifo), "auth.jwks"),
        (tls(fifo, fifo), "tls.cert_file"),
        (upstream().key("upstream.ticket.tls.ca_file", fifo), "upstream.ticket.tls.ca_file"),
        (ticket().key("bus.credentials", fifo), "bus.credentials"),
        (ticket().key("bus.ca_file", fifo), "bus.ca_file"),
        (ticket().key("store.url", &database), "store.url"),
    ] {
        refused(launch, &[name, "a FIFO (named pipe), no regular file: name a regular file"]).await;
    }
    // The user of a command line decides what it reads; a FIFO is refused here too, since nothing would be shown.
    let client = Launch::program("eticket").argument("tickets").argument("--token-file").argument(fifo).run().await;
    assert!(client.code != Some(0) && client.log.contains("no regular file"), "{client:?}");
}

#[tokio::test]
async fn a_configuration_is_read_from_a_pipe_of_the_shell() {
    let shell = |config: &str| {
        let program = binary::binary("eticket");
        Launch::as_shown(&format!("{} --check-config --config <(echo '{config}')", program.display()))
    };
    let exit = shell("ticket.sweep.interval_ms = 1234").run().await;
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(exit.output.contains("1234"), "{exit:?}");
}

#[tokio::test]
async fn empty_values_are_named() {
    refused(Launch::program("eticket").key("data", ""), &["configuration: data = : expected a path"]).await;
    refused(Launch::program("eticket").key("pricing.policy.file", ""), &["pricing.policy.file = : expected"]).await;
    refused(Launch::program("eticket").key("gateway.console.folder", ""), &["gateway.console.folder = : expected"])
        .await;
}

#[tokio::test]
async fn keys_that_contradict_each_other_are_both_named() {
    let crowded = Launch::program("eticket").key("limits.concurrency", "3072");
    refused(crowded, &["configuration: limits.concurrency = 3072", "wait.most + watch.most", "2048 and 1024"]).await;
    let crowded = Launch::program("eticket").key("query.limits.concurrency", "10");
    refused(crowded, &["configuration: query.limits.concurrency = 10", "wait.most"]).await;
    let twice = Launch::program("eticket").key("ticket.listen", "127.0.0.1:8088");
    refused(twice, &["gateway.listen", "ticket.listen", "127.0.0.1:8088"]).await;
    let same = Launch::program("eticket").key("ticket.store.url", "sqlite:a.db");
    refused(same.key("pricing.store.url", "sqlite:./a.db"), &["ticket.store.url", "pricing.store.url"]).await;
}

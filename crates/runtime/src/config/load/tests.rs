//! Loading from all sources, for one server and for several.

use eticket_auth::config::AuthMode;
use eticket_base::config::LogFormat;

use super::*;

const TICKET: ServiceSpec = ServiceSpec {
    name: "ticket",
    defaults: "listen = '127.0.0.1:8082'\n[sweep]\ninterval_ms = 1000\n[fault]\nlatency_ms = 0",
    store: StoreSupport::Any,
    limits_callers: false,
};
const QUERY: ServiceSpec = ServiceSpec {
    name: "query",
    defaults: "listen = '127.0.0.1:8084'",
    store: StoreSupport::SqliteOnly,
    limits_callers: false,
};
const GATEWAY: ServiceSpec = ServiceSpec {
    name: "gateway",
    defaults: "listen = '127.0.0.1:8088'",
    store: StoreSupport::None,
    limits_callers: true,
};
const ALL: [ServiceSpec; 3] = [TICKET, QUERY, GATEWAY];

/// The specific keys of `TICKET`.
#[derive(Debug, PartialEq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Own {
    sweep: Sweep,
    fault: Fault,
}

#[derive(Debug, PartialEq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Sweep {
    interval_ms: u64,
}

#[derive(Debug, PartialEq, serde::Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Fault {
    latency_ms: u64,
}

fn environment(variables: &[(&str, &str)]) -> Sources {
    let own = |(name, value): &(&str, &str)| (format!("ETICKET__{name}"), (*value).to_owned());
    Sources { environment: variables.iter().map(own).collect(), ..Sources::default() }
}

/// Loads a server alone, with the bus that it requires.
fn ticket(variables: &[(&str, &str)]) -> Result<(ProcessSettings, ServerTree, Own), Error> {
    let mut sources = environment(variables);
    if !variables.iter().any(|(name, _)| *name == "BUS__URL") {
        sources.environment.push(("ETICKET__BUS__URL".into(), "embedded".into()));
    }
    let (process, tree) = alone(TICKET, &sources)?;
    let own = tree.own()?;
    Ok((process, tree, own))
}

fn error_text(variables: &[(&str, &str)]) -> String {
    ticket(variables).map(|_| ()).expect_err("refused").to_string()
}

#[test]
fn defaults_are_as_documented() {
    let (process, tree, own) = ticket(&[]).expect("valid");
    assert_eq!(tree.settings.listen.to_string(), "127.0.0.1:8082");
    assert_eq!(process.admin.listen.to_string(), "127.0.0.1:0");
    assert_eq!(process.data, Some(PathBuf::from("./eticket-data/ticket")));
    assert_eq!(tree.settings.limits, eticket_rpc_server::config::LimitsConfig::default());
    assert_eq!(tree.settings.shutdown, eticket_rpc_server::config::ShutdownConfig::default());
    assert_eq!(own.sweep.interval_ms, 1000);
    assert_eq!(tree.settings.auth.mode, Some(AuthMode::Off));
    let (process, trees) = together(&ALL, &Sources::default()).expect("valid");
    assert_eq!(process.data, Some(PathBuf::from("./eticket-data")));
    assert_eq!(process.bus.url.as_deref(), Some("embedded"));
    let listens: Vec<_> = trees.iter().map(|tree| tree.settings.listen.port()).collect();
    assert_eq!(listens, [8082, 8084, 8088]);
    assert!(trees.iter().all(|tree| tree.settings.shutdown.drain_delay_ms == 0));
    assert!(trees.iter().all(|tree| tree.settings.shutdown.hard_cap_ms == 25_000));
}

#[test]
fn later_sources_override_earlier_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("eticket.toml");
    std::fs::write(
        &file,
        "data = 'of the file'\n[limits]\nconcurrency = 7\n[sweep]\ninterval_ms = 8\n[log]\nformat = 'json'",
    )
    .expect("written");
    let mut sources =
        environment(&[("BUS__URL", "embedded"), ("SWEEP__INTERVAL_MS", "9"), ("DATA", "of the variable")]);
    sources.environment.push(("HOME".into(), "/".into()));
    sources.file = Some(file);
    let (process, tree) = alone(TICKET, &sources).expect("valid");
    let own: Own = tree.own().expect("valid");
    assert_eq!((tree.settings.limits.concurrency.get(), own.sweep.interval_ms), (7, 9));
    assert_eq!(tree.settings.limits.default_deadline_ms, 10_000, "keys that are not in the file keep their defaults");
    assert_eq!(process.log.format, Some(LogFormat::Json));
    assert_eq!(process.data, Some(PathBuf::from("of the variable")));
    sources.data = Some("of the flag".into());
    assert_eq!(alone(TICKET, &sources).expect("valid").0.data, Some(PathBuf::from("of the flag")));
}

#[test]
fn unknown_keys_are_refused_with_their_path() {
    for (variable, path) in [
        ("NONSENSE", "nonsense"),
        ("LIMITS__CONCURENCY", "limits.concurency"),
        ("SWEEP__INTERVAL", "sweep.interval"),
        ("FAULT__DEEPER__STILL", "fault.deeper.still"),
        ("ADMIN__PORT", "admin.port"),
        ("STORE__URI", "store.uri"),
        ("TICKET__LISTEN", "ticket.listen"),
        ("A__B__C", "a.b.c"),
    ] {
        let text = error_text(&[(variable, "1")]);
        assert!(text.starts_with(&format!("configuration: {path} = ")) && text.contains("unknown key"), "{text}");
    }
    let error = together(&ALL, &environment(&[("NONSENSE__DEEPER", "1")])).map(|_| ()).expect_err("refused");
    assert!(error.to_string().starts_with("configuration: nonsense.deeper = 1: unknown key"), "{error}");
    let text = error_text(&[("NONSENSE", "1")]);
    assert!(text.contains("listen") && text.contains("sweep"), "the error lists valid keys: {text}");
}

#[test]
fn errors_show_key_value_and_expectation() {
    for (variable, value, expected) in [
        ("LISTEN", "8082", "listen = 8082: "),
        ("LISTEN", "localhost:8082", "listen = localhost:8082: "),
        ("LIMITS__CONCURRENCY", "many", "limits.concurrency = many: expected a whole number above zero"),
        ("LIMITS__CONCURRENCY", "0", "limits.concurrency = 0: expected a whole number above zero"),
        (
            "LIMITS__DEFAULT_DEADLINE_MS",
            "-1",
            "limits.default_deadline_ms = -1: expected a whole number, not below zero",
        ),
        ("LIMITS", "5", "limits = 5: expected a section with keys"),
        ("AUTH__ALLOW_OFF_ANYWHERE", "maybe", "auth.allow_off_anywhere = maybe: expected true or false"),
        ("SWEEP__INTERVAL_MS", "1.5", "sweep.interval_ms = 1.5: expected a whole number, not below zero"),
        ("LOG__FORMAT", "xml", "log.format = xml: expected one of text, json"),
        ("AUTH__MODE", "maybe", "auth.mode = maybe: expected one of off, jwt"),
        ("STORE__URL", "mysql://db/e", "store.url = mysql://db/e: expected sqlite:PATH or postgres://"),
        ("BUS__URL", "kafka", "bus.url = kafka: expected embedded"),
        ("SHUTDOWN__DRAIN_DELAY_MS", "30000", "shutdown.drain_delay_ms = 30000: must be below"),
    ] {
        let text = error_text(&[(variable, value)]);
        assert!(text.starts_with(&format!("configuration: {expected}")), "{variable} = {value}: {text}");
    }
    assert!(error_text(&[("", "1")]).contains("ETICKET__"));
}

#[test]
fn a_server_alone_requires_a_bus() {
    let error = alone(TICKET, &Sources::default()).expect_err("missing");
    assert_eq!(error.key(), "bus.url");
    alone(GATEWAY, &Sources::default()).expect("the gateway has none");
}

#[test]
fn keys_that_the_gateway_lacks_are_refused() {
    for (variable, path) in [("BUS__URL", "bus.url"), ("STORE__URL", "store.url"), ("DATA", "data")] {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {}
        let (_, tree) = alone(GATEWAY, &environment(&[(variable, "embedded")])).expect("split");
        let error = tree.own::<Nothing>().expect_err("refused");
        assert_eq!(error.key(), path);
        let known = error.to_string();
        let known = known.split_once("expected one of ").expect("the error lists valid keys").1;
        assert_eq!(known, "listen, auth, tls, limits, shutdown, admin, log, telemetry", "without the refused key");
    }
    let error = together(&ALL, &environment(&[("GATEWAY__STORE__URL", "sqlite:a")])).expect_err("refused");
    assert_eq!(error.key(), "gateway.store");
}

#[test]
fn errors_of_the_file_show_its_path_and_position() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("broken.toml");
    let mut sources = Sources { file: Some(file.clone()), ..environment(&[("BUS__URL", "embedded")]) };
    let error = alone(TICKET, &sources).expect_err("absent");
    assert!(error.to_string().contains("broken.toml") && error.to_string().contains("cannot be read"), "{error}");
    std::fs::write(&file, "listen = \n").expect("written");
    let error = alone(TICKET, &sources).expect_err("broken");
    assert!(error.to_string().contains("line 1"), "{error}");
    sources.file = None;
    alone(TICKET, &sources).expect("valid without the file");
}

#[test]
fn servers_have_sections_and_the_root_applies_to_all() {
    let sources = environment(&[
        ("LIMITS__CONCURRENCY", "10"),
        ("TICKET__LIMITS__CONCURRENCY", "20"),
        ("TICKET__LISTEN", "127.0.0.1:0"),
        ("TICKET__SWEEP__INTERVAL_MS", "5"),
        ("QUERY__STORE__URL", "sqlite:view.db"),
        ("ADMIN__LISTEN", "127.0.0.1:9"),
    ]);
    let (process, trees) = together(&ALL, &sources).expect("valid");
    let concurrency: Vec<_> = trees.iter().map(|tree| tree.settings.limits.concurrency.get()).collect();
    assert_eq!(concurrency, [20, 10, 10]);
    assert_eq!(trees[0].settings.listen.port(), 0);
    assert_eq!(trees[0].own::<Own>().expect("valid").sweep.interval_ms, 5);
    assert_eq!(trees[1].settings.store.url.as_deref(), Some("sqlite:view.db"));
    assert_eq!(process.admin.listen.port(), 9);
}

#[test]
fn limits_of_callers_belong_to_the_gateway() {
    let given = [("LIMITS__REQUESTS_PER_SECOND", "5"), ("LIMITS__BURST", "9")];
    let (_, trees) = together(&ALL, &environment(&given)).expect("valid");
    let rates: Vec<_> = trees.iter().map(|tree| tree.settings.limits.requests_per_second.map(u32::from)).collect();
    assert_eq!(rates, [None, None, Some(5)]);
    let (_, gateway) = alone(GATEWAY, &environment(&given)).expect("valid");
    assert_eq!(gateway.settings.limits.burst.map(u32::from), Some(9));
    let error = alone(TICKET, &environment(&given[1..])).map(|_| ()).expect_err("not a key of ticket");
    assert_eq!(error.to_string(), "configuration: limits.burst = 9: only the gateway has this key: set it there");
}

#[test]
fn errors_of_several_name_the_section() {
    for (variable, value, key) in [
        ("TICKET__LISTEN", "nowhere", "ticket.listen"),
        ("TICKET__LIMITS__X", "1", "ticket.limits.x"),
        ("TICKET__ADMIN__LISTEN", "127.0.0.1:1", "ticket.admin"),
        ("QUERY__STORE__URL", "postgres://db/e", "query.store.url"),
        ("TICKET__AUTH__MODE", "jwt", "ticket.auth.jwks"),
        ("LIMITS__CONCURRENCY", "0", "limits.concurrency"),
        ("LIMITS__X", "1", "limits.x"),
        ("LIMITS", "1", "limits"),
        ("LIMITS__REQUESTS_PER_SECOND", "0", "limits.requests_per_second"),
        ("TICKET__LIMITS__REQUESTS_PER_SECOND", "5", "ticket.limits.requests_per_second"),
        ("AUTH__MODE", "jwt", "ticket.auth.jwks"),
        ("SHUTDOWN__DRAIN_DELAY_MS", "30000", "shutdown.drain_delay_ms"),
        ("TICKET", "1", "ticket"),
        ("LISTEN", "127.0.0.1:1", "listen"),
        ("SWEEP__INTERVAL_MS", "5", "sweep.interval_ms"),
        ("STORE__URL", "sqlite:one.db", "store.url"),
        ("STORE__URI", "x", "store.uri"),
        ("BUS__URL", "nats://n:port", "bus.url"),
    ] {
        let error = together(&ALL, &environment(&[(variable, value)])).map(|_| ()).expect_err(variable);
        assert_eq!(error.key(), key, "{variable}: {error}");
    }
    let both = environment(&[("LIMITS__CONCURRENCY", "7"), ("TICKET__LIMITS__CONCURRENCY", "0")]);
    assert_eq!(together(&ALL, &both).map(|_| ()).expect_err("zero").key(), "ticket.limits.concurrency");
    let (_, trees) = together(&ALL, &environment(&[("LIMITS__CONCURRENCY", "7")])).expect("valid");
    let of_service = |key: &str| trees[1].placed(Error::missing(key, "expected a value")).key().to_owned();
    assert_eq!(of_service("limits.concurrency"), "limits.concurrency", "also for an error of the service itself");
    assert_eq!(of_service("watch.most"), "query.watch.most");
    let (_, trees) = together(&ALL, &environment(&[("TICKET__SWEEP__X", "1")])).expect("split");
    assert_eq!(trees[0].own::<Own>().expect_err("refused").key(), "ticket.sweep.x");
}

#[test]
fn a_store_at_the_root_applies_to_all_servers_that_support_it() {
    let url = "postgres://eticket:s3cret@db/e?sslmode=require";
    let sources = environment(&[("STORE__URL", url)]);
    let (process, trees) = together(&ALL, &sources).expect("valid");
    let stores: Vec<_> = trees.iter().map(|tree| tree.settings.store.url.as_deref()).collect();
    assert_eq!(stores, [Some(url), None, None], "the view is a file, and the gateway has no store");
    let tables: Vec<_> = trees.iter().map(|tree| (tree.section, table(&tree.settings).expect("a table"))).collect();
    let text = effective(&process, &tables).expect("TOML");
    assert!(text.contains("eticket:***@db/e?sslmode=require") && !text.contains("s3cret"), "{text}");
    let own = environment(&[("STORE__URL", url), ("TICKET__STORE__URL", "sqlite:t.db")]);
    let (_, trees) = together(&ALL, &own).expect("valid");
    assert_eq!(
        trees[0].settings.store.url.as_deref(),
        Some("sqlite:t.db"),
        "the key in the section overrides the root"
    );
}

#[test]
fn authentication_off_is_refused_outside_of_the_loopback() {
    assert!(error_text(&[("LISTEN", "0.0.0.0:8082")]).starts_with("configuration: auth.mode is not set"));
    assert!(error_text(&[("LISTEN", "0.0.0.0:8082"), ("AUTH__MODE", "off")]).contains("auth.allow_off_anywhere"));
    let allowed = [("LISTEN", "0.0.0.0:8082"), ("AUTH__MODE", "off"), ("AUTH__ALLOW_OFF_ANYWHERE", "true")];
    let (_, tree, _) = ticket(&allowed).expect("allowed");
    assert_eq!(tree.settings.auth.mode, Some(AuthMode::Off));
    let all = [("AUTH__MODE", "off"), ("AUTH__ALLOW_OFF_ANYWHERE", "true"), ("GATEWAY__LISTEN", "0.0.0.0:1")];
    together(&ALL, &environment(&all)).expect("the root applies to every server");
}

#[test]
fn the_effective_configuration_can_be_loaded() {
    let sources = environment(&[("TICKET__SWEEP__INTERVAL_MS", "5"), ("QUERY__STORE__URL", "sqlite:view.db")]);
    let (process, trees) = together(&ALL, &sources).expect("valid");
    let mut tables: Vec<_> = trees.iter().map(|tree| (tree.section, table(&tree.settings).expect("a table"))).collect();
    tables[0].1.extend(table(&trees[0].own::<Own>().expect("valid")).expect("a table"));
    let text = effective(&process, &tables).expect("TOML");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("eticket.toml");
    std::fs::write(&file, &text).expect("written");
    let again = Sources { file: Some(file), ..Sources::default() };
    let (same_process, same) = together(&ALL, &again).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(same_process, process);
    for (tree, same) in trees.iter().zip(&same) {
        assert_eq!(tree.settings, same.settings);
    }
    assert_eq!(same[0].own::<Own>().expect("valid").sweep.interval_ms, 5);
    let mut secret = toml::Table::new();
    secret.insert("url".into(), "postgres://u:secret@db/e".into());
    let shown = effective(&process, &[(Some("ticket"), secret)]).expect("TOML");
    assert!(shown.contains("u:***@db") && !shown.contains("secret"), "{shown}");
}

#[test]
fn text_that_looks_like_something_else_stays_text() {
    for text in ["2024", "true", "1e3", "007", "-1", "null", "~"] {
        let (process, ..) = ticket(&[("DATA", text), ("SWEEP__INTERVAL_MS", "7")]).expect(text);
        assert_eq!(process.data, Some(PathBuf::from(text)));
    }
    let (_, tree, own) = ticket(&[("LIMITS", "{concurrency=7}"), ("SWEEP__INTERVAL_MS", "\"9\"")]).expect("valid");
    assert_eq!((tree.settings.limits.concurrency.get(), own.sweep.interval_ms), (7, 9));
}

#[test]
fn the_listen_address_is_read_from_an_incomplete_configuration() {
    let read = |section, variables: &[(&str, &str)]| listen::read(TICKET, section, &environment(variables));
    let address = |section, variables: &[(&str, &str)]| read(section, variables).map(|found| found.listen);
    assert_eq!(address(false, &[]).expect("a default").to_string(), "127.0.0.1:8082", "although bus.url is not set");
    let variables = [("LISTEN", "127.0.0.1:9"), ("NONSENSE", "1"), ("LIMITS__CONCURRENCY", "many")];
    assert_eq!(address(false, &variables).expect("given").port(), 9, "other errors are ignored");
    assert_eq!(address(true, &[("TICKET__LISTEN", "127.0.0.1:7")]).expect("given").port(), 7);
    assert_eq!(address(true, &[("TICKET__LISTEN", "x")]).expect_err("none").key(), "ticket.listen");
    let variables =
        [("TLS__CERT_FILE", "root.pem"), ("TLS__KEY_FILE", "key.pem"), ("TICKET__TLS__CERT_FILE", "own.pem")];
    let tls = read(true, &variables).expect("not read yet").tls;
    assert_eq!((tls.cert_file, tls.key_file), (Some("own.pem".into()), Some("key.pem".into())));
}

#[test]
fn empty_values_are_refused() {
    let bus = ("BUS__URL", "nats://n:1");
    for (variable, key) in [
        ("DATA", "data"),
        ("LISTEN", "listen"),
        ("ADMIN__LISTEN", "admin.listen"),
        ("STORE__URL", "store.url"),
        ("BUS__URL", "bus.url"),
        ("BUS__CREDENTIALS", "bus.credentials"),
        ("BUS__CA_FILE", "bus.ca_file"),
        ("BUS__REPLICAS", "bus.replicas"),
        ("AUTH__MODE", "auth.mode"),
        ("AUTH__ALLOW_OFF_ANYWHERE", "auth.allow_off_anywhere"),
        ("LIMITS__CONCURRENCY", "limits.concurrency"),
        ("SHUTDOWN__HARD_CAP_MS", "shutdown.hard_cap_ms"),
        ("LOG__LEVEL", "log.level"),
        ("LOG__FORMAT", "log.format"),
        ("SWEEP__INTERVAL_MS", "sweep.interval_ms"),
    ] {
        let text = error_text(&[bus, (variable, "")]);
        assert!(text.starts_with(&format!("configuration: {key} = : ")), "{text}");
    }
    let mut sources = environment(&[bus]);
    sources.data = Some(PathBuf::new());
    assert_eq!(alone(TICKET, &sources).expect_err("empty").key(), "--data");
    for variable in ["DATA", "STORE__URL", "BUS__URL", "TICKET__STORE__URL"] {
        together(&ALL, &environment(&[(variable, "")])).map(|_| ()).expect_err(variable);
    }
}

#[test]
fn variables_must_be_utf_8_and_others_are_ignored() {
    use std::os::unix::ffi::OsStringExt;
    let odd = |text: &[u8]| OsString::from_vec(text.to_vec());
    let of = |name: &[u8], value: &[u8]| Sources::from_variables(None, [(odd(name), odd(value))], None);
    for (name, value) in [(&b"ETICKET__DATA"[..], &b"/tmp/\xff"[..]), (b"ETICKET__DA\xffTA", b"/tmp")] {
        let error = of(name, value).expect_err("refused");
        assert!(error.key().starts_with("ETICKET__DA") && error.to_string().contains("UTF-8"), "{error}");
    }
    assert!(of(b"OTHER", b"\xff").expect("ignored").environment.is_empty());
    assert_eq!(of(b"ETICKET__DATA", b"/tmp").expect("UTF-8").environment.len(), 1);
    let sources = Sources { data: Some(odd(b"/tmp/\xff").into()), ..environment(&[("BUS__URL", "embedded")]) };
    let error = alone(TICKET, &sources).expect_err("refused");
    assert!(error.key() == "--data" && error.to_string().contains("UTF-8"), "{error}");
}

#[test]
fn a_file_may_begin_with_a_byte_order_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("eticket.toml");
    let sources = Sources { file: Some(file.clone()), ..environment(&[("BUS__URL", "embedded")]) };
    std::fs::write(&file, "\u{feff}listen = '127.0.0.1:7'\n").expect("written");
    assert_eq!(alone(TICKET, &sources).expect("valid").1.settings.listen.port(), 7);
    std::fs::write(&file, b"# caf\xe9\n").expect("written");
    let error = alone(TICKET, &sources).expect_err("Latin-1").to_string();
    assert!(error.contains("eticket.toml") && error.contains("line 1") && error.contains("UTF-8"), "{error}");
}

#[test]
fn a_log_level_is_a_known_level_or_a_filter() {
    for level in ["info", "WARN", "off", "info,eticket=debug", "eticket_bus=trace", "sqlx=warn,debug"] {
        let (process, ..) = ticket(&[("LOG__LEVEL", level)]).expect(level);
        assert_eq!(process.log.level.as_deref(), Some(level));
    }
    for level in ["verbose", "info,verbose", "eticket=loud", "warning"] {
        let text = error_text(&[("LOG__LEVEL", level)]);
        assert!(text.starts_with(&format!("configuration: log.level = {level}: expected one of off, ")), "{text}");
    }
}

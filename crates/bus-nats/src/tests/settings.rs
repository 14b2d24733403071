//! Streams and servers with wrong settings, and the stored form of messages.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::{super::stream::differences, *};

async fn api(bus: &Nats, question: &str, payload: &Value) -> Value {
    bus.stream.api(question, payload).await.unwrap()
}

/// Creates a stream right after another was deleted. The server may fail at first, see `Stream::create`.
async fn make(bus: &Nats, config: &Value) -> Value {
    let question = format!("STREAM.CREATE.{}", config["name"].as_str().unwrap());
    eventually("a stream", async || bus.stream.api::<Value>(&question, config).await.ok()).await
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stream_with_other_settings_is_refused_and_not_changed() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let right = json!({
        "name": "ETICKET", "subjects": ["eticket.v1.>"], "storage": "file", "max_msgs_per_subject": 32, "num_replicas": 1,
        "retention": "limits", "discard": "old",
    });
    for (key, value) in [
        ("storage", json!("memory")),
        ("max_msgs_per_subject", json!(1)),
        ("max_age", json!(60_000_000_000_u64)),
        ("max_msgs", json!(1000)),
        ("max_bytes", json!(1_000_000)),
        ("retention", json!("workqueue")),
        ("discard", json!("new")),
        ("no_ack", json!(true)),
        ("subjects", json!(["eticket.v1.ticket.*"])),
    ] {
        let mut wrong = right.clone();
        wrong[key] = value.clone();
        make(&bus, &wrong).await;
        for words in [
            unavailable_text(bus.state().await),
            unavailable_text(bus.attach("a", &["eticket.v1.a.*"]).await.map(drop)),
            unavailable_text(open(&node.url()).publish(message("x", 1)).await),
        ] {
            let named = format!("{key} = {value}");
            assert!(words.contains(&named) && words.contains("instead of") && words.contains("edit"), "{words}");
        }
        let info = api(&bus, "STREAM.INFO.ETICKET", &json!({})).await;
        assert_eq!(info["config"][key], value, "it was not changed");
        assert_eq!(info["state"]["messages"], 0);
        api(&bus, "STREAM.DELETE.ETICKET", &json!({})).await;
    }
    make(&bus, &right).await;
    eventually("a publish", async || bus.publish(message("x", 1)).await.ok()).await;
}

async fn refusal(bus: &Nats, question: &str, payload: &Value) -> String {
    match bus.stream.api::<Value>(question, payload).await {
        Err(Failure::Refused(refusal)) => refusal.description,
        outcome => panic!("{question} is not refused: {outcome:?}"),
    }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn the_stream_refuses_purges_and_deletions() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    // A protected stream of this version, and an unprotected one of an older version.
    for unprotected in [None, Some(bus.stream.settings())] {
        if let Some(asked) = unprotected {
            api(&bus, "STREAM.DELETE.ETICKET", &json!({})).await;
            let made = make(&bus, &asked).await;
            assert_ne!(made["config"]["deny_purge"], json!(true));
        }
        eventually("a publish", async || bus.publish(message("x", 1)).await.ok()).await;
        bus.state().await.unwrap();
        for (question, payload) in [
            ("STREAM.PURGE.ETICKET", json!({})),
            ("STREAM.PURGE.ETICKET", json!({ "seq": 1 })),
            ("STREAM.MSG.DELETE.ETICKET", json!({ "seq": 1 })),
        ] {
            let text = refusal(&bus, question, &payload).await;
            assert!(text.contains("not permitted"), "{text}");
        }
        assert!(bus.message_at(1).await.unwrap().is_some());
    }
    let config = api(&bus, "STREAM.INFO.ETICKET", &json!({})).await["config"].take();
    assert_eq!(differences(&bus.stream.settings(), &config), [""; 0], "nothing else was changed");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn the_end_of_a_stream_with_deleted_messages_is_detected() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    api(&bus, "STREAM.CREATE.ETICKET", &bus.stream.settings()).await;
    for number in 1..=3 {
        let Message { subject, body, .. } = message("x", number);
        let stored = bus.stream.connection.ask::<Value>(subject, None, body).await.unwrap();
        assert_eq!(stored["seq"], number);
    }
    // Before the stream is protected.
    api(&bus, "STREAM.MSG.DELETE.ETICKET", &json!({ "seq": 3 })).await;
    let mut reader = bus.read(0).await.unwrap();
    let mut read = 0;
    while read < 2 {
        assert!(!reader.is_at_end().await.unwrap());
        read += in_time(reader.next(10)).await.unwrap().len();
    }
    assert_eq!(bus.state().await.unwrap().last_sequence, 3);
    assert!(reader.is_at_end().await.unwrap(), "the deleted message does not count");
    assert_eq!(bus.publish(message("x", 4)).await.unwrap(), 4);
    assert_eq!(in_time(reader.next(10)).await.unwrap()[0].sequence, 4);
}

/// The stream is checked once per connection: the next connection may be to another server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_changed_stream_is_refused_on_the_next_connection() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    let mut changed = api(&bus, "STREAM.INFO.ETICKET", &json!({})).await["config"].take();
    changed["max_msgs"] = json!(1000);
    api(&bus, "STREAM.UPDATE.ETICKET", &changed).await;
    let before = bus.stream.connection.connected().await.unwrap();
    block_in_place(|| {
        node.stop().unwrap();
        node.start_again().unwrap();
    });
    let connected = async || bus.stream.connection.connected().await.ok().filter(|number| *number > before);
    eventually("another connection", connected).await;
    let text = unavailable_text(bus.publish(message("x", 2)).await);
    assert!(text.contains("max_msgs = 1000 instead of -1"), "{text}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn an_added_filter_also_delivers_older_messages() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("y", 1)).await.unwrap();
    bus.publish(message("x", 1)).await.unwrap();
    let mut consumer = bus.attach("more", &["eticket.v1.a.x"]).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["x/1"]);
    consumer.ack(&[2]).await.unwrap();
    drop(consumer);
    let mut consumer = bus.attach("more", &["eticket.v1.a.x", "eticket.v1.a.y"]).await.unwrap();
    bus.publish(message("x", 2)).await.unwrap();
    let mut read = Vec::new();
    while !read.contains(&"x/2".to_owned()) {
        read.extend(ids(&in_time(consumer.next(10)).await.unwrap()).into_iter().map(str::to_owned));
    }
    assert!(read.contains(&"y/1".to_owned()), "{read:?}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_consumer_with_other_settings_is_corrected() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    bus.publish(message("y", 1)).await.unwrap();
    let info = bus.stream.ensure().await.unwrap();
    let name = Durable::name_on(&info, "odd");
    let changed = json!({
        "durable_name": name, "ack_policy": "explicit", "filter_subjects": ["eticket.v1.a.x"], "ack_wait": 1_000_000_000,
        "max_deliver": 2, "max_ack_pending": 1, "headers_only": true, "deliver_policy": "all", "replay_policy": "instant",
    });
    let create = json!({ "stream_name": "ETICKET", "config": changed });
    api(&bus, &format!("CONSUMER.CREATE.ETICKET.{name}"), &create).await;
    let mut consumer = bus.attach("odd", &["eticket.v1.a.x"]).await.unwrap();
    let batch = in_time(consumer.next(10)).await.unwrap();
    assert_eq!((ids(&batch), batch[0].message.body.len()), (vec!["x/1"], 3));
    consumer.ack(&[1]).await.unwrap();
    let config = api(&bus, &format!("CONSUMER.INFO.ETICKET.{name}"), &json!({})).await["config"].clone();
    assert_eq!((&config["max_deliver"], &config["max_ack_pending"]), (&json!(-1), &json!(durable::MAX_ACK_PENDING)));
    drop(consumer);
    // The added filter also matches messages below the position.
    let mut consumer = bus.attach("odd", &["eticket.v1.a.x", "eticket.v1.a.y"]).await.unwrap();
    assert_eq!(ids(&gather(&mut *consumer, 2).await), ["x/1", "y/1"]);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn errors_name_what_the_server_lacks() {
    let without = server::Nats::start_with("jetstream: false").unwrap();
    let text = unavailable_text(open(&without.url()).state().await);
    assert!(text.contains("JetStream is not enabled"), "{text}");

    let node = server::Nats::start().unwrap();
    let three = Nats::open_with(&BusConfig { replicas: 3, ..config(&node.url()) }, SOON).unwrap();
    let text = unavailable_text(three.state().await);
    assert!(text.contains("bus.replicas"), "{text}");

    let bus = open(&node.url());
    let config = json!({ "name": "OTHER", "subjects": ["eticket.v1.ticket.>"] });
    api(&bus, "STREAM.CREATE.OTHER", &config).await;
    let text = unavailable_text(bus.publish(message("x", 1)).await);
    assert!(text.contains("the other stream that has the subjects"), "{text}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_message_stored_in_another_stream_does_not_count_as_sent() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    api(&bus, "STREAM.DELETE.ETICKET", &json!({})).await;
    make(&bus, &json!({ "name": "OTHER", "subjects": ["eticket.>"] })).await;
    let text = unavailable_text(bus.publish(message("x", 2)).await);
    assert!(text.contains("the stream OTHER stored eticket.v1.a.x"), "{text}");
    api(&bus, "STREAM.DELETE.OTHER", &json!({})).await;
    let sequence = eventually("a publish", async || bus.publish(message("x", 2)).await.ok()).await;
    assert_eq!(sequence, 1);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn errors_of_a_full_server_say_what_to_do() {
    let lines =
        "accounts { eticket { jetstream: { max_file: 1Mb, max_mem: 1Mb }, users: [ { user: u, password: p } ] } }";
    let node = server::Nats::start_with(lines).unwrap();
    let bus = open(&format!("nats://u:p@127.0.0.1:{}", node.port()));
    let big = |number: u64| Message { body: vec![7; 200_000].into(), ..message(&number.to_string(), number) };
    let mut text = None;
    for number in 0..20 {
        if let Err(Error::Unavailable(words)) = bus.publish(big(number)).await {
            text = Some(words);
            break;
        }
    }
    let text = text.expect("the storage ends");
    assert!(text.contains("more storage"), "{text}");
    let huge = Message { body: vec![7; 2_000_000].into(), ..message("huge", 1) };
    let text = unavailable_text(bus.publish(huge).await);
    assert!(text.contains("max payload size exceeded"), "{text}");
}

/// A limit on the size of files simulates a full disk: nats-server reacts to both in the same way.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_full_disk_loses_nothing_and_publishing_resumes() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    node.limit_files(Some(1)).unwrap();
    let text = unavailable_text(bus.state().await);
    assert!(text.contains("127.0.0.1") && text.contains("store_dir"), "{text}");
    node.limit_files(None).unwrap();
    let big = |number: u64| Message { body: vec![7; 1000].into(), ..message(&number.to_string(), number) };
    let mut consumer = bus.attach("full", &["eticket.v1.a.*"]).await.unwrap();
    bus.publish(big(1)).await.unwrap();
    node.limit_files(Some(20_000)).unwrap();
    let (mut acknowledged, mut text) = (vec!["1/1".to_owned()], None);
    for number in 2..=100 {
        match bus.publish(big(number)).await {
            Ok(_) => acknowledged.push(format!("{number}/{number}")),
            outcome => {
                text.get_or_insert(unavailable_text(outcome));
            }
        }
    }
    let text = text.expect("the storage ends");
    assert!(text.contains("127.0.0.1") && text.contains("file too large") && text.contains("more storage"), "{text}");
    node.limit_files(Some(1)).unwrap();
    let text = unavailable_text(bus.attach("another", &["eticket.v1.a.*"]).await.map(drop));
    assert!(text.contains("store_dir"), "{text}");
    // Stored messages can still be delivered and acknowledged.
    let batch = in_time(consumer.next(1)).await.unwrap();
    consumer.ack(&[batch[0].sequence]).await.unwrap();
    node.limit_files(None).unwrap();
    bus.publish(message("last", 1)).await.unwrap();
    acknowledged.push("last/1".to_owned());
    block_in_place(|| {
        node.kill().unwrap();
        node.start_again().unwrap();
    });
    let mut reader = eventually("a reader", async || bus.read(0).await.ok()).await;
    let mut read = Vec::new();
    while !read.contains(&"last/1".to_owned()) {
        read.extend(ids(&in_time(reader.next(200)).await.unwrap()).into_iter().map(str::to_owned));
    }
    assert_eq!(read, acknowledged);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn messages_sent_again_are_stored_again_unchanged() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let headers =
        [("a", " blanks, \"quotes\" and 100 % "), ("b", "one"), ("b", "two"), ("c", "가격\r\nx: y"), ("d", "")];
    let headers = headers.map(|(name, value)| (name.into(), value.to_owned())).into();
    let sent = Message { headers, body: (0..=255).collect::<Vec<u8>>().into(), subject: "eticket.v1.a.x".to_owned() };
    let first = bus.publish(sent.clone()).await.unwrap();
    let second = bus.publish(sent.clone()).await.unwrap();
    assert_eq!((first, second), (1, 2), "the server does not deduplicate");
    assert_eq!(bus.message_at(2).await.unwrap(), Some(sent.clone()));
    let mut consumer = bus.attach("whole", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(1).await.unwrap();
    assert_eq!(*in_time(consumer.next(1)).await.unwrap()[0].message, sent);
    assert_eq!(*in_time(reader.next(1)).await.unwrap()[0].message, sent);
    let bare = Message { subject: "eticket.v1.a.bare".to_owned(), ..Message::default() };
    let sequence = bus.publish(bare.clone()).await.unwrap();
    assert_eq!(bus.message_at(sequence).await.unwrap(), Some(bare));
}

/// Starts a fake server that reports this version and answers pings.
async fn old_server(version: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (read, mut write) = connection.into_split();
            let info = json!({ "server_id": "old", "version": version, "proto": 1, "headers": true, "max_payload": 1_000_000 });
            write.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            let mut lines = BufReader::new(read).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "PING" && write.write_all(b"PONG\r\n").await.is_err() {
                    break;
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn an_old_server_is_refused() {
    let url = old_server("2.9.10").await;
    let bus = open(&url);
    for words in [unavailable_text(bus.state().await), unavailable_text(bus.publish(message("x", 1)).await)] {
        assert!(words.contains("nats-server 2.9.10") && words.contains("2.10 or newer is needed"), "{words}");
    }
    let newer = open(&old_server("2.10.0").await);
    assert!(unavailable_text(newer.state().await).contains("has not answered"), "the check of the version passes");
}

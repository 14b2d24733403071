//! Streams and servers that are not as they must be, and what is stored of a message.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use super::{super::stream::differences, *};

async fn api(bus: &Nats, question: &str, payload: &Value) -> Value {
    bus.stream.api(question, payload).await.unwrap()
}

/// Makes a stream right after another one was deleted. The server may fail for a moment, see `Stream::make`.
async fn make(bus: &Nats, config: &Value) -> Value {
    let question = format!("STREAM.CREATE.{}", config["name"].as_str().unwrap());
    eventually("a stream", async || bus.stream.api::<Value>(&question, config).await.ok()).await
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stream_with_other_settings_is_refused_and_left_alone() {
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
            words(bus.state().await),
            words(bus.attach("a", &["eticket.v1.a.*"]).await.map(drop)),
            words(open(&node.url()).publish(message("x", 1)).await),
        ] {
            let named = format!("{key} = {value}");
            assert!(words.contains(&named) && words.contains("is needed") && words.contains("edit"), "{words}");
        }
        let info = api(&bus, "STREAM.INFO.ETICKET", &json!({})).await;
        assert_eq!(info["config"][key], value, "it is as it was");
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
async fn nobody_can_purge_the_stream_or_delete_its_messages() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    // Made by this program, and by one that did not protect it.
    for unprotected in [None, Some(bus.stream.asked())] {
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
            let said = refusal(&bus, question, &payload).await;
            assert!(said.contains("not permitted"), "{said}");
        }
        assert!(bus.message_at(1).await.unwrap().is_some());
    }
    let config = api(&bus, "STREAM.INFO.ETICKET", &json!({})).await["config"].take();
    assert_eq!(differences(&bus.stream.asked(), &config), [""; 0], "nothing else was changed");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn the_end_of_a_stream_that_has_lost_messages_is_known() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    api(&bus, "STREAM.CREATE.ETICKET", &bus.stream.asked()).await;
    for number in 1..=3 {
        let Message { subject, body, .. } = message("x", number);
        let stored = bus.stream.connection.ask::<Value>(subject, None, body).await.unwrap();
        assert_eq!(stored["seq"], number);
    }
    // Before anybody protects the stream.
    api(&bus, "STREAM.MSG.DELETE.ETICKET", &json!({ "seq": 3 })).await;
    let mut reader = bus.read(0).await.unwrap();
    let mut read = 0;
    while read < 2 {
        assert!(!reader.is_at_end().await.unwrap());
        read += in_time(reader.next(10)).await.unwrap().len();
    }
    assert_eq!(bus.state().await.unwrap().last_sequence, 3);
    assert!(reader.is_at_end().await.unwrap(), "nothing comes any more");
    assert_eq!(bus.publish(message("x", 4)).await.unwrap(), 4);
    assert_eq!(in_time(reader.next(10)).await.unwrap()[0].sequence, 4);
}

/// While nothing has happened nobody looks; over another connection it may be another server.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_stream_that_was_changed_is_refused_over_the_next_connection() {
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
    let said = words(bus.publish(message("x", 2)).await);
    assert!(said.contains("max_msgs = 1000 where -1 is needed"), "{said}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_a_filter_adds_is_delivered_also_from_below_the_position() {
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
async fn a_consumer_with_other_settings_is_put_right() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    bus.publish(message("y", 1)).await.unwrap();
    let info = bus.stream.look().await.unwrap();
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
    // Other filters: what they add lies below the position, too.
    let mut consumer = bus.attach("odd", &["eticket.v1.a.x", "eticket.v1.a.y"]).await.unwrap();
    assert_eq!(ids(&in_time(consumer.next(10)).await.unwrap()), ["x/1", "y/1"]);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_the_server_cannot_do_is_said_in_words() {
    let without = server::Nats::start_with("jetstream: false").unwrap();
    let said = words(open(&without.url()).state().await);
    assert!(said.contains("JetStream is not enabled"), "{said}");

    let node = server::Nats::start().unwrap();
    let three = Nats::open_with(&BusConfig { replicas: 3, ..config(&node.url()) }, SOON).unwrap();
    let said = words(three.state().await);
    assert!(said.contains("bus.replicas"), "{said}");

    let bus = open(&node.url());
    let config = json!({ "name": "OTHER", "subjects": ["eticket.v1.ticket.>"] });
    api(&bus, "STREAM.CREATE.OTHER", &config).await;
    let said = words(bus.publish(message("x", 1)).await);
    assert!(said.contains("another stream has the subjects"), "{said}");
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn what_another_stream_has_taken_does_not_count_as_sent() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    bus.publish(message("x", 1)).await.unwrap();
    api(&bus, "STREAM.DELETE.ETICKET", &json!({})).await;
    make(&bus, &json!({ "name": "OTHER", "subjects": ["eticket.>"] })).await;
    let said = words(bus.publish(message("x", 2)).await);
    assert!(said.contains("the stream OTHER has taken eticket.v1.a.x"), "{said}");
    api(&bus, "STREAM.DELETE.OTHER", &json!({})).await;
    let sequence = eventually("a publish", async || bus.publish(message("x", 2)).await.ok()).await;
    assert_eq!(sequence, 1);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_full_server_refuses_and_says_so() {
    let lines =
        "accounts { eticket { jetstream: { max_file: 1Mb, max_mem: 1Mb }, users: [ { user: u, password: p } ] } }";
    let node = server::Nats::start_with(lines).unwrap();
    let bus = open(&format!("nats://u:p@127.0.0.1:{}", node.port()));
    let big = |number: u64| Message { body: vec![7; 200_000].into(), ..message(&number.to_string(), number) };
    let mut said = None;
    for number in 0..20 {
        if let Err(Error::Unavailable(words)) = bus.publish(big(number)).await {
            said = Some(words);
            break;
        }
    }
    let said = said.expect("there is an end to it");
    assert!(said.contains("more room"), "{said}");
    let huge = Message { body: vec![7; 2_000_000].into(), ..message("huge", 1) };
    let said = words(bus.publish(huge).await);
    assert!(said.contains("max payload size exceeded"), "{said}");
}

/// A limit on the size of files stands for the full disk: nats-server does the same about a disk that has no space left.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_full_disk_loses_nothing_and_is_written_on_when_there_is_room() {
    let mut node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    node.limit_files(Some(1)).unwrap();
    let said = words(bus.state().await);
    assert!(said.contains("127.0.0.1") && said.contains("store_dir"), "{said}");
    node.limit_files(None).unwrap();
    let big = |number: u64| Message { body: vec![7; 1000].into(), ..message(&number.to_string(), number) };
    let mut consumer = bus.attach("full", &["eticket.v1.a.*"]).await.unwrap();
    bus.publish(big(1)).await.unwrap();
    node.limit_files(Some(20_000)).unwrap();
    let (mut acknowledged, mut said) = (vec!["1/1".to_owned()], None);
    for number in 2..=100 {
        match bus.publish(big(number)).await {
            Ok(_) => acknowledged.push(format!("{number}/{number}")),
            outcome => {
                said.get_or_insert(words(outcome));
            }
        }
    }
    let said = said.expect("there is an end to it");
    assert!(said.contains("127.0.0.1") && said.contains("file too large") && said.contains("more room"), "{said}");
    node.limit_files(Some(1)).unwrap();
    let said = words(bus.attach("another", &["eticket.v1.a.*"]).await.map(drop));
    assert!(said.contains("store_dir"), "{said}");
    // What is there is delivered, and can be dealt with.
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
async fn what_is_sent_again_is_stored_again_and_comes_back_whole() {
    let node = server::Nats::start().unwrap();
    let bus = open(&node.url());
    let headers =
        [("a", " blanks, \"quotes\" and 100 % "), ("b", "one"), ("b", "two"), ("c", "가격\r\nx: y"), ("d", "")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let sent = Message { headers, body: (0..=255).collect::<Vec<u8>>().into(), subject: "eticket.v1.a.x".to_owned() };
    let first = bus.publish(sent.clone()).await.unwrap();
    let second = bus.publish(sent.clone()).await.unwrap();
    assert_eq!((first, second), (1, 2), "the server has no memory of names");
    assert_eq!(bus.message_at(2).await.unwrap(), Some(sent.clone()));
    let mut consumer = bus.attach("whole", &["eticket.v1.a.*"]).await.unwrap();
    let mut reader = bus.read(1).await.unwrap();
    assert_eq!(*in_time(consumer.next(1)).await.unwrap()[0].message, sent);
    assert_eq!(*in_time(reader.next(1)).await.unwrap()[0].message, sent);
    let bare = Message { subject: "eticket.v1.a.bare".to_owned(), ..Message::default() };
    let sequence = bus.publish(bare.clone()).await.unwrap();
    assert_eq!(bus.message_at(sequence).await.unwrap(), Some(bare));
}

/// A server that says that it is of this version, and answers pings.
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
    for words in [words(bus.state().await), words(bus.publish(message("x", 1)).await)] {
        assert!(words.contains("nats-server 2.9.10") && words.contains("2.10 or newer is needed"), "{words}");
    }
    let newer = open(&old_server("2.10.0").await);
    assert!(words(newer.state().await).contains("has not answered"), "it is asked at least");
}

//! Address changes, as a name server reports them.

use std::{collections::VecDeque, sync::Mutex};

use tokio::sync::mpsc;

use super::*;

/// Returns the given results one after another, then the last one forever.
struct Script(Mutex<VecDeque<io::Result<Vec<&'static str>>>>);

impl Script {
    fn new(answers: impl IntoIterator<Item = io::Result<Vec<&'static str>>>) -> Self {
        Self(Mutex::new(answers.into_iter().collect()))
    }
}

#[async_trait]
impl Resolve for Script {
    async fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let Some(answer) = self.0.lock().expect("no panic").pop_front() else { return std::future::pending().await };
        Ok(answer?.into_iter().map(|address| address.parse().expect(address)).collect())
    }
}

/// Returns the changes that the channel receives for the results of the resolver: `+` for an added address, `-` for a
/// removed one.
async fn changes_for(answers: impl IntoIterator<Item = io::Result<Vec<&'static str>>>) -> Vec<String> {
    let (changes, mut received) = mpsc::channel(CHANGES);
    let script = Script::new(answers);
    let targets: Targets = "http://ticket:8082".parse().expect("a target");
    let following = async move { follow("test", &targets.targets, None, &script, &changes).await };
    // Time is paused: the resolver reaches the last result long before this timeout.
    tokio::time::timeout(POLL_INTERVAL * 100, following).await.ok();
    let mut seen = Vec::new();
    while let Some(change) = received.recv().await {
        seen.push(match change {
            Change::Insert((address, _), endpoint) => {
                assert_eq!(endpoint.uri().to_string(), format!("http://{address}/"));
                format!("+{address}")
            }
            Change::Remove((address, _)) => format!("-{address}"),
        });
    }
    seen
}

const A: &str = "10.0.0.1:8082";
const B: &str = "10.0.0.2:8082";

#[tokio::test(start_paused = true)]
async fn new_addresses_are_added_before_old_ones_are_removed() {
    assert_eq!(
        changes_for([Ok(vec![A]), Ok(vec![A]), Ok(vec![A, B]), Ok(vec![B])]).await,
        [format!("+{A}"), format!("+{B}"), format!("-{A}")]
    );
    assert_eq!(changes_for([Ok(vec![A]), Ok(vec![B])]).await, [format!("+{A}"), format!("+{B}"), format!("-{A}")]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_keeps_its_addresses() {
    let failure = || Err(io::Error::other("no such name"));
    assert_eq!(changes_for([Ok(vec![A]), failure(), Ok(vec![]), failure(), Ok(vec![A])]).await, [format!("+{A}")]);
    assert_eq!(changes_for([failure(), Ok(vec![A])]).await, [format!("+{A}")], "the name is resolved again");
}

#[test]
fn the_listening_loopback_address_is_chosen() {
    let usable = |addresses: &[&str]| {
        let parsed = addresses.iter().map(|address| address.parse().expect(address)).collect();
        usable(parsed).into_iter().map(|address| address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(usable(&["[::1]:1", "127.0.0.1:1"]), ["127.0.0.1:1"]);
    assert_eq!(usable(&["[::1]:1"]), ["[::1]:1"]);
    assert_eq!(usable(&["[fd00::1]:1", "10.0.0.1:1"]), ["10.0.0.1:1", "[fd00::1]:1"]);
}

#[test]
fn targets_are_read_and_written() {
    for text in ["http://127.0.0.1:8082", "http://ticket:8082,http://[::1]:9", "https://a:1,https://b:2"] {
        assert_eq!(text.parse::<Targets>().map(|targets| targets.to_string()), Ok(text.to_owned()));
    }
    let spaced = "http://a:1/, http://b:2/".parse::<Targets>().map(|targets| targets.to_string());
    assert_eq!(spaced, Ok("http://a:1,http://b:2".to_owned()));
    for bad in [
        "",
        ",",
        "a:1",
        "http://",
        "http://a",
        "http://a:0",
        "http://a:99999",
        "https://a",
        "https://a:1,http://b:2",
        "http://a:1/path",
        "http://a:1?q",
        "http://u@a:1",
        "http://a:1,,http://b:2",
        "nats://a:1",
    ] {
        let error = bad.parse::<Targets>().expect_err(bad);
        assert!(error.to_string().contains("expected http://host:port"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_of_addresses_sees_each_change() {
    let failure = || Err(io::Error::other("no such name"));
    let script = Script::new([failure(), Ok(vec![A]), failure(), Ok(vec![A]), Ok(vec![A, B])]);
    let targets: Targets = "http://ticket:8082".parse().expect("a target");
    let tasks = Tasks::new();
    let mut addresses = addresses_by("test", &targets, &tasks, Arc::new(script));
    assert!(addresses.borrow_and_update().is_empty());
    let of = |socket: &str| Address { socket: socket.parse().expect(socket), authority: "ticket:8082".to_owned() };
    for expected in [vec![of(A)], vec![of(A), of(B)]] {
        addresses.changed().await.expect("followed");
        assert_eq!(*addresses.borrow_and_update(), expected);
    }
    tasks.stop().await;
    assert!(addresses.changed().await.is_err(), "the task has stopped");
}

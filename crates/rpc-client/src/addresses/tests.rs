//! Address changes, as a name server reports them.

use std::{collections::VecDeque, sync::Mutex};

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

/// Returns every list of addresses that the results of the resolver give.
async fn lists_for(answers: impl IntoIterator<Item = io::Result<Vec<&'static str>>>) -> Vec<Vec<String>> {
    let targets: Targets = "http://ticket:8082".parse().expect("a target");
    let tasks = Tasks::new();
    let mut addresses = follow_by("test", &targets, &tasks, Arc::new(Script::new(answers)));
    let mut seen = Vec::new();
    // Time is paused: the resolver reaches the last result long before this timeout.
    while let Ok(Ok(())) = tokio::time::timeout(POLL_INTERVAL * 100, addresses.changed()).await {
        let list = addresses.borrow_and_update();
        assert!(list.iter().all(|address| address.authority == "ticket:8082"), "{list:?}");
        seen.push(list.iter().map(|address| address.socket.to_string()).collect());
    }
    tasks.stop().await;
    assert!(addresses.changed().await.is_err(), "the task has stopped");
    seen
}

const A: &str = "10.0.0.1:8082";
const B: &str = "10.0.0.2:8082";

#[tokio::test(start_paused = true)]
async fn each_change_of_addresses_is_followed() {
    let lists = lists_for([Ok(vec![A]), Ok(vec![A]), Ok(vec![B, A]), Ok(vec![B])]).await;
    assert_eq!(lists, [vec![A], vec![A, B], vec![B]]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_keeps_its_addresses() {
    let failure = || Err(io::Error::other("no such name"));
    let lists = lists_for([Ok(vec![A]), failure(), Ok(vec![]), failure(), Ok(vec![A]), Ok(vec![B])]).await;
    assert_eq!(lists, [[A], [B]]);
    assert_eq!(lists_for([failure(), Ok(vec![A])]).await, [[A]], "the name is resolved again");
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

//! `cargo xtask up`: two replicas of each service on their own servers, until Ctrl-C.

use std::{collections::BTreeMap, process::Stdio};

use chrono::Weekday;
use eticket_integration_tests::{Api, binary, calendar, eventually::SOON};
use eticket_proto::reservation::UserGrade;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::Command,
    time::timeout,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL and nats-server: cargo xtask test"]
async fn everything_is_up_until_ctrl_c() {
    let folder = TempDir::new().expect("a folder");
    let xtask = binary::binary("xtask");
    let mut child = Command::new(&xtask)
        .args(["up", "--data"])
        .arg(folder.path())
        .arg("--binaries")
        .arg(xtask.parent().expect("a folder"))
        // Cargo sets it too; xtask uses it to find the checkout.
        .env("CARGO_MANIFEST_DIR", binary::root().join("xtask"))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut addresses = BTreeMap::<String, Vec<String>>::new();
    let up = timeout(SOON * 2, async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.starts_with("Press Ctrl-C") {
                return true;
            }
            let mut words = line.split_whitespace();
            if let (Some(name), Some(address), None) = (words.next(), words.next(), words.next()) {
                addresses.entry(name.to_owned()).or_default().push(address.to_owned());
            }
        }
        false
    });
    assert!(up.await.expect("soon"), "it ended before it was up: {addresses:?}");
    for service in ["ticket", "reservation", "pricing", "query"] {
        assert_eq!(addresses[service].len(), 2, "{addresses:?}");
    }
    assert!(addresses["postgresql"][0].starts_with("postgres://") && addresses["nats"][0].starts_with("nats://"));
    let gateway = addresses["gateway"][0].clone();
    let api = Api::at(&gateway);
    api.register("1", calendar::upcoming(Weekday::Wed)).await.expect("registered");
    let answer = api.reserve("1", "A", UserGrade::Vip).await.expect("reserved");
    assert!(api.settled("1", &answer.consistency_token).await.settled);

    let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(id, Signal::INT).expect("signalled");
    let status = timeout(SOON * 2, child.wait()).await.expect("soon").expect("it can be waited for");
    assert!(status.success(), "{status:?}");
    for address in addresses.values().flatten() {
        let address = address.rsplit_once('@').map_or(address.as_str(), |(_, address)| address);
        let address = address.trim_start_matches("nats://").trim_end_matches("/postgres");
        if address.starts_with("127.0.0.1") {
            assert!(TcpStream::connect(address).await.is_err(), "{address} still listens");
        }
    }
}

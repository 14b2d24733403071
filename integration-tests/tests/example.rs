//! The example client, run as a reader of README.md runs it.

use eticket_integration_tests::{Eticket, process::Launch};
use eticket_local_servers::free_address;
use tempfile::TempDir;

fn example(gateway: &str) -> Launch {
    Launch::program("examples/reserve").argument(&format!("http://{gateway}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_registers_reserves_waits_and_cancels() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let exit = example(eticket.address("gateway")).run().await;
    assert_eq!(exit.code, Some(0), "{}", exit.log);
    let lines: Vec<&str> = exit.output.lines().collect();
    let starts =
        ["registered ", "reserved ", "settled: ann holds it for ", "cancelled", "the newest reservation of ann is "];
    assert_eq!(lines.len(), starts.len(), "{lines:?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{lines:?}");
    }
    assert!(lines[2].ends_with("00 KRW"), "{lines:?}");
    assert!(lines[4].ends_with("RESERVATION_STATUS_CANCELLED"), "{lines:?}");
    eticket.stop().await;
}

#[tokio::test]
async fn without_a_gateway_it_ends_and_names_the_command_that_starts_one() {
    // Nothing listens there, so the port refuses connections.
    let free = free_address().expect("a port");
    let exit = example(&free.to_string()).run().await;
    assert_eq!((exit.code, exit.output.as_str()), (Some(1), ""));
    for part in [free.to_string().as_str(), "cargo run --release -p eticket"] {
        assert!(exit.log.contains(part), "{}", exit.log);
    }
}

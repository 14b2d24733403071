//! The commands in README.md, run as they stand there: what the page promises is what a reader will see.

use std::{collections::BTreeMap, fs};

use eticket_integration_tests::{Eticket, binary, tour};
use tempfile::TempDir;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs grpcurl and curl: cargo xtask test"]
async fn the_readme_keeps_its_promises() {
    let data = TempDir::new().expect("a folder");
    let eticket = Eticket::start(data.path()).await;
    let page = fs::read_to_string(binary::root().join("README.md")).expect("a README");
    let addresses: BTreeMap<u16, String> =
        [(8081, "reservation"), (8082, "ticket"), (8083, "pricing"), (8084, "query"), (8088, "gateway")]
            .map(|(port, server)| (port, eticket.address(server).to_owned()))
            .into();
    let blocks: Vec<String> = tour::blocks(&page).iter().map(|block| tour::with_addresses(block, &addresses)).collect();
    assert!(!blocks.is_empty(), "README.md has no block behind <!-- tour -->");
    let path = std::env::var_os("PATH").expect("a PATH");
    let met = tokio::task::spawn_blocking(move || tour::run(&blocks, &path)).await.expect("every promise is kept");
    assert!(met >= 10, "only {met} promises: the page tells too little");
    eticket.stop().await;
}

//! The Helm chart on a real Kubernetes with one node: install, test, upgrade, roll back, break and heal, under load.
//!
//! The parts share one cluster and one release, and follow each other. The test runs in the network of the cluster, and
//! reaches the gateway by its Service. `KUBERNETES_PARTS=evictions,autoscaler` runs only these parts after the install.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

mod browser;
mod faults;
mod isolation;
mod outages;
mod release;
mod scaling;
mod security;
mod upgrades;

use std::{env, fs, path::PathBuf, time::Instant};

use eticket_integration_tests::binary::root;
use eticket_local_servers::kubernetes::{Cluster, Parts};
use release::Release;

#[test]
#[ignore = "needs a node of Kubernetes: cargo xtask kubernetes"]
fn the_chart_keeps_its_promises_on_a_cluster() {
    let Some(programs) = env::var_os("ETICKET_KUBERNETES").map(PathBuf::from) else {
        eprintln!("NOT RUN: cargo xtask kubernetes sets up a cluster for this test, where the machine can run one");
        return;
    };
    let images = PathBuf::from(env::var_os("ETICKET_IMAGES").expect("set beside ETICKET_KUBERNETES"));
    let images: Vec<PathBuf> = fs::read_dir(images)
        .expect("a folder of images")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    let manifests = root().join("integration-tests/kubernetes/manifests");
    let started = Instant::now();
    let cluster = Cluster::start(&Parts { programs: &programs, images: &images, manifests: &manifests });
    let cluster = cluster.expect("a cluster");
    eprintln!("cluster: {:.0} s", started.elapsed().as_secs_f64());
    // Before the runtime starts its threads, so that these are in the network too.
    cluster.enter_network().expect("the network of the cluster");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let release = Release::new(&cluster);
        release.install();
        part("helm test", async || release.test()).await;
        part("browser", async || browser::console(&release)).await;
        part("upgrade and rollback", async || upgrades::upgrade_and_rollback(&release).await).await;
        part("failed upgrades", async || upgrades::failed_upgrades(&release).await).await;
        part("policy", async || upgrades::policy(&release).await).await;
        part("network policies", async || isolation::network_policies(&release).await).await;
        part("frozen process", async || faults::frozen_process(&release).await).await;
        part("store and bus away", async || outages::store_and_bus(&release).await).await;
        part("evictions", async || scaling::evictions(&release).await).await;
        part("autoscaler", async || scaling::autoscaler(&release).await).await;
        part("deleted pods", async || faults::deleted_pods(&release).await).await;
        part("deleted claim", async || faults::deleted_claim(&release).await).await;
        // Last, because the parts before it call without TLS and tokens.
        part("TLS and tokens", async || security::tls_and_tokens(&release).await).await;
        part("uninstall", async || release.uninstall().await).await;
    });
}

async fn part(name: &str, run: impl AsyncFnOnce()) {
    let only = env::var("KUBERNETES_PARTS").unwrap_or_default();
    if !only.is_empty() && !only.split(',').any(|wanted| wanted == name) {
        return;
    }
    let started = Instant::now();
    run().await;
    eprintln!("ok   {name}: {:.0} s", started.elapsed().as_secs_f64());
}

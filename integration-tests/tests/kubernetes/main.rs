//! The Helm chart on a real Kubernetes with one node: install, test, upgrade, roll back, break and heal, under load.
//!
//! The parts share one cluster and one release, and follow each other. The test runs in the network of the cluster, and
//! reaches the gateway by its Service. `KUBERNETES_PARTS=evictions,autoscaler` runs only these parts after the install, and
//! `KUBERNETES_SLICE=1/5` the second of each five parts.

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

/// The parts of every slice.
const ALWAYS: [&str; 2] = ["helm test", "uninstall"];

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
        let mut parts = Selected::from_environment();
        parts.run("helm test", async || release.test()).await;
        parts.run("browser", async || browser::console(&release)).await;
        parts.run("upgrade and rollback", async || upgrades::upgrade_and_rollback(&release).await).await;
        parts.run("failed upgrades", async || upgrades::failed_upgrades(&release).await).await;
        parts.run("policy", async || upgrades::policy(&release).await).await;
        parts.run("network policies", async || isolation::network_policies(&release).await).await;
        parts.run("frozen process", async || faults::frozen_process(&release).await).await;
        parts.run("store and bus away", async || outages::store_and_bus(&release).await).await;
        parts.run("evictions", async || scaling::evictions(&release).await).await;
        parts.run("autoscaler", async || scaling::autoscaler(&release).await).await;
        parts.run("deleted pods", async || faults::deleted_pods(&release).await).await;
        parts.run("deleted claim", async || faults::deleted_claim(&release).await).await;
        // Last, because the parts before it call without TLS and tokens.
        parts.run("TLS and tokens", async || security::tls_and_tokens(&release).await).await;
        parts.run("uninstall", async || release.uninstall().await).await;
    });
}

/// Runs the parts that the environment selects.
struct Selected {
    names: Vec<String>,
    /// Number and count of the slices.
    slice: Option<(usize, usize)>,
    index: usize,
}

impl Selected {
    fn from_environment() -> Self {
        let names = env::var("KUBERNETES_PARTS").unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let slice = env::var("KUBERNETES_SLICE").ok().map(|slice| {
            let (number, count) = slice.split_once('/').expect("KUBERNETES_SLICE is NUMBER/COUNT");
            (number.parse().expect("a number"), count.parse().expect("a count"))
        });
        Self { names, slice, index: 0 }
    }

    async fn run(&mut self, name: &str, part: impl AsyncFnOnce()) {
        let index = self.index;
        self.index += 1;
        let is_named = self.names.is_empty() || self.names.iter().any(|wanted| wanted == name);
        let is_in_slice = self.slice.is_none_or(|(number, count)| index % count == number);
        if !is_named || !(is_in_slice || ALWAYS.contains(&name)) {
            return;
        }
        let started = Instant::now();
        part().await;
        eprintln!("ok   {name}: {:.0} s", started.elapsed().as_secs_f64());
    }
}

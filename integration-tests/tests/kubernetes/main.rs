//! The Helm chart on a real Kubernetes with one node: install, test, upgrade, roll back, break and heal, under load.
//!
//! The parts share one cluster and one release, and follow each other. The test runs in the network of the cluster, and
//! reaches the gateway by its Service. Install, `helm test`, browser and uninstall always run; of the other parts,
//! `KUBERNETES_PARTS=evictions,autoscaler` runs only these, and `KUBERNETES_SLICE=2/5` only each fifth from the third on.

#![expect(clippy::expect_used, reason = "a step that fails fails the test")]

mod browser;
mod controls;
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
use futures::future::LocalBoxFuture;
use release::Release;

#[test]
#[ignore = "needs a node of Kubernetes: cargo xtask kubernetes"]
fn the_chart_keeps_its_promises_on_a_cluster() {
    let Some(programs) = env::var_os("ETICKET_KUBERNETES").map(PathBuf::from) else {
        eprintln!("NOT RUN: cargo xtask kubernetes sets up a cluster for this test, where the machine can run one");
        return;
    };
    let selected = selection();
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
        timed("helm test", async || release.test()).await;
        timed("browser", async || browser::console(&release)).await;
        for (name, part) in PARTS {
            if selected.contains(&name) {
                timed(name, async || part(&release).await).await;
            } else {
                eprintln!("     {name}: not selected");
            }
        }
        timed("uninstall", async || release.uninstall().await).await;
    });
}

/// A part of the test, which leaves the release as it was.
type Part = for<'r, 'c> fn(&'r Release<'c>) -> LocalBoxFuture<'r, ()>;

/// The parts that can be selected, in their order.
const PARTS: [(&str, Part); 12] = [
    ("upgrade and rollback", |release| Box::pin(upgrades::upgrade_and_rollback(release))),
    ("failed upgrades", |release| Box::pin(upgrades::failed_upgrades(release))),
    ("policy", |release| Box::pin(upgrades::policy(release))),
    ("network policies", |release| Box::pin(isolation::network_policies(release))),
    ("frozen process", |release| Box::pin(faults::frozen_process(release))),
    ("store and bus away", |release| Box::pin(outages::store_and_bus(release))),
    ("evictions", |release| Box::pin(scaling::evictions(release))),
    ("autoscaler", |release| Box::pin(scaling::autoscaler(release))),
    ("deleted pods", |release| Box::pin(faults::deleted_pods(release))),
    ("deleted claim", |release| Box::pin(faults::deleted_claim(release))),
    ("controls", |release| Box::pin(controls::without_guards(release))),
    // The last one: the others call without TLS and tokens.
    ("TLS and tokens", |release| Box::pin(security::tls_and_tokens(release))),
];

/// Returns the names of the parts that run.
fn selection() -> Vec<&'static str> {
    let slice = env::var("KUBERNETES_SLICE").unwrap_or_else(|_| "0/1".to_owned());
    let numbers = slice.split_once('/').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
    let (number, count): (usize, usize) = numbers.expect("KUBERNETES_SLICE is like 2/5");
    let names = env::var("KUBERNETES_PARTS").unwrap_or_default();
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    let known = PARTS.map(|(name, _)| name);
    let unknown: Vec<&&str> = names.iter().filter(|name| !known.contains(name)).collect();
    assert!(unknown.is_empty(), "KUBERNETES_PARTS has {unknown:?}; expected some of {known:?}");
    let chosen = known
        .into_iter()
        .enumerate()
        .filter(|(index, name)| index.checked_rem(count) == Some(number) && (names.is_empty() || names.contains(name)));
    let chosen: Vec<&str> = chosen.map(|(_, name)| name).collect();
    assert!(!chosen.is_empty(), "KUBERNETES_SLICE={slice} and KUBERNETES_PARTS select no part");
    chosen
}

async fn timed(name: &str, part: impl AsyncFnOnce()) {
    let started = Instant::now();
    part().await;
    eprintln!("ok   {name}: {:.0} s", started.elapsed().as_secs_f64());
}

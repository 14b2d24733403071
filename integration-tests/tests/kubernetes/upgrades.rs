//! Upgrades and rollbacks under load.

use chrono::Weekday;
use eticket_integration_tests::{calendar, eventually};
use std::time::Duration;
use uuid::Uuid;

use crate::release::Release;

/// The components, in the order in which calls pass them.
pub(crate) const COMPONENTS: [&str; 5] = ["gateway", "query", "reservation", "pricing", "ticket"];
/// The image of `cargo xtask image`.
const IMAGE: &str = concat!("docker.io/library/eticket:", env!("CARGO_PKG_VERSION"));
/// The kubelet updates the files of a ConfigMap within its period and that of its cache.
const UPDATED_WITHIN: Duration = Duration::from_secs(180);

/// Gives an image of the node another name.
fn tag(release: &Release<'_>, image: &str, name: &str) {
    release
        .on_node("ctr", &["--namespace=k8s.io", "images", "tag", image, &format!("docker.io/library/eticket:{name}")]);
}

/// Every pod is replaced, and replaced again by the rollback; no call fails.
pub(crate) async fn upgrade_and_rollback(release: &Release<'_>) {
    tag(release, IMAGE, "next");
    let rounds = release.rounds().await;
    let uids = || COMPONENTS.map(|component| release.pods(component, "/metadata/uid"));
    let first = uids();
    release.helm("upgrade", &["--set=image.tag=next", "--wait", "--timeout=180s"]).expect("upgraded");
    COMPONENTS.iter().for_each(|component| release.rolled_out(component));
    let (second, calls) = (uids(), rounds.done());
    for (before, after) in first.iter().zip(&second) {
        assert!(after.iter().all(|uid| !before.contains(uid)), "{before:?} {after:?}");
    }
    for component in COMPONENTS {
        let images = release.pods(component, "/spec/containers/0/image");
        assert!(images.iter().all(|image| image.ends_with(":next")), "{images:?}");
    }
    release.roll_back();
    COMPONENTS.iter().for_each(|component| release.rolled_out(component));
    let images = release.pods("ticket", "/spec/containers/0/image");
    assert!(images.iter().all(|image| !image.ends_with(":next")), "{images:?}");
    let (done, failed) = rounds.stop().await;
    assert!(failed.is_empty() && calls > 0 && done > calls, "{calls} and {done} calls went well; failed: {failed:?}");
    eprintln!("     {calls} calls during the upgrade, {} during the rollback", done - calls);
}

/// A bad configuration, and an image that does not start, stop at the first pod; `--atomic` rolls back, and no call
/// fails meanwhile.
pub(crate) async fn failed_upgrades(release: &Release<'_>) {
    tag(release, "eticket.test/pause:1", "broken");
    let rounds = release.rounds().await;
    for wrong in ["--set=image.tag=broken", "--set=config.ticket.limits.concurrency=0"] {
        let before = COMPONENTS.map(|component| release.pods(component, "/metadata/uid"));
        let calls = rounds.done();
        let failed = release.helm("upgrade", &[wrong, "--atomic", "--timeout=45s"]).expect_err("it does not start");
        assert!(failed.contains("rolled back"), "{failed}");
        COMPONENTS.iter().for_each(|component| release.rolled_out(component));
        for (component, before) in COMPONENTS.iter().zip(before) {
            // A StatefulSet replaces a pod before it knows that the next one does not start.
            let kept = release.pods(component, "/metadata/uid").iter().filter(|uid| before.contains(uid)).count();
            let expected = if *component == "query" { before.len() - 1 } else { before.len() };
            assert!(kept >= expected, "{wrong}: {kept} of {} pods of {component} were kept", before.len());
        }
        eprintln!("     {wrong}: {} calls meanwhile", rounds.done() - calls);
    }
    let (done, failed) = rounds.stop().await;
    assert!(failed.is_empty() && done > 0, "{done} calls went well; failed: {failed:?}");
}

/// A policy that `helm upgrade` changes gives new prices without a restart.
pub(crate) async fn policy(release: &Release<'_>) {
    let (api, ticket) = (release.api(), Uuid::new_v4().to_string());
    let registered = api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
    api.settled(&ticket, &registered.consistency_token).await;
    let containers = || release.pods("pricing", "/status/containerStatuses/0/containerID");
    let before = containers();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.yaml");
    let policy = "version: 2\nbase_price: 20000 KRW\nbusiness_time_zone: Asia/Seoul\nrounding: DOWN\n";
    std::fs::write(&file, policy).expect("written");
    let set = format!("--set-file=pricing.policy={}", file.display());
    release.helm("upgrade", &[&set, "--wait", "--timeout=60s"]).expect("upgraded");
    eventually(UPDATED_WITHIN, "the new policy is in force", async || {
        let price = api.price(&ticket).await.map_err(|status| status.to_string())?;
        let units = price.discounted_price.as_ref().map(|money| money.units);
        if units == Some(20_000) { Ok(()) } else { Err(format!("{price:?}")) }
    })
    .await;
    assert_eq!(containers(), before, "no container was restarted");
}

//! Checks of the bus.

use std::{path::Path, time::Duration};

use eticket_base::{
    config::bus::{self as config, BusConfig, EMBEDDED},
    doctor::{Check, Group},
    error::chain,
};
use eticket_bus_nats::inspect::{self as nats, Account, Inspection, StreamInspection};
use futures::future::BoxFuture;

use super::sqlite::{integrity, megabytes};

const BUS: Group = Group::Bus;
/// A warning if the account uses more than this share of its storage, in percent.
const NEARLY_FULL: u64 = 90;

/// Checks the bus, for [`eticket_runtime::process::Service::EXAMINE_BUS`]. The file of the embedded bus is in the data folder.
pub fn check<'a>(config: &'a BusConfig, data: &'a Path, patience: Duration) -> BoxFuture<'a, Vec<Check>> {
    Box::pin(async move {
        match config.url.as_deref() {
            None => Vec::new(),
            Some(EMBEDDED) => embedded(&data.join(config::FILE), patience).await,
            Some(url) => {
                let shown = eticket_base::config::urls::without_password(url);
                match nats::inspect(config, patience).await {
                    Ok(inspection) => judge(&shown, config, &inspection),
                    Err(nats::Unreachable { problem, advice }) => {
                        vec![Check::fail(
                            BUS,
                            "bus-connection",
                            format!("{shown} cannot be reached: {problem}"),
                            advice,
                        )]
                    }
                }
            }
        }
    })
}

async fn embedded(path: &Path, patience: Duration) -> Vec<Check> {
    const NAME: &str = "bus-connection";
    let inspecting = eticket_bus_embedded::inspect(path, patience / 3);
    let shown = path.display();
    match tokio::time::timeout(patience, inspecting).await {
        Ok(Ok(None)) => vec![Check::ok(BUS, NAME, format!("no bus file {shown} yet: the next start creates it"))],
        Ok(Ok(Some(found))) => {
            let opens = Check::ok(BUS, NAME, format!("{shown} opens, {}", megabytes(found.bytes)));
            let newer = "this version opens it too, because migrations only add";
            let sound = Check { group: BUS, ..integrity(&found.integrity) };
            vec![opens, sound, super::migrations(BUS, found.schema, newer)].into_iter().map(|it| it.of("bus")).collect()
        }
        Ok(Err(error)) => {
            let remedy = "stop the server and move the file away: the services fill a new one with their states";
            vec![Check::fail(BUS, NAME, format!("{shown}: {}", chain(&error)), remedy)]
        }
        Err(_) => {
            vec![Check::fail(BUS, NAME, format!("{shown} cannot be read in time"), "check the disk of this file")]
        }
    }
}

fn judge(url: &str, config: &BusConfig, inspection: &Inspection) -> Vec<Check> {
    let mut checks = vec![Check::ok(BUS, "bus-connection", format!("{url} responds"))];
    checks.push(match &inspection.too_old {
        None => Check::ok(BUS, "nats-version", format!("nats-server {}", inspection.version)),
        Some(oldest) => Check::fail(
            BUS,
            "nats-version",
            format!("nats-server {} is older than {oldest}", inspection.version),
            format!("update nats-server to {oldest} or newer, or set bus.url"),
        ),
    });
    match &inspection.account {
        Ok(account) => checks.push(jetstream(account)),
        // Without JetStream there is no stream to check.
        Err(problem) => {
            checks.push(Check::fail(
                BUS,
                "jetstream",
                problem.clone(),
                "enable JetStream: `jetstream {}` in the configuration of nats-server, and for the account of bus.url",
            ));
            return checks;
        }
    }
    match &inspection.stream {
        Ok(None) => checks.push(Check::ok(BUS, "stream", "no stream ETICKET yet: the first service creates it")),
        Ok(Some(stream)) => {
            checks.push(settings(stream));
            checks.push(protection(stream));
            if let Some(difference) = stream.clock_difference {
                checks.push(super::clock("NATS", difference));
            }
        }
        Err(problem) => {
            let remedy = "check the log of nats-server, and the permissions of the user of bus.url";
            checks.push(Check::fail(BUS, "stream", problem.clone(), remedy));
        }
    }
    checks.push(replication(config, inspection));
    checks
}

fn jetstream(account: &Account) -> Check {
    const NAME: &str = "jetstream";
    let remedy = "give the account of bus.url more storage, or delete streams of other programs";
    let Some(most) = u64::try_from(account.limits.max_storage).ok().filter(|most| *most > 0) else {
        return Check::ok(BUS, NAME, "enabled; the account has no limit of storage");
    };
    let detail = format!("the account uses {} of {}", megabytes(account.storage), megabytes(most));
    match account.storage.saturating_mul(100) / most {
        used if used >= 100 => Check::fail(BUS, NAME, detail, remedy),
        used if used >= NEARLY_FULL => Check::warn(BUS, NAME, detail, remedy),
        _ => Check::ok(BUS, NAME, format!("enabled; {detail}")),
    }
}

fn settings(stream: &StreamInspection) -> Check {
    const NAME: &str = "stream";
    match stream.differences.is_empty() {
        true => {
            let size = megabytes(stream.bytes);
            Check::ok(BUS, NAME, format!("ETICKET has the required settings; {} messages, {size}", stream.messages))
        }
        false => Check::fail(
            BUS,
            NAME,
            format!("ETICKET has {}", stream.differences.join(", ")),
            "change it with `nats stream edit ETICKET`, or delete the stream: services create and fill it again",
        ),
    }
}

fn protection(stream: &StreamInspection) -> Check {
    const NAME: &str = "stream-protection";
    match stream.protected {
        true => Check::ok(BUS, NAME, "ETICKET refuses purges and deletions"),
        false => Check::warn(
            BUS,
            NAME,
            "ETICKET accepts purges and deletions of messages (deny_purge, deny_delete)",
            "restart one service, which turns the protection on; if it stays off, look at the log of the service",
        ),
    }
}

/// Whether the sync interval is safe cannot be seen: clients have no access to it.
fn replication(config: &BusConfig, inspection: &Inspection) -> Check {
    const NAME: &str = "stream-replicas";
    const UNSEEN: &str = "sync_interval cannot be seen from here";
    let stream = inspection.stream.as_ref().ok().and_then(Option::as_ref);
    let behind = stream.map(|stream| stream.behind.join(", ")).filter(|behind| !behind.is_empty());
    let replicas = stream.map_or(u64::from(config.replicas), |stream| stream.replicas);
    match (&inspection.cluster, behind) {
        (_, Some(behind)) => Check::warn(
            BUS,
            NAME,
            format!("{replicas} replicas, of which these do not follow: {behind}"),
            "start these servers, and wait until they have caught up: `nats stream info ETICKET`",
        ),
        (Some(cluster), None) if replicas < 3 => Check::warn(
            BUS,
            NAME,
            format!("{replicas} of the servers of the cluster {cluster} has the stream: its loss stops events"),
            "set bus.replicas = 3, and `nats stream edit ETICKET --replicas 3`",
        ),
        (Some(cluster), None) => {
            Check::ok(BUS, NAME, format!("{replicas} replicas in the cluster {cluster}; {UNSEEN}"))
        }
        (None, None) => {
            let needed = match config.sync_interval_ms {
                0 => "`always`".to_owned(),
                interval => format!("at most {interval} ms (bus.sync_interval_ms)"),
            };
            let detail = format!("a single server; {UNSEEN}: it must be {needed} in the `jetstream` block");
            Check::ok(BUS, NAME, detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;
    use eticket_bus_nats::inspect::Limits;

    use super::*;

    fn account(storage: u64, max_storage: i64) -> Account {
        Account { storage, streams: 1, limits: Limits { max_storage, max_streams: -1 } }
    }

    fn stream() -> StreamInspection {
        StreamInspection {
            differences: Vec::new(),
            protected: true,
            replicas: 1,
            behind: Vec::new(),
            messages: 1,
            bytes: 1,
            clock_difference: None,
        }
    }

    fn healthy() -> Inspection {
        Inspection {
            version: "2.12.0".to_owned(),
            too_old: None,
            cluster: None,
            account: Ok(account(0, -1)),
            stream: Ok(Some(stream())),
        }
    }

    fn status(inspection: &Inspection, name: &str) -> Option<Status> {
        judge("nats://a", &BusConfig::default(), inspection)
            .iter()
            .find(|check| check.name == name)
            .map(|check| check.status)
    }

    #[test]
    fn storage_is_a_warning_when_nearly_full_and_a_failure_when_full() {
        for (used, most, expected) in [
            (0, -1, Status::Ok),
            (u64::MAX, 0, Status::Ok),
            (89, 100, Status::Ok),
            (90, 100, Status::Warn),
            (100, 100, Status::Fail),
        ] {
            assert_eq!(jetstream(&account(used, most)).status, expected, "{used} of {most}");
        }
    }

    #[test]
    fn without_jetstream_nothing_is_said_about_the_stream() {
        let off =
            Inspection { account: Err("not enabled".to_owned()), stream: Err("not enabled".to_owned()), ..healthy() };
        assert_eq!(status(&off, "jetstream"), Some(Status::Fail));
        assert_eq!((status(&off, "stream"), status(&off, "stream-replicas")), (None, None));
    }

    #[test]
    fn a_stream_is_absent_fine_or_wrong() {
        assert!(judge("nats://a", &BusConfig::default(), &healthy()).iter().all(|check| check.status == Status::Ok));
        let absent = Inspection { stream: Ok(None), ..healthy() };
        assert_eq!(status(&absent, "stream"), Some(Status::Ok));
        let wrong = StreamInspection { differences: vec!["max_age = 5 instead of 0".to_owned()], ..stream() };
        assert_eq!(status(&Inspection { stream: Ok(Some(wrong)), ..healthy() }, "stream"), Some(Status::Fail));
        let open = StreamInspection { protected: false, ..stream() };
        let open = Inspection { stream: Ok(Some(open)), ..healthy() };
        assert_eq!(status(&open, "stream-protection"), Some(Status::Warn));
    }

    #[test]
    fn a_stream_of_a_cluster_has_three_replicas_that_follow() {
        let in_cluster = |stream| Inspection { cluster: Some("c".to_owned()), stream: Ok(Some(stream)), ..healthy() };
        let replicas = |stream| status(&in_cluster(stream), "stream-replicas");
        assert_eq!(replicas(stream()), Some(Status::Warn));
        assert_eq!(replicas(StreamInspection { replicas: 3, ..stream() }), Some(Status::Ok));
        let behind = StreamInspection { replicas: 3, behind: vec!["node-2".to_owned()], ..stream() };
        assert_eq!(replicas(behind), Some(Status::Warn));
        let old = Inspection { too_old: Some("2.10".to_owned()), ..healthy() };
        assert_eq!(status(&old, "nats-version"), Some(Status::Fail));
    }
}

//! Checks of a SQLite file.

use std::{io, path::Path, time::Duration};

use eticket_base::{
    doctor::{Check, Group},
    error::chain,
};
use eticket_store::sqlite::inspect::{self, Inspection, Integrity};
use sqlx::migrate::Migrator;

const STORE: Group = Group::Store;

/// What the service does with a file that a newer program has migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Newer {
    Opens,
    IsReplaced,
}

/// `data` is the data folder, which the next start creates.
pub(super) async fn check(
    path: &Path,
    data: Option<&Path>,
    migrations: &Migrator,
    newer: Newer,
    patience: Duration,
) -> Vec<Check> {
    // The quick check has a third, so that it ends before the whole.
    let inspecting = inspect::inspect(path, migrations, patience / 3);
    let outcome = tokio::time::timeout(patience, inspecting).await;
    let outcome = outcome.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into())));
    match outcome {
        Ok(None) => vec![absent(path, data)],
        Ok(Some(inspection)) => judge(&path.display().to_string(), &inspection, newer),
        Err(error) => vec![unreadable(path, &error)],
    }
}

/// SQLite creates the file, not its folder.
fn absent(path: &Path, data: Option<&Path>) -> Check {
    const NAME: &str = "store-connection";
    let shown = path.display();
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if data == Some(folder) || folder.is_dir() {
        return Check::ok(STORE, NAME, format!("no file {shown} yet: the next start creates it"));
    }
    let remedy = format!("create the folder {} for the user of the server, or set store.url", folder.display());
    Check::fail(STORE, NAME, format!("{shown} cannot be created: its folder does not exist"), remedy)
}

fn unreadable(path: &Path, error: &sqlx::Error) -> Check {
    let remedy = match error {
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            "let the user of the server read and write the file: chown it to that user, or set store.url"
        }
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
            "check the disk of this file: it did not respond in time"
        }
        _ => "stop the server, move the file away, and restore it from a backup, or set store.url to another file",
    };
    Check::fail(STORE, "store-connection", format!("{}: {}", path.display(), chain(error)), remedy)
}

fn judge(place: &str, inspection: &Inspection, newer: Newer) -> Vec<Check> {
    let mib = megabytes(inspection.bytes);
    let mut checks = vec![Check::ok(STORE, "store-connection", format!("{place} opens, {mib}"))];
    checks.push(integrity(&inspection.integrity));
    checks.push(match (inspection.wal, newer) {
        (true, Newer::Opens) => Check::ok(STORE, "store-durability", "WAL mode; commits are synced to the disk"),
        (true, Newer::IsReplaced) => {
            Check::ok(STORE, "store-durability", "WAL mode; after a crash, the newest rows are read from the bus again")
        }
        // The server sets WAL mode when it opens the file.
        (false, _) => Check::ok(STORE, "store-durability", "not in WAL mode yet: the next start sets it"),
    });
    let newer = match newer {
        Newer::Opens => "this version opens it too, because migrations only add",
        Newer::IsReplaced => "this version replaces the file by an empty one and builds it again from the bus",
    };
    checks.push(super::migrations(STORE, inspection.schema, newer));
    checks
}

pub(super) fn integrity(found: &Integrity) -> Check {
    const NAME: &str = "store-integrity";
    match found {
        Integrity::Sound => Check::ok(STORE, NAME, "quick_check found nothing"),
        Integrity::Unfinished => {
            Check::ok(STORE, NAME, "quick_check found nothing in the time it had; the file is large")
        }
        Integrity::Damaged(problem) => Check::fail(
            STORE,
            NAME,
            format!("the file is damaged: {problem}"),
            "stop the server, keep a copy of the file, and restore it from a backup; then check the disk (`dmesg`, SMART)",
        ),
    }
}

pub(super) fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let mib = bytes as f64 / f64::from(1 << 20);
    format!("{mib:.1} MiB")
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;
    use eticket_store::inspection::Schema;

    use super::*;

    fn statuses(inspection: &Inspection, newer: Newer) -> Vec<(&'static str, Status)> {
        judge("a.db", inspection, newer).iter().map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_damaged_file_is_a_failure_and_a_file_too_large_to_check_is_not() {
        let sound =
            Inspection { bytes: 1, wal: true, integrity: Integrity::Sound, schema: Schema::Current { newest: 3 } };
        assert!(statuses(&sound, Newer::Opens).iter().all(|(_, status)| *status == Status::Ok));
        let large = Inspection { integrity: Integrity::Unfinished, ..sound.clone() };
        assert!(statuses(&large, Newer::Opens).contains(&("store-integrity", Status::Ok)));
        let damaged = Inspection { integrity: Integrity::Damaged("page 2".to_owned()), ..sound };
        assert!(statuses(&damaged, Newer::Opens).contains(&("store-integrity", Status::Fail)));
        assert!(judge("a.db", &damaged, Newer::Opens)[1].remedy.contains("backup"));
    }

    #[tokio::test]
    async fn an_absent_file_is_fine_and_a_file_of_something_else_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let none = Migrator::with_migrations(Vec::new());
        let check = async |path: &Path| check(path, None, &none, Newer::Opens, Duration::from_secs(5)).await.remove(0);
        assert_eq!(check(&folder.path().join("absent.db")).await.status, Status::Ok);
        let nowhere = check(&folder.path().join("nowhere/a.db")).await;
        assert!(nowhere.status == Status::Fail && nowhere.remedy.contains("create the folder"), "{nowhere:?}");
        let path = folder.path().join("a.db");
        std::fs::write(&path, "something else").unwrap();
        let found = check(&path).await;
        assert_eq!((found.name, found.status), ("store-connection", Status::Fail));
        assert!(found.remedy.contains("restore it from a backup"), "{found:?}");
    }
}

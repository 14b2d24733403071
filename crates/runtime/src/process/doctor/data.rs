//! The data folder: whether it can be written, whether a server uses it, and the space on its disk.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use eticket_base::doctor::{Check, Group};
use rustix::fs::{Access, access, statvfs};

const DATA: Group = Group::Data;
const FOLDER: &str = "data-folder";
const GIB: u64 = 1 << 30;
/// Less free space is a warning, and less than [`LEAST`] a failure.
const LITTLE: u64 = GIB;
const LEAST: u64 = 100 << 20;
const ELSEWHERE: &str = "choose another folder with --data or the key data";

pub(super) async fn check(path: PathBuf) -> Vec<Check> {
    let subject = path.display().to_string();
    let mut checks = Vec::new();
    match existing(&path) {
        Ok(found) => {
            checks.push(folder(&path, &found));
            if found == path {
                checks.push(lock(&path));
            }
            checks.push(space(&found));
        }
        Err(check) => checks.push(check),
    }
    checks.into_iter().map(|check| check.of(&subject)).collect()
}

/// Returns the folder, or the nearest one above it that exists.
fn existing(path: &Path) -> Result<PathBuf, Check> {
    for ancestor in path.ancestors() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match fs::metadata(ancestor) {
            Ok(metadata) if metadata.is_dir() => return Ok(ancestor.to_owned()),
            Ok(_) => {
                let detail = format!("{} is a file, not a folder", ancestor.display());
                return Err(Check::fail(DATA, FOLDER, detail, format!("move it away, or {ELSEWHERE}")));
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => {
                let detail = format!("{}: {error}", ancestor.display());
                let remedy = format!("let the user of the server enter this folder, or {ELSEWHERE}");
                return Err(Check::fail(DATA, FOLDER, detail, remedy));
            }
        }
    }
    Err(Check::fail(DATA, FOLDER, "no folder above it exists", ELSEWHERE))
}

fn folder(path: &Path, found: &Path) -> Check {
    match access(found, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if found == path => Check::ok(DATA, FOLDER, "it can be written"),
        Ok(()) => Check::ok(DATA, FOLDER, "it does not exist yet: the next start creates it"),
        Err(error) => {
            let detail = format!("{} cannot be written: {}", found.display(), io::Error::from(error));
            Check::fail(DATA, FOLDER, detail, format!("let the user of the server write to it, or {ELSEWHERE}"))
        }
    }
}

/// A shared lock, for a moment: a server has an exclusive one for as long as it runs, and two doctors do not meet.
fn lock(path: &Path) -> Check {
    const NAME: &str = "data-lock";
    let free = || Check::ok(DATA, NAME, "free: no server uses it now");
    let file = match File::open(path.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return free(),
        Err(error) => {
            let remedy = "run doctor as the user of the server, or let that user read the file lock in the folder";
            return Check::warn(DATA, NAME, format!("cannot be seen: {error}"), remedy);
        }
    };
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock().ok();
            free()
        }
        Err(TryLockError::WouldBlock) => Check::ok(DATA, NAME, "in use by a running server"),
        Err(TryLockError::Error(error)) => {
            let detail = format!("the file system has no locks: {error}");
            Check::fail(DATA, NAME, detail, format!("use a local disk: {ELSEWHERE}"))
        }
    }
}

fn space(found: &Path) -> Check {
    match statvfs(found) {
        Ok(disk) => judge_space(disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_files > 0 && disk.f_favail == 0),
        Err(error) => {
            let detail = format!("cannot be seen: {}", io::Error::from(error));
            Check::warn(DATA, "disk-space", detail, "check the disk of the data folder by hand (`df`)")
        }
    }
}

fn judge_space(free: u64, no_files: bool) -> Check {
    const NAME: &str = "disk-space";
    const REMEDY: &str =
        "free some space on the disk of the data folder, enlarge it, or move the folder to another disk";
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let shown = match free {
        free if free >= GIB => format!("{:.1} GiB free", free as f64 / GIB as f64),
        free => format!("{} MiB free", free >> 20),
    };
    match free {
        _ if no_files => Check::fail(DATA, NAME, format!("{shown}, but no more files can be created"), REMEDY),
        free if free < LEAST => Check::fail(DATA, NAME, format!("only {shown}; servers need 100 MiB"), REMEDY),
        free if free < LITTLE => Check::warn(DATA, NAME, format!("only {shown}"), REMEDY),
        _ => Check::ok(DATA, NAME, shown),
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::{data::DataFolder, doctor::Status};

    use super::*;

    async fn found(path: &Path, name: &str) -> Option<Check> {
        check(path.to_owned()).await.into_iter().find(|check| check.name == name)
    }

    #[test]
    fn less_than_a_gibibyte_is_a_warning_and_less_than_a_hundred_mebibytes_a_failure() {
        for (free, expected) in [
            (0, Status::Fail),
            (LEAST - 1, Status::Fail),
            (LEAST, Status::Warn),
            (LITTLE - 1, Status::Warn),
            (LITTLE, Status::Ok),
        ] {
            let check = judge_space(free, false);
            assert_eq!(check.status, expected, "{check:?}");
        }
        assert_eq!(judge_space(LITTLE, true).status, Status::Fail, "without room for another file");
    }

    #[tokio::test]
    async fn a_folder_that_does_not_exist_is_fine_and_is_not_created() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("a/b");
        let check = found(&path, FOLDER).await.expect("checked");
        assert!(check.status == Status::Ok && check.detail.contains("does not exist yet"), "{check:?}");
        assert!(found(&path, "disk-space").await.is_some());
        assert_eq!(fs::read_dir(parent.path()).expect("readable").count(), 0);
    }

    #[tokio::test]
    async fn a_folder_below_a_file_is_a_failure() {
        let parent = tempfile::tempdir().expect("a folder");
        fs::write(parent.path().join("file"), "").expect("written");
        for path in ["file", "file/below"] {
            let check = found(&parent.path().join(path), FOLDER).await.expect("checked");
            assert_eq!(check.status, Status::Fail, "{path}");
            assert!(check.remedy.contains("--data"), "{check:?}");
        }
    }

    #[tokio::test]
    async fn a_folder_in_use_is_fine_and_stays_in_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = DataFolder::open(folder.path()).expect("free");
        let check = found(folder.path(), "data-lock").await.expect("checked");
        assert!(check.status == Status::Ok && check.detail.contains("in use"), "{check:?}");
        drop(server);
        let check = found(folder.path(), "data-lock").await.expect("checked");
        assert!(check.status == Status::Ok && check.detail.contains("free"), "{check:?}");
        DataFolder::open(folder.path()).expect("the doctor has let it go");
    }
}

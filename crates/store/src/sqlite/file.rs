//! The file of a database: locked by one process, and checked to be the file at its path.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use eticket_base::data::Lock;

/// A database file locked by this process. Drop it after the connections: closing any descriptor of a file releases
/// SQLite's locks on it.
#[derive(Debug)]
pub(super) struct OwnedFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    _lock: Lock,
}

impl OwnedFile {
    /// Creates the file if it does not exist, and locks it.
    ///
    /// # Errors
    /// Fails if the file cannot be created or opened, or if another process or another database of this process has
    /// locked it.
    pub(super) fn open(path: &Path) -> sqlx::Result<Self> {
        // A read-only file can still be read.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.or_else(|error| File::open(path).map_err(|_| error))?;
        let metadata = file.metadata()?;
        let lock = Lock::try_take(lock_file(path, file)?).map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "it is in use by another process or by another service of this one: stop that, or set another file",
            ),
        })?;
        Ok(Self { path: path.to_owned(), identity: identity(&metadata), _lock: lock })
    }

    /// Checks that the path still leads to this file.
    ///
    /// # Errors
    /// Fails if it does not: writes would be lost at the next start.
    pub(super) fn check(&self) -> sqlx::Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            Ok(_) => Err(wrong_file(&self.path, "is not the file that was opened")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(wrong_file(&self.path, "was removed")),
            Err(error) => Err(error.into()),
        }
    }
}

fn wrong_file(path: &Path, what: &str) -> sqlx::Error {
    let advice = "restore the file, or restart the process to continue with the current one";
    io::Error::new(io::ErrorKind::NotFound, format!("{} {what}: {advice}", path.display())).into()
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Locks the file itself, so that all links to it count as the same file. Only Linux keeps these locks (`flock`)
/// separate from SQLite's locks on the file.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn lock_file(_: &Path, file: File) -> io::Result<File> {
    Ok(file)
}

/// Locks a file next to the resolved path.
#[cfg(not(target_os = "linux"))]
fn lock_file(path: &Path, _: File) -> io::Result<File> {
    let mut name = fs::canonicalize(path)?.into_os_string();
    name.push("-lock");
    File::options().create(true).truncate(false).write(true).open(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_leads_to_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a.db"), folder.path().join("other"));
        let file = OwnedFile::open(&path).unwrap();
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&path, other.join("symbolic.db")).unwrap();
        fs::hard_link(&path, other.join("hard.db")).unwrap();
        for link in [path.clone(), other.join("symbolic.db"), other.join("hard.db")] {
            let error = OwnedFile::open(&link).unwrap_err();
            assert!(error.to_string().contains("in use by another process"), "{}: {error}", link.display());
        }
        drop(file);
        OwnedFile::open(&other.join("hard.db")).unwrap();
    }

    #[test]
    fn a_removed_or_replaced_file_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.db"), folder.path().join("aside.db"));
        let file = OwnedFile::open(&path).unwrap();
        file.check().unwrap();
        fs::rename(&path, &aside).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("was removed"));
        fs::write(&path, "").unwrap();
        assert!(file.check().unwrap_err().to_string().contains("is not the file"));
        fs::rename(&aside, &path).unwrap();
        file.check().unwrap();
    }
}

//! The file of a database: held by one process at a time, and still the one that its path names.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use eticket_base::data::Lock;

/// A database's file that this process has locked. Let it go after the connections: closing a descriptor of a file ends the locks
/// that SQLite holds on it.
#[derive(Debug)]
pub struct OwnedFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    _lock: Lock,
}

impl OwnedFile {
    /// Makes the file if it is absent, and locks it.
    ///
    /// # Errors
    /// If it cannot be made or opened, or another process, or another database of this one, has it.
    pub fn open(path: &Path) -> sqlx::Result<Self> {
        // One that cannot be written may still be read.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.or_else(|error| File::open(path).map_err(|_| error))?;
        let metadata = file.metadata()?;
        let lock = Lock::try_take(lock_file(path, file)?).map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "it is in use by another process or by another service of this one: stop that, or give each its own file",
            ),
        })?;
        Ok(Self { path: path.to_owned(), identity: identity(&metadata), _lock: lock })
    }

    /// # Errors
    /// If the path no longer leads to this file: what is written now would be gone at the next start.
    pub fn check(&self) -> sqlx::Result<()> {
        match fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            Ok(_) => Err(gone(&self.path, "is another file than the one that was opened")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone(&self.path, "was removed")),
            Err(error) => Err(error.into()),
        }
    }
}

fn gone(path: &Path, what: &str) -> sqlx::Error {
    let advice = "put the file back, or start the process again to begin with what is there";
    io::Error::new(io::ErrorKind::NotFound, format!("{} {what}: {advice}", path.display())).into()
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What is locked: the file itself, so that every link to it counts as the same. Only Linux keeps these locks (`flock`) apart from
/// those that SQLite takes on the file.
#[cfg(target_os = "linux")]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
fn lock_file(_: &Path, file: File) -> io::Result<File> {
    Ok(file)
}

/// What is locked: a file beside it, found through symbolic links.
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
    fn a_file_that_was_removed_or_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, aside) = (folder.path().join("a.db"), folder.path().join("aside.db"));
        let file = OwnedFile::open(&path).unwrap();
        file.check().unwrap();
        fs::rename(&path, &aside).unwrap();
        assert!(file.check().unwrap_err().to_string().contains("was removed"));
        fs::write(&path, "").unwrap();
        assert!(file.check().unwrap_err().to_string().contains("is another file"));
        fs::rename(&aside, &path).unwrap();
        file.check().unwrap();
    }
}

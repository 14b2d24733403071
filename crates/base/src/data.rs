//! The folder where a process keeps its files, locked so that two processes never share one.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::exit::StartError;

/// A data folder that this process has locked; clones share the lock, which ends with the last of them, or with the process.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: Arc<PathBuf>,
    _lock: Arc<Lock>,
}

/// A locked file. Closing it is not enough to let go: a program that this process starts at that moment has a copy of the
/// descriptor until it runs, and with it the lock.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks a file unless somebody else has it locked.
    pub fn try_take(file: File) -> Result<Self, TryLockError> {
        file.try_lock().map(|()| Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the lock of a file or of the data folder stays until the process ends");
        }
    }
}

impl DataFolder {
    /// Makes the folder if it is absent, and locks it.
    ///
    /// # Errors
    /// If it cannot be made or written to, or another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StartError> {
        let path = path.as_ref();
        let cannot = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => "let the process write there, or give another by --data",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room there, or give another by --data"
                }
                _ => "give another by --data",
            };
            StartError::unavailable(format!("the data folder {} cannot be used: {advice}", path.display()), error)
        };
        fs::create_dir_all(path).map_err(cannot)?;
        // A file beside the data: locking a database's own file would meet its library's locks.
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(cannot)?;
        match Lock::try_take(lock) {
            Ok(lock) => Ok(Self { path: Arc::new(path.to_owned()), _lock: Arc::new(lock) }),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
            Err(TryLockError::WouldBlock) => Err(StartError::Unavailable {
                what: format!(
                    "the data folder {} is in use by another process: stop it, or give another folder by --data",
                    path.display()
                ),
                source: None,
            }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_belongs_to_one() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("a/b");
        let first = DataFolder::open(&path).expect("free");
        assert!(first.path().is_dir());
        let second = DataFolder::open(&path).expect_err("taken");
        assert_eq!(second.code(), 69);
        assert!(second.to_string().contains(&path.display().to_string()), "{second}");
        let clone = first.clone();
        drop(first);
        assert!(DataFolder::open(&path).is_err(), "a clone still holds it");
        drop(clone);
        DataFolder::open(&path).expect("free again");
    }

    #[test]
    fn a_copy_of_the_descriptor_in_a_program_being_started_keeps_nobody_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = DataFolder::open(folder.path()).expect("free");
        let copy = first._lock.0.try_clone().expect("a second descriptor of the same open file");
        drop(first);
        DataFolder::open(folder.path()).expect("free again");
        drop(copy);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().expect("a folder");
        let file = parent.path().join("file");
        fs::write(&file, "").expect("written");
        let error = DataFolder::open(file.join("below")).expect_err("below a file");
        assert_eq!(error.code(), 69);
        assert!(error.to_string().contains("below"), "{error}");
    }
}

//! The data folder of a process, locked so that two processes never share one.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::exit::StartError;

/// A data folder locked by this process. Clones share the lock; it is released when the last clone is dropped or the
/// process ends.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: Arc<PathBuf>,
    _lock: Arc<Lock>,
}

/// A locked file. Dropping it unlocks the file explicitly, because closing it is not enough: a child process holds a
/// copy of the descriptor between `fork` and `exec`, and the copy keeps the lock.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Locks `file`. Fails if another open file has the lock.
    pub fn try_take(file: File) -> Result<Self, TryLockError> {
        file.try_lock().map(|()| Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "cannot unlock a file or the data folder; the lock remains until the process ends");
        }
    }
}

impl DataFolder {
    /// Creates the folder if it does not exist, and locks it.
    ///
    /// # Errors
    /// Fails if the folder cannot be created or written, or if another process has locked it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StartError> {
        let path = path.as_ref();
        let cannot = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "allow the process to write to it, or choose another folder with --data"
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "free some space, or choose another folder with --data"
                }
                _ => "choose another folder with --data",
            };
            StartError::unavailable(format!("the data folder {} cannot be used: {advice}", path.display()), error)
        };
        fs::create_dir_all(path).map_err(cannot)?;
        // A separate file: locking the file of a database would conflict with the locks of the database library.
        let lock = File::options().create(true).truncate(false).write(true).open(path.join("lock")).map_err(cannot)?;
        match Lock::try_take(lock) {
            Ok(lock) => Ok(Self { path: Arc::new(path.to_owned()), _lock: Arc::new(lock) }),
            Err(TryLockError::Error(error)) => Err(cannot(error)),
            Err(TryLockError::WouldBlock) => Err(StartError::Unavailable {
                what: format!(
                    "the data folder {} is in use by another process: stop it, or choose another folder with --data",
                    path.display()
                ),
                source: None,
            }),
        }
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_created_and_locked_by_one_process() {
        let parent = tempfile::tempdir().expect("a folder");
        let path = parent.path().join("a/b");
        let first = DataFolder::open(&path).expect("free");
        assert!(first.path().is_dir());
        let second = DataFolder::open(&path).expect_err("taken");
        assert_eq!(second.code(), 69);
        assert!(second.to_string().contains(&path.display().to_string()), "{second}");
        let clone = first.clone();
        drop(first);
        assert!(DataFolder::open(&path).is_err(), "the clone still holds the lock");
        drop(clone);
        DataFolder::open(&path).expect("free again");
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_keep_the_lock() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = DataFolder::open(folder.path()).expect("free");
        let copy = first._lock.0.try_clone().expect("a second descriptor of the same open file");
        drop(first);
        DataFolder::open(folder.path()).expect("free again");
        drop(copy);
    }

    #[test]
    fn a_folder_that_cannot_be_created_is_named_in_the_error() {
        let parent = tempfile::tempdir().expect("a folder");
        let file = parent.path().join("file");
        fs::write(&file, "").expect("written");
        let error = DataFolder::open(file.join("below")).expect_err("below a file");
        assert_eq!(error.code(), 69);
        assert!(error.to_string().contains("below"), "{error}");
    }
}

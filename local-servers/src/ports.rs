//! Loopback ports that no other test uses, in this process or in another one.
//!
//! A free port alone is not enough: until its server listens, or while the server restarts, another test could find it
//! free as well. A process therefore locks a block of ports for its lifetime and returns each port of it once.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};

/// Below the ephemeral ports: an outgoing connection on one of those could prevent the restart of a killed server.
const PORTS: Range<u16> = 12_000..32_000;
/// Number of ports in a block; most test processes need one block.
const BLOCK: usize = 50;

static OF_THIS_PROCESS: LazyLock<Mutex<Ports>> =
    LazyLock::new(|| Mutex::new(Ports::new(std::env::temp_dir().join("eticket-test-ports"), PORTS)));

/// Returns a free loopback port and keeps it for this process: no later call returns it, in any process on this
/// machine.
///
/// # Errors
/// Fails if no port is left, or if the lock files, in the folder `eticket-test-ports` of the temporary folder, cannot
/// be created.
pub fn free_port() -> Result<u16> {
    OF_THIS_PROCESS.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Returns the loopback address with a [`free_port`].
///
/// # Errors
/// As [`free_port`].
pub fn free_address() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

struct Ports {
    /// Folder with one lock file for each block.
    folder: PathBuf,
    range: Range<u16>,
    /// Locked while this value lives.
    blocks: Vec<File>,
    /// The ports of the newest block that were not returned.
    left: Vec<u16>,
}

impl Ports {
    fn new(folder: PathBuf, range: Range<u16>) -> Self {
        Self { folder, range, blocks: Vec::new(), left: Vec::new() }
    }

    fn next(&mut self) -> Result<u16> {
        loop {
            let Some(port) = self.left.pop() else {
                self.take_block()?;
                continue;
            };
            // A program that is not one of these tests may use the port.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
        }
    }

    fn take_block(&mut self) -> Result<()> {
        let shared = |error| format!("cannot create {}: {error}", self.folder.display());
        if let Err(error) = fs::create_dir(&self.folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            bail!(shared(error));
        }
        // Tests of other users share the ports. Only the owner of the folder can set its permissions.
        drop(fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o1777)));
        for start in self.range.clone().step_by(BLOCK) {
            if let Some(lock) = lock(&self.folder.join(start.to_string()))? {
                self.blocks.push(lock);
                self.left = (start..self.range.end).take(BLOCK).rev().collect();
                return Ok(());
            }
        }
        bail!("other tests use all loopback ports from {} to {}", self.range.start, self.range.end)
    }
}

/// Locks a file; returns `None` if a process holds the lock, this one included.
fn lock(path: &Path) -> Result<Option<File>> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o666).open(path);
    let file = open.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Ports that no other test uses: the tests here bind them without the locks of the real folder.
    fn ports(folder: &Path) -> Ports {
        Ports::new(folder.into(), 11_000..12_000)
    }

    fn some(ports: &mut Ports) -> BTreeSet<u16> {
        (0..BLOCK + 10).map(|_| ports.next().unwrap()).collect()
    }

    #[test]
    fn no_port_is_returned_twice_while_its_process_lives() {
        let folder = tempfile::tempdir().unwrap();
        // Each value stands for a process: locks belong to open files.
        let (mut one, mut other) = (ports(folder.path()), ports(folder.path()));
        let (of_one, of_other) = (some(&mut one), some(&mut other));
        assert!(of_one.len() == BLOCK + 10 && of_one.is_disjoint(&of_other), "{of_one:?} {of_other:?}");
        drop(one);
        let reused = some(&mut ports(folder.path()));
        assert!(!reused.is_disjoint(&of_one) && reused.is_disjoint(&of_other), "{reused:?}");
    }

    #[test]
    fn a_port_in_use_is_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let used = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let first = used.local_addr().unwrap().port();
        assert_ne!(Ports::new(folder.path().into(), first..u16::MAX).next().unwrap(), first);
    }
}

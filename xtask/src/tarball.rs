//! Archives as `.tar.gz`. The same content gives the same bytes: entries are sorted, and have no times and no owners.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    /// Its path below the folder that the archive unpacks to.
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
    pub(crate) is_program: bool,
}

impl Entry {
    pub(crate) fn file(path: impl Into<PathBuf>, content: Vec<u8>) -> Self {
        Self { path: path.into(), content, is_program: false }
    }

    pub(crate) fn program(path: impl Into<PathBuf>, content: Vec<u8>) -> Self {
        Self { path: path.into(), content, is_program: true }
    }
}

/// Writes an archive that unpacks to the folder `root`.
pub(crate) fn write(mut entries: Vec<Entry>, root: &str, archive: &Path) -> Result<()> {
    entries.sort();
    let written = || -> io::Result<()> {
        let mut tar = tar::Builder::new(GzBuilder::new().write(File::create(archive)?, Compression::best()));
        for Entry { path, content, is_program } in &entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(if *is_program { 0o755 } else { 0o644 });
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, Path::new(root).join(path), content.as_slice())?;
        }
        tar.into_inner()?.finish()?.sync_all()
    };
    written().with_context(|| format!("cannot write {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read};

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_same_content_gives_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let entries = [Entry::program("bin/b", vec![1]), Entry::file("a", vec![2, 3])];
        let archives = ["a.tar.gz", "b.tar.gz"].map(|name| folder.path().join(name));
        write(entries.to_vec(), "eticket-1", &archives[0]).unwrap();
        write(entries.into_iter().rev().collect(), "eticket-1", &archives[1]).unwrap();
        let [first, second] = archives.map(|archive| fs::read(archive).unwrap());
        assert!(first == second, "the order of the entries changes the archive");
        let mut tar = tar::Archive::new(GzDecoder::new(first.as_slice()));
        let mut found = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.mtime().unwrap(), header.uid().unwrap()), (0, 0));
            found.push((entry.path().unwrap().to_str().unwrap().to_owned(), header.mode().unwrap(), content));
        }
        let expected = [("eticket-1/a", 0o644, vec![2, 3]), ("eticket-1/bin/b", 0o755, vec![1])];
        assert_eq!(found, expected.map(|(path, mode, content)| (path.to_owned(), mode, content)));
    }
}

//! The archive of a release: everything that generates and configures a client, without a checkout and without a registry.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::tarball::{self, Entry};

/// What the archive contains, besides the descriptors: files and folders, below the folder of the contract.
const CONTENTS: [&str; 6] =
    ["buf.yaml", "buf.gen.yaml", "eticket", "service-config.json", "third_party/google", "third_party/grpc"];

/// Writes the archive of a contract.
pub(super) fn write(contract: &Path, descriptors: &[u8], license: &[u8], root: &str, archive: &Path) -> Result<()> {
    let mut entries =
        vec![Entry::file("LICENSE", license.to_vec()), Entry::file("eticket.binpb", descriptors.to_vec())];
    for name in CONTENTS {
        let path = contract.join(name);
        if path.is_dir() {
            let below = super::files_below(&path)?.into_iter();
            entries.extend(below.map(|(below, content)| Entry::file(Path::new(name).join(below), content)));
        } else {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            entries.push(Entry::file(name, content));
        }
    }
    tarball::write(entries, root, archive)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, path::PathBuf};

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn the_archive_has_everything_and_is_the_same_again() {
        let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
        let folder = tempfile::tempdir().unwrap();
        let archives = ["a.tar.gz", "b.tar.gz"].map(|name| folder.path().join(name));
        for archive in &archives {
            write(&contract, b"descriptors", b"license", "eticket-1", archive).unwrap();
        }
        let [first, second] = archives.map(|archive| fs::read(archive).unwrap());
        assert!(first == second, "two archives of the same contract differ");

        let mut tar = tar::Archive::new(GzDecoder::new(first.as_slice()));
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            assert_eq!((entry.header().mtime().unwrap(), entry.header().uid().unwrap()), (0, 0), "{name}");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if name == "eticket-1/eticket.binpb" {
                assert_eq!(content, b"descriptors");
            }
            names.push(PathBuf::from(name));
        }
        assert!(names.is_sorted(), "{names:?}");
        for name in [
            "LICENSE",
            "buf.gen.yaml",
            "buf.yaml",
            "eticket.binpb",
            "eticket/query/v1/query.proto",
            "service-config.json",
            "third_party/google/api/annotations.proto",
            "third_party/google/rpc/error_details.proto",
            "third_party/google/type/money.proto",
        ] {
            assert!(names.contains(&Path::new("eticket-1").join(name)), "{name} is missing in {names:?}");
        }
    }
}

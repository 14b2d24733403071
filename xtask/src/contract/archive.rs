//! The archive of a release: everything that generates and configures a client, without a checkout and without a registry.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// What the archive contains, besides the descriptors: files and folders, below the folder of the contract.
const CONTENTS: [&str; 6] =
    ["buf.yaml", "buf.gen.yaml", "eticket", "service-config.json", "third_party/google", "third_party/grpc"];

/// Writes the archive of a contract. The same content gives the same bytes: entries are sorted, and have no times and no owners.
pub(super) fn write(contract: &Path, descriptors: &[u8], license: &[u8], root: &str, archive: &Path) -> Result<()> {
    let mut files =
        vec![(PathBuf::from("LICENSE"), license.to_vec()), (PathBuf::from("eticket.binpb"), descriptors.to_vec())];
    for name in CONTENTS {
        let path = contract.join(name);
        if path.is_dir() {
            files.extend(
                super::files_below(&path)?.into_iter().map(|(below, content)| (Path::new(name).join(below), content)),
            );
        } else {
            files.push((name.into(), fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?));
        }
    }
    files.sort();
    let written = || -> std::io::Result<()> {
        let mut tar = tar::Builder::new(GzBuilder::new().write(File::create(archive)?, Compression::best()));
        for (name, content) in &files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, Path::new(root).join(name), content.as_slice())?;
        }
        tar.into_inner()?.finish()?.sync_all()
    };
    written().with_context(|| format!("cannot write {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

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

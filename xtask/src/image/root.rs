//! The root file system of the image.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tar::{Builder, EntryType, Header};

use super::USER;
use crate::command;

/// The binaries other than `eticket`.
const SERVERS: [&str; 5] = ["gateway", "pricing", "query", "reservation", "ticket"];
/// Authorities of servers on the internet, such as an identity provider.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is at a path.
pub(crate) enum Entry {
    Folder { user: u64 },
    File { mode: u32, content: Vec<u8> },
    Link { to: &'static str },
}

/// One layer of the image, by path without the first slash, in the order of the archive: a folder is before its files.
#[derive(Default)]
pub(crate) struct Layer(BTreeMap<String, Entry>);

impl Layer {
    /// The size of its files.
    pub(super) fn size(&self) -> u64 {
        let size = |entry: &Entry| if let Entry::File { content, .. } = entry { content.len() as u64 } else { 0 };
        self.0.values().map(size).sum()
    }

    pub(crate) fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert(Entry::Folder { user: 0 });
        }
        self.0.insert(path.to_owned(), entry);
    }

    pub(crate) fn add_file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(path, Entry::File { mode, content: content.into() });
    }

    /// Adds a program of this machine, and the shared libraries that it needs, at their paths here.
    pub(crate) fn add_program(&mut self, path: &str, program: &Path) -> Result<()> {
        let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        self.add_file(path, 0o755, content);
        self.add_libraries(program)
    }

    /// Adds the shared libraries that a program or library of this machine needs.
    pub(crate) fn add_libraries(&mut self, program: &Path) -> Result<()> {
        for library in libraries(program)? {
            let content = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
            self.add_file(library.to_str().context("paths of libraries are UTF-8")?, 0o755, content);
        }
        Ok(())
    }

    /// Returns the layer as a tar archive. Times are 0, so that the same files make the same bytes.
    pub(super) fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Builder::new(Vec::new());
        for (path, entry) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(0);
            match entry {
                Entry::Folder { user } => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_mode(0o755);
                    header.set_uid(*user);
                    header.set_gid(*user);
                    archive.append_data(&mut header, format!("{path}/"), &[][..])
                }
                Entry::File { mode, content } => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    archive.append_data(&mut header, path, &content[..])
                }
                Entry::Link { to } => {
                    header.set_entry_type(EntryType::Symlink);
                    header.set_mode(0o777);
                    archive.append_link(&mut header, path, to)
                }
            }
            .with_context(|| format!("cannot archive {path}"))?;
        }
        archive.into_inner().context("cannot finish the archive")
    }
}

/// Returns the layers: what rarely changes, and the program with its links.
pub(super) fn layers(program: &Path, sbom: &[u8]) -> Result<[Layer; 2]> {
    let mut base = Layer::default();
    base.add_libraries(program)?;
    let certificates = fs::read(CERTIFICATES)
        .with_context(|| format!("cannot read {CERTIFICATES}; install the package ca-certificates"))?;
    base.add_file(CERTIFICATES, 0o644, certificates);
    base.add_file("/etc/passwd", 0o644, format!("eticket:x:{USER}:{USER}:eticket:/data:/nonexistent\n"));
    base.add_file("/etc/group", 0o644, format!("eticket:x:{USER}:\n"));
    // As on Debian: names in /etc/hosts before those of DNS.
    base.add_file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n");
    base.add("/data", Entry::Folder { user: USER });
    base.add("/tmp", Entry::Folder { user: USER });

    let mut own = Layer::default();
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    own.add_file("/usr/local/bin/eticket", 0o755, content);
    for server in SERVERS {
        own.add(&format!("/usr/local/bin/eticket-{server}"), Entry::Link { to: "eticket" });
    }
    own.add_file("/usr/share/doc/eticket/sbom.cdx.json", 0o644, sbom);
    Ok([base, own])
}

/// Returns the shared libraries of the program, the dynamic loader among them; none of one that is linked statically.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let ran = command::captured(Command::new("ldd").arg(program))?;
    let listed = String::from_utf8_lossy(&ran.stdout);
    if format!("{listed}{}", String::from_utf8_lossy(&ran.stderr)).contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    ensure!(ran.status.success(), "ldd cannot read {}", program.display());
    ensure!(!listed.contains("not found"), "a library of {} is missing:\n{listed}", program.display());
    Ok(parse_libraries(&listed))
}

/// Reads lines such as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
fn parse_libraries(listed: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.rsplit("=>").next()?.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    };
    listed.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse_libraries(listed), expected);
    }

    #[test]
    fn an_archive_has_folders_before_their_files_and_no_time() {
        let mut layer = Layer::default();
        layer.add_file("/a/b/file", 0o644, "text");
        layer.add("/a/link", Entry::Link { to: "b" });
        layer.add("/data", Entry::Folder { user: USER });
        let bytes = layer.archive().expect("an archive");
        assert_eq!(bytes, layer.archive().expect("an archive"));
        let mut archive = tar::Archive::new(&bytes[..]);
        let entries = archive.entries().expect("entries").map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            assert_eq!(header.mtime().expect("a time"), 0);
            (entry.path().expect("a path").display().to_string(), header.uid().expect("a user"))
        });
        let expected = [("a/", 0), ("a/b/", 0), ("a/b/file", 0), ("a/link", 0), ("data/", USER)];
        assert_eq!(entries.collect::<Vec<_>>(), expected.map(|(path, user)| (path.to_owned(), user)));
    }
}

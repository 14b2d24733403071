//! The images of a cluster besides that of eTicket, made of programs of this machine: no registry is needed.
//!
//! Those that the chart names have the names and the interfaces of the official images.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::image::{
    oci::{self, Image},
    root::{Entry, Layer},
};

/// Programs that are built for the tests.
pub(super) struct Sources<'a> {
    /// Folder with the programs of Kubernetes.
    pub(super) programs: &'a Path,
    pub(super) nats_server: &'a Path,
    pub(super) grpcurl: &'a Path,
}

/// As in the chart: `demo.postgresql.runAsUser`.
const POSTGRES_USER: u64 = 999;
/// The interface of the official image, as far as the chart uses it.
const POSTGRES_ENTRYPOINT: &str = r#"#!/bin/sh
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --pgdata="$PGDATA" --username="$POSTGRES_USER" --auth="$POSTGRES_HOST_AUTH_METHOD" --encoding=UTF8 --no-locale
  echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >> "$PGDATA/pg_hba.conf"
  echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres
fi
exec postgres -D "$PGDATA" -c "listen_addresses=*" -c unix_socket_directories=/var/run/postgresql
"#;

/// Writes the archives into a folder.
pub(super) fn write(folder: &Path, sources: &Sources<'_>) -> Result<()> {
    let mut pause = Layer::default();
    pause.add_program("/usr/bin/sleep", Path::new("/usr/bin/sleep"))?;
    let plain = Image {
        name: "eticket.test/pause",
        tag: "1",
        user: 0,
        folder: "/",
        path: "/usr/bin:/bin",
        entrypoint: &["/usr/bin/sleep", "infinity"],
        command: &[],
        labels: json!({}),
        created: "1970-01-01T00:00:00Z",
    };
    save(folder, "pause", &pause, &plain)?;
    let own = |name: &'static str, entrypoint: &'static [&'static str]| Image {
        name,
        entrypoint,
        labels: json!({}),
        ..plain
    };
    let program = |program: &Path, path: &str| {
        let mut layer = Layer::default();
        layer.add_program(path, program).map(|()| layer)
    };
    let dns = program(&sources.programs.join("dns"), "/dns")?;
    save(folder, "dns", &dns, &own("eticket.test/dns", &["/dns"]))?;
    let metrics = program(&sources.programs.join("metrics-server"), "/metrics-server")?;
    save(folder, "metrics-server", &metrics, &own("eticket.test/metrics-server", &["/metrics-server"]))?;
    let nats = program(sources.nats_server, "/nats-server")?;
    let image = Image { tag: "2.12.3-alpine", ..own("docker.io/library/nats", &["/nats-server"]) };
    save(folder, "nats", &nats, &image)?;
    let mut test = program(sources.grpcurl, "/usr/bin/grpcurl")?;
    for tool in ["sh", "sed", "head", "date", "sleep"] {
        add_tool(&mut test, tool)?;
    }
    let image = Image { tag: "v1.9.3-alpine", ..own("docker.io/fullstorydev/grpcurl", &["grpcurl"]) };
    save(folder, "grpcurl", &test, &image)?;
    let (layer, programs) = postgres()?;
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let image = Image {
        tag: "17.6-bookworm",
        user: POSTGRES_USER,
        path: &path,
        ..own("docker.io/library/postgres", &["/docker-entrypoint.sh"])
    };
    save(folder, "postgres", &layer, &image)
}

fn save(folder: &Path, name: &str, layer: &Layer, image: &Image<'_>) -> Result<()> {
    let path = folder.join(format!("{name}.tar"));
    let archive = oci::archive(std::slice::from_ref(layer), image)?;
    fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))
}

fn add_tool(layer: &mut Layer, tool: &str) -> Result<()> {
    let found =
        ["/usr/bin", "/bin"].map(|folder| PathBuf::from(folder).join(tool)).into_iter().find(|file| file.exists());
    let program = found.with_context(|| format!("{tool} is not installed"))?;
    layer.add_program(&format!("/bin/{tool}"), &program)
}

/// Returns the files of PostgreSQL, and the folder of its programs.
fn postgres() -> Result<(Layer, PathBuf)> {
    let programs = eticket_local_servers::postgres::programs()?;
    let mut layer = Layer::default();
    for tool in ["sh", "locale"] {
        add_tool(&mut layer, tool)?;
    }
    for name in ["postgres", "initdb", "pg_isready", "psql"] {
        let program = programs.join(name);
        layer.add_program(program.to_str().context("paths of programs are UTF-8")?, &program)?;
    }
    let version = programs.parent().and_then(Path::file_name).context("programs are in VERSION/bin")?;
    let libraries = programs.with_file_name("lib");
    // The compiler for queries is large, and off by default for small ones.
    add_tree(&mut layer, &libraries, &|file| {
        !file.to_string_lossy().contains("llvm") && !file.to_string_lossy().contains("bitcode")
    })?;
    add_tree(&mut layer, &Path::new("/usr/share/postgresql").join(version), &|_| true)?;
    add_tree(&mut layer, Path::new("/usr/share/zoneinfo/Etc"), &|_| true)?;
    for zone in ["UTC", "GMT"] {
        let path = format!("/usr/share/zoneinfo/{zone}");
        layer.add_file(&path, 0o644, fs::read(&path).with_context(|| format!("cannot read {path}"))?);
    }
    layer.add_file("/docker-entrypoint.sh", 0o755, POSTGRES_ENTRYPOINT);
    layer.add_file(
        "/etc/passwd",
        0o644,
        format!("postgres:x:{POSTGRES_USER}:{POSTGRES_USER}:postgres:/var/lib/postgresql:/bin/sh\n"),
    );
    layer.add_file("/etc/group", 0o644, format!("postgres:x:{POSTGRES_USER}:\n"));
    for folder in ["/var/lib/postgresql/data", "/var/run/postgresql", "/tmp"] {
        layer.add(folder, Entry::Folder { user: POSTGRES_USER });
    }
    Ok((layer, programs))
}

/// Adds the files below a folder, links as the files that they lead to.
fn add_tree(layer: &mut Layer, folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if !wanted(&path) {
            continue;
        }
        if path.is_dir() {
            add_tree(layer, &path, wanted)?;
        } else {
            let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            layer.add_file(path.to_str().context("paths are UTF-8")?, 0o755, content);
        }
    }
    Ok(())
}

//! The archive of an image, by the OCI image layout specification 1.0.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use super::root::Layer;

/// An image without its files.
pub(crate) struct Image<'a> {
    /// The name without the tag: `docker.io/library/eticket`.
    pub(crate) name: &'a str,
    pub(crate) tag: &'a str,
    /// The user of the processes.
    pub(crate) user: u64,
    /// The first folder of the processes.
    pub(crate) folder: &'a str,
    /// The folders of programs, as in `PATH`.
    pub(crate) path: &'a str,
    /// Starts each container; the command of the container follows. May be empty.
    pub(crate) entrypoint: &'a [&'a str],
    /// The command of a container that names none.
    pub(crate) command: &'a [&'a str],
    pub(crate) labels: Value,
    /// A time in RFC 3339.
    pub(crate) created: &'a str,
}

/// Returns the name of this machine's architecture in an image.
pub(super) fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image for {other}: use x86-64 or arm64 with Linux"),
    }
}

pub(super) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content that is stored under its digest.
struct Blob {
    media_type: &'static str,
    content: Vec<u8>,
}

impl Blob {
    fn json(media_type: &'static str, value: &Value) -> Self {
        Self { media_type, content: value.to_string().into_bytes() }
    }

    fn descriptor(&self) -> Value {
        let digest = format!("sha256:{}", sha256(&self.content));
        json!({ "mediaType": self.media_type, "digest": digest, "size": self.content.len() })
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", sha256(&self.content))
    }
}

/// Returns the archive of an image with these layers.
pub(crate) fn archive(layers: &[Layer], image: &Image<'_>) -> Result<Vec<u8>> {
    let mut digests = Vec::new();
    let mut blobs = Vec::new();
    for layer in layers {
        let archive = layer.archive()?;
        digests.push(format!("sha256:{}", sha256(&archive)));
        // Without a name and a time in its header.
        let mut compressed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        compressed.write_all(&archive).context("cannot compress a layer")?;
        let content = compressed.finish().context("cannot compress a layer")?;
        blobs.push(Blob { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", content });
    }
    let config = Blob::json("application/vnd.oci.image.config.v1+json", &config(&digests, image)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(),
        "layers": blobs.iter().map(Blob::descriptor).collect::<Vec<_>>(),
    });
    let manifest = Blob::json("application/vnd.oci.image.manifest.v1+json", &manifest);
    let mut described = manifest.descriptor();
    described["platform"] = json!({ "architecture": architecture()?, "os": "linux" });
    // containerd takes the first name, podman and docker the second one.
    described["annotations"] = json!({
        "io.containerd.image.name": format!("{}:{}", image.name, image.tag),
        "org.opencontainers.image.ref.name": image.tag,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [described],
    });
    let mut files = vec![
        ("oci-layout".to_owned(), json!({ "imageLayoutVersion": "1.0.0" }).to_string().into_bytes()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
    ];
    blobs.extend([config, manifest]);
    files.extend(blobs.into_iter().map(|blob| (blob.path(), blob.content)));
    pack(&files)
}

fn config(digests: &[String], image: &Image<'_>) -> Result<Value> {
    let created = image.created;
    Ok(json!({
        "architecture": architecture()?,
        "os": "linux",
        "created": created,
        "config": {
            "User": image.user.to_string(),
            "WorkingDir": image.folder,
            "Env": [format!("PATH={}", image.path)],
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "StopSignal": "SIGTERM",
            "Labels": image.labels,
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
        "history": digests.iter().map(|_| json!({ "created": created, "created_by": "cargo xtask image" }))
            .collect::<Vec<_>>(),
    }))
}

fn pack(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, &content[..]).with_context(|| format!("cannot archive {path}"))?;
    }
    archive.into_inner().context("cannot finish the archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_input_makes_the_same_archive() {
        let layers = [Layer::default(), Layer::default()];
        let image = |version| Image {
            name: "docker.io/library/eticket",
            tag: version,
            user: 1,
            folder: "/",
            path: "/bin",
            entrypoint: &[],
            command: &["eticket"],
            labels: json!({ "org.opencontainers.image.version": version }),
            created: "2026-01-02T03:04:05+00:00",
        };
        let bytes = archive(&layers, &image("1.2.3")).expect("an archive");
        assert_eq!(bytes, archive(&layers, &image("1.2.3")).expect("an archive"));
        assert_ne!(bytes, archive(&layers, &image("1.2.4")).expect("an archive"), "the version is in the labels");
    }
}

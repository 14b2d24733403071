//! The archive of an image, by the OCI image layout specification 1.0.

use std::io::Write as _;

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use super::{USER, root::Layer};

/// What the labels of the image say.
pub(super) struct About<'a> {
    pub(super) version: &'a str,
    /// The commit.
    pub(super) revision: &'a str,
    /// The time of the commit, in RFC 3339.
    pub(super) created: &'a str,
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
pub(super) fn archive(layers: &[Layer], about: &About<'_>) -> Result<Vec<u8>> {
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
    let config = Blob::json("application/vnd.oci.image.config.v1+json", &config(&digests, about)?);
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
        "io.containerd.image.name": format!("docker.io/library/eticket:{}", about.version),
        "org.opencontainers.image.ref.name": about.version,
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

fn config(digests: &[String], about: &About<'_>) -> Result<Value> {
    let labels = json!({
        "org.opencontainers.image.title": "eticket",
        "org.opencontainers.image.description": "Reserves tickets: a gRPC service mesh with a gateway",
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        "org.opencontainers.image.version": about.version,
        "org.opencontainers.image.revision": about.revision,
        "org.opencontainers.image.created": about.created,
    });
    Ok(json!({
        "architecture": architecture()?,
        "os": "linux",
        "created": about.created,
        "config": {
            "User": USER.to_string(),
            "WorkingDir": "/data",
            "Env": ["PATH=/usr/local/bin"],
            "Cmd": ["eticket"],
            "StopSignal": "SIGTERM",
            "Labels": labels,
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
        "history": digests.iter().map(|_| json!({ "created": about.created, "created_by": "cargo xtask image" }))
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
        let about = About { version: "1.2.3", revision: "abc", created: "2026-01-02T03:04:05+00:00" };
        let bytes = archive(&layers, &about).expect("an archive");
        assert_eq!(bytes, archive(&layers, &about).expect("an archive"));
        let other = About { version: "1.2.4", ..about };
        assert_ne!(bytes, archive(&layers, &other).expect("an archive"), "the version is in the labels");
    }
}

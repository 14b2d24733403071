//! A key and tokens for development and tests. Production takes both from an identity provider.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use eticket_base::config::regular_file;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The key cannot be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not a key of [`DevelopmentKey::open`].
    #[error("{0} is not an Ed25519 key; remove it to get a new one")]
    NotAKey(PathBuf),
    /// The token cannot be signed.
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// The usual `iss` of development tokens.
pub const ISSUER: &str = "eticket-development";
/// The usual `aud` of development tokens.
pub const AUDIENCE: &str = "eticket";

/// An Ed25519 key in two files of a folder: `development-key.pem`, and `jwks.json` with the public part for `auth.jwks`.
pub struct DevelopmentKey {
    id: String,
    encoding: EncodingKey,
    jwks: PathBuf,
}

/// The claims of a token.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// `sub`.
    pub subject: String,
    /// `eticket_roles`.
    pub roles: Vec<String>,
    /// `eticket_grade`.
    pub grade: Option<String>,
    /// `iss`.
    pub issuer: String,
    /// `aud`.
    pub audience: String,
    /// From now until `exp`.
    pub lifetime: Duration,
}

#[derive(Serialize)]
struct Body<'a> {
    sub: &'a str,
    eticket_roles: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    eticket_grade: Option<&'a str>,
    iss: &'a str,
    aud: &'a str,
    iat: u64,
    exp: u64,
}

impl DevelopmentKey {
    /// Reads the key of a folder, or makes one.
    ///
    /// # Errors
    /// If a file cannot be read or written, or is not a key.
    pub fn open(folder: &Path) -> Result<Self, KeyError> {
        let (path, jwks) = (folder.join("development-key.pem"), folder.join("jwks.json"));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::File { path, source }
        };
        let not_a_key = || KeyError::NotAKey(path.clone());
        let pkcs8 = match regular_file::read(&path) {
            Ok(text) => str::from_utf8(&text).ok().and_then(from_pem).ok_or_else(not_a_key)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                let made = made.map_err(|_| KeyError::Sign("no random numbers".to_owned()))?.as_ref().to_vec();
                fs::create_dir_all(folder).map_err(at(folder))?;
                write_secret(&path, &to_pem(&made)).map_err(at(&path))?;
                made
            }
            Err(error) => return Err(at(&path)(error)),
        };
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| not_a_key())?;
        let x = BASE64_URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let id = BASE64_URL_SAFE_NO_PAD.encode(&Sha256::digest(&x)[..9]);
        let document = serde_json::json!({
            "keys": [{ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": x }]
        });
        let document = format!("{document:#}\n");
        if fs::read_to_string(&jwks).ok().as_deref() != Some(&document) {
            fs::write(&jwks, document).map_err(at(&jwks))?;
        }
        Ok(Self { id, encoding: EncodingKey::from_ed_der(&pkcs8), jwks })
    }

    /// The file with the public key, for `auth.jwks`.
    #[must_use]
    pub fn jwks(&self) -> &Path {
        &self.jwks
    }

    /// Signs a token.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign(&self, token: &NewToken) -> Result<String, KeyError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let body = Body {
            sub: &token.subject,
            eticket_roles: &token.roles,
            eticket_grade: token.grade.as_deref(),
            iss: &token.issuer,
            aud: &token.audience,
            iat: now,
            exp: now.saturating_add(token.lifetime.as_secs()),
        };
        self.sign_claims(&body)
    }

    /// Signs any claims, such as those of a token that must be refused.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign_claims(&self, claims: &impl Serialize) -> Result<String, KeyError> {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|error| KeyError::Sign(error.to_string()))
    }
}

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

fn to_pem(pkcs8: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(pkcs8);
    let mut pem = format!("{BEGIN}\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str(END);
    pem.push('\n');
    pem
}

fn from_pem(text: &str) -> Option<Vec<u8>> {
    let body = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64_STANDARD.decode(body.split_whitespace().collect::<String>()).ok()
}

fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

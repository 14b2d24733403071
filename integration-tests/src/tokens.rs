//! An identity provider for tests: keys in files, and tokens good and bad.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use eticket_auth::development::{DevelopmentKey, NewToken};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Request, metadata::AsciiMetadataValue};

use crate::process::Launch;

pub const ISSUER: &str = "https://id.test";
pub const AUDIENCE: &str = "eticket-test";

/// The key of the servers under test, and another that they do not know.
pub struct IdentityProvider {
    key: DevelopmentKey,
    stranger: DevelopmentKey,
    _folder: TempDir,
}

impl Default for IdentityProvider {
    fn default() -> Self {
        let folder = TempDir::new().expect("a folder");
        let key = |name: &str| DevelopmentKey::open(&folder.path().join(name)).expect("a key");
        Self { key: key("known"), stranger: key("stranger"), _folder: folder }
    }
}

impl IdentityProvider {
    /// The file of the public key.
    pub fn jwks(&self) -> &Path {
        self.key.jwks()
    }

    /// The file of the private key.
    pub fn private_key(&self) -> PathBuf {
        self.jwks().with_file_name("development-key.pem")
    }

    /// Makes a server demand tokens of this provider.
    #[must_use]
    pub fn demanded_by(&self, launch: Launch) -> Launch {
        launch
            .key("auth.mode", "jwt")
            .key("auth.jwks", self.jwks().to_str().expect("UTF-8"))
            .key("auth.issuer", ISSUER)
            .key("auth.audience", AUDIENCE)
    }

    /// A valid token.
    pub fn token(&self, user: &str, role: &str, grade: Option<&str>) -> String {
        let token = NewToken {
            subject: user.to_owned(),
            roles: vec![role.to_owned()],
            grade: grade.map(str::to_owned),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            lifetime: Duration::from_secs(3600),
        };
        self.key.sign(&token).expect("a token")
    }

    /// A token of a user with some claims replaced.
    pub fn with_claims(&self, changed: &Value) -> String {
        self.key.sign_claims(&claims(changed)).expect("a token")
    }

    /// A token with a valid form, signed by somebody else.
    pub fn of_a_stranger(&self) -> String {
        self.stranger.sign_claims(&claims(&json!({}))).expect("a token")
    }
}

/// A token that is signed with the provider's public key as the secret of HS256, for a verifier that lets the token
/// choose the algorithm.
pub fn signed_with_public_key(provider: &IdentityProvider) -> String {
    let text = fs::read_to_string(provider.jwks()).expect("the file of the keys");
    let key: Value = serde_json::from_str(&text).expect("JSON");
    let key = &key["keys"][0];
    let [id, public] = ["kid", "x"].map(|name| key[name].as_str().expect("text").to_owned());
    let secret = BASE64_URL_SAFE_NO_PAD.decode(public).expect("base64");
    let header = Header { kid: Some(id), ..Header::new(Algorithm::HS256) };
    let secret = EncodingKey::from_secret(&secret).expect("a secret");
    jsonwebtoken::encode(&header, &claims(&json!({ "eticket_roles": ["admin"] })), &secret).expect("a token")
}

/// Now plus some seconds, as in `exp`.
pub fn in_seconds(seconds: i64) -> i64 {
    chrono::Utc::now().timestamp() + seconds
}

fn claims(changed: &Value) -> Value {
    let mut claims = json!({
        "sub": "user-1", "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(3600), "eticket_roles": ["user"],
    });
    for (name, value) in changed.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// A token without a signature.
pub fn unsigned() -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(&claims(&json!({}))))
}

/// Puts a token into a request.
pub fn with_token<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    let value: AsciiMetadataValue = format!("Bearer {token}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}

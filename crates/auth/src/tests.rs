//! Tests of tokens: what is accepted, what is refused, and how keys are followed.

mod fuzz;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use axum::{Router, routing::get};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    TokenError, Verifier,
    config::{AuthConfig, AuthMode},
    development::{DevelopmentKey, NewToken},
};

const ISSUER: &str = "https://id.example";
const AUDIENCE: &str = "eticket";

fn config(jwks: &str) -> AuthConfig {
    AuthConfig {
        mode: Some(AuthMode::Jwt),
        jwks: Some(jwks.to_owned()),
        issuer: Some(ISSUER.to_owned()),
        audience: Some(AUDIENCE.to_owned()),
        ..AuthConfig::default()
    }
}

fn new_token() -> NewToken {
    NewToken {
        subject: "kim".to_owned(),
        roles: vec!["user".to_owned()],
        grade: Some("VIP".to_owned()),
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        lifetime: Duration::from_secs(60),
    }
}

/// A verifier that has read its keys.
async fn verifier(config: &AuthConfig) -> Verifier {
    let verifier = Verifier::start(config).expect("a valid section");
    // A token without meaning: it makes the verifier read its keys.
    verifier.verify_with_new_keys("").await.expect_err("no token");
    verifier
}

/// A key that is not used by the product, of each kind.
struct Signer {
    algorithm: Algorithm,
    encoding: EncodingKey,
    jwk: Value,
}

fn base64(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn ed25519() -> Signer {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("a key");
    let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(pair.public_key().as_ref()) });
    Signer { algorithm: Algorithm::EdDSA, encoding: EncodingKey::from_ed_der(pkcs8.as_ref()), jwk }
}

fn es256() -> Signer {
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("a key");
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("a key");
    let point = &pair.public_key().as_ref()[1..];
    let (x, y) = (base64(&point[..32]), base64(&point[32..]));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "es", "use": "sig", "x": x, "y": y });
    Signer { algorithm: Algorithm::ES256, encoding: EncodingKey::from_ec_der(pkcs8.as_ref()), jwk }
}

fn rs256() -> Signer {
    let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
    let (n, e) = (base64(n.big_endian_without_leading_zero()), base64(e.big_endian_without_leading_zero()));
    let jwk = json!({ "kty": "RSA", "alg": "RS256", "kid": "rs", "n": n, "e": e });
    let pkcs8 = pair.as_der().expect("a key");
    // PKCS#8 wraps the PKCS#1 key; for 2048 bits the wrapper has 26 bytes.
    Signer { algorithm: Algorithm::RS256, encoding: EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]), jwk }
}

impl Signer {
    fn header(&self) -> Header {
        Header { kid: self.jwk["kid"].as_str().map(str::to_owned), ..Header::new(self.algorithm) }
    }

    fn sign(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.encoding).expect("a token")
    }
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

fn claims() -> Value {
    json!({ "sub": "kim", "iss": ISSUER, "aud": ["other", AUDIENCE], "exp": now() + 60 })
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn without(key: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().expect("an object").remove(key);
    claims
}

fn jwks_file(keys: &[&Value]) -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("jwks.json");
    fs::write(&path, json!({ "keys": keys }).to_string()).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

#[tokio::test]
async fn tokens_of_each_algorithm_are_accepted() {
    let signers = [ed25519(), es256(), rs256()];
    let (_folder, path) = jwks_file(&[&signers[0].jwk, &signers[1].jwk, &signers[2].jwk]);
    let verifier = verifier(&config(&path)).await;
    for signer in &signers {
        let found = verifier.verify(&signer.sign(&signer.header(), &claims()));
        assert_eq!(found.as_deref().map(crate::Claims::subject), Ok("kim"), "{:?}", signer.algorithm);
        let no_id = Header::new(signer.algorithm);
        assert!(verifier.verify(&signer.sign(&no_id, &claims())).is_ok(), "the only key for {:?}", signer.algorithm);
    }
}

#[tokio::test]
async fn each_wrong_claim_is_refused_by_its_reason() {
    let signer = ed25519();
    let (_folder, path) = jwks_file(&[&signer.jwk]);
    let verifier = verifier(&config(&path)).await;
    let cases = [
        (with("exp", json!(now() - 31)), TokenError::Expired),
        (with("nbf", json!(now() + 40)), TokenError::NotYetValid),
        (with("iss", json!("https://other.example")), TokenError::Issuer),
        (with("aud", json!("other")), TokenError::Audience),
        (without("exp"), TokenError::Claims),
        (without("iss"), TokenError::Claims),
        (without("aud"), TokenError::Claims),
        (without("sub"), TokenError::Claims),
        (with("sub", json!("")), TokenError::Claims),
        (with("eticket_roles", json!("admin")), TokenError::Claims),
        (with("eticket_grade", json!(1)), TokenError::Claims),
    ];
    for (claims, expected) in cases {
        let refused = verifier.verify(&signer.sign(&signer.header(), &claims));
        assert_eq!(refused.expect_err("refused"), expected, "{claims}");
    }
    for claims in [with("exp", json!(now() - 20)), with("nbf", json!(now() + 20)), with("exp", json!(1e300))] {
        let found = verifier.verify(&signer.sign(&signer.header(), &claims));
        assert!(found.is_ok() || claims["exp"] == json!(1e300), "within the leeway: {claims}");
    }
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let (signer, stranger, rsa) = (ed25519(), ed25519(), rs256());
    let (_folder, path) = jwks_file(&[&signer.jwk, &rsa.jwk]);
    let verifier = verifier(&config(&path)).await;
    let refused = |token: &str| verifier.verify(token).expect_err("refused");
    assert_eq!(refused(&stranger.sign(&signer.header(), &claims())), TokenError::Signature);
    let unknown = Header { kid: Some("unknown".to_owned()), ..signer.header() };
    assert_eq!(refused(&signer.sign(&unknown, &claims())), TokenError::UnknownKey);
    // The public key as the secret of a symmetric algorithm.
    for (kid, public) in [("ed", &signer.jwk["x"]), ("rs", &rsa.jwk["n"])] {
        let secret = BASE64_URL_SAFE_NO_PAD.decode(public.as_str().expect("a key")).expect("base64");
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret).expect("a key"))
            .expect("a token");
        assert_eq!(refused(&token), TokenError::Algorithm);
    }
    // The key is for another algorithm than the token names.
    let other = Header { kid: Some("ed".to_owned()), ..rsa.header() };
    assert_eq!(refused(&rsa.sign(&other, &claims())), TokenError::UnknownKey);
    let critical = Header { crit: Some(vec!["b64".to_owned()]), ..signer.header() };
    assert_eq!(refused(&signer.sign(&critical, &claims())), TokenError::Malformed);
    // The library understands this extension; a JWT does not need it (RFC 7797, 7).
    let mut understood = critical.clone();
    understood.extras.insert("b64", true);
    assert_eq!(refused(&signer.sign(&understood, &claims())), TokenError::Malformed);
    let part = |value: &Value| base64(value.to_string().as_bytes());
    let unsigned = format!("{}.{}.", part(&json!({ "alg": "none", "typ": "JWT" })), part(&claims()));
    assert!(matches!(refused(&unsigned), TokenError::Algorithm | TokenError::Malformed));
    for garbage in ["", ".", "..", "a.b.c", "한국", &"x".repeat(20_000)] {
        assert_eq!(refused(garbage), TokenError::Malformed, "{garbage:.10}");
    }
    let mut altered = signer.sign(&signer.header(), &claims());
    assert!(verifier.verify(&altered).is_ok());
    altered.pop();
    assert!(verifier.verify(&altered).is_err(), "a token that resembles a checked one");
}

#[tokio::test]
async fn a_checked_token_expires() {
    let signer = ed25519();
    let (_folder, path) = jwks_file(&[&signer.jwk]);
    let verifier = verifier(&config(&path)).await;
    let token = signer.sign(&signer.header(), &with("exp", json!(now() - 29)));
    assert!(verifier.verify(&token).is_ok());
    let expired = async {
        while verifier.verify(&token).is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        verifier.verify(&token)
    };
    let expired = tokio::time::timeout(Duration::from_secs(10), expired).await.expect("it expires");
    assert_eq!(expired.expect_err("expired"), TokenError::Expired);
}

#[tokio::test]
async fn keys_are_exchanged_without_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let old = DevelopmentKey::open(&folder.path().join("old")).expect("a key");
    let new = DevelopmentKey::open(&folder.path().join("new")).expect("a key");
    let path = folder.path().join("jwks.json");
    fs::copy(old.jwks(), &path).expect("copied");
    let verifier = verifier(&config(path.to_str().expect("UTF-8"))).await;
    let (before, after) = (old.sign(&new_token()).expect("a token"), new.sign(&new_token()).expect("a token"));
    assert!(verifier.verify(&before).is_ok());
    fs::write(&path, "{ half").expect("written");
    verifier.shared_refresh().await;
    assert!(verifier.verify(&before).is_ok(), "the old keys stay in force");
    fs::copy(new.jwks(), &path).expect("copied");
    assert_eq!(verifier.verify(&after).expect_err("not read yet"), TokenError::UnknownKey);
    verifier.shared_refresh().await;
    let claims = verifier.verify(&after).expect("the new key is in force");
    assert!(claims.has_role("user") && !claims.has_role("admin"));
    assert_eq!(claims.grade(), Some("VIP"));
    assert_eq!(verifier.verify(&before).expect_err("its key is gone"), TokenError::UnknownKey);
}

#[tokio::test]
async fn unknown_keys_ask_the_url_at_a_bounded_rate() {
    let key = ed25519();
    let document = json!({ "keys": [key.jwk] }).to_string();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let answer = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(document.clone())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    let server = tokio::spawn(async { axum::serve(listener, Router::new().route("/jwks", get(answer))).await });
    let verifier = verifier(&config(&url)).await;
    let token = key.sign(&key.header(), &claims());
    assert!(verifier.verify(&token).is_ok());
    let stranger = ed25519();
    let unknown = Header { kid: Some("unknown".to_owned()), ..stranger.header() };
    let unknown = stranger.sign(&unknown, &claims());
    for _ in 0..100 {
        assert_eq!(verifier.verify_with_new_keys(&unknown).await.expect_err("unknown"), TokenError::UnknownKey);
    }
    assert!(asked.load(Ordering::SeqCst) < 10, "asked {} times", asked.load(Ordering::SeqCst));
    server.abort();
    server.await.expect_err("aborted");
    verifier.shared_refresh().await;
    assert!(verifier.verify(&token).is_ok(), "the keys stay in force while the URL does not respond");
}

#[tokio::test]
async fn without_keys_the_token_is_not_blamed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    drop(listener);
    let verifier = verifier(&config(&url)).await;
    let key = ed25519();
    assert_eq!(verifier.verify(&key.sign(&key.header(), &claims())).expect_err("no keys"), TokenError::NoKeys);
}

#[test]
fn documents_without_a_usable_key_are_refused() {
    let signer = es256();
    let mut for_encryption = signer.jwk.clone();
    for_encryption["use"] = json!("enc");
    let mut for_another = signer.jwk.clone();
    for_another["alg"] = json!("ES384");
    let symmetric = json!({ "kty": "oct", "alg": "HS256", "k": "c2VjcmV0" });
    for keys in
        [json!([]), json!([for_encryption]), json!([for_another]), json!([symmetric]), json!([{ "kty": "new" }])]
    {
        assert!(crate::keys::Keys::parse(json!({ "keys": keys }).to_string().as_bytes()).is_err(), "{keys}");
    }
    for text in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert!(crate::keys::Keys::parse(text.as_bytes()).is_err(), "{text}");
    }
    let mixed = json!({ "keys": [{ "kty": "new" }, symmetric, signer.jwk] });
    assert!(crate::keys::Keys::parse(mixed.to_string().as_bytes()).is_ok(), "others are skipped");
}

#[test]
fn a_development_key_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = fs::read(DevelopmentKey::open(folder.path()).expect("made").jwks()).expect("written");
    let again = fs::read(DevelopmentKey::open(folder.path()).expect("read").jwks()).expect("written");
    assert_eq!(first, again);
    let key = folder.path().join("development-key.pem");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    fs::write(&key, "nothing").expect("written");
    assert!(DevelopmentKey::open(folder.path()).is_err());
    // Reading a FIFO would wait for a writer.
    fs::remove_file(&key).expect("removed");
    assert!(std::process::Command::new("mkfifo").arg(&key).status().expect("a FIFO").success());
    let refused = DevelopmentKey::open(folder.path()).err().expect("refused").to_string();
    assert!(refused.contains("development-key.pem"), "{refused}");
}

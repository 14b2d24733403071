//! Authentication, permissions and TLS.

use std::{fs, path::Path};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use serde_json::Value;

use super::*;

async fn works(bus: &Nats) {
    bus.publish(message("x", 1)).await.unwrap();
    let mut consumer = bus.attach("works", &["eticket.v1.a.*"]).await.unwrap();
    assert_eq!(in_time(consumer.next(1)).await.unwrap().len(), 1);
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_token_or_user_grants_access() {
    let node = server::Nats::start_with("authorization { token: \"t0ken/@,%\" }").unwrap();
    works(&open(&format!("nats://t0ken%2F%40%2C%25@127.0.0.1:{}", node.port()))).await;

    let node = server::Nats::start_with("authorization { user: \"the user\", password: \"s3c:ret\" }").unwrap();
    works(&open(&format!("nats://the%20user:s3c:ret@127.0.0.1:{}", node.port()))).await;
    for login in ["", "token@", "the%20user:secr3t@"] {
        let bounds = Bounds { first_connection: Duration::ZERO, ..SOON };
        let bus = Nats::open_with(&config(&format!("nats://{login}127.0.0.1:{}", node.port())), bounds).unwrap();
        let text = eventually("the reason", async || {
            Some(unavailable_text(bus.state().await)).filter(|words| words.contains("authorization violation"))
        });
        let text = text.await;
        assert!(text.contains("token in bus.url"), "{text}");
        assert!(!text.contains("secr3t") && !text.contains("token@"), "{text}");
    }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn missing_permissions_are_named() {
    let user = |name: &str, publish: &str| {
        format!("{{ user: {name}, password: p, permissions: {{ publish: [{publish}], subscribe: \"_INBOX.>\" }} }}")
    };
    let lines = [
        user("nothing", "\"other\""),
        user("reads", "\"$JS.API.>\", \"$JS.ACK.>\""),
        user("all", "\"eticket.v1.>\", \"$JS.API.>\", \"$JS.ACK.>\""),
        "{ user: deaf, password: p, permissions: { publish: \">\", subscribe: \"other\" } }".to_owned(),
    ];
    let node = server::Nats::start_with(&format!("authorization {{ users: [ {} ] }}", lines.join(", "))).unwrap();
    let as_user = |name: &str| open(&format!("nats://{name}:p@127.0.0.1:{}", node.port()));
    let all = as_user("all");
    works(&all).await;
    // Only the comparison needs more permissions.
    let text = unavailable_text(in_time(all.request("ticket", Bytes::new())).await);
    assert!(text.contains("eticket.audit.v1.ticket"), "{text}");
    drop(all.serve("ticket").await.unwrap());
    works(&all).await;
    let reads = as_user("reads");
    reads.state().await.unwrap();
    for (text, subject) in [
        (unavailable_text(as_user("nothing").state().await), "$JS.API.STREAM.INFO.ETICKET"),
        (unavailable_text(reads.publish(message("x", 1)).await), "eticket.v1.a.x"),
        (unavailable_text(as_user("deaf").state().await), "_INBOX."),
    ] {
        assert!(text.contains("Permissions Violation") && text.contains(subject), "{text}");
        assert!(text.contains("publish to eticket.v1.>"), "{text}");
    }
}

/// Encodes a NATS JWT for the key `of`, signed by `by`.
fn token(by: &KeyPair, of: &KeyPair, kind: &str, mut nats: Value) -> String {
    (nats["type"], nats["version"]) = (json!(kind), json!(2));
    let claims = json!({
        "jti": "test", "iat": 1_700_000_000, "iss": by.public_key(), "sub": of.public_key(), "name": kind, "nats": nats,
    });
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(json!({ "typ": "JWT", "alg": "ed25519-nkey" })), encode(claims));
    let signature = by.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_credentials_file_grants_access() {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let (system, account) = (KeyPair::new_account(), KeyPair::new_account());
    let everything = json!({
        "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "wildcards": true,
    });
    let mut limits = everything.clone();
    for key in ["mem_storage", "disk_storage", "streams", "consumer"] {
        limits[key] = json!(-1);
    }
    let lines = format!(
        "operator: {}\nsystem_account: {system_name}\nresolver: MEMORY\nresolver_preload: {{ {system_name}: {}, {}: {} }}",
        token(&operator, &operator, "operator", json!({})),
        token(&operator, &system, "account", json!({ "limits": everything })),
        account.public_key(),
        token(&operator, &account, "account", json!({ "limits": limits })),
        system_name = system.public_key(),
    );
    let node = server::Nats::start_with(&lines).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus.creds");
    let config = BusConfig { credentials: Some(path.clone()), ..config(&node.url()) };
    let bus = Nats::open_with(&config, Bounds { first_connection: Duration::ZERO, ..SOON }).unwrap();
    eventually("the reason", async || unavailable_text(bus.state().await).contains("correct the file").then_some(()))
        .await;

    let of_user = token(&account, &user, "user", json!({ "subs": -1, "data": -1, "payload": -1 }));
    let seed = user.seed().unwrap();
    let part = |name: &str, text: &str| format!("-----BEGIN {name}-----\n{text}\n------END {name}------\n\n");
    fs::write(&path, part("NATS USER JWT", &of_user) + &part("USER NKEY SEED", &seed)).unwrap();
    eventually("the connection", async || bus.state().await.ok()).await;
    works(&bus).await;
}

/// Writes a CA and a server certificate signed by it; returns the TLS section of the server configuration.
fn certificates(folder: &Path) -> String {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (name, text) in [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
    {
        fs::write(folder.join(name), text).unwrap();
    }
    let folder = folder.display();
    format!("tls {{ cert_file: \"{folder}/cert.pem\", key_file: \"{folder}/key.pem\" }}")
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn tls_requires_a_certificate_of_the_authority() {
    let folder = tempfile::tempdir().unwrap();
    let node = server::Nats::start_with(&certificates(folder.path())).unwrap();
    let ca_file = Some(folder.path().join("ca.pem"));
    for scheme in ["tls", "nats"] {
        let config = config(&format!("{scheme}://127.0.0.1:{}", node.port()));
        works(&Nats::open_with(&BusConfig { ca_file: ca_file.clone(), ..config.clone() }, SOON).unwrap()).await;
        let bounds = Bounds { first_connection: Duration::ZERO, ..SOON };
        let stranger = Nats::open_with(&config, bounds).unwrap();
        let text = eventually("the reason", async || {
            Some(unavailable_text(stranger.state().await)).filter(|words| words.contains("UnknownIssuer"))
        });
        let text = text.await;
        assert!(text.contains("set bus.ca_file"), "{text}");
    }
    // A client that requires TLS refuses a server without it.
    let open_node = server::Nats::start().unwrap();
    let config = BusConfig { ca_file, ..config(&format!("tls://127.0.0.1:{}", open_node.port())) };
    let bus = Nats::open_with(&config, Bounds { first_connection: Duration::ZERO, ..SOON }).unwrap();
    let text = eventually("the reason", async || {
        Some(unavailable_text(bus.state().await)).filter(|words| !words.contains("no answer yet"))
    });
    let text = text.await;
    assert!(
        text.contains("cannot be reached, still trying: ") && text.contains("the server does not use TLS"),
        "{text}"
    );
}

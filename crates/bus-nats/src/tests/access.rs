//! Who may use the bus, and over which connections.

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
async fn a_token_or_a_user_opens_the_door() {
    let node = server::Nats::start_with("authorization { token: \"t0ken/@,%\" }").unwrap();
    works(&open(&format!("nats://t0ken%2F%40%2C%25@127.0.0.1:{}", node.port()))).await;

    let node = server::Nats::start_with("authorization { user: \"the user\", password: \"s3c:ret\" }").unwrap();
    works(&open(&format!("nats://the%20user:s3c:ret@127.0.0.1:{}", node.port()))).await;
    for login in ["", "token@", "the%20user:secr3t@"] {
        let bounds = Bounds { first_connection: Duration::ZERO, ..SOON };
        let bus = Nats::open_with(&config(&format!("nats://{login}127.0.0.1:{}", node.port())), bounds).unwrap();
        let said = eventually("the reason", async || {
            Some(words(bus.state().await)).filter(|words| words.contains("authorization violation"))
        });
        let said = said.await;
        assert!(said.contains("token in bus.url"), "{said}");
        assert!(!said.contains("secr3t") && !said.contains("token@"), "{said}");
    }
}

#[tokio::test]
#[ignore = "needs nats-server: cargo xtask test runs it"]
async fn a_user_without_rights_is_told_which() {
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
    // Only comparisons need more rights.
    let said = words(in_time(all.request("ticket", Bytes::new())).await);
    assert!(said.contains("eticket.audit.v1.ticket"), "{said}");
    drop(all.serve("ticket").await.unwrap());
    works(&all).await;
    let reads = as_user("reads");
    reads.state().await.unwrap();
    for (said, subject) in [
        (words(as_user("nothing").state().await), "$JS.API.STREAM.INFO.ETICKET"),
        (words(reads.publish(message("x", 1)).await), "eticket.v1.a.x"),
        (words(as_user("deaf").state().await), "_INBOX."),
    ] {
        assert!(said.contains("Permissions Violation") && said.contains(subject), "{said}");
        assert!(said.contains("the right to publish to eticket.v1.>"), "{said}");
    }
}

/// A token as NATS has them, signed by `by`.
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
async fn a_file_of_credentials_opens_the_door() {
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
    eventually("the reason", async || words(bus.state().await).contains("put the file right").then_some(())).await;

    let of_user = token(&account, &user, "user", json!({ "subs": -1, "data": -1, "payload": -1 }));
    let seed = user.seed().unwrap();
    let part = |name: &str, text: &str| format!("-----BEGIN {name}-----\n{text}\n------END {name}------\n\n");
    fs::write(&path, part("NATS USER JWT", &of_user) + &part("USER NKEY SEED", &seed)).unwrap();
    eventually("the connection", async || bus.state().await.ok()).await;
    works(&bus).await;
}

/// Writes an authority and what it has signed for the server; answers the lines of the server's configuration.
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
async fn an_encrypted_connection_is_to_whom_the_authority_has_signed() {
    let folder = tempfile::tempdir().unwrap();
    let node = server::Nats::start_with(&certificates(folder.path())).unwrap();
    let ca_file = Some(folder.path().join("ca.pem"));
    for scheme in ["tls", "nats"] {
        let config = config(&format!("{scheme}://127.0.0.1:{}", node.port()));
        works(&Nats::open_with(&BusConfig { ca_file: ca_file.clone(), ..config.clone() }, SOON).unwrap()).await;
        let bounds = Bounds { first_connection: Duration::ZERO, ..SOON };
        let stranger = Nats::open_with(&config, bounds).unwrap();
        let said = eventually("the reason", async || {
            Some(words(stranger.state().await)).filter(|words| words.contains("UnknownIssuer"))
        });
        let said = said.await;
        assert!(said.contains("set bus.ca_file"), "{said}");
    }
    // A server without encryption is none for who asks for it.
    let open_node = server::Nats::start().unwrap();
    let config = BusConfig { ca_file, ..config(&format!("tls://127.0.0.1:{}", open_node.port())) };
    let bus = Nats::open_with(&config, Bounds { first_connection: Duration::ZERO, ..SOON }).unwrap();
    let said = eventually("the reason", async || {
        Some(words(bus.state().await)).filter(|words| !words.contains("no answer yet"))
    });
    let said = said.await;
    assert!(said.contains("cannot be reached, trying on: ") && said.contains("it does not speak TLS"), "{said}");
}

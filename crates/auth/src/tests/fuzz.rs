//! Arbitrary tokens. `cargo xtask fuzz` runs this test for longer.

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};

use super::*;

/// A change of a valid token.
#[derive(Debug, Clone)]
enum Change {
    /// Another character at this place.
    Replace(Index, char),
    Cut(Index),
    Append(String),
    /// Another header or other claims, with the old signature.
    Header(Value),
    Claims(Value),
    /// The signature of another token.
    Signature,
    Nothing,
}

fn change() -> impl Strategy<Value = Change> {
    let header = (prop_oneof![Just("EdDSA"), Just("none"), Just("HS256"), Just("RS256")], "[a-z]{0,3}")
        .prop_map(|(algorithm, id)| Change::Header(json!({ "alg": algorithm, "kid": id, "typ": "JWT" })));
    let claims = ("[a-z]{0,8}", any::<i64>()).prop_map(|(name, value)| Change::Claims(with(&name, json!(value))));
    prop_oneof![
        (any::<Index>(), any::<char>()).prop_map(|(at, to)| Change::Replace(at, to)),
        (any::<Index>(), "[A-Za-z0-9_.-]").prop_map(|(at, to)| Change::Replace(at, to.chars().next().unwrap_or('.'))),
        any::<Index>().prop_map(Change::Cut),
        "[A-Za-z0-9_.=-]{1,4}".prop_map(Change::Append),
        header,
        claims,
        Just(Change::Signature),
        Just(Change::Nothing),
    ]
}

/// `token` may be the result of other changes: it may be empty, and it may have any number of parts.
fn changed(token: &str, other: &str, change: Change) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let part = |value: &Value| base64(value.to_string().as_bytes());
    let (number, text) = match change {
        Change::Replace(at, to) => {
            let mut characters: Vec<char> = token.chars().collect();
            if !characters.is_empty() {
                let at = at.index(characters.len());
                characters[at] = to;
            }
            return characters.into_iter().collect();
        }
        Change::Cut(at) => return token.chars().take(at.index(token.chars().count() + 1)).collect(),
        Change::Append(text) => return format!("{token}{text}"),
        Change::Header(header) => (0, part(&header)),
        Change::Claims(claims) => (1, part(&claims)),
        Change::Signature => (2, other.rsplit('.').next().unwrap_or_default().to_owned()),
        Change::Nothing => return token.to_owned(),
    };
    if let Some(part) = parts.get_mut(number) {
        *part = text;
    }
    parts.join(".")
}

#[tokio::test]
async fn only_the_token_that_was_signed_is_accepted() {
    let signer = ed25519();
    let (_folder, path) = jwks_file(&[&signer.jwk]);
    let verifier = verifier(&config(&path)).await;
    let other = signer.sign(&signer.header(), &with("sub", json!("lee")));
    let accepted_before = |valid: &str, remembered: bool| !remembered || verifier.verify(valid).is_ok();
    let input = (prop::collection::vec(change(), 1..3), "[a-z]{1,8}", any::<bool>());
    let outcome = TestRunner::default().run(&input, |(changes, subject, remembered)| {
        let valid = signer.sign(&signer.header(), &with("sub", json!(subject)));
        // Whether the token has been remembered makes no difference.
        prop_assert!(accepted_before(&valid, remembered));
        let token = changes.into_iter().fold(valid.clone(), |token, change| changed(&token, &other, change));
        prop_assert_eq!(verifier.verify(&token).is_ok(), token == valid || token == other);
        Ok(())
    });
    outcome.expect("no forged token is accepted");
    let garbage = TestRunner::default().run(&"\\PC{0,80}", |token| {
        prop_assert!(verifier.verify(&token).is_err());
        Ok(())
    });
    garbage.expect("no text is a token by chance");
}

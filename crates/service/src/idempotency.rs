//! The `request_id` of calls that change state.

use eticket_rpc_server::{auth::Caller, error::ApiError};
use eticket_store::Idempotency;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The parts that identify a request.
pub struct Fields<'a> {
    /// Name of the RPC.
    pub method: &'a str,
    /// The id as the caller sent it. With an empty id the request is not recorded.
    pub request_id: &'a str,
    /// The encoded message without its `request_id`.
    pub rest: Vec<u8>,
}

/// Parses a `request_id`. Returns `None` for an empty one.
///
/// # Errors
/// `INVALID_FIELD` if it is not a UUID, or if it is the nil UUID, which usually is an uninitialized field.
pub fn request_id(text: &str) -> Result<Option<Uuid>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
    let expected = "expected a UUID other than the nil UUID, or nothing";
    id.map(Some).ok_or_else(|| ApiError::invalid_field("request_id", expected))
}

/// Returns the identity of a request, if it has a `request_id`.
///
/// # Errors
/// As [`request_id`].
pub fn from_fields(caller: &Caller, fields: &Fields<'_>) -> Result<Option<Idempotency>, ApiError> {
    let Some(request_id) = request_id(fields.request_id)? else { return Ok(None) };
    let mut hash = Sha256::new();
    // The length prefix keeps adjacent parts distinct.
    for part in [fields.method.as_bytes(), caller.subject().unwrap_or_default().as_bytes(), &fields.rest] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    Ok(Some(Idempotency { request_id: scoped(request_id, caller), hash: hash.finalize().into() }))
}

/// Returns the id under which the record is kept. It depends on the caller, so that no caller can find or block the
/// request ids of another.
fn scoped(request_id: Uuid, caller: &Caller) -> Uuid {
    let Some(subject) = caller.subject() else { return request_id };
    let hash = Sha256::new().chain_update(request_id.as_bytes()).chain_update(subject).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use eticket_auth::Claims;
    use eticket_base::credentials::Credentials;

    use super::*;

    const ID: &str = "6b1f7e7e-51a5-4f8f-9f0e-2f0a4f2b8a11";

    fn hash(method: &str, rest: &[u8]) -> [u8; 32] {
        let fields = Fields { method, request_id: ID, rest: rest.to_vec() };
        from_fields(&Caller::default(), &fields).expect("a UUID").expect("an id").hash
    }

    #[test]
    fn the_hash_covers_the_method_and_the_fields() {
        assert_eq!(hash("A", b"x"), hash("A", b"x"));
        assert_ne!(hash("A", b"x"), hash("B", b"x"));
        assert_ne!(hash("A", b"x"), hash("A", b"y"));
        assert_ne!(hash("Ax", b""), hash("A", b"x"));
    }

    #[test]
    fn ids_of_different_callers_are_independent() {
        let record = |caller: &Caller| {
            let fields = Fields { method: "A", request_id: ID, rest: Vec::new() };
            from_fields(caller, &fields).expect("a UUID").expect("an id").request_id
        };
        let caller = |user: &str| {
            let claims = Claims::new(user, &["user"], None, SystemTime::now());
            Caller::with_token(Arc::new(claims), Credentials::new(String::new()))
        };
        assert_eq!(record(&Caller::admin()).to_string(), ID, "the id itself without authentication");
        assert_eq!(record(&caller("kim")), record(&caller("kim")));
        assert_ne!(record(&caller("kim")), record(&caller("lee")));
    }

    #[test]
    fn only_a_uuid_is_an_id() {
        let none = Fields { method: "A", request_id: "", rest: Vec::new() };
        assert_eq!(from_fields(&Caller::default(), &none), Ok(None));
        for bad in ["1", "00000000-0000-0000-0000-000000000000", "00000000000000000000000000000000"] {
            let fields = Fields { method: "A", request_id: bad, rest: Vec::new() };
            assert!(from_fields(&Caller::default(), &fields).is_err(), "{bad}");
        }
    }
}

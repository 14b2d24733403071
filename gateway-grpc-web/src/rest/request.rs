//! Builds the message of a REST request from path, query, headers and body.

use bytes::Bytes;
use eticket_rpc_server::error::ApiError;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use serde_json::{Map, Value};

use super::{
    fields::{add, normalize, parse_query, proto_name, set},
    router::Binding,
};
use crate::transcode::json::{self, UnknownFields, Wrong};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const REQUEST_ID: &str = "request_id";
const ETAG: &str = "etag";
const UPDATE_MASK: &str = "update_mask";
pub(crate) const RESUME_TOKEN: &str = "resume_token";

/// What a request says outside of its body.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Fields in the path.
    pub(crate) path: Vec<(String, String)>,
    pub(crate) query: String,
    /// Fields in headers: the field, its value and the header.
    headers: Vec<(&'static str, String, &'static str)>,
    wrong: Wrong,
}

impl Outside {
    /// Takes the headers that are fields of the request out of `headers`.
    pub(crate) fn new(path: Vec<(String, String)>, query: String, headers: &mut HeaderMap, binding: &Binding) -> Self {
        let mut outside = Self { path, query, ..Self::default() };
        let input = &binding.method.input;
        if let Some(value) = outside.take(headers, &IDEMPOTENCY_KEY)
            && input.get_field_by_name(REQUEST_ID).is_some()
        {
            // The draft of the header writes it as a string in quotes; many clients leave them out.
            let key = unquoted(&value).unwrap_or(&value).to_owned();
            outside.headers.push((REQUEST_ID, key, "idempotency-key"));
        }
        if let Some(value) = outside.take(headers, &LAST_EVENT_ID)
            && input.get_field_by_name(RESUME_TOKEN).is_some()
        {
            outside.headers.push((RESUME_TOKEN, value, "last-event-id"));
        }
        outside.take_if_match(headers, binding);
        outside
    }

    /// A command must not run without its condition, so it refuses one that it cannot check. Reads ignore it.
    fn take_if_match(&mut self, headers: &mut HeaderMap, binding: &Binding) {
        let Some(value) = self.take(headers, &header::IF_MATCH) else { return };
        let method = &binding.method;
        if method.input.get_field_by_name(ETAG).is_none() {
            if !method.reads {
                self.wrong.add("if-match", "this method has no condition");
            }
            return;
        }
        match (value.trim(), unquoted(&value)) {
            ("*", _) => {}
            (_, Some(etag)) if !etag.is_empty() && !etag.contains('"') => {
                self.headers.push((ETAG, etag.to_owned(), "if-match"));
            }
            _ => self.wrong.add("if-match", "must be one strong entity tag in quotes, as the ETag of a ticket, or *"),
        }
    }

    fn take(&mut self, headers: &mut HeaderMap, name: &HeaderName) -> Option<String> {
        let values: Vec<_> = headers.get_all(name).iter().map(HeaderValue::to_str).map(Result::ok).collect();
        let value = match values.as_slice() {
            [] => return None,
            [Some(value)] => Some((*value).to_owned()),
            _ => {
                self.wrong.add(name.as_str(), "must be given once, as printable ASCII");
                None
            }
        };
        headers.remove(name);
        value
    }

    /// Builds the message.
    ///
    /// # Errors
    /// `INVALID_FIELD` with every wrong field.
    pub(crate) fn message(mut self, binding: &Binding, body: &Bytes) -> Result<DynamicMessage, ApiError> {
        let (input, rule) = (&binding.method.input, &binding.rule);
        let wrong = &mut self.wrong;
        let mut object = match rule.body.as_str() {
            "" => Map::new(),
            "*" => normalize(json::parse(body)?, input, wrong),
            field => Map::from_iter([(field.to_owned(), Value::Object(json::parse(body)?))]),
        };
        let mask = mask_of(&object, input, &self.path);
        for (path, text) in &self.path {
            set(&mut object, input, path, text, "the path", wrong);
        }
        for (field, text, header) in &self.headers {
            set(&mut object, input, field, text, &format!("the header {header}"), wrong);
        }
        let mut seen = Vec::new();
        for (name, text) in parse_query(&self.query, wrong) {
            add(&mut object, input, &name, &text, &mut seen, wrong);
        }
        if rule.verb == http::Method::PATCH
            && let Some(field) = input.get_field_by_name(UPDATE_MASK)
            && !mask.is_empty()
        {
            object.entry(field.json_name()).or_insert(Value::String(mask));
        }
        let message = json::read(object, input, UnknownFields::Refused, wrong);
        self.wrong.into_result()?;
        // Without a wrong field there is a message.
        message.ok_or_else(|| ApiError::invalid_field(json::BODY, "does not fit the request"))
    }
}

/// Returns the update mask of a body without one: the fields that it has, whatever their values are. A field that is
/// set to its default value would otherwise look like one that is left out.
fn mask_of(object: &Map<String, Value>, input: &MessageDescriptor, path: &[(String, String)]) -> String {
    let about_the_request =
        |name: &str| [REQUEST_ID, ETAG, UPDATE_MASK].contains(&name) || path.iter().any(|(field, _)| field == name);
    let is_edit = |key: &&String| json::field(input, key).is_some() && !about_the_request(&proto_name(input, key));
    object.keys().filter(is_edit).map(String::as_str).collect::<Vec<_>>().join(",")
}

/// Returns the text between quotes.
fn unquoted(text: &str) -> Option<&str> {
    text.trim().strip_prefix('"')?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        rest::router::{Found, Router},
        transcode::{Contract, json::Defaults},
    };

    /// Returns the message as JSON, or the text of the error.
    fn build(
        verb: &str,
        uri: &str,
        headers: &[(&'static str, &'static str)],
        body: &'static str,
    ) -> Result<Value, String> {
        let router = Router::try_new(&Contract::try_new(None).unwrap()).unwrap();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let Found::Binding(binding, fields) = router.find(&verb.parse().unwrap(), path) else { panic!("{path}") };
        let mut map: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        let binding: Arc<Binding> = binding;
        let outside = Outside::new(fields, query.to_owned(), &mut map, &binding);
        assert!(map.is_empty(), "{map:?} would be metadata");
        let message =
            outside.message(&binding, &Bytes::from_static(body.as_bytes())).map_err(|error| error.to_string())?;
        Ok(serde_json::from_slice(&json::write(&message, Defaults::LeftOut).unwrap()).unwrap())
    }

    #[test]
    fn a_patch_without_a_mask_changes_the_fields_of_its_body() {
        let uri = "/v1/tickets/a";
        for (body, mask) in [
            (r#"{"title": "x"}"#, serde_json::json!("title")),
            (r#"{"title": "", "end_time": null, "etag": "1"}"#, serde_json::json!("endTime,title")),
            (r#"{"title": "x", "ticketId": "a", "updateMask": "startTime"}"#, serde_json::json!("startTime")),
            ("{}", Value::Null),
        ] {
            assert_eq!(build("PATCH", uri, &[], body).unwrap()["updateMask"], mask, "{body}");
        }
        let query = build("PATCH", "/v1/tickets/a?update_mask=title", &[], r#"{"title": "x"}"#).unwrap();
        assert_eq!(query["updateMask"], "title");
    }

    #[test]
    fn headers_are_fields() {
        let key = "0190a6b2-0000-7000-8000-000000000001";
        let quoted = "\"0190a6b2-0000-7000-8000-000000000001\"";
        let withdraw = "/v1/tickets/a:withdraw";
        for headers in
            [[("idempotency-key", key), ("if-match", "\"7\"")], [("idempotency-key", quoted), ("if-match", " \"7\" ")]]
        {
            let message = build("POST", withdraw, &headers, "").unwrap();
            assert_eq!(message, serde_json::json!({"ticketId": "a", "requestId": key, "etag": "7"}));
        }
        assert_eq!(build("POST", withdraw, &[("if-match", "*")], "").unwrap(), serde_json::json!({"ticketId": "a"}));
        let resumed = build("GET", "/v1/views:watch", &[("last-event-id", "t")], "").unwrap();
        assert_eq!(resumed, serde_json::json!({"resumeToken": "t"}));
        assert!(build("GET", "/v1/tickets/a", &[("if-match", "\"7\""), ("idempotency-key", key)], "").is_ok());
    }

    #[test]
    fn contradictions_and_unknown_fields_are_named() {
        let withdraw = "/v1/tickets/a:withdraw";
        for (verb, uri, headers, body, expected) in [
            ("POST", withdraw, &[][..], r#"{"ticketId": "b"}"#, "ticket_id: contradicts the path"),
            ("POST", withdraw, &[("if-match", "\"1\"")], r#"{"etag": "2"}"#, "etag: contradicts the header if-match"),
            ("POST", withdraw, &[("if-match", "W/\"1\"")], "", "if-match: must be one strong"),
            ("POST", withdraw, &[("if-match", "1")], "", "if-match: must be one strong"),
            ("POST", withdraw, &[("if-match", "\"1\", \"2\"")], "", "if-match: must be one strong"),
            ("POST", withdraw, &[("if-match", "\"1\""), ("if-match", "\"2\"")], "", "if-match: must be given once"),
            ("POST", "/v1/tickets", &[("if-match", "*")], "", "if-match: this method has no condition"),
            ("POST", withdraw, &[], r#"{"because": 1}"#, "because: the request has no such field"),
            ("POST", "/v1/tickets/a:withdraw?because=1", &[], "", "because: the request has no such field"),
            ("GET", "/v1/tickets/a?ticketId=b", &[], "", "ticket_id: is given twice"),
            ("POST", withdraw, &[], "[]", "body: must be a JSON object"),
        ] {
            let error = build(verb, uri, headers, body).unwrap_err();
            assert!(error.starts_with(expected), "{uri} {headers:?} {body}: {error}");
        }
    }
}

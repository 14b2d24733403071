//! Proto3 JSON of the contract's messages.

use std::fmt;

use bytes::Bytes;
use eticket_proto::error::ErrorReason;
use eticket_rpc_server::error::ApiError;
use prost_reflect::{DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value, error::Category};

/// An error names this many fields at most.
const MOST_FIELDS: usize = 20;

/// The field that stands for a whole body in an error.
pub(crate) const BODY: &str = "body";

/// What happens to a field that the message does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    Refused,
    Ignored,
}

/// Whether fields with their default values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defaults {
    Written,
    LeftOut,
}

/// The wrong fields of a request: each field with what is expected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong(Vec<(String, String)>);

impl Wrong {
    pub(crate) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        if self.0.len() < MOST_FIELDS {
            self.0.push((field.into(), description.into()));
        }
    }

    /// Returns one error with all fields.
    ///
    /// # Errors
    /// If there is a wrong field.
    pub(crate) fn into_result(self) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let error = ApiError::new(ErrorReason::InvalidField);
        Err(self.0.into_iter().fold(error, |error, (field, description)| error.field(field, description)))
    }
}

/// The members of a JSON object as they are written. A map would silently keep the last of several with the same name.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// Parses a body; an empty one is an empty object.
///
/// # Errors
/// `INVALID_FIELD` if the body is not a JSON object, or has a member twice.
pub(crate) fn parse(body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    let Members(members) = serde_json::from_slice(body).map_err(|error| match error.classify() {
        Category::Data => ApiError::invalid_field(BODY, "must be a JSON object"),
        Category::Io | Category::Syntax | Category::Eof => {
            ApiError::invalid_field(BODY, format!("is not JSON: {error}"))
        }
    })?;
    let mut object = Map::new();
    for (name, value) in members {
        if object.contains_key(&name) {
            return Err(ApiError::invalid_field(name, "is given twice"));
        }
        object.insert(name, value);
    }
    Ok(object)
}

/// Converts an object into a message. Adds every field that does not fit to `wrong`; the message is then `None`.
pub(crate) fn read(
    object: Map<String, Value>,
    descriptor: &MessageDescriptor,
    unknown: UnknownFields,
    wrong: &mut Wrong,
) -> Option<DynamicMessage> {
    let value = Value::Object(object);
    match deserialize(&value, descriptor, unknown) {
        Ok(message) => Some(message),
        Err(error) => {
            let before = wrong.0.len();
            diagnose(&value, descriptor, "", unknown, wrong);
            if wrong.0.len() == before {
                wrong.add(BODY, error.to_string());
            }
            None
        }
    }
}

/// Writes a message as JSON.
///
/// # Errors
/// If a value has no JSON form, such as a time outside of the years 1 to 9999.
pub(crate) fn write(message: &DynamicMessage, defaults: Defaults) -> Result<Vec<u8>, serde_json::Error> {
    let mut json = Vec::with_capacity(512);
    let options = SerializeOptions::new().skip_default_fields(defaults == Defaults::LeftOut);
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)?;
    Ok(json)
}

/// Writes an encoded message as a JSON value, without fields that have their default values; `None` if the bytes are
/// not a message of this type.
pub(crate) fn value(message: &[u8], descriptor: MessageDescriptor) -> Option<Value> {
    let message = DynamicMessage::decode(descriptor, message).ok()?;
    message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).ok()
}

/// Finds a field by its name in JSON or in the contract.
pub(crate) fn field(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
}

/// Returns whether JSON writes this message as a single value or by rules of its own.
pub(crate) fn is_well_known(descriptor: &MessageDescriptor) -> bool {
    descriptor.package_name() == "google.protobuf"
}

fn deserialize(
    value: &Value,
    descriptor: &MessageDescriptor,
    unknown: UnknownFields,
) -> Result<DynamicMessage, serde_json::Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(unknown == UnknownFields::Refused);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
}

/// Finds all wrong fields of an object that is not a message of this type, because the deserializer reports only the
/// first one, without its path.
fn diagnose(value: &Value, descriptor: &MessageDescriptor, prefix: &str, unknown: UnknownFields, wrong: &mut Wrong) {
    let Value::Object(object) = value else { return };
    for (key, value) in object {
        let Some(field) = field(descriptor, key) else {
            if unknown == UnknownFields::Refused {
                wrong.add(format!("{prefix}{key}"), "the request has no such field");
            }
            continue;
        };
        let path = format!("{prefix}{}", field.name());
        let alone = Value::Object(Map::from_iter([(key.clone(), value.clone())]));
        let Err(error) = deserialize(&alone, descriptor, unknown) else { continue };
        match field.kind() {
            Kind::Message(inner) if value.is_object() && !field.is_map() && !is_well_known(&inner) => {
                diagnose(value, &inner, &format!("{path}."), unknown, wrong);
            }
            _ => wrong.add(path, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::transcode::Contract;

    fn message(name: &str) -> MessageDescriptor {
        Contract::try_new(None).unwrap().pool.get_message_by_name(name).unwrap()
    }

    fn wrong_fields(value: Value, name: &str, unknown: UnknownFields) -> Vec<String> {
        let Value::Object(object) = value else { panic!("an object") };
        let mut wrong = Wrong::default();
        assert_eq!(read(object, &message(name), unknown, &mut wrong).is_none(), !wrong.0.is_empty());
        wrong.0.into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn every_wrong_field_is_named() {
        let body = json!({"ticket_id": 7, "titel": "x", "startTime": "yesterday", "endTime": "2030-01-01T00:00:00Z"});
        let register = "eticket.ticket.v1.RegisterTicketRequest";
        let mut wrong = wrong_fields(body.clone(), register, UnknownFields::Refused);
        wrong.sort_unstable();
        assert_eq!(wrong, ["start_time", "ticket_id", "titel"]);
        let mut wrong = wrong_fields(body, register, UnknownFields::Ignored);
        wrong.sort_unstable();
        assert_eq!(wrong, ["start_time", "ticket_id"]);
        let nested = json!({"ticket": {"ticketId": "t", "status": "LOST", "more": 1}});
        let wrong = wrong_fields(nested, "eticket.ticket.v1.GetTicketResponse", UnknownFields::Refused);
        assert_eq!(wrong, ["ticket.more", "ticket.status"]);
    }

    #[test]
    fn an_unknown_field_is_ignored_only_if_asked() {
        let body = json!({"ticketId": "t", "future": {"a": [1]}});
        let get = "eticket.ticket.v1.GetTicketRequest";
        assert_eq!(wrong_fields(body.clone(), get, UnknownFields::Refused), ["future"]);
        assert_eq!(wrong_fields(body, get, UnknownFields::Ignored), Vec::<String>::new());
    }

    #[test]
    fn a_body_must_be_an_object() {
        for (body, expected) in [("[]", "object"), ("7", "object"), ("{", "not JSON"), ("{} {}", "not JSON")] {
            let error = parse(&Bytes::from_static(body.as_bytes())).unwrap_err();
            assert!(error.to_string().contains(expected), "{body}: {error}");
        }
        assert_eq!(parse(&Bytes::new()).unwrap(), Map::new());
    }

    #[test]
    fn a_body_has_each_member_once() {
        let error = parse(&Bytes::from_static(br#"{"title": "a", "etag": "b", "title": "a"}"#)).unwrap_err();
        assert!(error.to_string().contains("title: is given twice"), "{error}");
    }

    #[test]
    fn many_wrong_fields_are_limited() {
        let body = Value::Object((0..100).map(|number| (format!("x{number}"), Value::Null)).collect());
        let wrong = wrong_fields(body, "eticket.ticket.v1.GetTicketRequest", UnknownFields::Refused);
        assert_eq!(wrong.len(), MOST_FIELDS);
    }

    #[test]
    fn messages_are_written_as_proto3_json() {
        let descriptor = message("eticket.ticket.v1.CheckAvailabilityResponse");
        let mut message = DynamicMessage::new(descriptor);
        message.set_field_by_name("reason", prost_reflect::Value::EnumNumber(1));
        let text = |defaults| String::from_utf8(write(&message, defaults).unwrap()).unwrap();
        assert_eq!(text(Defaults::LeftOut), r#"{"reason":"UNAVAILABLE_REASON_RESERVED"}"#);
        assert_eq!(text(Defaults::Written), r#"{"available":false,"reason":"UNAVAILABLE_REASON_RESERVED"}"#);
    }
}

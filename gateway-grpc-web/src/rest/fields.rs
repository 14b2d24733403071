//! Fields of a request that stand in the path or the query: texts that become the JSON of the field's type.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use super::template::decode;
use crate::transcode::json::{Wrong, field, is_well_known};

/// Why a text does not fit its field.
const NO_SUCH_FIELD: &str = "the request has no such field";

/// Splits a query into names and values. A `+` is a space, as in forms, so a plus sign is written as `%2B`.
pub(crate) fn parse_query(query: &str, wrong: &mut Wrong) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let part = part.replace('+', " ");
        let (name, value) = part.split_once('=').unwrap_or((&part, ""));
        match (decode(name), decode(value)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            (name, _) => wrong.add(name.as_deref().unwrap_or(name_of_query(&part)), "is not percent-encoded UTF-8"),
        }
    }
    pairs
}

/// Names a part of the query that cannot be decoded.
fn name_of_query(part: &str) -> &str {
    part.split('=').next().unwrap_or(part)
}

/// Renames the keys of an object to the names that JSON writes, so that each field has one key.
pub(crate) fn normalize(
    object: Map<String, Value>,
    descriptor: &MessageDescriptor,
    wrong: &mut Wrong,
) -> Map<String, Value> {
    let mut normal = Map::new();
    for (key, value) in object {
        let name = field(descriptor, &key).map_or(key, |field| field.json_name().to_owned());
        if normal.contains_key(&name) {
            wrong.add(proto_name(descriptor, &name), "is given twice");
        }
        normal.insert(name, value);
    }
    normal
}

/// Sets the field that a path or a header contains. The body may repeat the value, but not contradict it.
pub(crate) fn set(
    object: &mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    path: &str,
    text: &str,
    source: &str,
    wrong: &mut Wrong,
) {
    let outcome = place(object, descriptor, path).and_then(|(object, field)| {
        let value = value_of(&field, text)?;
        let previous = object.insert(field.json_name().to_owned(), value.clone());
        let same = previous.is_none_or(|previous| previous == value || previous == Value::Null || previous == "");
        if same { Ok(()) } else { Err(format!("contradicts {source}")) }
    });
    if let Err(description) = outcome {
        wrong.add(path, description);
    }
}

/// Adds a query parameter. Only a repeated field may be given several times, and none that the rest of the request has.
pub(crate) fn add(
    object: &mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    name: &str,
    text: &str,
    seen: &mut Vec<String>,
    wrong: &mut Wrong,
) {
    let outcome = place(object, descriptor, name).and_then(|(object, field)| {
        let value = value_of(&field, text)?;
        let again = seen.iter().any(|seen| seen == field.full_name());
        seen.push(field.full_name().to_owned());
        match object.get_mut(field.json_name()) {
            Some(Value::Array(list)) if field.is_list() && again => list.push(value),
            Some(_) => return Err("is given twice".to_owned()),
            None if field.is_list() => {
                object.insert(field.json_name().to_owned(), Value::Array(vec![value]));
            }
            None => {
                object.insert(field.json_name().to_owned(), value);
            }
        }
        Ok(())
    });
    if let Err(description) = outcome {
        wrong.add(proto_name(descriptor, name), description);
    }
}

/// Returns the name of a field in the contract; other names stay.
pub(crate) fn proto_name(descriptor: &MessageDescriptor, name: &str) -> String {
    field(descriptor, name).map_or_else(|| name.to_owned(), |field| field.name().to_owned())
}

/// Finds the object and the field that a path such as `a.b` names, and creates the objects on the way.
fn place<'a>(
    object: &'a mut Map<String, Value>,
    descriptor: &MessageDescriptor,
    path: &str,
) -> Result<(&'a mut Map<String, Value>, FieldDescriptor), String> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let found = field(descriptor, first).ok_or(NO_SUCH_FIELD)?;
    let Some(rest) = rest else { return Ok((object, found)) };
    let Kind::Message(inner) = found.kind() else { return Err(NO_SUCH_FIELD.to_owned()) };
    if found.is_list() || found.is_map() || is_well_known(&inner) {
        return Err(NO_SUCH_FIELD.to_owned());
    }
    match object.entry(found.json_name()).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(object) => place(object, &inner, rest),
        _ => Err("is given twice".to_owned()),
    }
}

/// Returns the JSON of a text for a field, or for an element of a repeated field.
fn value_of(field: &FieldDescriptor, text: &str) -> Result<Value, String> {
    if field.is_map() {
        return Err("cannot be a parameter".to_owned());
    }
    Ok(match field.kind() {
        Kind::Bool => Value::Bool(text.parse().map_err(|_| "expected true or false".to_owned())?),
        // An enum may be given by number too.
        Kind::Enum(_) => match text.parse::<i32>() {
            Ok(number) if is_integer(text) => Value::from(number),
            _ => Value::String(text.to_owned()),
        },
        Kind::Int32
        | Kind::Sint32
        | Kind::Sfixed32
        | Kind::Uint32
        | Kind::Fixed32
        | Kind::Int64
        | Kind::Sint64
        | Kind::Sfixed64
        | Kind::Uint64
        | Kind::Fixed64
            if !is_integer(text) =>
        {
            return Err("expected an integer".to_owned());
        }
        Kind::Message(message) if !is_well_known(&message) => {
            return Err(format!("is a message; name its fields, as {}.name", field.name()));
        }
        _ => Value::String(text.to_owned()),
    })
}

/// Returns whether JSON has this integer. Rust would also read `+7` and `007`.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits == "0" || !digits.starts_with('0') && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::transcode::{
        Contract,
        json::{UnknownFields, read},
    };

    fn descriptor(name: &str) -> MessageDescriptor {
        Contract::try_new(None).unwrap().pool.get_message_by_name(name).unwrap()
    }

    fn query(message: &str, query: &str) -> Result<Value, String> {
        let descriptor = descriptor(message);
        let (mut wrong, mut object, mut seen) = (Wrong::default(), Map::new(), Vec::new());
        for (name, value) in parse_query(query, &mut wrong) {
            add(&mut object, &descriptor, &name, &value, &mut seen, &mut wrong);
        }
        read(object.clone(), &descriptor, UnknownFields::Refused, &mut wrong);
        wrong.into_result().map(|()| Value::Object(object)).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_become_fields() {
        let list = "eticket.query.v1.ListTicketViewsRequest";
        let expected = json!({
            "filterStatus": "TICKET_STATUS_RESERVED",
            "filterUserId": "kim lee+",
            "startTimeFrom": "2030-01-01T00:00:00+09:00",
            "pageSize": "7",
        });
        let text = "filter_status=TICKET_STATUS_RESERVED&filterUserId=kim+lee%2B\
                    &start_time_from=2030-01-01T00:00:00%2B09:00&&pageSize=7";
        assert_eq!(query(list, text), Ok(expected));
        let watch = "eticket.query.v1.WatchTicketViewsRequest";
        assert_eq!(query(watch, "ticketIds=a&ticket_ids=b"), Ok(json!({"ticketIds": ["a", "b"]})));
        assert_eq!(query("eticket.query.v1.GetTicketViewRequest", "wait=3"), Ok(json!({"wait": 3})));
        // Enums are open: a client may be newer than this gateway. The service decides.
        assert_eq!(query("eticket.query.v1.GetTicketViewRequest", "wait=99"), Ok(json!({"wait": 99})));
        let nested = json!({"ticket": {"title": "x", "startTime": "2030-01-01T00:00:00Z"}});
        let nested_text = "ticket.title=x&ticket.start_time=2030-01-01T00:00:00Z";
        assert_eq!(query("eticket.ticket.v1.GetTicketResponse", nested_text), Ok(nested));
        let available = "eticket.ticket.v1.CheckAvailabilityResponse";
        assert_eq!(query(available, "available=true"), Ok(json!({"available": true})));
    }

    #[test]
    fn wrong_parameters_are_named() {
        let list = "eticket.query.v1.ListTicketViewsRequest";
        for (message, text, expected) in [
            (list, "nothing=1", "nothing: the request has no such field"),
            (list, "page_size=many", "page_size: expected an integer"),
            (list, "page_size=%2B7", "page_size: expected an integer"),
            (list, "page_size=07", "page_size: expected an integer"),
            (list, "page_size=", "page_size: expected an integer"),
            (list, "page_size=2147483648", "page_size: "),
            (list, "filter_status=02", "filter_status: "),
            (list, "filter_status=%2B2", "filter_status: "),
            (list, "pageSize=1&page_size=2", "page_size: is given twice"),
            (list, "filter_status=LOST", "filter_status: "),
            (list, "startTimeFrom=today", "start_time_from: "),
            (list, "order_by.x=1", "order_by.x: the request has no such field"),
            (list, "order_by=%FF", "order_by: is not percent-encoded UTF-8"),
            (list, "order_by=%", "order_by: is not percent-encoded UTF-8"),
            ("eticket.ticket.v1.GetTicketResponse", "ticket=1", "ticket: is a message"),
            ("eticket.ticket.v1.CheckAvailabilityResponse", "available=1", "available: expected true or false"),
        ] {
            let error = query(message, text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_path_must_not_contradict_the_body() {
        let descriptor = descriptor("eticket.ticket.v1.GetTicketRequest");
        for (body, fits) in [
            (json!({}), true),
            (json!({"ticketId": "a"}), true),
            (json!({"ticketId": ""}), true),
            (json!({"ticketId": "b"}), false),
        ] {
            let Value::Object(mut object) = body else { unreachable!("objects") };
            let mut wrong = Wrong::default();
            set(&mut object, &descriptor, "ticket_id", "a", "the path", &mut wrong);
            assert_eq!((object["ticketId"].as_str(), wrong.into_result().is_ok()), (Some("a"), fits));
        }
    }

    #[test]
    fn a_body_gives_each_field_once() {
        let descriptor = descriptor("eticket.ticket.v1.GetTicketRequest");
        let Value::Object(body) = json!({"ticketId": "a", "ticket_id": "b"}) else { unreachable!("an object") };
        let mut wrong = Wrong::default();
        normalize(body, &descriptor, &mut wrong);
        assert_eq!(wrong.into_result().unwrap_err().to_string(), "ticket_id: is given twice");
    }

    proptest! {
        #[test]
        fn every_text_comes_back(value in "\\PC{0,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            let read = query("eticket.ticket.v1.GetTicketRequest", &format!("ticket_id={encoded}"));
            prop_assert_eq!(read, Ok(json!({"ticketId": value})));
        }

        #[test]
        fn no_query_panics(text in "[=&%.+a-z_é0-9]{0,40}") {
            query("eticket.ticket.v1.GetTicketResponse", &text).ok();
        }
    }
}

//! Arbitrary input of clients: JSON bodies, REST requests, and envelopes of Connect. `cargo xtask fuzz` runs these tests for
//! longer, and inputs that have failed once are kept in `gateway-grpc-web/proptest-regressions`.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use eticket_proto::error_text::Language;
use http::HeaderMap;
use proptest::{prelude::*, sample::select};
use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage};
use serde_json::{Map, Value};

use crate::{
    connect::message,
    rest::{
        request::Outside,
        router::{Found, Router},
    },
    transcode::{
        Contract, Method,
        json::{self, Defaults, UnknownFields, Wrong},
        request_body::Reading,
    },
};

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| Contract::try_new(None).unwrap());
static ROUTER: LazyLock<Router> = LazyLock::new(|| Router::try_new(&CONTRACT).unwrap());
/// In a fixed order, so that a kept input means the same method again.
static METHODS: LazyLock<Vec<Arc<Method>>> = LazyLock::new(|| {
    let mut methods: Vec<_> = CONTRACT.methods().cloned().collect();
    methods.sort_by_key(|method| method.path.to_string());
    methods
});
/// Each name of a field in the contract, as in JSON and as in the protos.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let messages = CONTRACT.pool.all_messages().filter(|message| message.full_name().starts_with("eticket."));
    let fields = messages.flat_map(|message| message.fields().collect::<Vec<_>>());
    let mut names: Vec<_> = fields.flat_map(|field| [field.name().to_owned(), field.json_name().to_owned()]).collect();
    names.sort();
    names.dedup();
    names
});
/// Texts that some field takes for a time, a number, an enum, a mask or bytes, or almost.
const TEXTS: [&str; 20] = [
    "",
    "t-1",
    "0",
    "-1",
    "18446744073709551616",
    "1e3",
    "NaN",
    "true",
    "null",
    "2030-01-01T00:00:00Z",
    "0000-00-00T99:99:99.9999999999Z",
    "9999-12-31T23:59:59.999999999+23:59",
    "USER_GRADE_VIP",
    "WAIT_FOR_SETTLED",
    "title,startTime",
    "title,,",
    "QUJD",
    "Asia/Seoul",
    "\u{0}\u{202e}é한",
    "3.000000001s",
];

fn method() -> impl Strategy<Value = Arc<Method>> {
    any::<prop::sample::Index>().prop_map(|index| index.get(&METHODS).clone())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![3 => select(&TEXTS[..]).prop_map(str::to_owned), 1 => "\\PC{0,12}"]
}

/// JSON with names that occur in the contract, and values of every kind.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2_i64..100).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![9 => any::<prop::sample::Index>().prop_map(|index| index.get(&NAMES).clone()), 1 => "\\PC{0,8}"]
}

/// An object whose names are mostly those of the message's fields.
fn object(descriptor: &MessageDescriptor) -> impl Strategy<Value = Map<String, Value>> + use<> {
    let own: Vec<String> = descriptor.fields().map(|field| field.json_name().to_owned()).collect();
    let own = if own.is_empty() { vec![String::new()] } else { own };
    let name = prop_oneof![8 => select(own), 1 => name()];
    prop::collection::vec((name, value()), 0..6).prop_map(|fields| fields.into_iter().collect())
}

fn body() -> impl Strategy<Value = (Arc<Method>, Map<String, Value>)> {
    method().prop_flat_map(|method| {
        let object = object(&method.input);
        (Just(method), object)
    })
}

/// A path of the contract with arbitrary values for its fields, or any other path.
fn path() -> impl Strategy<Value = String> {
    let mut templates: Vec<String> =
        METHODS.iter().flat_map(|method| method.rules.iter().map(|rule| rule.template.clone())).collect();
    templates.sort();
    let segment = prop_oneof![Just("t-1".to_owned()), "[%a-zA-Z0-9:._~!,;=+-]{0,8}", "(%[0-9a-fA-F]{0,2}){0,4}"];
    let of_contract = (select(templates), segment).prop_map(|(template, segment)| {
        let (before, rest) = template.split_once('{').unwrap_or((&template, ""));
        let after = rest.split_once('}').map_or("", |(_, after)| after);
        format!("{before}{}{after}", if rest.is_empty() { "" } else { &segment })
    });
    prop_oneof![4 => of_contract, 1 => "(/[%a-z0-9:{}*]{0,6}){0,5}"]
}

fn query() -> impl Strategy<Value = String> {
    let pair = (name(), text()).prop_map(|(name, value)| {
        let escaped = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
        format!("{name}={escaped}")
    });
    prop_oneof![
        4 => prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&")),
        1 => "[=&%.+a-z_0-9]{0,40}",
    ]
}

fn headers() -> impl Strategy<Value = HeaderMap> {
    let name = select(vec!["idempotency-key", "if-match", "last-event-id"]);
    let value = prop_oneof![Just("\"7\""), Just("*"), Just("W/\"7\""), Just("\""), Just(""), Just("x")];
    prop::collection::vec((name, value), 0..3).prop_map(|headers| {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        map
    })
}

/// A message survives JSON and its encoding.
fn check(message: &DynamicMessage) -> Result<(), TestCaseError> {
    let text = json::write(message, Defaults::Written).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let again = json::parse(&text.into()).map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut wrong = Wrong::default();
    let read = json::read(again, &message.descriptor(), UnknownFields::Refused, &mut wrong);
    prop_assert_eq!(wrong, Wrong::default());
    // Encoded, because NaN equals nothing.
    prop_assert_eq!(read.map(|read| read.encode_to_vec()), Some(message.encode_to_vec()));
    let bytes = message.encode_to_vec();
    prop_assert!(DynamicMessage::decode(message.descriptor(), &bytes[..]).is_ok());
    Ok(())
}

proptest! {
    #[test]
    fn a_json_body_is_a_message_or_names_what_is_wrong((method, object) in body(), refuses in any::<bool>()) {
        let unknown = if refuses { UnknownFields::Refused } else { UnknownFields::Ignored };
        let mut wrong = Wrong::default();
        let read = json::read(object, &method.input, unknown, &mut wrong);
        prop_assert_eq!(read.is_some(), wrong == Wrong::default(), "a message or an error");
        if let Some(message) = read {
            check(&message)?;
        }
    }

    #[test]
    fn a_rest_request_is_a_message_or_names_what_is_wrong(
        verb in select(vec!["GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "QUERY"]),
        path in path(),
        query in query(),
        mut headers in headers(),
        body in prop_oneof![value().prop_map(|value| value.to_string()), Just(String::new()), "\\PC{0,20}"],
    ) {
        let Found::Binding(binding, fields) = ROUTER.find(&verb.parse().unwrap(), &path) else { return Ok(()) };
        let outside = Outside::new(fields, query, &mut headers, &binding);
        prop_assert!(headers.is_empty(), "headers that are fields are not metadata");
        match outside.message(&binding, &Bytes::from(body)) {
            Ok(message) => check(&message)?,
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn an_envelope_is_one_whole_message_or_an_error(
        method in method(),
        flags in 0_u8..4,
        length in prop_oneof![0_u32..40, any::<u32>()],
        message in prop::collection::vec(any::<u8>(), 0..40),
        cut in 0_usize..50,
        gzip in any::<bool>(),
    ) {
        let mut body = vec![flags];
        body.extend(length.to_be_bytes());
        body.extend(&message);
        body.truncate(cut);
        let whole = body.len() >= 5 && body.len() - 5 == length as usize;
        let reading = Reading { max_bytes: 1_000, gzip, language: Language::English };
        let inner = message::translate(message::Codec::Proto, &method, Language::English);
        let taken = message::translate_envelope(inner, reading)(body.into());
        prop_assert_eq!(taken.is_ok(), whole && (flags == 0 || (flags == 1 && taken.is_ok())));
    }
}

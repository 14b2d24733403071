//! Conversion between messages of the bus and of NATS.
//!
//! Header values are percent-encoded, as in the CloudEvents binding, so that every value is unchanged after delivery.
//! The header map of NATS does not keep the order; headers are delivered sorted by name.

use std::{borrow::Cow, str::FromStr, sync::Arc};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use eticket_base::percent;
use eticket_bus::{Delivery, Header, Message};
use eticket_proto::headers::OF_MESSAGES;

/// Prefix of headers that servers add or act on; messages of the bus never have them.
const SERVER_PREFIX: &str = "nats-";

/// Returns the NATS headers of a message; `None` if NATS cannot carry one of the names.
pub(super) fn headers_of(message: &Message) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        let name = match name {
            Cow::Borrowed(name) if OF_MESSAGES.contains(name) => HeaderName::from_static(name),
            name => HeaderName::from_str(name).ok()?,
        };
        headers.append(name, HeaderValue::from_str(&percent::encode(value)).ok()?);
    }
    Some(headers)
}

fn own_headers<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Header> {
    let mut headers: Vec<Header> = pairs
        .map(|(name, value)| (own_name(name), value))
        .filter(|(name, _)| !name.starts_with(SERVER_PREFIX))
        .map(|(name, value)| (name, percent::decode(value).into_owned()))
        .collect();
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    headers
}

fn own_name(name: &str) -> Cow<'static, str> {
    match OF_MESSAGES.iter().find(|known| known.eq_ignore_ascii_case(name)) {
        Some(known) => Cow::Borrowed(known),
        None => Cow::Owned(name.to_ascii_lowercase()),
    }
}

/// The facts about a delivery in its acknowledgement subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveryInfo {
    /// The sequence in the stream.
    pub(super) sequence: u64,
    /// The number of the delivery within the consumer, each attempt counted.
    pub(super) delivered: u64,
    pub(super) attempts: u32,
}

/// Parses `$JS.ACK.<stream>.<consumer>.<attempts>.<sequence>.<delivered>.<time>.<pending>`. Newer servers add domain
/// and account before the name of the stream, and may add tokens at the end.
pub(super) fn delivery_info(reply: &str) -> Option<DeliveryInfo> {
    let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
    let numbers = match tokens.len() {
        7 => &tokens[2..],
        9.. => &tokens[4..],
        _ => return None,
    };
    let number = |index: usize| numbers[index].parse::<u64>().ok();
    let attempts = u32::try_from(number(0)?).unwrap_or(u32::MAX);
    Some(DeliveryInfo { attempts, sequence: number(1)?, delivered: number(2)? })
}

/// Converts a delivery, with its acknowledgement subject; `None` if the message is not a delivery.
pub(super) fn delivery_of(message: async_nats::Message) -> Option<(Delivery, DeliveryInfo, async_nats::Subject)> {
    let reply = message.reply?;
    let place = delivery_info(&reply)?;
    let pairs = message.headers.iter().flat_map(HeaderMap::iter);
    let pairs = pairs.flat_map(|(name, values)| values.iter().map(|value| (name.as_ref(), value.as_str())));
    let headers = own_headers(pairs);
    let message = Message { subject: message.subject.into_string(), headers, body: message.payload };
    let delivery = Delivery { sequence: place.sequence, attempts: place.attempts, message: Arc::new(message) };
    Some((delivery, place, reply))
}

/// A stored message as returned by the JSON API.
#[derive(serde::Deserialize)]
pub(super) struct Stored {
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Stored {
    /// Decodes the message; `None` if it is malformed.
    pub(super) fn into_message(self) -> Option<Message> {
        let lines = String::from_utf8(BASE64_STANDARD.decode(self.hdrs).ok()?).ok()?;
        let pairs = lines.lines().filter_map(|line| line.split_once(':'));
        let headers = own_headers(pairs.map(|(name, value)| (name, value.trim())));
        let body = BASE64_STANDARD.decode(self.data).ok()?.into();
        Some(Message { subject: self.subject, headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgement_subjects_are_parsed() {
        let expected = Some(DeliveryInfo { attempts: 2, sequence: 17, delivered: 9 });
        for reply in [
            "$JS.ACK.ETICKET.ticket.2.17.9.1700000000000000000.4",
            "$JS.ACK.hub.A1B2.ETICKET.ticket.2.17.9.1700000000000000000.4",
            "$JS.ACK.hub.A1B2.ETICKET.ticket.2.17.9.1700000000000000000.4.random.more",
        ] {
            assert_eq!(delivery_info(reply), expected, "{reply}");
        }
        for reply in ["_INBOX.a.b", "$JS.ACK.ETICKET.ticket.2.17", "$JS.ACK.ETICKET.ticket.x.17.9.1.4"] {
            assert_eq!(delivery_info(reply), None, "{reply}");
        }
    }

    #[test]
    fn stored_messages_are_decoded() {
        let hdrs = BASE64_STANDARD.encode("NATS/1.0\r\nce-id: a%20b:c\r\nNats-Expected-Stream: X\r\nA: 1\r\n\r\n");
        let stored = Stored { subject: "a.b".into(), hdrs, data: BASE64_STANDARD.encode([0, 255]) };
        let headers = vec![("a".into(), "1".to_owned()), ("ce-id".into(), "a b:c".to_owned())];
        let expected = Message { subject: "a.b".into(), headers, body: vec![0, 255].into() };
        assert_eq!(stored.into_message(), Some(expected));
        let bare = Stored { subject: "a.b".into(), hdrs: String::new(), data: String::new() };
        assert_eq!(bare.into_message(), Some(Message { subject: "a.b".into(), ..Message::default() }));
        let broken = Stored { subject: "a.b".into(), hdrs: "%".into(), data: String::new() };
        assert_eq!(broken.into_message(), None);
    }
}

//! Messages as NATS carries them.
//!
//! Header values are percent-encoded, as the CloudEvents binding has it: whatever a header says comes back as it was. Their order
//! does not survive the connection's map; they are delivered in the order of their names.

use std::{str::FromStr, sync::Arc};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use eticket_base::percent;
use eticket_bus::{Delivery, Message};

/// Headers that servers add, or act upon: ours never have one.
const OF_THE_SERVER: &str = "nats-";

/// The headers of a message; `None` for a name that NATS cannot carry.
pub(super) fn headers_of(message: &Message) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        let name = HeaderName::from_str(name).ok()?;
        headers.append(name, HeaderValue::from_str(&percent::encode(value)).ok()?);
    }
    Some(headers)
}

fn own_headers<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), percent::decode(value)))
        .filter(|(name, _)| !name.starts_with(OF_THE_SERVER))
        .collect();
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    headers
}

/// What a delivery says of itself in the subject that it is to be acknowledged on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeliveryInfo {
    /// In the stream.
    pub(super) sequence: u64,
    /// Of the consumer's deliveries, each attempt counted.
    pub(super) delivered: u64,
    pub(super) attempts: u32,
}

/// Of `$JS.ACK.<stream>.<consumer>.<attempts>.<sequence>.<delivered>.<time>.<pending>`, or with domain and account before the
/// stream's name, and then perhaps more at the end.
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

/// A delivery, with its place and where it is to be acknowledged; `None` for what is none.
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

/// A message as the stream's own interface shows it.
#[derive(serde::Deserialize)]
pub(super) struct Stored {
    subject: String,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
}

impl Stored {
    /// The message; `None` if it is not one.
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
    fn a_delivery_says_where_it_stands() {
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
    fn what_is_stored_is_shown_whole() {
        let hdrs = BASE64_STANDARD.encode("NATS/1.0\r\nce-id: a%20b:c\r\nNats-Expected-Stream: X\r\nA: 1\r\n\r\n");
        let stored = Stored { subject: "a.b".into(), hdrs, data: BASE64_STANDARD.encode([0, 255]) };
        let headers = vec![("a".to_owned(), "1".to_owned()), ("ce-id".to_owned(), "a b:c".to_owned())];
        let expected = Message { subject: "a.b".into(), headers, body: vec![0, 255].into() };
        assert_eq!(stored.into_message(), Some(expected));
        let bare = Stored { subject: "a.b".into(), hdrs: String::new(), data: String::new() };
        assert_eq!(bare.into_message(), Some(Message { subject: "a.b".into(), ..Message::default() }));
        let broken = Stored { subject: "a.b".into(), hdrs: "%".into(), data: String::new() };
        assert_eq!(broken.into_message(), None);
    }
}

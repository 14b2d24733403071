//! Percent-encoding, for passwords in URLs and for header values of the CloudEvents binding.

use std::borrow::Cow;

/// Encodes a text as a header value: printable ASCII without blanks.
pub fn encode(text: &str) -> Cow<'_, str> {
    if text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match is_plain(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    Cow::Owned(encoded)
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%' && byte != b'"'
}

/// Decodes a header value. Malformed sequences stay unchanged, because other writers of headers may not encode them.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |index: usize| tail.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        match (digit(0), digit(1)) {
            (Some(high), Some(low)) if *first == b'%' => {
                decoded.extend(u8::try_from(high * 16 + low));
                rest = &tail[2..];
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(decoded).map_or(Cow::Borrowed(text), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_readable() {
        for text in ["ticket/42/7", "2026-11-06T10:00:00.123456Z", "00-abc-def-01"] {
            assert_eq!(encode(text), text);
        }
        assert_eq!(encode("50 % \"off\"\r\n"), "50%20%25%20%22off%22%0D%0A");
        assert_eq!(decode("50 % off, 100%"), "50 % off, 100%");
        assert_eq!(decode("%FF"), "%FF", "the bytes are not UTF-8");
    }

    proptest! {
        #[test]
        fn every_text_survives_a_round_trip(text in ".*") {
            let encoded = encode(&text);
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(decode(&encoded), text.as_str());
        }
    }
}

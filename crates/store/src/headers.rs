//! The headers of a message as stores keep them: a JSON array of pairs.

use eticket_bus::{Header, Message};

use crate::Error;

/// Encodes the headers of a message.
///
/// # Errors
/// Never in practice: every text can be encoded.
pub fn encode_headers(message: &Message) -> Result<String, Error> {
    serde_json::to_string(&message.headers).map_err(Error::data)
}

/// Decodes what [`encode_headers`] returns.
///
/// # Errors
/// `Data` if the text is not an array of pairs.
pub fn decode_headers(text: &str) -> Result<Vec<Header>, Error> {
    serde_json::from_str(text).map_err(Error::data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_keep_their_form() {
        let headers = vec![("a".into(), "1 \"x\"".to_owned()), ("b".into(), String::new())];
        let message = Message { headers: headers.clone(), ..Message::default() };
        let text = encode_headers(&message).unwrap();
        // Rows of earlier versions have this form.
        assert_eq!(text, r#"[["a","1 \"x\""],["b",""]]"#);
        assert_eq!(decode_headers(&text).unwrap(), headers);
        assert!(matches!(decode_headers("{}"), Err(Error::Data(_))));
    }
}

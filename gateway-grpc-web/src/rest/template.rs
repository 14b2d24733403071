//! Path templates of `google.api.http`: literals, `{field}`, and a verb at the end.

use percent_encoding::percent_decode_str;

/// A part of a path between slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// Any text that is not empty; the value of the field with this path.
    Field(String),
}

/// The template of a path, such as `/v1/tickets/{ticket_id}:withdraw`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    segments: Vec<Segment>,
    verb: Option<String>,
}

/// The template uses syntax that the gateway does not support, such as `**`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path template {0:?} is not supported")]
pub(crate) struct Unsupported(String);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// If it is not a template, or uses wildcards other than `{field}` and `{field=*}`.
    pub(crate) fn parse(template: &str) -> Result<Self, Unsupported> {
        let unsupported = || Unsupported(template.to_owned());
        let path = template.strip_prefix('/').ok_or_else(unsupported)?;
        let (path, verb) = match path.rsplit_once(':') {
            Some((path, verb)) if !verb.contains(['/', '}']) => (path, Some(verb.to_owned())),
            _ => (path, None),
        };
        let segments: Option<Vec<_>> = path.split('/').map(segment).collect();
        Ok(Self { segments: segments.ok_or_else(unsupported)?, verb })
    }

    /// Returns the fields in the path with their decoded values; `None` if the path does not fit the template.
    ///
    /// A colon in the last segment begins the verb, so a colon in a value there is written as `%3A`.
    pub(crate) fn matches(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let path = path.strip_prefix('/')?;
        let last = path.rfind('/').map_or(0, |slash| slash + 1);
        let (path, verb) = match path[last..].rfind(':') {
            Some(colon) => (&path[..last + colon], Some(decode(&path[last + colon + 1..])?)),
            None => (path, None),
        };
        if verb != self.verb || path.split('/').count() != self.segments.len() {
            return None;
        }
        let mut fields = Vec::new();
        for (segment, text) in self.segments.iter().zip(path.split('/')) {
            let text = decode(text)?;
            match segment {
                Segment::Literal(literal) if *literal == text => {}
                Segment::Field(field) if !text.is_empty() => fields.push((field.as_str(), text)),
                Segment::Literal(_) | Segment::Field(_) => return None,
            }
        }
        Some(fields)
    }

    /// The first segment, by which the gateway tells REST paths from pages.
    pub(crate) fn root(&self) -> Option<&str> {
        match self.segments.first()? {
            Segment::Literal(literal) => Some(literal),
            Segment::Field(_) => None,
        }
    }
}

fn segment(text: &str) -> Option<Segment> {
    if let Some(field) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        let field = field.strip_suffix("=*").unwrap_or(field);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.".contains(&byte);
        return (!field.is_empty() && field.bytes().all(plain)).then(|| Segment::Field(field.to_owned()));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (!text.is_empty() && text.bytes().all(plain)).then(|| Segment::Literal(text.to_owned()))
}

/// Decodes percent-encoded UTF-8; `None` if the text is neither.
pub(crate) fn decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_hex = |place: usize| bytes.get(place).is_some_and(u8::is_ascii_hexdigit);
    let escapes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%');
    if !escapes.map(|(place, _)| place).all(|place| is_hex(place + 1) && is_hex(place + 2)) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(template: &str, path: &str) -> Option<Vec<(String, String)>> {
        let template = Template::parse(template).unwrap();
        let fields = template.matches(path)?;
        Some(fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect())
    }

    fn id(value: &str) -> Option<Vec<(String, String)>> {
        Some(vec![("ticket_id".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_path_fits_its_template_only() {
        let (ticket, withdraw) = ("/v1/tickets/{ticket_id}", "/v1/tickets/{ticket_id}:withdraw");
        for (template, path, expected) in [
            (ticket, "/v1/tickets/a-1", id("a-1")),
            (ticket, "/v1/%74ickets/%ED%95%9C", id("한")),
            (ticket, "/v1/tickets/a%2Fb%3Ac", id("a/b:c")),
            (ticket, "/v1/tickets/a+b", id("a+b")),
            (ticket, "/v1/tickets/a:withdraw", None),
            (ticket, "/v1/tickets/", None),
            (ticket, "/v1/tickets", None),
            (ticket, "/v1/tickets/a/", None),
            (ticket, "//v1/tickets/a", None),
            (ticket, "/v1/tickets/%zz", None),
            (ticket, "/v1/tickets/%e", None),
            (ticket, "/v1/tickets/%FF", None),
            (withdraw, "/v1/tickets/a:withdraw", id("a")),
            (withdraw, "/v1/tickets/a:b:withdraw", id("a:b")),
            (withdraw, "/v1/tickets/a:with%64raw", id("a")),
            (withdraw, "/v1/tickets/a:withdraw%", None),
            (withdraw, "/v1/tickets/a%3Awithdraw", None),
            (withdraw, "/v1/tickets/:withdraw", None),
            (withdraw, "/v1/tickets/a:Withdraw", None),
            (withdraw, "/v1/tickets/a", None),
            ("/v1/views/{ticket_id}/history", "/v1/views/a:b/history", id("a:b")),
            ("/v1/prices:quote", "/v1/prices:quote", Some(vec![])),
            ("/v1/prices:quote", "/v1/prices/quote", None),
            ("/v1/prices/{ticket_id=*}", "/v1/prices:quote", None),
        ] {
            assert_eq!(fields(template, path), expected, "{template} {path}");
        }
    }

    #[test]
    fn other_templates_are_refused() {
        for template in ["", "v1/x", "/v1/**", "/v1/{a=b/*}", "/v1/{a=**}", "/v1/{}", "/v1//x", "/v1/*"] {
            assert_eq!(Template::parse(template), Err(Unsupported(template.to_owned())));
        }
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in "\\PC{1,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            prop_assert_eq!(fields("/v1/tickets/{ticket_id}", &format!("/v1/tickets/{encoded}")), id(&value));
        }

        #[test]
        fn no_path_panics(path in "[/:%a-f{}0-9é]{0,30}") {
            fields("/v1/tickets/{ticket_id}:withdraw", &path);
            prop_assert!(Template::parse(&path).is_ok() || Template::parse(&path).is_err());
        }
    }
}

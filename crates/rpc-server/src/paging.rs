//! Keyset pagination. A page token contains the key after which the next page begins, and identifies its list. A page
//! ends after the requested number of rows, or earlier if its message would exceed the size that clients accept.

use eticket_proto::{
    error::ErrorReason,
    token::{self, Kind},
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::error::ApiError;

const DEFAULT: i64 = 50;
const MOST: i64 = 1000;
/// Limit of the encoded rows of a page, in bytes. gRPC libraries reject messages above 4 MiB by default; a single row
/// is below 1 MiB.
pub const MOST_BYTES: usize = 2 * 1024 * 1024;
/// Maximum size of the tag and the length prefix of a row, in bytes.
const ROW_PREFIX: usize = 6;
const SCOPE_LENGTH: usize = 8;

/// A requested page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: i64,
    /// The key of the last row of the previous page; `None` for the first page.
    pub after: Option<String>,
}

impl Page {
    /// Parses the paging fields of a request. `scope` names the list with its filters and order; a token of another
    /// scope is rejected.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a negative size, `INVALID_PAGE_TOKEN`.
    pub fn parse(page_size: i32, page_token: &str, scope: &str) -> Result<Self, ApiError> {
        let size = Self::size(page_size)?;
        if page_token.is_empty() {
            return Ok(Self { size, after: None });
        }
        Ok(Self { size, after: Some(key(page_token, scope)?) })
    }

    /// Returns the effective page size: the default for 0, and at most the maximum.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a negative size.
    pub fn size(page_size: i32) -> Result<i64, ApiError> {
        match i64::from(page_size) {
            0 => Ok(DEFAULT),
            size if size > 0 => Ok(size.min(MOST)),
            _ => Err(ApiError::invalid_field("page_size", "expected 0 for the default, or 1 to 1000")),
        }
    }

    /// One more than the page holds; the extra row shows that there is another page.
    pub fn rows_to_read(&self) -> i64 {
        self.size + 1
    }

    /// Converts the rows into messages until the page is full. Also returns the last consumed row if there are more:
    /// the next page begins after it. A row that `to_message` hides still counts. At least one row always fits.
    pub fn fill<R, M: Message>(
        &self,
        rows: Vec<R>,
        mut to_message: impl FnMut(&R) -> Option<M>,
    ) -> (Vec<M>, Option<R>) {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let (mut messages, mut bytes, mut last) = (Vec::new(), 0, None);
        for (index, row) in rows.into_iter().enumerate() {
            if index == size {
                return (messages, last);
            }
            if let Some(message) = to_message(&row) {
                bytes += message.encoded_len() + ROW_PREFIX;
                if bytes > MOST_BYTES && !messages.is_empty() {
                    return (messages, last);
                }
                messages.push(message);
            }
            last = Some(row);
        }
        (messages, None)
    }
}

/// Returns the token of the page that begins after the row with this key.
pub fn token(scope: &str, key: &str) -> String {
    let mut payload = fingerprint(scope).to_vec();
    payload.extend_from_slice(key.as_bytes());
    token::seal(Kind::Page, &payload)
}

fn key(page_token: &str, scope: &str) -> Result<String, ApiError> {
    let refused = |message: &str| ApiError::new(ErrorReason::InvalidPageToken).message(message);
    let payload = token::open(Kind::Page, page_token).ok();
    let parts = payload.as_deref().and_then(<[u8]>::split_first_chunk::<SCOPE_LENGTH>);
    let parts = parts.and_then(|(of_scope, key)| Some((of_scope, String::from_utf8(key.to_vec()).ok()?)));
    match parts {
        Some((of_scope, key)) if *of_scope == fingerprint(scope) => Ok(key),
        Some(_) => Err(refused(
            "page_token: the token belongs to another list, filter or order; send the next_page_token of this list, or an empty token for the first page",
        )),
        None => Err(refused(
            "page_token: the token is invalid; send a next_page_token unchanged, or an empty token for the first page",
        )),
    }
}

fn fingerprint(scope: &str) -> [u8; SCOPE_LENGTH] {
    let hash: [u8; 32] = Sha256::digest(scope.as_bytes()).into();
    let mut short = [0; SCOPE_LENGTH];
    short.copy_from_slice(&hash[..SCOPE_LENGTH]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_list() {
        let token = token("ListTickets 1", "t-9");
        let page = Page::parse(0, &token, "ListTickets 1").expect("its own list");
        assert_eq!(page.after.as_deref(), Some("t-9"));
        let (altered, other) = (format!("{token}x"), token::seal(Kind::Resume, b"12345678"));
        for (token, scope, problem) in [
            (token.as_str(), "ListTickets 2", "another list"),
            ("nonsense", "ListTickets 1", "token is invalid"),
            (altered.as_str(), "ListTickets 1", "token is invalid"),
            (other.as_str(), "ListTickets 1", "token is invalid"),
        ] {
            let refused = Page::parse(0, token, scope).expect_err("no token of this list");
            assert_eq!(refused.reason(), ErrorReason::InvalidPageToken);
            assert!(refused.to_string().contains(problem), "{refused}");
        }
    }

    #[test]
    fn sizes_are_coerced_or_refused() {
        assert_eq!(Page::parse(0, "", "").expect("default").rows_to_read(), 51);
        assert_eq!(Page::parse(5000, "", "").expect("coerced").rows_to_read(), 1001);
        assert_eq!(Page::parse(-1, "", "").expect_err("refused").reason(), ErrorReason::InvalidField);
    }

    /// Converts a row into a message; an empty row is hidden.
    const TEXT: fn(&String) -> Option<String> = |row| Some(row.clone()).filter(|row| !row.is_empty());

    #[test]
    fn an_extra_row_shows_that_there_is_another_page() {
        let page = Page::parse(2, "", "").expect("a page");
        let rows = |rows: &[&str]| rows.iter().map(|row| (*row).to_owned()).collect::<Vec<_>>();
        assert_eq!(page.fill(rows(&["a", "b", "c"]), TEXT), (rows(&["a", "b"]), Some("b".to_owned())));
        assert_eq!(page.fill(rows(&["a", "b"]), TEXT), (rows(&["a", "b"]), None));
        assert_eq!(page.fill(rows(&["", "", "c"]), TEXT), (rows(&[]), Some(String::new())), "rows not shown count");
    }

    #[test]
    fn a_page_ends_before_it_is_too_large_for_a_client() {
        let page = Page::parse(1000, "", "").expect("a page");
        let mut rows: Vec<String> = (0..1000).map(|number| format!("{number:010000}")).collect();
        let mut seen = 0;
        while !rows.is_empty() {
            let (messages, last) = page.fill(rows.clone(), TEXT);
            let bytes: usize = messages.iter().map(|message| message.len() + ROW_PREFIX).sum();
            assert!(bytes <= MOST_BYTES && !messages.is_empty(), "{bytes}");
            assert_eq!(messages, rows[..messages.len()], "without a gap");
            assert!(last.is_none_or(|last| Some(&last) == messages.last()), "the next page begins right after it");
            seen += messages.len();
            rows.drain(..messages.len());
        }
        assert_eq!(seen, 1000);
        let (messages, last) = page.fill(vec!["x".repeat(3 * 1024 * 1024), "y".to_owned()], TEXT);
        assert_eq!((messages.len(), last.is_some()), (1, true), "one row always fits");
    }
}

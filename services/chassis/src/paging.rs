//! Pages by keyset: a token carries the key after which the next page begins, and which list it belongs to.

use eticket_proto::{
    error::ErrorReason,
    token::{self, Kind},
};
use sha2::{Digest, Sha256};

use crate::error::ApiError;

const DEFAULT: i64 = 50;
const MOST: i64 = 1000;
const SCOPE_LENGTH: usize = 8;

/// The page that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    size: i64,
    /// The key of the last row of the page before; `None` for the first page.
    pub after: Option<String>,
}

impl Page {
    /// `scope` names the list with its filters and order: a token of another one is refused.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a negative size, `INVALID_PAGE_TOKEN`.
    pub fn parse(page_size: i32, page_token: &str, scope: &str) -> Result<Self, ApiError> {
        let size = match i64::from(page_size) {
            0 => DEFAULT,
            negative if negative < 0 => {
                return Err(ApiError::invalid_field("page_size", "expected 0 for the default, or 1 to 1000"));
            }
            size => size.min(MOST),
        };
        if page_token.is_empty() {
            return Ok(Self { size, after: None });
        }
        let key = key(page_token, scope).ok_or_else(|| ApiError::new(ErrorReason::InvalidPageToken))?;
        Ok(Self { size, after: Some(key) })
    }

    /// One more than the page holds: it tells whether there is another page.
    pub fn rows_to_read(&self) -> i64 {
        self.size + 1
    }

    /// Cuts what was read to the page; answers whether there is more.
    pub fn cut<T>(&self, rows: &mut Vec<T>) -> bool {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        let more = rows.len() > size;
        rows.truncate(size);
        more
    }
}

/// The token of the page after the row with this key.
pub fn token(scope: &str, key: &str) -> String {
    let mut payload = fingerprint(scope).to_vec();
    payload.extend_from_slice(key.as_bytes());
    token::seal(Kind::Page, &payload)
}

fn key(page_token: &str, scope: &str) -> Option<String> {
    let payload = token::open(Kind::Page, page_token).ok()?;
    let (of_scope, key) = payload.split_first_chunk::<SCOPE_LENGTH>()?;
    (*of_scope == fingerprint(scope)).then(|| String::from_utf8(key.to_vec()).ok())?
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
        for (token, scope) in [(token.as_str(), "ListTickets 2"), ("nonsense", "ListTickets 1")] {
            let refused = Page::parse(0, token, scope).expect_err("another list");
            assert_eq!(refused.reason(), ErrorReason::InvalidPageToken);
        }
    }

    #[test]
    fn sizes_are_coerced_or_refused() {
        assert_eq!(Page::parse(0, "", "").expect("default").rows_to_read(), 51);
        assert_eq!(Page::parse(5000, "", "").expect("coerced").rows_to_read(), 1001);
        assert_eq!(Page::parse(-1, "", "").expect_err("refused").reason(), ErrorReason::InvalidField);
    }

    #[test]
    fn one_row_too_many_tells_of_another_page() {
        let page = Page::parse(2, "", "").expect("a page");
        let (mut full, mut last) = (vec![1, 2, 3], vec![1, 2]);
        assert!(page.cut(&mut full));
        assert!(!page.cut(&mut last));
        assert_eq!((full.len(), last.len()), (2, 2));
    }
}

//! The consistency tokens of a read, from the request metadata, and what the read waits for because of them.

use std::collections::BTreeMap;

use eticket_proto::{
    error::ErrorReason,
    field_text, headers,
    ids::TicketId,
    token::{Consistency, MOST_CONSISTENCY_TOKENS},
};
use eticket_rpc_server::error::ApiError;
use tonic::metadata::MetadataMap;

use crate::{
    application::{
        changes::Condition,
        waiting::{Behind, Cause},
    },
    domain::{Part, Wait},
};

/// The tokens of a session, the newest of each ticket and service, and what to wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    tokens: Vec<Consistency>,
    /// `eticket-wait`: `None` if the caller has set none, `Some(None)` for `none`.
    wait: Option<Option<Wait>>,
}

impl Session {
    /// Reads the request metadata.
    ///
    /// # Errors
    /// `INVALID_FIELD` for an unknown `eticket-wait`, or for too many tokens; `INVALID_CONSISTENCY_TOKEN` for a
    /// malformed one.
    pub(super) fn from_metadata(metadata: &MetadataMap) -> Result<Self, ApiError> {
        let texts = texts(metadata);
        let many = (texts.len() > MOST_CONSISTENCY_TOKENS).then(|| {
            let expected = format!("expected at most {MOST_CONSISTENCY_TOKENS} tokens, got {}", texts.len());
            ApiError::invalid_field(headers::CONSISTENCY_TOKEN, expected)
        });
        let wait = wait(metadata);
        ApiError::all([many.as_ref(), wait.as_ref().err()])?;
        let mut tokens = Vec::new();
        for text in texts {
            let token = text.and_then(|text| Consistency::decode(text).ok());
            token.ok_or_else(|| malformed(headers::CONSISTENCY_TOKEN))?.add_to(&mut tokens);
        }
        Ok(Self { tokens, wait: wait? })
    }

    /// Returns the value of `eticket-wait`; `None` if it is not set or `none`.
    pub(super) fn wait(&self) -> Option<Wait> {
        self.wait.flatten()
    }

    /// Returns the condition for the row of this ticket; an empty one if there is no token of it.
    pub(super) fn condition_of(&self, ticket: &TicketId) -> Condition {
        self.conditions(|of| of == ticket).remove(ticket).unwrap_or_default()
    }

    /// Returns the conditions for the rows of the wanted tickets.
    pub(super) fn conditions(&self, is_wanted: impl Fn(&TicketId) -> bool) -> BTreeMap<TicketId, Condition> {
        let mut conditions: BTreeMap<TicketId, Condition> = BTreeMap::new();
        let Some(wait) = self.wait.unwrap_or(Some(Wait::Applied)) else { return conditions };
        for token in self.tokens.iter().filter(|token| is_wanted(token.ticket())) {
            let condition = conditions.entry(token.ticket().clone()).or_default();
            *condition = std::mem::take(condition).and(Some(token.clone()), wait);
        }
        conditions
    }
}

/// Splits the values of all headers at commas. A value that is not text is kept as `None`, so that it is refused.
fn texts(metadata: &MetadataMap) -> Vec<Option<&str>> {
    let mut texts = Vec::new();
    for value in metadata.get_all(headers::CONSISTENCY_TOKEN) {
        match value.to_str() {
            Ok(list) => texts.extend(list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(Some)),
            Err(_) => texts.push(None),
        }
    }
    texts
}

fn wait(metadata: &MetadataMap) -> Result<Option<Option<Wait>>, ApiError> {
    let Some(value) = metadata.get(headers::WAIT) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok("") => Ok(None),
        Ok("none") => Ok(Some(None)),
        Ok("applied") => Ok(Some(Some(Wait::Applied))),
        Ok("settled") => Ok(Some(Some(Wait::Settled))),
        Ok(_) | Err(_) => Err(ApiError::invalid_field(headers::WAIT, field_text::WAIT_HEADERS)),
    }
}

/// Returns the error for a token that was not made by this system. `source` names the field or header.
pub(super) fn malformed(source: &str) -> ApiError {
    let advice =
        "it is altered, cut off, or not a consistency token; send the unchanged token of a command's response, or none";
    ApiError::new(ErrorReason::InvalidConsistencyToken).message(format!("{source}: {advice}"))
}

/// Returns the error for a wait that has ended without its row.
pub(super) fn not_caught_up(behind: &Behind, has_token: bool) -> ApiError {
    let message = match has_token {
        true => "the view has not caught up with the token yet; retry with the same token",
        false => "the view has not caught up yet; retry, or wait with the token of a command",
    };
    let (mut parts, mut wanted, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for lacking in &behind.lacking {
        parts.push(match lacking.part {
            Part::Ticket => "ticket",
            Part::Reservation => "reservation",
            Part::Price => "price",
        });
        wanted.push(lacking.wanted.to_string());
        seen.push(lacking.seen.to_string());
    }
    let cause = match behind.cause {
        Cause::Late => "late",
        Cause::Stalled => "stalled",
        Cause::Parked => "parked",
        Cause::BusUnavailable => "bus_unavailable",
        Cause::Rebuilding => "rebuilding",
    };
    ApiError::new(ErrorReason::ViewNotCaughtUp)
        .message(message)
        .with("ticket_id", &behind.ticket)
        .with("waiting_for", parts.join(","))
        .with("wanted", wanted.join(","))
        .with("seen", seen.join(","))
        .with("cause", cause)
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn token(ticket: &str, revision: i64) -> Consistency {
        Consistency::Reservation { ticket: ticket.parse().unwrap(), revision }
    }

    fn session(tokens: &[&str], wait: Option<&'static str>) -> Result<Session, ErrorReason> {
        let mut metadata = MetadataMap::new();
        for value in tokens {
            metadata.append(headers::CONSISTENCY_TOKEN, value.parse().unwrap());
        }
        if let Some(wait) = wait {
            metadata.insert(headers::WAIT, MetadataValue::from_static(wait));
        }
        Session::from_metadata(&metadata).map_err(|error| error.reason())
    }

    #[test]
    fn only_the_newest_token_of_a_ticket_applies() {
        let [a1, a2, b] = [token("a", 1), token("a", 2), token("b", 1)];
        let list = format!("{}, {},,", a2.encode(), b.encode());
        let session = session(&[&list, &a1.encode()], None).unwrap();
        let conditions = session.conditions(|_| true);
        assert_eq!(conditions.keys().map(TicketId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(session.condition_of(a1.ticket()), Condition::new(Some(a2), Wait::Applied));
        assert!(session.condition_of(&"c".parse().unwrap()).is_empty());
    }

    #[test]
    fn the_header_selects_the_wait() {
        let a = token("a", 1).encode();
        for (header, expected) in [
            (None, Some(Wait::Applied)),
            (Some(""), Some(Wait::Applied)),
            (Some("applied"), Some(Wait::Applied)),
            (Some("settled"), Some(Wait::Settled)),
            (Some("none"), None),
        ] {
            let expected = expected.map(|wait| Condition::new(Some(token("a", 1)), wait)).unwrap_or_default();
            let session = session(&[&a], header).unwrap();
            assert_eq!(session.condition_of(&"a".parse().unwrap()), expected, "{header:?}");
        }
        assert_eq!(session(&[], Some("later")), Err(ErrorReason::InvalidField));
    }

    #[test]
    fn too_many_and_malformed_tokens_are_refused() {
        let many = |count: i64| (1..=count).map(|revision| token("a", revision).encode()).collect::<Vec<_>>();
        let refused = |tokens: &[String]| session(&[&tokens.join(",")], None).err();
        assert_eq!(refused(&many(64)), None);
        assert_eq!(refused(&many(65)), Some(ErrorReason::InvalidField), "of any tickets");
        let page = eticket_proto::token::seal(eticket_proto::token::Kind::Page, b"r a 1");
        for malformed in ["nonsense", &page] {
            assert_eq!(refused(&[malformed.to_owned()]), Some(ErrorReason::InvalidConsistencyToken), "{malformed}");
        }
        let mut bytes = MetadataMap::new();
        bytes.insert(headers::CONSISTENCY_TOKEN, MetadataValue::try_from(&b"\xff"[..]).unwrap());
        let refused = Session::from_metadata(&bytes).map_err(|error| error.reason());
        assert_eq!(refused, Err(ErrorReason::InvalidConsistencyToken));
    }
}

//! Opaque tokens: URL-safe strings with a kind and a checksum. A token that is altered or of another kind is refused.
//! Tokens hold no secret and grant nothing, so a checksum is enough and no signature is needed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::ids::TicketId;

/// A token that this system has not made for this purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token is altered, cut off, or of another kind")]
pub struct InvalidToken;

/// The purpose of a token, and its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Consistency = 1,
    Page = 2,
    Resume = 3,
}

/// Longer tokens are refused before they are decoded.
const LONGEST: usize = 4096;

/// Number of consistency tokens that one read may have.
pub const MOST_CONSISTENCY_TOKENS: usize = 64;

/// A checksum of 32 bits.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Makes a token of a payload.
pub fn seal(kind: Kind, payload: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(payload.len() + 5);
    bytes.push(kind as u8);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the payload of a token.
///
/// # Errors
/// `InvalidToken` if it was not made by `seal` with this kind.
pub fn open(kind: Kind, token: &str) -> Result<Vec<u8>, InvalidToken> {
    if token.len() > LONGEST {
        return Err(InvalidToken);
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| InvalidToken)?;
    let (sealed, checksum) = bytes.split_last_chunk::<4>().ok_or(InvalidToken)?;
    if crc32fast::hash(sealed).to_be_bytes() != *checksum {
        return Err(InvalidToken);
    }
    match sealed.split_first() {
        Some((first, payload)) if *first == kind as u8 => Ok(payload.to_vec()),
        _ => Err(InvalidToken),
    }
}

/// The effect of a command that a view can wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consistency {
    /// A reservation was made or cancelled; `revision` is that of the ledger.
    Reservation { ticket: TicketId, revision: i64 },
    /// A ticket was registered or updated, or (`withdrawn`) withdrawn.
    Ticket { ticket: TicketId, revision: i64, schedule_revision: i64, withdrawn: bool },
}

impl Consistency {
    pub fn ticket(&self) -> &TicketId {
        match self {
            Self::Reservation { ticket, .. } | Self::Ticket { ticket, .. } => ticket,
        }
    }

    /// Returns whether a view that includes the effect of `self` also includes that of `other`: both are of one ticket
    /// and one service, and `self` is not older. Revisions of different services cannot be compared.
    pub fn covers(&self, other: &Self) -> bool {
        if self.ticket() != other.ticket() {
            return false;
        }
        match (self, other) {
            (Self::Reservation { revision, .. }, Self::Reservation { revision: other, .. })
            | (Self::Ticket { revision, .. }, Self::Ticket { revision: other, .. }) => revision >= other,
            (Self::Reservation { .. }, Self::Ticket { .. }) | (Self::Ticket { .. }, Self::Reservation { .. }) => false,
        }
    }

    /// Adds this token to the tokens of a session: it replaces those that it covers, and is left out if one of them
    /// covers it. The newest token is the last.
    pub fn add_to(self, tokens: &mut Vec<Self>) {
        if !tokens.iter().any(|token| token.covers(&self)) {
            tokens.retain(|token| !self.covers(token));
            tokens.push(self);
        }
    }

    pub fn encode(&self) -> String {
        let text = match self {
            Self::Reservation { ticket, revision } => format!("r {ticket} {revision}"),
            Self::Ticket { ticket, revision, schedule_revision, withdrawn } => {
                format!("t {ticket} {revision} {schedule_revision} {}", u8::from(*withdrawn))
            }
        };
        seal(Kind::Consistency, text.as_bytes())
    }

    /// # Errors
    /// `InvalidToken` if it is not a consistency token.
    pub fn decode(token: &str) -> Result<Self, InvalidToken> {
        let payload = String::from_utf8(open(Kind::Consistency, token)?).map_err(|_| InvalidToken)?;
        let number = |text: &str| text.parse::<i64>().map_err(|_| InvalidToken);
        let id = |text: &str| text.parse::<TicketId>().map_err(|_| InvalidToken);
        match payload.split(' ').collect::<Vec<_>>()[..] {
            ["r", ticket, revision] => Ok(Self::Reservation { ticket: id(ticket)?, revision: number(revision)? }),
            ["t", ticket, revision, schedule, withdrawn] => Ok(Self::Ticket {
                ticket: id(ticket)?,
                revision: number(revision)?,
                schedule_revision: number(schedule)?,
                withdrawn: withdrawn == "1",
            }),
            _ => Err(InvalidToken),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Consistency {
        Consistency::Ticket {
            ticket: "t-1".parse().expect("an id"),
            revision: 7,
            schedule_revision: 2,
            withdrawn: true,
        }
    }

    #[test]
    fn a_consistency_token_comes_back() {
        let reserve = Consistency::Reservation { ticket: "a_B".parse().expect("an id"), revision: i64::MAX };
        for token in [sample(), reserve] {
            assert_eq!(Consistency::decode(&token.encode()), Ok(token));
        }
    }

    fn reserve(ticket: &str, revision: i64) -> Consistency {
        Consistency::Reservation { ticket: ticket.parse().expect("an id"), revision }
    }

    #[test]
    fn the_newest_token_of_a_ticket_and_service_remains() {
        let mut tokens = Vec::new();
        for token in [reserve("t-1", 3), sample(), reserve("t-2", 1), reserve("t-1", 2), reserve("t-2", 4)] {
            token.add_to(&mut tokens);
        }
        assert_eq!(tokens, [reserve("t-1", 3), sample(), reserve("t-2", 4)]);
        reserve("t-1", 5).add_to(&mut tokens);
        assert_eq!(tokens, [sample(), reserve("t-2", 4), reserve("t-1", 5)]);
    }

    #[test]
    fn a_token_of_another_kind_is_refused() {
        let page = seal(Kind::Page, b"r t-1 7");
        assert_eq!(Consistency::decode(&page), Err(InvalidToken));
        assert_eq!(Consistency::decode(""), Err(InvalidToken));
    }

    proptest! {
        #[test]
        fn an_altered_token_is_refused(at in 0usize..20, to in "[A-Za-z0-9_-]") {
            let token = sample().encode();
            let mut altered = token.clone();
            let at = at % altered.len();
            altered.replace_range(at..=at, &to);
            prop_assume!(altered != token);
            prop_assert_eq!(Consistency::decode(&altered), Err(InvalidToken));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            prop_assert!(Consistency::decode(&text).is_err());
        }
    }
}

//! Identifiers and grades as types. A value of such a type is always well formed.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use crate::reservation;

/// A text that is not a valid identifier. `Display` says what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct InvalidId {
    expected: &'static str,
    got: String,
}

impl InvalidId {
    fn new(expected: &'static str, got: &str) -> Self {
        // The error text quotes the caller's text. The bound keeps responses and logs small.
        Self { expected, got: got.chars().take(80).collect() }
    }
}

/// The id of a ticket: 1 to 64 characters of `A-Z a-z 0-9 _ -`. It is safe as one token of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TicketId(String);

impl TicketId {
    /// Makes an id, a UUIDv7, for a ticket that is registered without one.
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TicketId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let fits = (1..=64).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new("1 to 64 characters of A-Z a-z 0-9 _ -", text))
        }
    }
}

impl fmt::Display for TicketId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The id of a reservation: a UUIDv7 that the reservation service makes. Later ids sort after earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId(Uuid);

impl ReservationId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    pub fn as_uuid(&self) -> Uuid {
        self.0
    }

    /// Parses an id from a caller. Accepts only the form that the service returns: a UUIDv7 in lower case with hyphens.
    ///
    /// # Errors
    /// If the text has another form.
    pub fn from_caller(text: &str) -> Result<Self, InvalidId> {
        let handed_out = |id: &Self| id.0.get_version_num() == 7 && id.0.get_variant() == uuid::Variant::RFC4122;
        text.parse().ok().filter(handed_out).ok_or_else(|| Self::invalid(text))
    }

    fn invalid(text: &str) -> InvalidId {
        InvalidId::new("a reservation_id as ReserveTicket returned it, a UUIDv7 in lower case with hyphens", text)
    }
}

impl From<Uuid> for ReservationId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl FromStr for ReservationId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // Only one spelling is valid: code that compares texts would treat two spellings as two ids.
        match Uuid::try_parse(text) {
            Ok(id) if id.to_string() == text => Ok(Self(id)),
            _ => Err(Self::invalid(text)),
        }
    }
}

impl fmt::Display for ReservationId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

/// The id of a user: 1 to 128 characters without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if (1..=128).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidId::new("1 to 128 characters without control characters", text))
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The grade of a user. Discounts may depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserGrade {
    Silver,
    Gold,
    Vip,
}

impl UserGrade {
    pub const ALL: [Self; 3] = [Self::Silver, Self::Gold, Self::Vip];

    /// Returns the name as in the contract, without the prefix of the enum.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silver => "SILVER",
            Self::Gold => "GOLD",
            Self::Vip => "VIP",
        }
    }

    /// Returns `None` for a number that is not a grade, and for UNSPECIFIED.
    pub fn from_proto(number: i32) -> Option<Self> {
        match reservation::UserGrade::try_from(number) {
            Ok(reservation::UserGrade::Silver) => Some(Self::Silver),
            Ok(reservation::UserGrade::Gold) => Some(Self::Gold),
            Ok(reservation::UserGrade::Vip) => Some(Self::Vip),
            Ok(reservation::UserGrade::Unspecified) | Err(_) => None,
        }
    }

    pub fn to_proto(self) -> reservation::UserGrade {
        match self {
            Self::Silver => reservation::UserGrade::Silver,
            Self::Gold => reservation::UserGrade::Gold,
            Self::Vip => reservation::UserGrade::Vip,
        }
    }
}

impl FromStr for UserGrade {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::ALL
            .into_iter()
            .find(|grade| grade.name() == text)
            .ok_or_else(|| InvalidId::new("SILVER, GOLD or VIP", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_id_is_one_token_of_a_subject() {
        for good in ["1", "A-z_9", &"x".repeat(64)] {
            assert_eq!(good.parse::<TicketId>().expect(good).as_str(), good);
        }
        for bad in ["", "a.b", "a*", "a>", "a b", "ä", &"x".repeat(65), "a\n"] {
            assert!(bad.parse::<TicketId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_reservation_id_has_one_spelling() {
        let id = ReservationId::generate();
        assert_eq!(id.to_string().parse::<ReservationId>(), Ok(id));
        assert!(id.as_uuid().simple().to_string().parse::<ReservationId>().is_err());
        assert!("".parse::<ReservationId>().is_err());
        let handed_out = id.to_string();
        assert_eq!(ReservationId::from_caller(&handed_out), Ok(id));
        for other in [
            "0199A0E0-0000-7000-8000-000000000001".to_owned(),
            format!("{{{handed_out}}}"),
            format!("urn:uuid:{handed_out}"),
            format!("{handed_out} "),
            id.as_uuid().simple().to_string(),
            Uuid::nil().to_string(),
            Uuid::max().to_string(),
            Uuid::from_u128(0x6b1f_7e7e_51a5_4f8f_9f0e_2f0a_4f2b_8a11).to_string(),
            "0199a0e0-0000-7000-0000-000000000001".to_owned(),
        ] {
            assert!(ReservationId::from_caller(&other).is_err(), "{other} must be refused");
        }
    }

    #[test]
    fn a_user_id_counts_characters_not_bytes() {
        assert!("한".repeat(128).parse::<UserId>().is_ok());
        assert!("한".repeat(129).parse::<UserId>().is_err());
        assert!("a\u{0}b".parse::<UserId>().is_err());
        assert!("".parse::<UserId>().is_err());
    }

    #[test]
    fn grades_survive_both_spellings() {
        for grade in UserGrade::ALL {
            assert_eq!(UserGrade::from_proto(grade.to_proto() as i32), Some(grade));
            assert_eq!(grade.name().parse(), Ok(grade));
        }
        assert_eq!(UserGrade::from_proto(0), None);
        assert_eq!(UserGrade::from_proto(99), None);
    }
}

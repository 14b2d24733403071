//! Filters and sort orders of lists, and the keys at which pages begin.
//!
//! Every order ends with the ticket id. No two rows have equal keys, so a page can begin after any row.

use std::fmt;

use chrono::{DateTime, Utc};
use eticket_proto::ids::{TicketId, UserId};
use serde::{Deserialize, Serialize};

use crate::domain::{TicketStatus, View};

/// A filter of rows. A row is listed if all conditions hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub status: Option<TicketStatus>,
    /// The current holder of the ticket.
    pub user: Option<UserId>,
    /// Earliest start, inclusive.
    pub start_from: Option<DateTime<Utc>>,
    /// Latest start, exclusive.
    pub start_to: Option<DateTime<Utc>>,
}

/// The fields by which rows can be sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    StartTime,
    TicketId,
    DiscountedPrice,
    UpdateTime,
}

impl Field {
    const ALL: [Self; 4] = [Self::StartTime, Self::TicketId, Self::DiscountedPrice, Self::UpdateTime];

    fn name(self) -> &'static str {
        match self {
            Self::StartTime => "start_time",
            Self::TicketId => "ticket_id",
            Self::DiscountedPrice => "discounted_price",
            Self::UpdateTime => "update_time",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Ascending,
    Descending,
}

/// A sort order of rows. It ends with the ticket id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SortOrder(Vec<(Field, Direction)>);

/// The text is not a valid order. `Display` states the expected form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a list as \"start_time desc, ticket_id\" over start_time, ticket_id, discounted_price, update_time, each once, got {0:?}"
)]
pub struct InvalidOrder(String);

impl SortOrder {
    /// Parses an order in the form of AIP-132. An empty text sorts by start.
    ///
    /// # Errors
    /// If the text names an unknown field, or a field twice.
    pub fn parse(text: &str) -> Result<Self, InvalidOrder> {
        let invalid = || InvalidOrder(text.chars().take(80).collect());
        let mut fields: Vec<(Field, Direction)> = Vec::new();
        let text = if text.trim().is_empty() { Field::StartTime.name() } else { text };
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let name = words.next().ok_or_else(invalid)?;
            let field = Field::ALL.into_iter().find(|field| field.name() == name).ok_or_else(invalid)?;
            let direction = match (words.next(), words.next()) {
                (None | Some("asc"), None) => Direction::Ascending,
                (Some("desc"), None) => Direction::Descending,
                _ => return Err(invalid()),
            };
            if fields.iter().any(|(known, _)| *known == field) {
                return Err(invalid());
            }
            fields.push((field, direction));
        }
        // The id is unique, so fields after it have no effect. If the order has no id, the id takes the direction of
        // the last field, so that one index serves both directions.
        match fields.iter().position(|(field, _)| *field == Field::TicketId) {
            Some(last) => fields.truncate(last + 1),
            None => fields.extend(fields.last().map(|(_, direction)| (Field::TicketId, *direction))),
        }
        Ok(Self(fields))
    }

    pub fn fields(&self) -> &[(Field, Direction)] {
        &self.0
    }

    /// Returns the key of a row in this order.
    pub fn key(&self, id: &TicketId, view: &View) -> Vec<KeyPart> {
        let mut key = Vec::new();
        for (field, _) in &self.0 {
            match field {
                Field::StartTime => {
                    let start = view.ticket.as_ref().map_or(0, |ticket| ticket.start.timestamp_micros());
                    key.push(KeyPart::Number(start));
                }
                Field::TicketId => key.push(KeyPart::Text(id.to_string())),
                Field::DiscountedPrice => {
                    let (units, nanos) = price_key(view);
                    key.extend([KeyPart::Number(units), KeyPart::Number(nanos)]);
                }
                Field::UpdateTime => key.push(KeyPart::Number(update_key(view))),
            }
        }
        key
    }

    /// Returns whether a key has the form of the keys of this order.
    pub fn fits(&self, key: &[KeyPart]) -> bool {
        let shape = self.0.iter().flat_map(|(field, _)| match field {
            Field::TicketId => vec![false],
            Field::DiscountedPrice => vec![true, true],
            Field::StartTime | Field::UpdateTime => vec![true],
        });
        shape.eq(key.iter().map(|part| matches!(part, KeyPart::Number(_))))
    }
}

/// Writes the normalized form, independent of the spelling of the caller.
impl fmt::Display for SortOrder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (field, direction) in &self.0 {
            let direction = if *direction == Direction::Ascending { "asc" } else { "desc" };
            write!(formatter, "{} {direction},", field.name())?;
        }
        Ok(())
    }
}

/// One part of the key after which a page begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    Number(i64),
    Text(String),
}

/// Returns the price as a sort key: units and nanos. Rows without a price sort below all others.
pub fn price_key(view: &View) -> (i64, i64) {
    let price = view.price.as_ref().map(|price| &price.discounted_price);
    price.map_or((i64::MIN, 0), |price| (price.units, i64::from(price.nanos)))
}

/// Returns the time of the last update as a sort key.
pub fn update_key(view: &View) -> i64 {
    view.update_time().map_or(0, |time| time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_always_ends_with_the_id() {
        for (text, expected) in [
            ("", "start_time asc,ticket_id asc,"),
            ("start_time desc", "start_time desc,ticket_id desc,"),
            ("start_time desc, ticket_id", "start_time desc,ticket_id asc,"),
            (" discounted_price  asc ,update_time desc", "discounted_price asc,update_time desc,ticket_id desc,"),
            ("ticket_id desc,start_time", "ticket_id desc,"),
        ] {
            assert_eq!(SortOrder::parse(text).map(|order| order.to_string()), Ok(expected.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn invalid_orders_are_refused() {
        for text in
            ["title", "start_time,", ",", "start_time up", "start_time desc desc", "start_time, start_time desc"]
        {
            let error = SortOrder::parse(text).expect_err(text);
            assert!(error.to_string().contains("start_time desc, ticket_id"), "{error}");
        }
    }

    #[test]
    fn a_key_fits_only_its_order() {
        let order = SortOrder::parse("discounted_price").expect("an order");
        let id: TicketId = "t".parse().expect("an id");
        let key = order.key(&id, &View::default());
        assert!(order.fits(&key));
        assert!(!SortOrder::parse("start_time").expect("an order").fits(&key));
        let text = serde_json::to_string(&key).expect("JSON");
        assert_eq!(
            serde_json::from_str::<Vec<KeyPart>>(&text).expect("a key"),
            key,
            "the lowest number is encoded exactly"
        );
    }
}

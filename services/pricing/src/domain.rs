//! The pricing rules of the protocol: the row of a ticket, and one pure function for each event.
//!
//! A price is always computed from the state (start, grade of the holder, policy) and never derived from the previous
//! price. A duplicate event therefore changes nothing.

mod money;
mod policy;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use eticket_proto::ids::UserGrade;

pub use money::{Currency, InvalidMoney, Money};
pub use policy::{Discount, InvalidPolicy, Offer, Policy, Price, Reduction, Rounding, Rule, consider};

/// The state that pricing keeps for a ticket. The default is the state before the first event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Start of the ticket; `None` before the first ticket event.
    pub start: Option<DateTime<Utc>>,
    /// Newest schedule revision of the ticket that has been applied; 0 before the first.
    pub schedule_revision: i64,
    /// Grade of the holder; `None` if the ticket has no holder.
    pub grade: Option<UserGrade>,
    /// Newest revision of the ticket's ledger that has been applied; 0 before the first.
    pub reservation_revision: i64,
    /// Version of the policy with which `price` was computed; 0 before the first computation.
    pub policy_version: i64,
    /// Number of events and policies applied since `start` is set.
    pub revision: i64,
    /// Set exactly when `start` is set.
    pub price: Option<Price>,
    /// Time of the newest `revision`.
    pub update_time: Option<DateTime<Utc>>,
}

/// The content of a ticket event: the start of the ticket and its schedule revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub start: DateTime<Utc>,
    pub revision: i64,
}

/// The content of a reservation event: the grade of the holder at one revision of the ledger; `None` without a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub grade: Option<UserGrade>,
    pub revision: i64,
}

/// The row was computed with a newer policy than the given one. Read the policy in force from the store and retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row was computed with policy version {wanted}, but version {known} is in force here")]
pub struct PolicyBehind {
    pub wanted: i64,
    pub known: i64,
}

/// Applies a ticket event. Returns `None` for a stale event. The caller publishes the returned row if it has a price.
///
/// A change of the end alone also increments the schedule revision. A ticket with a holder then keeps its price and
/// policy version; the new row and its event only confirm that the revision was applied.
///
/// # Errors
/// [`PolicyBehind`] if the row was computed with a newer policy than `policy`.
pub fn apply_ticket(
    row: &Row,
    seen: Schedule,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<Option<Row>, PolicyBehind> {
    if seen.revision <= row.schedule_revision {
        return Ok(None);
    }
    let keeps_price = row.grade.is_some() && row.price.is_some() && row.start == Some(seen.start);
    let row = Row { start: Some(seen.start), schedule_revision: seen.revision, ..row.clone() };
    if keeps_price {
        return Ok(Some(Row { revision: row.revision + 1, update_time: Some(now), ..row }));
    }
    recompute(row, policy, now).map(Some)
}

/// Applies a reservation event. Returns `None` for a stale event. The caller publishes the returned row if it has a
/// price, even if the price is unchanged: the view waits for the event that confirms the revision.
///
/// # Errors
/// [`PolicyBehind`] if the row was computed with a newer policy than `policy`.
pub fn apply_reservation(
    row: &Row,
    seen: Holder,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Result<Option<Row>, PolicyBehind> {
    if seen.revision <= row.reservation_revision {
        return Ok(None);
    }
    let row = Row { grade: seen.grade, reservation_revision: seen.revision, ..row.clone() };
    recompute(row, policy, now).map(Some)
}

/// Applies a new version of the policy. Returns `None` if nothing changes. A ticket with a holder keeps its price until
/// its next event.
pub fn apply_policy(row: &Row, policy: &Policy, now: DateTime<Utc>) -> Option<Row> {
    let held = row.grade.is_some();
    if held || row.start.is_none() || row.policy_version >= policy.version() {
        return None;
    }
    recompute(row.clone(), policy, now).ok()
}

/// Computes the price of a row with `policy`. A row without a schedule is returned without a price.
fn recompute(row: Row, policy: &Policy, now: DateTime<Utc>) -> Result<Row, PolicyBehind> {
    if row.policy_version > policy.version() {
        return Err(PolicyBehind { wanted: row.policy_version, known: policy.version() });
    }
    let Some(start) = row.start else { return Ok(row) };
    Ok(Row {
        price: Some(policy.price(start, row.grade)),
        policy_version: policy.version(),
        revision: row.revision + 1,
        update_time: Some(now),
        ..row
    })
}

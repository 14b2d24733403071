//! The rules of pricing as in the protocol: the row of a ticket, and one pure function for each thing that happens to it.
//!
//! A price is always computed from the state (start, holder's grade, policy), never added to or subtracted from what stands: an
//! event that comes twice changes nothing the second time.

mod money;
mod policy;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use eticket_proto::ids::UserGrade;

pub use money::{Currency, InvalidMoney, Money};
pub use policy::{Discount, InvalidPolicy, Offer, Policy, Price, Reduction, Rounding, Rule, consider};

/// What pricing keeps of a ticket. The default is a ticket that nothing is known of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// When the ticket starts; none before its first event.
    pub start: Option<DateTime<Utc>>,
    /// 0: no schedule yet.
    pub schedule_revision: i64,
    /// Of who holds the ticket; none if nobody does.
    pub grade: Option<UserGrade>,
    /// The newest of the ticket's reservations that was taken in.
    pub reservation_revision: i64,
    /// Of the policy that `price` was computed by; 0 before that.
    pub policy_version: i64,
    /// Raised by one each time an event or a policy is taken in while there is a start.
    pub revision: i64,
    /// There is one exactly if there is a start.
    pub price: Option<Price>,
    /// Of the newest `revision`.
    pub update_time: Option<DateTime<Utc>>,
}

/// What a ticket event says: when the ticket starts, and the revision of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    pub start: DateTime<Utc>,
    pub revision: i64,
}

/// What a reservation event says: the grade of who holds the ticket as of a revision of its ledger, none if nobody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub grade: Option<UserGrade>,
    pub revision: i64,
}

/// The row was computed by a policy that is not known here yet: read it from the store, then try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the row was computed by policy version {wanted}, here it is still {known}")]
pub struct PolicyBehind {
    pub wanted: i64,
    pub known: i64,
}

/// pricing ← ticket event. `None` if it is stale. Publish the row if it has a price.
///
/// A change of the end alone raises the schedule's revision too. A held ticket then keeps its price and the policy version of that
/// price; the new row and its event only say that the revision was taken in.
///
/// # Errors
/// See [`PolicyBehind`].
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

/// pricing ← reservation event. `None` if it is stale. Publish the row if it has a price, also where the price stays: that the
/// revision was taken in is what the view waits for.
///
/// # Errors
/// See [`PolicyBehind`].
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

/// A new version of the policy. `None` where nothing changes: whoever holds a ticket keeps the price they were given until the
/// next event about it.
pub fn apply_policy(row: &Row, policy: &Policy, now: DateTime<Utc>) -> Option<Row> {
    let held = row.grade.is_some();
    if held || row.start.is_none() || row.policy_version >= policy.version() {
        return None;
    }
    recompute(row.clone(), policy, now).ok()
}

/// Without a schedule the row waits for one.
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

//! Converts between times of the contract and times of the program. PostgreSQL stores microseconds and SQLite nanoseconds.
//! All times are cut to microseconds where they enter, so that a response and a later read show the same time.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;

/// Returns `None` for a time that is malformed or outside the years 1 to 9999, the range of `google.protobuf.Timestamp`.
pub fn from_proto(time: &Timestamp) -> Option<DateTime<Utc>> {
    const FIRST_SECOND: i64 = -62_135_596_800;
    const LAST_SECOND: i64 = 253_402_300_799;
    let nanos = u32::try_from(time.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if !(FIRST_SECOND..=LAST_SECOND).contains(&time.seconds) {
        return None;
    }
    DateTime::from_timestamp(time.seconds, nanos).map(truncated)
}

pub fn to_proto(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: time.timestamp_subsec_nanos() as i32 }
}

/// Cuts a time to microseconds, towards the past.
pub fn truncated(time: DateTime<Utc>) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_times_are_refused_not_wrapped() {
        for (seconds, nanos) in
            [(i64::MAX, 0), (i64::MIN, 0), (253_402_300_800, 0), (-62_135_596_801, 0), (0, -1), (0, 1_000_000_000)]
        {
            assert_eq!(from_proto(&Timestamp { seconds, nanos }), None, "{seconds} s {nanos} ns");
        }
        for seconds in [-62_135_596_800, 0, 253_402_300_799] {
            let time = Timestamp { seconds, nanos: 0 };
            assert_eq!(from_proto(&time).map(to_proto), Some(time));
        }
    }

    #[test]
    fn times_are_cut_to_microseconds() {
        let time = from_proto(&Timestamp { seconds: -1, nanos: 123_456_789 }).expect("a valid time");
        assert_eq!(to_proto(time), Timestamp { seconds: -1, nanos: 123_456_000 });
    }
}

//! Dates for tickets: a given weekday in the business time zone, some weeks in the future or in the past.

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Asia::Seoul;

const WEEKS: u64 = 2;

/// The start and the end of a ticket.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// Returns 10:00 to 12:00 in Seoul on a weekday that is at least a week in the future.
pub fn upcoming(weekday: Weekday) -> Slot {
    slot(weekday, Utc::now().with_timezone(&Seoul).date_naive() + Days::new(7 * WEEKS))
}

/// Returns the same hours on a weekday that is at least a week in the past.
pub fn past(weekday: Weekday) -> Slot {
    slot(weekday, Utc::now().with_timezone(&Seoul).date_naive() - Days::new(7 * WEEKS))
}

/// Returns the slot on a weekday in the week of a date.
fn slot(weekday: Weekday, in_week_of: chrono::NaiveDate) -> Slot {
    let monday = in_week_of - Days::new(u64::from(in_week_of.weekday().num_days_from_monday()));
    let day = monday + Days::new(u64::from(weekday.num_days_from_monday()));
    let ten = NaiveTime::from_hms_opt(10, 0, 0).expect("a time of day");
    let start = Seoul.from_local_datetime(&day.and_time(ten)).single().expect("Seoul never sets its clocks back");
    Slot { start: start.with_timezone(&Utc), end: start.with_timezone(&Utc) + TimeDelta::hours(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_the_right_weekday_and_are_future_or_past() {
        for weekday in [Weekday::Mon, Weekday::Wed, Weekday::Sun] {
            let (later, before) = (upcoming(weekday), past(weekday));
            assert!(later.start > Utc::now() + TimeDelta::days(6) && before.end < Utc::now() - TimeDelta::days(6));
            assert_eq!(later.start.with_timezone(&Seoul).weekday(), weekday);
            assert_eq!(before.start.with_timezone(&Seoul).weekday(), weekday);
        }
    }
}

//! Days for tickets: on a given weekday in the business time zone, some weeks from now, or some weeks ago.

use chrono::{DateTime, Datelike, Days, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Asia::Seoul;

const WEEKS: u64 = 2;

/// When a ticket starts and ends.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// From 10:00 to 12:00 in Seoul on a weekday at least a week from now.
pub fn upcoming(weekday: Weekday) -> Slot {
    slot(weekday, Utc::now().with_timezone(&Seoul).date_naive() + Days::new(7 * WEEKS))
}

/// The same on a weekday at least a week ago.
pub fn past(weekday: Weekday) -> Slot {
    slot(weekday, Utc::now().with_timezone(&Seoul).date_naive() - Days::new(7 * WEEKS))
}

/// The weekday of the week that a date is in.
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
    fn slots_lie_on_their_weekday_and_on_their_side_of_now() {
        for weekday in [Weekday::Mon, Weekday::Wed, Weekday::Sun] {
            let (later, before) = (upcoming(weekday), past(weekday));
            assert!(later.start > Utc::now() + TimeDelta::days(6) && before.end < Utc::now() - TimeDelta::days(6));
            assert_eq!(later.start.with_timezone(&Seoul).weekday(), weekday);
            assert_eq!(before.start.with_timezone(&Seoul).weekday(), weekday);
        }
    }
}

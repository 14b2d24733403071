//! Times and durations as people write and read them.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{
    DateTime, Local, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Timelike, Utc, offset::LocalResult,
};
use chrono_tz::Tz;
use eticket_proto::time::{from_proto, to_proto, truncated};
use prost_types::Timestamp;

/// Longer timeouts are slips of a unit.
const LONGEST: Duration = Duration::from_secs(3600);
/// The longest lifetime of a token for development.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The zone in which times without an offset are read, and in which tables show times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// That of this machine, or of the variable TZ.
    Local,
    Named(Tz),
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("local") {
            return Ok(Self::Local);
        }
        let expected = "expected local, UTC, or the name of a zone such as Asia/Seoul";
        text.parse().map(Self::Named).map_err(|_| expected.to_owned())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => formatter.write_str("local"),
            Self::Named(zone) => formatter.write_str(zone.name()),
        }
    }
}

impl Zone {
    /// The zone as a note; without a name it is the offset at this time.
    pub(crate) fn note(self, time: DateTime<Utc>) -> String {
        match self {
            Self::Named(zone) => zone.name().to_owned(),
            Self::Local => match Local.offset_from_utc_datetime(&time.naive_utc()).fix() {
                offset if offset.local_minus_utc() == 0 => "UTC".to_owned(),
                offset => format!("UTC{offset}"),
            },
        }
    }

    /// As `2099-01-07 19:00`, with seconds only if there are some.
    pub(crate) fn show(self, time: DateTime<Utc>) -> String {
        let local = match self {
            Self::Local => time.with_timezone(&Local).naive_local(),
            Self::Named(zone) => time.with_timezone(&zone).naive_local(),
        };
        let format = if local.second() == 0 { "%Y-%m-%d %H:%M" } else { "%Y-%m-%d %H:%M:%S" };
        local.format(format).to_string()
    }

    /// As [`Self::show`], with the weekday before and the zone behind it.
    pub(crate) fn show_day(self, time: DateTime<Utc>) -> String {
        let weekday = match self {
            Self::Local => time.with_timezone(&Local).format("%a").to_string(),
            Self::Named(zone) => time.with_timezone(&zone).format("%a").to_string(),
        };
        format!("{weekday} {} {}", self.show(time), self.note(time))
    }

    /// Reads RFC 3339, or a date with or without a time of day in this zone.
    ///
    /// # Errors
    /// The expected form, or the reason why there is no such time.
    pub(crate) fn parse(self, text: &str) -> Result<DateTime<Utc>, String> {
        let text = text.trim();
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return in_range(time.with_timezone(&Utc));
        }
        let formats = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"];
        let with_time = formats.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
        let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|date| date.and_time(NaiveTime::MIN));
        let Some(naive) = with_time.or_else(date) else {
            return Err(format!(
                "{text:?} is no time: write 2099-01-07, '2099-01-07 19:00' or 2099-01-07T19:00:00+09:00"
            ));
        };
        let found = match self {
            Self::Local => Local.from_local_datetime(&naive).map(|time| time.with_timezone(&Utc)),
            Self::Named(zone) => zone.from_local_datetime(&naive).map(|time| time.with_timezone(&Utc)),
        };
        match found {
            LocalResult::Single(time) => in_range(time),
            LocalResult::None => {
                Err(format!("{text:?} does not exist in the zone {self}: clocks go forward there; write an offset"))
            }
            LocalResult::Ambiguous(..) => {
                Err(format!("{text:?} exists twice in the zone {self}: clocks go back there; write an offset"))
            }
        }
    }
}

fn in_range(time: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    // The services cut times to microseconds. A comparison with what they return needs the same.
    let time = truncated(time);
    from_proto(&to_proto(time)).ok_or_else(|| "expected a time in the years 1 to 9999".to_owned())
}

/// A time of a message; `None` if it is not set.
pub(crate) fn read(time: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    time.and_then(from_proto)
}

/// Reads `500ms`, `10s` or `2m`, up to an hour.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text).filter(|duration| *duration <= LONGEST);
    duration.ok_or_else(|| "expected a time such as 500ms, 10s or 2m, at most 60m".to_owned())
}

/// Reads `90s`, `30m` or `8h`, up to a day.
pub(crate) fn parse_lifetime(text: &str) -> Result<Duration, String> {
    let duration = duration(text).filter(|duration| *duration <= LONGEST_LIFETIME);
    duration.ok_or_else(|| "expected a time such as 90s, 30m or 8h, at most 24h".to_owned())
}

/// A number with a unit, above zero.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let milliseconds = match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    let duration = milliseconds.zip(number.parse::<u64>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    duration.map(Duration::from_millis).filter(|duration| !duration.is_zero())
}

/// As `10 s`, `2.5 s` or `500 ms`.
pub(crate) fn show_duration(duration: Duration) -> String {
    match duration.as_millis() {
        milliseconds if milliseconds < 1_000 => format!("{milliseconds} ms"),
        milliseconds if milliseconds % 1_000 == 0 => format!("{} s", milliseconds / 1_000),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seoul() -> Zone {
        "Asia/Seoul".parse().expect("a zone")
    }

    #[test]
    fn times_are_read_in_the_zone_unless_they_have_an_offset() {
        for text in [
            "2099-01-07 19:00",
            "2099-01-07T19:00",
            " 2099-01-07 19:00:00 ",
            "2099-01-07T19:00:00+09:00",
            "2099-01-07T10:00:00Z",
        ] {
            let time = seoul().parse(text).expect(text);
            assert_eq!(time.to_rfc3339(), "2099-01-07T10:00:00+00:00", "{text}");
            assert_eq!(seoul().show(time), "2099-01-07 19:00");
            assert_eq!(seoul().show_day(time), "Wed 2099-01-07 19:00 Asia/Seoul");
        }
        assert_eq!(seoul().parse("2099-01-07").expect("a day").to_rfc3339(), "2099-01-06T15:00:00+00:00");
    }

    #[test]
    fn a_time_that_is_none_says_what_to_write() {
        for text in ["", "tomorrow", "2099-13-01", "2099-01-07 25:00", "19:00"] {
            assert!(seoul().parse(text).expect_err(text).contains("write"), "{text}");
        }
        assert!(seoul().parse("+12099-01-07T00:00:00Z").is_err());
    }

    #[test]
    fn a_time_that_a_change_of_clocks_skips_or_repeats_needs_an_offset() {
        let berlin: Zone = "Europe/Berlin".parse().expect("a zone");
        assert!(berlin.parse("2026-03-29 02:30").expect_err("skipped").contains("does not exist"));
        assert!(berlin.parse("2026-10-25 02:30").expect_err("repeated").contains("twice"));
        assert!(berlin.parse("2026-10-25T02:30:00+01:00").is_ok());
    }

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        let right = [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("60m", 3_600_000), ("1h", 3_600_000)];
        for (text, milliseconds) in right {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)));
        }
        for wrong in ["", "10", "s", "0s", "-1s", "1.5s", "2h", "61m", "99999999999999999999s", "18446744073709551615m"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_lifetime("24h"), Ok(Duration::from_secs(86_400)));
        assert!(parse_lifetime("25h").is_err() && parse_lifetime("0h").is_err());
        assert_eq!(show_duration(Duration::from_millis(2_500)), "2.5 s");
        assert_eq!(show_duration(Duration::from_secs(10)), "10 s");
        assert_eq!(show_duration(Duration::from_millis(80)), "80 ms");
    }
}

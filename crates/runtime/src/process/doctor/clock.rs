//! The clock of this machine.

use chrono::{DateTime, Datelike, Utc};
use eticket_base::doctor::{Check, Group};

/// A clock outside of these years was never set, or is wrong. No release is older.
const PLAUSIBLE: std::ops::RangeInclusive<i32> = 2026..=2100;

pub(super) fn check() -> Check {
    judge(Utc::now())
}

fn judge(now: DateTime<Utc>) -> Check {
    const NAME: &str = "clock";
    let shown = now.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    if PLAUSIBLE.contains(&now.year()) {
        return Check::ok(Group::Clock, NAME, format!("it is {shown}"));
    }
    let detail = format!("it is {shown} on this machine: tickets, tokens and certificates depend on the time");
    Check::fail(Group::Clock, NAME, detail, "set the clock by NTP (chronyd or systemd-timesyncd; see `timedatectl`)")
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;

    use super::*;

    #[test]
    fn a_clock_that_was_never_set_is_a_failure() {
        let status = |text: &str| judge(text.parse().expect("a time")).status;
        assert_eq!(status("2026-01-01T00:00:00Z"), Status::Ok);
        assert_eq!(status("1970-01-01T00:00:10Z"), Status::Fail);
        assert_eq!(status("2101-01-01T00:00:00Z"), Status::Fail);
    }
}

//! The results of `doctor`, which every crate with a check makes.

use std::fmt;

use chrono::TimeDelta;
use eticket_proto::DOCTOR_DOCUMENTATION;
use serde::{Serialize, Serializer, ser::SerializeStruct};

/// The state of what was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing to do.
    Ok,
    /// It works now, and may fail later.
    Warn,
    /// A server does not start with it, or does not do what it should.
    Fail,
}

/// The checks of one part of a system, in the order of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The configuration of the servers.
    Configuration,
    /// The data folder and its disk.
    Data,
    /// The store of each service.
    Store,
    /// The bus.
    Bus,
    /// The clock of this machine.
    Clock,
    /// The pricing policy.
    Policy,
    /// Certificates.
    Tls,
    /// Authentication.
    Auth,
    /// The other servers that the configuration names.
    Upstreams,
    /// A running server.
    Server,
}

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Configuration => "configuration",
            Self::Data => "data folder",
            Self::Store => "store",
            Self::Bus => "bus",
            Self::Clock => "clock",
            Self::Policy => "policy",
            Self::Tls => "tls",
            Self::Auth => "authentication",
            Self::Upstreams => "upstreams",
            Self::Server => "server",
        })
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The group.
    pub group: Group,
    /// The stable name; `docs/doctor.md` has a section for it.
    pub name: &'static str,
    /// What was checked, if there are several: a service, an address, a key.
    pub subject: String,
    /// The state.
    pub status: Status,
    /// What was seen, without secrets.
    pub detail: String,
    /// What to do; empty if there is nothing to do.
    pub remedy: String,
}

impl Check {
    /// Nothing to do.
    #[must_use]
    pub fn ok(group: Group, name: &'static str, detail: impl Into<String>) -> Self {
        let (subject, remedy) = (String::new(), String::new());
        Self { group, name, subject, status: Status::Ok, detail: one_line(&detail.into()), remedy }
    }

    /// It works now, and may fail later.
    #[must_use]
    pub fn warn(group: Group, name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warn, remedy: one_line(&remedy.into()), ..Self::ok(group, name, detail) }
    }

    /// A server does not start with it, or does not do what it should.
    #[must_use]
    pub fn fail(group: Group, name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Fail, remedy: one_line(&remedy.into()), ..Self::ok(group, name, detail) }
    }

    /// Judges a clock that differs from that of this machine; a difference above `largest` is a warning.
    #[must_use]
    pub fn clock(whose: &str, difference: TimeDelta, largest: TimeDelta) -> Self {
        const NAME: &str = "clock-difference";
        if difference.abs() <= largest {
            let detail = format!("the clock of {whose} agrees to within {} s", largest.num_seconds());
            return Self::ok(Group::Clock, NAME, detail);
        }
        let detail = format!("the clock of {whose} differs by {:+.1} s", difference.as_seconds_f64());
        let remedy = "synchronize the clocks of both machines by NTP (chronyd or systemd-timesyncd; see `timedatectl`)";
        Self::warn(Group::Clock, NAME, detail, remedy)
    }

    /// Sets what was checked.
    #[must_use]
    pub fn of(self, subject: impl Into<String>) -> Self {
        Self { subject: one_line(&subject.into()), ..self }
    }

    /// The section of the documentation; empty if there is nothing to do.
    #[must_use]
    pub fn link(&self) -> String {
        match self.status {
            Status::Ok => String::new(),
            Status::Warn | Status::Fail => format!("{DOCTOR_DOCUMENTATION}#{}", self.name),
        }
    }
}

impl Serialize for Check {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_struct("Check", 7)?;
        members.serialize_field("group", &self.group.to_string())?;
        members.serialize_field("name", self.name)?;
        members.serialize_field("subject", &self.subject)?;
        members.serialize_field("status", &self.status)?;
        members.serialize_field("detail", &self.detail)?;
        members.serialize_field("remedy", &self.remedy)?;
        members.serialize_field("link", &self.link())?;
        members.end()
    }
}

/// Texts of servers reach the terminal without control characters.
fn one_line(text: &str) -> String {
    let printable = |character: char| if character.is_control() { ' ' } else { character };
    text.chars().map(printable).collect::<String>().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_differs_by_more_than_the_bound_is_a_warning() {
        for (milliseconds, expected) in
            [(0, Status::Ok), (1_000, Status::Ok), (-1_000, Status::Ok), (1_001, Status::Warn), (-90_000, Status::Warn)]
        {
            let difference = TimeDelta::milliseconds(milliseconds);
            let check = Check::clock("PostgreSQL", difference, TimeDelta::seconds(1));
            assert_eq!((check.name, check.status), ("clock-difference", expected), "{milliseconds}");
        }
        let late = Check::clock("PostgreSQL", TimeDelta::seconds(-90), TimeDelta::seconds(1));
        assert!(late.detail.contains("-90.0 s"), "{late:?}");
    }

    #[test]
    fn only_a_warning_or_failure_has_a_remedy_and_a_link_to_the_section_of_its_name() {
        let text = |check: Check| serde_json::to_value(check).expect("JSON");
        let ok = text(Check::ok(Group::Data, "disk-space", "2.0 GiB free"));
        assert_eq!((&ok["status"], &ok["remedy"], &ok["link"]), (&"ok".into(), &"".into(), &"".into()));
        let fail = text(Check::fail(Group::Data, "disk-space", "full", "free some space"));
        assert_eq!((&fail["status"], &fail["remedy"]), (&"fail".into(), &"free some space".into()));
        let link = fail["link"].as_str().expect("a string");
        assert!(link.ends_with("/docs/doctor.md#disk-space"), "{link}");
    }

    #[test]
    fn a_text_of_a_server_stays_on_one_line_without_control_characters() {
        let check = Check::ok(Group::Bus, "bus-connection", "a\n\u{1b}[31m b\tc");
        assert_eq!(check.detail, "a [31m b c");
    }
}

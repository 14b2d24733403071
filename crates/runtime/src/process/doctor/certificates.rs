//! The validity of every certificate that the configuration names. That a key belongs to its certificate is part of the
//! configuration.

use std::{collections::BTreeMap, path::Path};

use chrono::{DateTime, Utc};
use eticket_base::doctor::{Check, Group};
use eticket_tls::{CertificateFile, ClientKeys, Purpose, Validity};

use super::{
    super::run::{Server, key_of},
    upstreams,
};

const CERTIFICATE: &str = "tls-certificate";
const AUTHORITY: &str = "tls-authority";
const DAY: u64 = 24 * 60 * 60;
/// A certificate that ends within this time is a warning.
const SOON: u64 = 30 * DAY;

/// Returns all files, each once, with the first key that names it.
pub(super) fn files(servers: &[Server], bus_authority: Option<&Path>) -> Vec<CertificateFile> {
    let mut all = Vec::new();
    for server in servers {
        let placed = |file: CertificateFile| CertificateFile { key: key_of(server.section, &file.key), ..file };
        all.extend(server.settings.tls.certificate_files().into_iter().map(placed));
        for (name, section) in upstreams::sections(server) {
            let keys = ClientKeys::Upstream(format!("upstream.{name}"));
            all.extend(upstreams::tls(section).certificate_files(&keys).into_iter().map(placed));
        }
    }
    if let Some(path) = bus_authority {
        let key = "bus.ca_file".to_owned();
        all.push(CertificateFile { key, path: path.to_owned(), purpose: Purpose::Authorities });
    }
    let mut seen = BTreeMap::new();
    for file in all {
        seen.entry((file.path.clone(), file.purpose == Purpose::Identity)).or_insert(file);
    }
    seen.into_values().collect()
}

pub(super) fn check(files: &[CertificateFile]) -> Vec<Check> {
    if files.is_empty() {
        return vec![Check::ok(Group::Tls, CERTIFICATE, "the configuration names no certificate: plain text")];
    }
    let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    let each = |file: &CertificateFile| {
        let path = file.path.display();
        let judged = match (file.read(), file.purpose) {
            (Ok(periods), Purpose::Identity) => identity(&path.to_string(), &periods, now),
            (Ok(periods), Purpose::Authorities) => authorities(&path.to_string(), &periods, now),
            (Err(problem), purpose) => {
                let name = if purpose == Purpose::Identity { CERTIFICATE } else { AUTHORITY };
                Check::fail(Group::Tls, name, format!("{path}: {problem}"), format!("correct the file of {}", file.key))
            }
        };
        judged.of(&file.key)
    };
    files.iter().map(each).collect()
}

/// Every certificate of the chain must be valid.
fn identity(path: &str, periods: &[Validity], now: u64) -> Check {
    const RENEW: &str = "renew the certificate and replace the files: they are in force within 15 s, without a restart";
    let from = periods.iter().map(|period| period.not_before).max().unwrap_or_default();
    let until = periods.iter().map(|period| period.not_after).min().unwrap_or_default();
    if now > until {
        return Check::fail(Group::Tls, CERTIFICATE, format!("{path} ended on {}", date(until)), RENEW);
    }
    if now < from {
        let remedy = "check the clock of this machine, or use a certificate that is valid now";
        return Check::fail(Group::Tls, CERTIFICATE, format!("{path} begins on {} only", date(from)), remedy);
    }
    let days = (until - now) / DAY;
    match until - now < SOON {
        true => Check::warn(Group::Tls, CERTIFICATE, format!("{path} ends on {}, in {days} days", date(until)), RENEW),
        false => Check::ok(Group::Tls, CERTIFICATE, format!("{path} is valid until {}", date(until))),
    }
}

/// One valid authority may be enough: during a rotation a file has an old and a new one.
fn authorities(path: &str, periods: &[Validity], now: u64) -> Check {
    const REPLACE: &str = "replace the file by the certificates of the authorities that are valid";
    let is_valid = |period: &&Validity| (period.not_before..=period.not_after).contains(&now);
    let count = periods.len();
    let Some(until) = periods.iter().filter(is_valid).map(|period| period.not_after).max() else {
        let detail = format!("{path}: none of its {count} authorities is valid now");
        return Check::fail(Group::Tls, AUTHORITY, detail, REPLACE);
    };
    match until - now < SOON {
        true => {
            Check::warn(Group::Tls, AUTHORITY, format!("{path}: its last authority ends on {}", date(until)), REPLACE)
        }
        false => {
            let valid = periods.iter().filter(is_valid).count();
            Check::ok(Group::Tls, AUTHORITY, format!("{path}: {valid} of {count} valid, until {}", date(until)))
        }
    }
}

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    time.map_or_else(|| "the end of time".to_owned(), |time| time.format("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn period(from: i64, until: i64) -> Validity {
        let at = |days: i64| NOW.saturating_add_signed(days * i64::try_from(DAY).expect("small"));
        Validity { not_before: at(from), not_after: at(until) }
    }

    #[test]
    fn a_certificate_that_ends_within_thirty_days_is_a_warning_and_an_expired_one_a_failure() {
        for (periods, expected) in [
            (&[period(-1, 31)][..], Status::Ok),
            (&[period(-1, 30)], Status::Ok),
            (&[period(-1, 29)], Status::Warn),
            (&[period(-9, -1)], Status::Fail),
            (&[period(1, 90)], Status::Fail),
            // An intermediate certificate counts like the first.
            (&[period(-1, 90), period(-9, -1)], Status::Fail),
            (&[period(-1, 90), period(-1, 5)], Status::Warn),
        ] {
            let check = identity("a.pem", periods, NOW);
            assert_eq!(check.status, expected, "{check:?}");
        }
        let soon = identity("a.pem", &[period(-1, 29)], NOW);
        assert!(soon.detail.contains("in 29 days") && soon.remedy.contains("renew"), "{soon:?}");
    }

    #[test]
    fn one_valid_authority_is_enough() {
        for (periods, expected) in [
            (&[period(-1, 90), period(-9, -1)][..], Status::Ok),
            (&[period(-9, -1)], Status::Fail),
            (&[period(-9, 3), period(-9, -1)], Status::Warn),
        ] {
            let check = authorities("ca.pem", periods, NOW);
            assert_eq!(check.status, expected, "{check:?}");
        }
    }
}

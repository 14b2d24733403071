//! Tests of valid policy files, and of the errors for invalid ones.

use chrono::{DateTime, Utc, Weekday};
use chrono_tz::Tz;
use eticket_proto::ids::UserGrade;

use super::*;
use crate::domain::{Money, Rounding};

fn money(text: &str) -> Money {
    text.parse().expect(text)
}

fn with_rules(rules: &str) -> String {
    format!("version: 1\nbase_price: 10000 KRW\nrules:\n{rules}")
}

#[test]
fn the_embedded_policy_matches_the_contract() {
    let policy = parse(DEFAULT).expect("a policy");
    assert_eq!((policy.version(), policy.base_price()), (1, money("10000 KRW")));
    assert_eq!((policy.business_time_zone(), policy.rounding()), (Tz::Asia__Seoul, Rounding::Down));
    let wednesday: DateTime<Utc> = "2027-01-06T10:00:00+09:00".parse().expect("a time");
    let tuesday: DateTime<Utc> = "2027-01-05T10:00:00+09:00".parse().expect("a time");
    let won = |start, grade| policy.price(start, grade).discounted_price.units();
    assert_eq!(won(wednesday, Some(UserGrade::Vip)), 7_000);
    assert_eq!(won(wednesday, Some(UserGrade::Silver)), 8_000);
    assert_eq!(won(wednesday, None), 8_000);
    assert_eq!(won(tuesday, Some(UserGrade::Vip)), 9_000);
    assert_eq!(won(tuesday, None), 10_000);
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let policy = parse("\u{feff}version: 3\nbase_price: 10 KRW\n").expect("a policy");
    assert_eq!((policy.version(), policy.base_price()), (3, money("10 KRW")));
}

#[test]
fn every_form_of_a_value_is_parsed() {
    let policy = parse(
        "version: 3
base_price: {currency_code: EUR, units: 12, nanos: 500000000}
business_time_zone: America/New_York
rounding: ROUNDING_HALF_EVEN
rules:
  - rule_id: a
    weekdays: [SUNDAY]
    user_grades: [VIP, USER_GRADE_GOLD]
    date_from: 2027-01-31
    date_to: {year: 2027, month: 12, day: 31}
    amount: 1
  - {rule_id: b, percent: 5}
",
    )
    .expect("a policy");
    assert_eq!((policy.base_price(), policy.rounding()), (money("12.50 EUR"), Rounding::HalfEven));
    let rule = &policy.rules()[0];
    assert_eq!(
        rule.reduction,
        Reduction::Amount(money("1.00 EUR")),
        "a number without currency has that of base_price"
    );
    assert_eq!(
        (rule.weekdays.clone(), rule.user_grades.clone()),
        (vec![Weekday::Sun], vec![UserGrade::Vip, UserGrade::Gold])
    );
    let days = (rule.date_from.map(|day| day.to_string()), rule.date_to.map(|day| day.to_string()));
    assert_eq!(days, (Some("2027-01-31".to_owned()), Some("2027-12-31".to_owned())));
    assert_eq!(policy.rules()[1].reduction, Reduction::Percent(5));
}

#[test]
fn a_number_without_currency_is_won_and_other_fields_have_defaults() {
    let policy = parse("version: 1\nbase_price: 10000").expect("a policy");
    assert_eq!(policy.base_price(), money("10000 KRW"));
    assert_eq!((policy.business_time_zone(), policy.rounding()), (Tz::Asia__Seoul, Rounding::Down));
    assert!(policy.rules().is_empty());
}

#[test]
fn an_error_names_line_and_rule() {
    let rule = |rest: &str| with_rules(&format!("  - rule_id: first\n    percent: 1\n  - rule_id: second\n{rest}"));
    for (text, line, expected) in [
        (rule("    percent: 101\n"), 6, "percent: expected 1 to 100, got 101"),
        (rule("    percent: 0\n"), 6, "percent: expected 1 to 100, got 0"),
        (rule("    percent: 300\n"), 6, "percent: expected 1 to 100, got 300"),
        (rule("    amount: 0 KRW\n"), 6, "amount: expected more than 0"),
        (rule("    amount: 1.00 USD\n"), 6, "expected KRW, the currency of base_price, got 1.00 USD"),
        (rule("    description: none\n"), 6, "expected either percent or amount"),
        (rule("    percent: 5\n    amount: 5\n"), 6, "got both"),
        (
            rule("    percent: 5\n    date_from: 2027-02-02\n    date_to: 2027-02-01\n"),
            6,
            "expected date_from (2027-02-02) or a later day",
        ),
        (rule("    percent: half\n"), 7, "invalid type"),
        (
            rule("    percent: 5\n    weekdays: [WEDNESDAY, MITTWOCH]\n"),
            8,
            "unknown variant `MITTWOCH`, expected one of `MONDAY`",
        ),
        (rule("    percent: 5\n    user_grades: [PLATIN]\n"), 8, "unknown variant `PLATIN`"),
        (rule("    percent: 5\n    date_from: 2027-02-30\n"), 8, "expected a day of the years 1 to 9999"),
        (rule("    percent: 5\n    discount: 5\n"), 8, "unknown field `discount`"),
        (rule("    percent: 5\n    weekdays: []\n"), 8, "weekdays: expected at least one; omit the key"),
        (rule("    percent: 5\n    user_grades: []\n"), 8, "user_grades: expected at least one; omit the key"),
        (rule("    amount: 1,000 KRW\n"), 7, "expected an amount such as 10000 KRW"),
        (rule("    amount: -5\n"), 7, "expected an amount of at least 0"),
    ] {
        let error = parse(&text).expect_err(&text);
        assert_eq!((error.line, error.rule.as_deref()), (Some(line), Some("second")), "{error}\n{text}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().starts_with(&format!("line {line}: rule second: ")), "{error}");
    }
}

#[test]
fn a_rule_without_an_id_is_identified_by_its_number() {
    for (rules, expected) in
        [("  - percent: 5\n", "number 1"), ("  - {rule_id: 'a b', percent: 5}\n", "a b"), ("  - 5\n", "number 1")]
    {
        let error = parse(&with_rules(rules)).expect_err(rules);
        assert_eq!((error.line, error.rule.as_deref()), (Some(4), Some(expected)), "{error}");
    }
    let twice = with_rules("  - {rule_id: a, percent: 5}\n  - {rule_id: a, percent: 6}\n");
    let error = parse(&twice).expect_err("a repeated id");
    assert_eq!((error.line, error.problem.contains("expected a unique id")), (Some(5), true), "{error}");
}

#[test]
fn an_error_outside_the_rules_names_its_line() {
    for (text, line, expected) in [
        (
            "version: 1\nbase_price: 10000 KRW\nbusiness_time_zone: Seoul\n",
            Some(3),
            "an IANA time zone such as Asia/Seoul",
        ),
        ("version: 1\nbase_price: 10000 KRW\nrounding: UP\n", Some(3), "expected one of `DOWN`"),
        ("version: 1\nbase_price: -1 KRW\n", Some(2), "at least 0"),
        ("version: 1\nbase_price: 12.5\n", Some(2), "an amount of money such as 10000 KRW"),
        ("version: 1\nbase_price: 1000000000000001\n", Some(2), "at most"),
        (
            "version: 1\nbase_price: {currency_code: KRW, units: 1, nanos: 5}\n",
            Some(2),
            "at most 0 decimal places for KRW",
        ),
        ("version: 1\nbase_price: 1 KRW\nsurcharge: 5\n", Some(3), "unknown field `surcharge`"),
        ("version: 1\nversion: 2\nbase_price: 1 KRW\n", Some(1), "duplicate"),
        ("base_price: 1 KRW\n", Some(1), "missing field `version`"),
        ("base_price: 1 KRW\nversion: 0\n", Some(2), "version: expected at least 1, got 0"),
        ("{base_price: 1 KRW, version: 0}\n", None, "version: expected at least 1, got 0"),
        ("version: 2147483648\nbase_price: 1 KRW\n", Some(1), "version: expected at most 2147483647, got 2147483648"),
        ("base_price: 1 KRW\nversion: 9223372036854775808\n", Some(2), "version: "),
        ("version: [\n", Some(1), ""),
        ("", None, ""),
    ] {
        let error = parse(text).expect_err(text);
        if line.is_some() {
            assert_eq!(error.line, line, "{error}\n{text}");
        }
        assert_eq!(error.rule, None, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn the_highest_version_fits_into_32_bits() {
    assert_eq!(parse("version: 2147483647\nbase_price: 1 KRW\n").map(|policy| policy.version()), Ok(2_147_483_647));
}

#[test]
fn a_condition_without_a_value_is_refused() {
    let text = with_rules("  - rule_id: a\n    percent: 5\n    weekdays:\n");
    assert!(parse(&text).is_err(), "{text}");
}

#[test]
fn only_regular_utf8_files_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, link) = (folder.path().join("policy.yaml"), folder.path().join("link.yaml"));
    fs::write(&file, DEFAULT).expect("written");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    assert_eq!(read(&link).expect("a file behind a link"), DEFAULT);
    let refused = |path: &Path| read(path).expect_err("refused").to_string();
    // An endless device, and a FIFO, which would block on open.
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    for path in [Path::new("/dev/zero"), folder.path(), &fifo] {
        assert!(refused(path).contains("no regular file"), "{}", path.display());
    }
    fs::write(&file, vec![b' '; LARGEST + 1]).expect("written");
    assert!(refused(&file).contains("more than 1048576 bytes"));
    fs::write(&file, b"version: 1\xff").expect("written");
    assert_eq!(refused(&file), "it is not UTF-8 at byte 11: save it as UTF-8");
}

#[test]
fn oversized_files_and_too_many_rules_are_refused() {
    let error = parse(&" ".repeat(LARGEST + 1)).expect_err("a large file");
    assert!(error.problem.contains("expected at most"), "{error}");
    let many: String = (0..=1_000).map(|rule| format!("  - {{rule_id: r{rule}, percent: 1}}\n")).collect();
    let error = parse(&with_rules(&many)).expect_err("many rules");
    assert!(error.line == Some(3) && error.problem.contains("at most 1000"), "{error}");
}

//! Tests of prices and policies, with single cases and with random schedules.

use chrono::{NaiveDate, Weekday};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::{policy::business_day, *};

fn won(units: u64) -> Money {
    Money::try_new(Currency::KRW, units).expect("an amount")
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect(text)
}

fn rule(rule_id: &str, reduction: Reduction) -> Rule {
    Rule {
        rule_id: rule_id.to_owned(),
        description: String::new(),
        weekdays: vec![],
        user_grades: vec![],
        date_from: None,
        date_to: None,
        reduction,
    }
}

fn policy(version: i64, base: u64, rounding: Rounding, rules: Vec<Rule>) -> Policy {
    Policy::try_new(version, won(base), Tz::Asia__Seoul, rounding, rules).expect("a policy")
}

/// The policy of the original system.
fn original(version: i64) -> Policy {
    let midweek = Rule { weekdays: vec![Weekday::Wed, Weekday::Thu], ..rule("midweek", Reduction::Percent(20)) };
    let vip = Rule { user_grades: vec![UserGrade::Vip], ..rule("vip", Reduction::Amount(won(1_000))) };
    policy(version, 10_000, Rounding::Down, vec![midweek, vip])
}

const WEDNESDAY: &str = "2027-01-06T10:00:00Z";
const NOW: &str = "2026-12-01T00:00:00Z";

fn ticket(row: &Row, revision: i64, start: &str) -> Row {
    let seen = Schedule { start: time(start), revision };
    apply_ticket(row, seen, &original(1), time(NOW)).expect("a known policy").expect("a newer event")
}

fn reservation(row: &Row, revision: i64, grade: Option<UserGrade>) -> Option<Row> {
    apply_reservation(row, Holder { grade, revision }, &original(1), time(NOW)).expect("a known policy")
}

fn units(row: &Row) -> i64 {
    row.price.as_ref().expect("a price").discounted_price.units()
}

#[test]
fn a_cancellation_restores_the_earlier_price() {
    let registered = ticket(&Row::default(), 1, WEDNESDAY);
    let held = reservation(&registered, 1, Some(UserGrade::Vip)).expect("applied");
    let cancelled = reservation(&held, 2, None).expect("applied");
    assert_eq!((units(&registered), units(&held), units(&cancelled)), (8_000, 7_000, 8_000));
    assert_eq!(cancelled.price, registered.price);
    assert_eq!((registered.revision, held.revision, cancelled.revision), (1, 2, 3));
}

#[test]
fn a_late_or_repeated_event_changes_nothing() {
    let held = reservation(&ticket(&Row::default(), 2, WEDNESDAY), 3, Some(UserGrade::Silver)).expect("applied");
    for revision in 1..=3 {
        assert_eq!(reservation(&held, revision, Some(UserGrade::Vip)), None);
    }
    for revision in 1..=2 {
        let seen = Schedule { start: time(NOW), revision };
        assert_eq!(apply_ticket(&held, seen, &original(1), time(NOW)), Ok(None));
    }
}

#[test]
fn a_reservation_before_its_ticket_has_no_price() {
    let waiting = reservation(&Row::default(), 1, Some(UserGrade::Vip)).expect("applied");
    assert_eq!((waiting.revision, waiting.reservation_revision, &waiting.price), (0, 1, &None));
    let priced = ticket(&waiting, 1, WEDNESDAY);
    assert_eq!((units(&priced), priced.reservation_revision, priced.revision), (7_000, 1, 1));
}

#[test]
fn an_event_raises_the_revision_even_if_the_price_stays() {
    let registered = ticket(&Row::default(), 1, WEDNESDAY);
    let held = reservation(&registered, 1, Some(UserGrade::Gold)).expect("applied");
    assert_eq!((held.price.clone(), held.reservation_revision, held.revision), (registered.price, 1, 2));
}

#[test]
fn a_new_policy_applies_only_to_tickets_without_a_holder() {
    let dearer = policy(2, 20_000, Rounding::Down, vec![]);
    let free = ticket(&Row::default(), 1, WEDNESDAY);
    let held = reservation(&free, 1, Some(UserGrade::Silver)).expect("applied");
    let waiting = reservation(&Row::default(), 1, None).expect("applied");
    let changed = apply_policy(&free, &dearer, time(NOW)).expect("a new price");
    assert_eq!((units(&changed), changed.policy_version, changed.revision), (20_000, 2, 2));
    assert_eq!(apply_policy(&changed, &dearer, time(NOW)), None, "only once");
    assert_eq!(apply_policy(&held, &dearer, time(NOW)), None, "a ticket with a holder keeps its price");
    assert_eq!(apply_policy(&waiting, &dearer, time(NOW)), None, "no price without a start");
    assert_eq!(apply_policy(&changed, &original(1), time(NOW)), None, "versions never decrease");
    let cancelled = apply_reservation(&held, Holder { grade: None, revision: 2 }, &dearer, time(NOW));
    assert_eq!(cancelled.expect("a known policy").map(|row| units(&row)), Some(20_000), "until the next event");
}

#[test]
fn a_held_ticket_keeps_its_price_if_its_start_is_unchanged() {
    let dearer = policy(2, 20_000, Rounding::Down, vec![]);
    let at = |start: &str, revision| Schedule { start: time(start), revision };
    let apply = |row: &Row, seen| {
        apply_ticket(row, seen, &dearer, time("2026-12-02T00:00:00Z")).expect("a known policy").expect("a newer event")
    };
    let free = ticket(&Row::default(), 1, WEDNESDAY);
    let held = reservation(&free, 1, Some(UserGrade::Vip)).expect("applied");
    let longer = apply(&held, at(WEDNESDAY, 2));
    let expected =
        Row { schedule_revision: 2, revision: 3, update_time: Some(time("2026-12-02T00:00:00Z")), ..held.clone() };
    assert_eq!((units(&longer), longer), (7_000, expected), "only the revisions change");
    let moved = apply(&held, at(NOW, 2));
    assert_eq!((units(&moved), moved.policy_version), (20_000, 2), "a new start has a new price");
    let free = apply(&free, at(WEDNESDAY, 2));
    assert_eq!((units(&free), free.policy_version), (20_000, 2), "without a holder the new policy applies");
    let behind = apply_ticket(&apply(&held, at(NOW, 2)), at(NOW, 3), &original(1), time(NOW));
    assert_eq!(behind.map(|row| row.map(|row| row.policy_version)), Ok(Some(2)), "nothing is computed");
}

#[test]
fn daylight_saving_time_continues_after_the_zone_tables_end() {
    let day = |zone: Tz, start: &str| business_day(zone, time(start)).to_string();
    for (zone, start, expected) in [
        (Tz::Europe__Berlin, "2099-06-30T22:30:00Z", "2099-07-01"),
        (Tz::Europe__Berlin, "2100-06-30T22:30:00Z", "2100-07-01"),
        (Tz::Europe__Berlin, "2100-12-31T22:30:00Z", "2100-12-31"),
        // The last Sunday in March of 2100 is the 28th.
        (Tz::Europe__Berlin, "2100-03-27T22:30:00Z", "2100-03-27"),
        (Tz::Europe__Berlin, "2100-03-28T22:30:00Z", "2100-03-29"),
        (Tz::Europe__Berlin, "9999-06-30T22:30:00Z", "9999-07-01"),
        (Tz::America__New_York, "2100-07-01T04:30:00Z", "2100-07-01"),
        (Tz::America__New_York, "2104-02-29T04:30:00Z", "2104-02-28"),
        (Tz::Australia__Sydney, "2100-07-01T13:30:00Z", "2100-07-01"),
        (Tz::Australia__Sydney, "2101-01-01T13:30:00Z", "2101-01-02"),
        (Tz::Asia__Seoul, "2100-06-30T15:00:00Z", "2100-07-01"),
        (Tz::Asia__Seoul, "9999-12-31T23:59:59Z", "10000-01-01"),
        // Daylight saving time in Morocco follows the lunar calendar; the tables end with +01:00 all year round.
        (Tz::Africa__Casablanca, "2101-07-01T23:30:00Z", "2101-07-02"),
    ] {
        assert_eq!(day(zone, start).trim_start_matches('+'), expected, "{zone} {start}");
    }
}

#[test]
fn a_policy_older_than_that_of_the_row_is_an_error() {
    let row = apply_policy(&ticket(&Row::default(), 1, WEDNESDAY), &original(5), time(NOW)).expect("a new price");
    let behind = Err(PolicyBehind { wanted: 5, known: 1 });
    assert_eq!(apply_reservation(&row, Holder { grade: None, revision: 1 }, &original(1), time(NOW)), behind);
    let seen = Schedule { start: time(NOW), revision: 2 };
    assert_eq!(apply_ticket(&row, seen, &original(1), time(NOW)), behind);
}

#[test]
fn only_a_higher_version_is_adopted() {
    let other_content = policy(2, 1, Rounding::Down, vec![]);
    for (in_force, offered, expected) in [
        (None, original(1), Offer::Adopt),
        (Some(original(1)), original(2), Offer::Adopt),
        (Some(original(2)), original(2), Offer::Same),
        (Some(original(2)), original(1), Offer::Lower),
        (Some(original(2)), other_content, Offer::OtherContent),
    ] {
        assert_eq!(consider(in_force.as_ref(), &offered), expected);
    }
}

#[test]
fn the_weekday_is_in_the_business_time_zone() {
    let price = |start: &str| original(1).price(time(start), None).discounted_price.units();
    // Midnight in Seoul is 15:00 UTC on the previous day.
    assert_eq!(price("2027-01-05T14:59:59Z"), 10_000, "still Tuesday");
    assert_eq!(price("2027-01-05T15:00:00Z"), 8_000, "Wednesday");
    assert_eq!(price("2027-01-07T14:59:59Z"), 8_000, "still Thursday");
    assert_eq!(price("2027-01-07T15:00:00Z"), 10_000, "Friday");
    for extreme in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"] {
        assert!(price(extreme) > 0);
    }
}

#[test]
fn dates_are_inclusive_and_all_conditions_must_hold() {
    let day = |text: &str| text.parse::<NaiveDate>().ok();
    let rule = Rule {
        date_from: day("2027-01-06"),
        date_to: day("2027-01-14"),
        weekdays: vec![Weekday::Wed, Weekday::Thu],
        user_grades: vec![UserGrade::Vip, UserGrade::Gold],
        ..rule("r", Reduction::Percent(50))
    };
    let policy = policy(1, 100, Rounding::Down, vec![rule]);
    let price = |start: &str, grade| policy.price(time(start), grade).discounted_price.units();
    for (start, grade, expected) in [
        ("2027-01-06T00:00:00+09:00", Some(UserGrade::Vip), 50),
        ("2027-01-14T23:59:59+09:00", Some(UserGrade::Gold), 50),
        ("2027-01-14T23:59:59+09:00", Some(UserGrade::Silver), 100),
        ("2027-01-06T00:00:00+09:00", None, 100),
        ("2027-01-08T00:00:00+09:00", Some(UserGrade::Vip), 100),
        ("2026-12-31T00:00:00+09:00", Some(UserGrade::Vip), 100),
        ("2027-01-20T00:00:00+09:00", Some(UserGrade::Vip), 100),
    ] {
        assert_eq!(price(start, grade), expected, "{start} {grade:?}");
    }
}

#[test]
fn rounding_applies_to_the_discount() {
    for (base, percent, rounding, expected) in [
        (999, 10, Rounding::Down, 99),
        (999, 10, Rounding::HalfUp, 100),
        (25, 10, Rounding::Down, 2),
        (25, 10, Rounding::HalfUp, 3),
        (25, 10, Rounding::HalfEven, 2),
        (35, 10, Rounding::HalfEven, 4),
        (26, 10, Rounding::HalfEven, 3),
        (24, 10, Rounding::HalfUp, 2),
    ] {
        let price = policy(1, base, rounding, vec![rule("r", Reduction::Percent(percent))]).price(time(NOW), None);
        let taken = price.discounts.first().map(|discount| discount.amount.smallest());
        assert_eq!(taken, Some(expected), "{percent} % of {base}, {rounding:?}");
    }
}

#[test]
fn each_rule_applies_to_the_rest_and_reports_its_discount() {
    let off = |name, amount| rule(name, Reduction::Amount(won(amount)));
    let rules = vec![rule("half", Reduction::Percent(50)), off("a", 300), off("b", 900), off("c", 1)];
    let price = policy(1, 1_000, Rounding::Down, rules).price(time(NOW), None);
    let taken: Vec<_> = price.discounts.iter().map(|d| (d.rule_id.as_str(), d.amount.smallest())).collect();
    assert_eq!(taken, [("half", 500), ("a", 300), ("b", 200)], "c subtracts nothing and is omitted");
    assert_eq!(price.discounted_price, won(0));
}

fn any_reduction() -> impl Strategy<Value = Reduction> {
    prop_oneof![
        (1_u8..=100).prop_map(Reduction::Percent),
        (1_u64..20_000).prop_map(|amount| Reduction::Amount(won(amount)))
    ]
}

fn any_grade() -> impl Strategy<Value = Option<UserGrade>> {
    proptest::option::of(proptest::sample::select(UserGrade::ALL.to_vec()))
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let weekdays =
        vec![Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];
    let conditions = (
        any_reduction(),
        proptest::sample::subsequence(weekdays, 0..4),
        proptest::sample::subsequence(UserGrade::ALL.to_vec(), 0..3),
    );
    let rounding = proptest::sample::select(vec![Rounding::Down, Rounding::HalfUp, Rounding::HalfEven]);
    let base = prop_oneof![0_u64..20_000, Just(money::LARGEST)];
    (base, rounding, proptest::collection::vec(conditions, 0..8)).prop_map(|(base, rounding, rules)| {
        let rules = rules.into_iter().enumerate().map(|(index, (reduction, weekdays, user_grades))| Rule {
            weekdays,
            user_grades,
            ..rule(&format!("r{index}"), reduction)
        });
        policy(1, base, rounding, rules.collect())
    })
}

fn any_start() -> impl Strategy<Value = DateTime<Utc>> {
    (-62_135_596_800_i64..253_402_300_800).prop_map(|seconds| DateTime::from_timestamp(seconds, 0).expect("a time"))
}

/// An event as the bus may deliver it: in any order and any number of times.
#[derive(Debug, Clone, Copy)]
enum Event {
    Ticket(Schedule),
    Reservation(Holder),
}

fn any_deliveries() -> impl Strategy<Value = Vec<Event>> {
    // Equal starts are likely: they represent a change of the end alone.
    let starts = (any_start(), any_start())
        .prop_flat_map(|(one, other)| proptest::collection::vec(proptest::sample::select(vec![one, one, other]), 1..4));
    let grades = proptest::collection::vec(any_grade(), 0..6);
    (starts, grades).prop_flat_map(|(starts, grades)| {
        let revisions = 1_i64..;
        let tickets = starts.into_iter().zip(revisions.clone());
        let reservations = grades.into_iter().zip(revisions);
        let all: Vec<_> = (tickets.map(|(start, revision)| Event::Ticket(Schedule { start, revision })))
            .chain(reservations.map(|(grade, revision)| Event::Reservation(Holder { grade, revision })))
            .collect();
        // Each event at least once, and some of them again.
        let again = proptest::collection::vec(proptest::sample::select(all.clone()), 0..8);
        again.prop_flat_map(move |again| Just([all.clone(), again].concat()).prop_shuffle())
    })
}

fn deliver(row: &Row, event: Event, policy: &Policy) -> Option<Row> {
    let taken = match event {
        Event::Ticket(seen) => apply_ticket(row, seen, policy, time(NOW)),
        Event::Reservation(seen) => apply_reservation(row, seen, policy, time(NOW)),
    };
    taken.expect("a known policy")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn sums_match_and_nothing_is_negative(policy in any_policy(), start in any_start(), grade in any_grade()) {
        let price = policy.price(start, grade);
        let taken: u64 = price.discounts.iter().map(|discount| discount.amount.smallest()).sum();
        prop_assert_eq!(price.base_price.smallest(), price.discounted_price.smallest() + taken);
        prop_assert!(price.discounts.iter().all(|discount| discount.amount.smallest() > 0));
        prop_assert_eq!(policy.price(start, grade), price, "the same state gives the same price");
    }

    #[test]
    fn any_order_and_repetition_ends_in_the_same_state(policy in any_policy(), deliveries in any_deliveries()) {
        let mut row = Row::default();
        for event in &deliveries {
            if let Some(next) = deliver(&row, *event, &policy) {
                let expected = row.revision + i64::from(next.price.is_some());
                prop_assert_eq!(next.revision, expected, "every computation raises it");
                prop_assert_eq!(next.price.is_some(), next.start.is_some());
                prop_assert_eq!(next.policy_version, i64::from(next.start.is_some()));
                row = next;
            }
        }
        let newest = |event: &Event| match event {
            Event::Ticket(seen) => (seen.revision, 0),
            Event::Reservation(_) => (0, 0),
        };
        let schedule = deliveries.iter().max_by_key(|event| newest(event)).copied();
        let Some(Event::Ticket(schedule)) = schedule else { return Err(TestCaseError::fail("no ticket event")) };
        let holders = deliveries.iter().filter_map(|event| match event {
            Event::Reservation(seen) => Some(*seen),
            Event::Ticket(_) => None,
        });
        let holder = holders.max_by_key(|seen| seen.revision).unwrap_or(Holder { grade: None, revision: 0 });
        prop_assert_eq!((row.start, row.schedule_revision), (Some(schedule.start), schedule.revision));
        prop_assert_eq!((row.grade, row.reservation_revision), (holder.grade, holder.revision));
        prop_assert_eq!(row.price, Some(policy.price(schedule.start, holder.grade)));
    }
    #[test]
    fn a_held_ticket_keeps_its_price_until_its_start_or_holder_changes(
        policies in proptest::collection::vec(any_policy(), 1..4),
        deliveries in any_deliveries(),
    ) {
        // Each delivery uses the newest policy; the version of a policy is its position in the list, from 1.
        let policies: Vec<_> = (1_i64..).zip(&policies).map(|(version, policy)| policy.with_version(version)).collect();
        let mut row = Row::default();
        for (index, event) in deliveries.iter().enumerate() {
            let newest = &policies[index * policies.len() / deliveries.len()];
            let Some(next) = deliver(&row, *event, newest) else { continue };
            let is_given = row.grade.is_some() && row.price.is_some();
            let same = matches!(event, Event::Ticket(seen) if row.start == Some(seen.start));
            if is_given && same {
                prop_assert_eq!((&next.price, next.policy_version), (&row.price, row.policy_version));
            } else if let Some(start) = next.start {
                prop_assert_eq!(next.price.as_ref(), Some(&newest.price(start, next.grade)));
                prop_assert_eq!(next.policy_version, newest.version());
            }
            prop_assert_eq!(next.revision, row.revision + i64::from(next.price.is_some()), "settled depends on it");
            row = next;
        }
    }
}

//! The table of replicas that `status` prints.

use chrono::{DateTime, Utc};
use eticket_proto::{
    operations::{BreakerState, ReplicaStatus},
    time,
};
use prost_types::Timestamp;

/// Shown for a value that a server does not have, or does not know at the moment.
const NOTHING: &str = "-";

/// The header. With addresses of IPv4 in a cluster, no line is longer than 80 columns.
pub(super) const HEADER: &str = "SERVICE      ADDRESS             VERSION  UP   STATE      OUTBOX    LAG  PARKED";

/// Returns the row of a replica, and a line for each thing that does not work.
pub(super) fn lines(replica: &ReplicaStatus, now: DateTime<Utc>) -> String {
    let or_nothing = |text: &str| if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() };
    let state = match replica {
        _ if !replica.unreachable_reason.is_empty() => "unknown",
        _ if replica.ready => "ready",
        _ => "not ready",
    };
    let outbox = replica.outbox.as_ref().map(|outbox| match &outbox.oldest_event_time {
        Some(oldest) => format!("{} ({})", outbox.waiting_event_count, age(Some(oldest), now)),
        None => outbox.waiting_event_count.to_string(),
    });
    let lag = replica.consumers.iter().map(|consumer| consumer.lag_event_count).sum::<Option<i64>>();
    let lag = lag.filter(|_| !replica.consumers.is_empty());
    let shown = |value: Option<String>| value.unwrap_or_else(|| NOTHING.to_owned());
    let mut lines = format!(
        "{:<11}  {:<18}  {:<7}  {:<3}  {:<9}  {:<8}  {:>3}  {:>6}\n",
        replica.service,
        or_nothing(&replica.address),
        or_nothing(&replica.version),
        age(replica.start_time.as_ref(), now),
        state,
        shown(outbox),
        shown(lag.map(|lag| lag.to_string())),
        shown(replica.parked_event_count.map(|count| count.to_string())),
    );
    let breakers = replica.breakers.iter().filter(|breaker| breaker.state() != BreakerState::Closed);
    let broken = breakers.map(|breaker| {
        let state = if breaker.state() == BreakerState::HalfOpen { "half open" } else { "open" };
        format!("the circuit breaker of calls to {} is {state}", breaker.upstream)
    });
    let reasons = replica.components.iter().map(|component| component.reason.clone());
    for text in std::iter::once(replica.unreachable_reason.clone()).chain(reasons).chain(broken) {
        if !text.is_empty() {
            lines += &format!("  {text}\n");
        }
    }
    lines
}

/// The time since then, in its largest unit.
fn age(since: Option<&Timestamp>, now: DateTime<Utc>) -> String {
    let Some(since) = since.and_then(time::from_proto) else { return NOTHING.to_owned() };
    // The clock of the server may be ahead.
    let seconds = (now - since).num_seconds().max(0);
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use eticket_proto::operations::{BreakerStatus, ComponentHealth, ConsumerStatus, OutboxStatus};

    use super::*;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn reservation() -> ReplicaStatus {
        let components = [("store", ""), ("bus", "the bus does not accept events")].map(|(name, reason)| {
            ComponentHealth { name: name.to_owned(), serving: reason.is_empty(), reason: reason.to_owned() }
        });
        ReplicaStatus {
            service: "reservation".to_owned(),
            address: "10.244.112.13:8081".to_owned(),
            version: "10.11.0".to_owned(),
            start_time: at(1_000),
            components: components.to_vec(),
            breakers: vec![BreakerStatus { upstream: "ticket".to_owned(), state: BreakerState::Open.into() }],
            outbox: Some(OutboxStatus { waiting_event_count: 12, oldest_event_time: at(1_010) }),
            consumers: vec![ConsumerStatus { name: "reservation".to_owned(), lag_event_count: Some(7) }],
            parked_event_count: Some(2),
            ready: true,
            ..ReplicaStatus::default()
        }
    }

    #[test]
    fn a_row_aligns_with_the_header_and_problems_follow() {
        let now = DateTime::from_timestamp(1_310, 0).expect("a time");
        let text = lines(&reservation(), now);
        let row = "reservation  10.244.112.13:8081  10.11.0  5m   ready      12 (5m)     7       2";
        let problems = ["  the bus does not accept events", "  the circuit breaker of calls to ticket is open"];
        assert_eq!(text.lines().collect::<Vec<_>>(), [&[row][..], &problems].concat());
        assert!(text.lines().chain([HEADER]).all(|line| line.len() <= 80), "{text}");
        for (title, value) in
            [("ADDRESS", "10.244"), ("VERSION", "10.11"), ("UP", "5m "), ("STATE", "ready"), ("OUTBOX", "12 (")]
        {
            assert_eq!(HEADER.find(title), row.find(value), "{title}");
        }
        for (title, value) in [("LAG", "   7"), ("PARKED", "      2")] {
            let end = |line: &str, text: &str| line.find(text).map(|start| start + text.len());
            assert_eq!(end(HEADER, title), end(row, value), "{title}");
        }
    }

    #[test]
    fn what_is_not_known_is_not_shown_as_zero() {
        let now = DateTime::from_timestamp(1_310, 0).expect("a time");
        let reason = "it did not respond within 2000 ms";
        let unreachable = ReplicaStatus {
            service: "query".to_owned(),
            address: "10.0.0.1:8084".to_owned(),
            unreachable_reason: reason.to_owned(),
            ..ReplicaStatus::default()
        };
        let row = "query        10.0.0.1:8084       -        -    unknown    -           -       -";
        assert_eq!(lines(&unreachable, now), format!("{row}\n  {reason}\n"));
        let mut unknown_lag = reservation();
        unknown_lag.consumers[0].lag_event_count = None;
        assert!(
            lines(&unknown_lag, now)
                .starts_with("reservation  10.244.112.13:8081  10.11.0  5m   ready      12 (5m)     -       2\n")
        );
    }

    #[test]
    fn an_age_has_one_unit() {
        let now = DateTime::from_timestamp(200_000, 0).expect("a time");
        for (since, expected) in
            [(200_005, "0s"), (199_941, "59s"), (199_940, "1m"), (196_400, "1h"), (113_600, "1d"), (0, "2d")]
        {
            assert_eq!(age(at(since).as_ref(), now), expected, "{since}");
        }
        assert_eq!(age(None, now), "-");
    }
}

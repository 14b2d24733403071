//! The tickets of `eticket dev`: events of the coming weeks, three of them reserved.

use std::net::SocketAddr;

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc, Weekday};
use chrono_tz::Asia::Seoul;
use eticket_base::exit::StartError;
use eticket_proto::{
    reservation::{ReserveTicketRequest, UserGrade, reservation_service_client::ReservationServiceClient},
    ticket::{RegisterTicketRequest, ticket_service_client::TicketServiceClient},
    time::to_proto,
};
use futures::future::BoxFuture;
use tonic::{Request, metadata::AsciiMetadataValue, transport::Endpoint};

/// How far ahead there are tickets.
const DAYS: u64 = 28;
const EVENTS: [(&str, &str); 7] = [
    ("choir", "Choir concert"),
    ("piano", "Piano recital"),
    ("quartet", "String quartet"),
    ("jazz", "Jazz evening"),
    ("opera", "Opera gala"),
    ("dance", "Dance theatre"),
    ("film", "Film with orchestra"),
];
/// Who holds the first tickets.
const USERS: [(&str, UserGrade); 3] =
    [("mina", UserGrade::Vip), ("joon", UserGrade::Gold), ("sora", UserGrade::Silver)];

/// Registers the demo tickets through a gateway without TLS, with the token of an admin if it needs one.
///
/// # Errors
/// If the gateway refuses one of them.
pub fn demo(gateway: SocketAddr, token: Option<String>) -> BoxFuture<'static, Result<(), StartError>> {
    Box::pin(async move {
        let channel = Endpoint::from_shared(format!("http://{gateway}")).map_err(StartError::failed)?.connect_lazy();
        let bearer = token
            .map(|token| format!("Bearer {token}").parse::<AsciiMetadataValue>())
            .transpose()
            .map_err(StartError::failed)?;
        let authorize = move |mut request: Request<()>| {
            bearer.clone().and_then(|bearer| request.metadata_mut().insert("authorization", bearer));
            Ok(request)
        };
        let mut tickets = TicketServiceClient::with_interceptor(channel.clone(), authorize.clone());
        let mut reservations = ReservationServiceClient::with_interceptor(channel, authorize);
        let requests = tickets_from(Utc::now());
        for request in &requests {
            tickets.register_ticket(request.clone()).await.map_err(StartError::failed)?;
        }
        for (request, (user, grade)) in requests.iter().zip(USERS) {
            let request = ReserveTicketRequest {
                ticket_id: request.ticket_id.clone(),
                user_id: user.to_owned(),
                user_grade: grade.into(),
                ..Default::default()
            };
            reservations.reserve_ticket(request).await.map_err(StartError::failed)?;
        }
        Ok(())
    })
}

/// An event each evening, and one more on the afternoons of Saturdays and Sundays.
fn tickets_from(now: DateTime<Utc>) -> Vec<RegisterTicketRequest> {
    let today = now.with_timezone(&Seoul).date_naive();
    let days = (1..=DAYS).filter_map(|day| today.checked_add_days(Days::new(day)));
    let mut tickets = Vec::new();
    for day in days {
        let weekend = matches!(day.weekday(), Weekday::Sat | Weekday::Sun);
        let starts = [(weekend, 14, 0), (true, 19, 30)];
        for (_, hour, minute) in starts.into_iter().filter(|(held, ..)| *held) {
            let event = EVENTS[tickets.len() % EVENTS.len()];
            tickets.extend(NaiveTime::from_hms_opt(hour, minute, 0).and_then(|time| ticket(event, day, time)));
        }
    }
    tickets
}

/// A ticket for two hours from this time in the time zone of the default pricing policy.
fn ticket((id, title): (&str, &str), day: NaiveDate, time: NaiveTime) -> Option<RegisterTicketRequest> {
    let start = Seoul.from_local_datetime(&day.and_time(time)).earliest()?.to_utc();
    Some(RegisterTicketRequest {
        ticket_id: format!("{id}-{}", day.format("%m%d")),
        title: title.to_owned(),
        start_time: Some(to_proto(start)),
        end_time: Some(to_proto(start + TimeDelta::hours(2))),
        request_id: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn four_weeks_have_an_event_each_evening_and_weekend_afternoon() {
        let now = Utc.with_ymd_and_hms(2026, 12, 1, 20, 0, 0).single().expect("a time");
        let tickets = tickets_from(now);
        assert_eq!(tickets.len(), 28 + 8);
        let ids: HashSet<_> = tickets.iter().map(|ticket| &ticket.ticket_id).collect();
        assert_eq!(ids.len(), tickets.len(), "each id is used once");
        let first = tickets[0].start_time.expect("a start");
        // It is already December 2 in Seoul, so the first evening is that of December 3.
        assert_eq!(first, to_proto(Utc.with_ymd_and_hms(2026, 12, 3, 10, 30, 0).single().expect("a time")));
        assert_eq!(tickets[0].ticket_id, "choir-1203");
    }
}

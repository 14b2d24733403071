//! Checks after a fault or an attack: eticket serves on every protocol, no task has panicked, and the process stops
//! cleanly.

use chrono::Weekday;
use eticket_proto::{reservation::UserGrade, ticket::TicketStatus};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

use crate::{Api, Eticket, Exit, Protocol, calendar};

/// Runs the whole life of a ticket on every protocol.
///
/// # Panics
/// If a step fails.
pub async fn serves(eticket: &Eticket) {
    for protocol in Protocol::ALL {
        let (api, ticket) = (Api::new(eticket, protocol), Uuid::new_v4().to_string());
        api.register(&ticket, calendar::upcoming(Weekday::Wed)).await.expect("registered");
        let reserved = api.reserve(&ticket, "A", UserGrade::Vip).await.expect("reserved");
        let view = api.settled(&ticket, &reserved.consistency_token).await;
        assert_eq!((view.ticket_status(), view.user_id.as_str()), (TicketStatus::Reserved, "A"), "{protocol:?}");
        let reservation = reserved.reservation.expect("an answer has its resource");
        let cancelled = api.cancel(&reservation.reservation_id).await.expect("cancelled");
        let view = api.settled(&ticket, &cancelled.consistency_token).await;
        assert_eq!(view.ticket_status(), TicketStatus::Available, "{protocol:?}");
    }
}

/// Stops the process.
///
/// # Panics
/// If a task has panicked, or the process does not exit cleanly.
pub async fn ends_well(eticket: Eticket) -> Exit {
    let metrics = metrics(&eticket).await;
    for counter in ["eticket_task_panics_total", "eticket_rpc_panics_total"] {
        let counted = metrics.lines().find(|line| line.starts_with(counter));
        assert_eq!(counted, None, "nothing has panicked");
    }
    let exit = eticket.stop().await;
    assert!(!exit.log.contains("panicked"), "{}", exit.log);
    exit
}

/// Returns the text of `/metrics`.
pub async fn metrics(eticket: &Eticket) -> String {
    let mut stream = TcpStream::connect(eticket.address("admin")).await.expect("the admin server answers");
    let request = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer in text");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    answer
}

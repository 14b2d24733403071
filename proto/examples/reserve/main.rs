//! A client that registers a ticket, reserves it, waits until all services have applied the reservation, and cancels it.
//!
//! `cargo run --example reserve -p eticket-proto` calls the gateway that `cargo run --release -p eticket` starts. An argument such as
//! `http://127.0.0.1:8088` names another one. If the servers authenticate callers, `ETICKET_TOKEN` holds the bearer token of an admin.

mod retry;

use std::{
    env,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use eticket_proto::{
    query::{GetTicketViewRequest, ListUserReservationsRequest, WaitFor, query_service_client::QueryServiceClient},
    reservation::{
        CancelReservationRequest, ReserveTicketRequest, UserGrade, reservation_service_client::ReservationServiceClient,
    },
    session::Session,
    ticket::{RegisterTicketRequest, ticket_service_client::TicketServiceClient},
};
use tonic::transport::Endpoint;
use uuid::Uuid;

use crate::retry::Caller;

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::main]
async fn main() -> Result<()> {
    let gateway = env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8088".to_owned());
    let caller = Caller::new(env::var("ETICKET_TOKEN").ok().as_deref())?;
    let connecting = Endpoint::new(gateway.clone())?.connect_timeout(Duration::from_secs(3)).connect().await;
    let channel = connecting.with_context(|| {
        format!("no gateway responds at {gateway}: start one with `cargo run --release -p eticket`")
    })?;
    // Reads through this channel include the effects of the commands through it.
    let channel = Session::new().attach(channel);
    let tickets = TicketServiceClient::new(channel.clone());
    let reservations = ReservationServiceClient::new(channel.clone());
    let views = QueryServiceClient::new(channel);

    // The `request_id` is made once per command, not once per attempt: the server executes all attempts as one command.
    let request_id = || Uuid::new_v4().to_string();
    let request = RegisterTicketRequest {
        title: "Piano".to_owned(),
        start_time: Some((SystemTime::now() + 24 * HOUR).into()),
        end_time: Some((SystemTime::now() + 26 * HOUR).into()),
        request_id: request_id(),
        ..Default::default()
    };
    let registered = caller.call(request, async |request| tickets.clone().register_ticket(request).await).await?;
    let ticket = registered.ticket.context("a response without a ticket")?;
    println!("registered {}", ticket.ticket_id);

    let request = ReserveTicketRequest {
        ticket_id: ticket.ticket_id.clone(),
        user_id: "ann".to_owned(),
        user_grade: UserGrade::Gold.into(),
        request_id: request_id(),
    };
    let reserved = caller.call(request, async |request| reservations.clone().reserve_ticket(request).await).await?;
    let reservation = reserved.reservation.context("a response without a reservation")?;
    println!("reserved {}", reservation.reservation_id);

    // With the token, the view includes the reservation; SETTLED also waits for the price and the status that follow from it.
    let request = GetTicketViewRequest {
        ticket_id: ticket.ticket_id,
        consistency_token: reserved.consistency_token,
        wait: WaitFor::Settled.into(),
    };
    let seen = caller.call(request, async |request| views.clone().get_ticket_view(request).await).await?;
    let view = seen.view.context("a response without a view")?;
    let price = view.discounted_price.unwrap_or_default();
    println!("settled: {} holds it for {} {}", view.user_id, price.units, price.currency_code);

    let request = CancelReservationRequest { reservation_id: reservation.reservation_id, request_id: request_id() };
    caller.call(request, async |request| reservations.clone().cancel_reservation(request).await).await?;
    println!("cancelled");

    // Without a token of its own: the session has that of the cancellation.
    let request = ListUserReservationsRequest { user_id: "ann".to_owned(), page_size: 1, ..Default::default() };
    let listed = caller.call(request, async |request| views.clone().list_user_reservations(request).await).await?;
    let newest = listed.reservations.into_iter().next().and_then(|entry| entry.reservation).unwrap_or_default();
    println!("the newest reservation of ann is {}", newest.status().as_str_name());
    Ok(())
}

//! Calls that go on while servers are restarted, by a client with the shipped service config.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use eticket_proto::{
    query::{GetTicketViewRequest, GetTicketViewResponse},
    reservation::{
        CancelReservationRequest, CancelReservationResponse, ReserveTicketRequest, ReserveTicketResponse, UserGrade,
    },
    ticket::{GetTicketRequest, GetTicketResponse},
};
use tokio::{sync::Mutex, task::JoinHandle};
use tonic::Code;
use uuid::Uuid;

use crate::caller::Caller;

/// A call that failed after all attempts of the client library: its method and code.
pub type Failure = (String, Code);

/// Clients that reserve, read and cancel, each on a ticket of its own, until one of their calls fails or they are
/// stopped.
pub struct Rounds {
    caller: Arc<Mutex<Caller>>,
    done: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<(), Failure>>>,
}

impl Rounds {
    /// Starts a client for each ticket. All of them use the connections of one client library.
    pub fn start(caller: Caller, tickets: Vec<String>) -> Self {
        let (caller, done, stopping) = (Arc::new(Mutex::new(caller)), Arc::default(), Arc::default());
        let client = |ticket| tokio::spawn(run(Arc::clone(&caller), ticket, Arc::clone(&done), Arc::clone(&stopping)));
        let clients = tickets.into_iter().map(client).collect();
        Self { caller, done, stopping, clients }
    }

    /// Returns the number of successful calls.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops the clients; returns the number of successful calls, and the failed calls.
    ///
    /// # Panics
    /// If a client panics.
    pub async fn stop(self) -> (usize, Vec<Failure>) {
        self.stopping.store(true, Ordering::Relaxed);
        let mut failed = Vec::new();
        for client in self.clients {
            failed.extend(client.await.expect("a client does not panic").err());
        }
        Arc::try_unwrap(self.caller).ok().expect("no client uses the caller any more").into_inner().finish().await;
        (self.done.load(Ordering::Relaxed), failed)
    }
}

async fn run(
    caller: Arc<Mutex<Caller>>,
    ticket: String,
    done: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let request_id = || Uuid::new_v4().to_string();
    macro_rules! call {
        ($method:literal, $request:expr => $answer:ty) => {{
            let answered = caller.lock().await.call::<$answer>($method, &$request).await;
            let answer = answered.await.map_err(|code| ($method.to_owned(), code))?;
            done.fetch_add(1, Ordering::Relaxed);
            answer
        }};
    }
    while !stopping.load(Ordering::Relaxed) {
        let request = ReserveTicketRequest {
            ticket_id: ticket.clone(),
            user_id: "A".to_owned(),
            user_grade: UserGrade::Gold.into(),
            request_id: request_id(),
        };
        let reserved =
            call!("eticket.reservation.v1.ReservationService/ReserveTicket", request => ReserveTicketResponse);
        let request = GetTicketRequest { ticket_id: ticket.clone() };
        call!("eticket.ticket.v1.TicketService/GetTicket", request => GetTicketResponse);
        let request = GetTicketViewRequest { ticket_id: ticket.clone(), ..Default::default() };
        call!("eticket.query.v1.QueryService/GetTicketView", request => GetTicketViewResponse);
        let reservation_id = reserved.reservation.expect("an answer has its resource").reservation_id;
        let request = CancelReservationRequest { reservation_id, request_id: request_id() };
        call!("eticket.reservation.v1.ReservationService/CancelReservation", request => CancelReservationResponse);
    }
    Ok(())
}

//! `eticket`: the five servers in one process. Configuration makes the difference, nothing else: no service knows of it.

use std::process::ExitCode;

use eticket_runtime::process::{entry, main_of_several};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // In the order of their start: each comes after those it calls, and they stop in the opposite order.
    let servers = vec![
        entry::<eticket_ticket::Ticket>(),
        entry::<eticket_pricing::Pricing>(),
        entry::<eticket_query::Query>(),
        entry::<eticket_reservation::Reservation>(),
        entry::<eticket_gateway::Gateway>(),
    ];
    main_of_several("eticket", servers)
}

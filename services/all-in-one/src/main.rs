//! `eticket`: the five servers in one process, and the client commands. Configuration makes the difference, nothing else: no
//! service knows of it.

use std::process::ExitCode;

use eticket_runtime::process::{command_of_several, entry, main_of_several};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "eticket";

fn main() -> ExitCode {
    if let Some(code) = eticket_cli::run(|| command_of_several(PROGRAM)) {
        return code;
    }
    // In the order of their start: each comes after those it calls, and they stop in the opposite order.
    let servers = vec![
        entry::<eticket_ticket::Ticket>(),
        entry::<eticket_pricing::Pricing>(),
        entry::<eticket_query::Query>(),
        entry::<eticket_reservation::Reservation>(),
        entry::<eticket_gateway::Gateway>(),
    ];
    main_of_several(PROGRAM, servers, &eticket_cli::overview(), eticket_cli::demo)
}

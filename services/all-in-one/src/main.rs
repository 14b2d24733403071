//! `eticket`: the five servers in one process, and the client commands. The servers run the same code as in separate
//! processes; only the configuration differs.

use std::process::ExitCode;

use eticket_runtime::process::{command_of_several, entry, main_of_several};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "eticket";

fn main() -> ExitCode {
    if let Some(code) = eticket_cli::run(|| command_of_several(PROGRAM)) {
        return code;
    }
    // The servers start in this order, each after the servers that it calls, and stop in the opposite order.
    let servers = vec![
        entry::<eticket_ticket::Ticket>(),
        entry::<eticket_pricing::Pricing>(),
        entry::<eticket_query::Query>(),
        entry::<eticket_reservation::Reservation>(),
        entry::<eticket_gateway::Gateway>(),
    ];
    main_of_several(PROGRAM, servers, &eticket_cli::overview(), eticket_cli::demo)
}

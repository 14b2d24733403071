//! `eticket`: the five servers in one process, and the client commands. The servers run the same code as in separate
//! processes; only the configuration differs.
//!
//! Under the name of another binary, such as `eticket-ticket`, it is that binary: the container image has one program.

use std::{ffi::OsStr, path::Path, process::ExitCode};

use eticket_runtime::process::{self, command_of_several, entry, main_of_several};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: &str = "eticket";

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("eticket-ticket") => process::main::<eticket_ticket::Ticket>(),
        Some("eticket-pricing") => process::main::<eticket_pricing::Pricing>(),
        Some("eticket-query") => process::main::<eticket_query::Query>(),
        Some("eticket-reservation") => process::main::<eticket_reservation::Reservation>(),
        Some("eticket-gateway") => process::main::<eticket_gateway::Gateway>(),
        _ => all_in_one(),
    }
}

fn all_in_one() -> ExitCode {
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

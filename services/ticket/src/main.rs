//! Runs the ticket service in its own process.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    eticket_runtime::process::main::<eticket_ticket::Ticket>()
}

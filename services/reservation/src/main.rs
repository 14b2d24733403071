//! The reservation service in a process of its own.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    eticket_runtime::process::main::<eticket_reservation::Reservation>()
}

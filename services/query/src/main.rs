//! Runs the query service in its own process.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    eticket_runtime::process::main::<eticket_query::Query>()
}

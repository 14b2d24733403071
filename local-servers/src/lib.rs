//! Servers for tests, benchmarks and `cargo xtask up`: each in a folder of its own, on free loopback ports, and stopped
//! when dropped. Several runs can work side by side.
//!
//! All functions block: starting a server takes about a second, and its callers have nothing else to do.

pub mod certificates;
pub mod kubernetes;
pub mod layout;
pub mod nats;
mod ports;
pub mod postgres;
mod program;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use ports::{free_address, free_port};

/// Bound of each start and stop.
const BOUND: Duration = Duration::from_secs(30);

/// Polls until `done` returns true; fails after [`BOUND`].
fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + BOUND;
    while !done()? {
        if Instant::now() > end {
            bail!("{what} did not happen in {BOUND:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

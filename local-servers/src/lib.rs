//! Servers for tests, benchmarks and `cargo xtask up`: each in a folder of its own, on free loopback ports, and stopped
//! when dropped. Several runs can work side by side.
//!
//! All functions block: starting a server takes about a second, and its callers have nothing else to do.

pub mod certificates;
pub mod layout;
pub mod nats;
pub mod postgres;
mod program;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Bound of each start and stop.
const BOUND: Duration = Duration::from_secs(30);

/// Below the ephemeral ports: an outgoing connection on one of those could prevent the restart of a killed server.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Returns a free loopback port.
///
/// # Errors
/// Fails if there is none.
pub fn free_port() -> Result<u16> {
    // Starts at a random port, so that parallel runs do not all try the same ports.
    let chance = RandomState::new().build_hasher().finish();
    let count = PORTS.len() as u64;
    for step in 0..count {
        let port = PORTS.start + u16::try_from((chance % count + step) % count)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no loopback port is free")
}

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

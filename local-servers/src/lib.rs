//! Servers of one's own: each in a folder of its own, on free ports of loopback, stopped when dropped. For tests, benchmarks and
//! `cargo xtask up`; several runs stand side by side.
//!
//! Everything here blocks: starting a server takes a second or so, and who starts one has nothing else to do.

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

/// No server takes longer to start or to stop.
const BOUND: Duration = Duration::from_secs(30);

/// Below those that systems take for outgoing connections: one of these would keep a server that was killed from coming back.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// A port of loopback that nobody listens on.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    // By chance, so that runs side by side do not all begin with the same one.
    let chance = RandomState::new().build_hasher().finish();
    let count = PORTS.len() as u64;
    for step in 0..count {
        let port = PORTS.start + u16::try_from((chance % count + step) % count)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of loopback can be had")
}

/// Looks again until `done`, or an error after [`BOUND`].
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

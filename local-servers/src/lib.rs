//! Servers of one's own: each in a folder of its own, on free ports of loopback, stopped when dropped. For tests, benchmarks and
//! `cargo xtask up`; several runs stand side by side.
//!
//! Everything here blocks: starting a server takes a second or so, and who starts one has nothing else to do.

pub mod layout;
pub mod nats;
pub mod postgres;
mod program;

use std::{
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// No server takes longer to start or to stop.
const BOUND: Duration = Duration::from_secs(30);

/// A port of loopback that nobody listens on. Somebody else may take it before its user does; who starts a server tries again.
///
/// # Errors
/// If the machine has none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port of loopback can be had")?;
    Ok(listener.local_addr()?.port())
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

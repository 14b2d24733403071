//! Polls a condition with a bound, instead of sleeping for a guessed time.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// A generous bound for everything that should happen soon, also on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Calls `look` repeatedly until it returns `Ok`, and returns the value.
///
/// # Panics
/// After `bound`, with the last error.
pub async fn eventually<T, E: Debug>(bound: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(started.elapsed() < bound, "not within {bound:?}: {what}; last seen: {seen:?}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

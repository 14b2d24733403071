//! Waiting for a condition with a bound, in place of sleeping for a time that is hoped to be enough.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long anything in these tests may take that should happen soon: far more than needed, on a busy machine too.
pub const SOON: Duration = Duration::from_secs(30);

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Looks again and again until `look` answers `Ok`, which is returned.
///
/// # Panics
/// After `bound`, with what the last look saw.
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

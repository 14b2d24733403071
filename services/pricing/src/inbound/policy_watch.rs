//! Watches the policy file: adopts new versions while the service runs, and recomputes the prices of tickets without a
//! holder.
//!
//! Changes are detected by the text, not by the modification time: Kubernetes replaces a ConfigMap behind a symbolic
//! link. A new text is used only after it has stayed unchanged for a while, because a partly written file may be a
//! valid policy and an adopted version can never be changed. An unreadable or unused file changes nothing. The log and
//! a metric report it; `GetPricingPolicy` returns the policy in force.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use eticket_base::exit::StartError;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    application::Prices,
    domain::{Offer, Policy},
    policy_file,
};

/// Delay between reads of the file while the process starts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Result of one check of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    /// The text differs from the previous read, or has not stayed unchanged for long enough.
    Changing,
    Offered(Offer),
    /// The file cannot be read, or contains no valid policy.
    Unreadable,
    /// The store is unavailable. The next check retries.
    Postponed,
}

/// A policy file and the newest text that was read from it.
struct PolicyFile {
    path: PathBuf,
    /// How long a text must stay unchanged before it is used.
    settle: Duration,
    newest: Option<Seen>,
}

/// A text and the time of the first read that returned it.
struct Seen {
    text: String,
    first: Instant,
    /// Age of the text at `first`, from the modification time of the file. It is zero if another text was read before.
    before: Duration,
}

impl PolicyFile {
    /// Returns the text once at least two consecutive reads return it and it has stayed unchanged for `settle`.
    async fn settled(&mut self, now: Instant) -> io::Result<Option<String>> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || policy_file::read(&path).map(|text| (text, age(&path))));
        let (text, age) = match read.await.map_err(io::Error::other).flatten() {
            Ok(read) => read,
            Err(error) => {
                self.newest = None;
                return Err(error);
            }
        };
        if let Some(seen) = self.newest.as_ref().filter(|seen| seen.text == text) {
            let is_settled = seen.before + now.saturating_duration_since(seen.first) >= self.settle;
            return Ok(is_settled.then_some(text));
        }
        let before = if self.newest.is_some() {
            let file = self.path.display();
            tracing::info!(%file, "the policy file has changed; it is used once it stays unchanged");
            Duration::ZERO
        } else {
            age
        };
        self.newest = Some(Seen { text, first: now, before });
        Ok(None)
    }
}

/// Returns the time since the last write to the file, by its modification time. Returns zero if that time is unknown or
/// in the future.
fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// Watches the policy file; see the documentation of the module.
pub struct PolicyWatch {
    prices: Prices,
    /// `None` for the embedded policy, which never changes.
    file: Option<PolicyFile>,
    /// The text that was last offered, or that contains no valid policy.
    last_text: Option<String>,
    /// Whether the current read error has been logged.
    complained: bool,
    reprice_due: bool,
}

impl PolicyWatch {
    /// Creates a watch that adopts a changed file after it has stayed unchanged for `settle`. The first check always
    /// recomputes outdated prices, because an earlier process may have stopped before it finished.
    pub fn new(prices: Prices, file: Option<PathBuf>, settle: Duration) -> Self {
        let file = file.map(|path| PolicyFile { path, settle, newest: None });
        Self { prices, file, last_text: None, complained: false, reprice_due: true }
    }

    /// Ensures that a policy is in force. If the store has none, this waits until the file has settled and adopts it.
    /// Otherwise a file that changed recently is left to [`Self::run`].
    ///
    /// # Errors
    /// If the store is unavailable, or the file cannot be read or contains no valid policy.
    pub async fn begin(&mut self) -> Result<(), StartError> {
        let unavailable = |error: &dyn std::fmt::Display| {
            StartError::unavailable("the pricing policy cannot be stored", error.to_string())
        };
        let in_force = self.prices.policy_in_force().await.map_err(|error| unavailable(&error))?;
        if let Some(policy) = &in_force {
            version_in_force(policy.version());
        }
        let (name, text) = match &mut self.file {
            None => ("the embedded policy".to_owned(), policy_file::DEFAULT.to_owned()),
            Some(file) => {
                let name = file.path.display().to_string();
                let unreadable = |error: io::Error| StartError::config("policy.file", &name, error.to_string());
                let mut settled = file.settled(Instant::now()).await.map_err(unreadable)?;
                while settled.is_none() {
                    sleep(LOOK_AGAIN).await;
                    settled = file.settled(Instant::now()).await.map_err(unreadable)?;
                    if settled.is_none() && in_force.is_some() {
                        return Ok(());
                    }
                }
                (name, settled.unwrap_or_default())
            }
        };
        let policy =
            policy_file::parse(&text).map_err(|error| StartError::config("policy.file", name, error.to_string()))?;
        offer(&self.prices, policy).await.map_err(|error| unavailable(&error))?;
        self.last_text = Some(text);
        Ok(())
    }

    /// Checks the file once per `interval` until `stopping` is cancelled.
    pub async fn run(mut self, interval: Duration, stopping: CancellationToken) {
        let mut rounds = tokio::time::interval(interval);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = rounds.tick() => {}
                () = stopping.cancelled() => return,
            }
            self.run_once(Instant::now()).await;
        }
    }

    /// Checks the file once, and recomputes outdated prices if necessary.
    pub async fn run_once(&mut self, now: Instant) -> Outcome {
        let outcome = self.look(now).await;
        self.reprice_due |= outcome == Outcome::Offered(Offer::Adopt);
        if self.reprice_due {
            match self.prices.reprice().await {
                Ok(count) => {
                    self.reprice_due = false;
                    if count > 0 {
                        tracing::info!(count, "recomputed prices with the policy in force");
                    }
                }
                Err(error) => tracing::warn!(%error, "recomputing prices failed; trying again later"),
            }
        }
        outcome
    }

    async fn look(&mut self, now: Instant) -> Outcome {
        let Some(file) = &mut self.file else { return Outcome::Unchanged };
        let text = match file.settled(now).await {
            Ok(Some(text)) => text,
            Ok(None) => {
                self.complained = false;
                return Outcome::Changing;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.complained, true) {
                    unused("it cannot be read", &error.to_string());
                }
                return Outcome::Unreadable;
            }
        };
        self.complained = false;
        if self.last_text.as_ref() == Some(&text) {
            return Outcome::Unchanged;
        }
        let outcome = match policy_file::parse(&text) {
            Ok(policy) => match offer(&self.prices, policy).await {
                Ok(offer) => Outcome::Offered(offer),
                Err(error) => {
                    tracing::warn!(%error, "the policy file could not be adopted; trying again later");
                    return Outcome::Postponed;
                }
            },
            Err(error) => {
                unused("it contains no valid policy", &error.to_string());
                Outcome::Unreadable
            }
        };
        self.last_text = Some(text);
        outcome
    }
}

/// Offers a policy, and reports the result in the log and the metrics.
///
/// # Errors
/// If the store is unavailable.
async fn offer(prices: &Prices, policy: Policy) -> Result<Offer, eticket_service::batch::Error> {
    let version = policy.version();
    let offer = prices.offer(policy).await?;
    match offer {
        Offer::Adopt => {
            tracing::info!(version, "a new pricing policy is in force");
            used(version);
        }
        Offer::Same => used(version),
        Offer::Lower => unused("a higher version is in force", &format!("its version is {version}")),
        Offer::OtherContent => {
            let advice = format!("version {version} is in force with other content; raise the version");
            unused("its version was already used", &advice);
        }
    }
    Ok(offer)
}

fn version_in_force(version: i64) {
    metrics::gauge!("eticket_policy_version").set(version as f64);
}

fn used(version: i64) {
    version_in_force(version);
    metrics::gauge!("eticket_policy_file_used").set(1.0);
}

fn unused(why: &str, detail: &str) {
    metrics::gauge!("eticket_policy_file_used").set(0.0);
    tracing::warn!(why, detail, "the policy file is not used");
}

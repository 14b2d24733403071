//! Follows the policy file: a new version is adopted while the service runs, and what nobody holds is priced anew.
//!
//! The file's text is compared, not its time: in Kubernetes a ConfigMap changes behind a symbolic link. A text counts only once it
//! has stayed the same: the first half of a policy may be a policy too, and a version that is adopted can never be changed.
//! What cannot be read or is not used changes nothing; the log and a metric say so, and `GetPricingPolicy` which policy is in force.

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

/// Between the first two looks at the file when the process starts.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What a look at the file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    /// It is another text than before, or has not stayed the same for long enough yet.
    Changing,
    Offered(Offer),
    /// The file cannot be read, or holds no policy.
    Unreadable,
    /// The store does not answer; the file is looked at again.
    Postponed,
}

/// A file and for how long it has been the same.
struct PolicyFile {
    path: PathBuf,
    /// How long a text must have stayed the same.
    settle: Duration,
    newest: Option<Seen>,
}

/// A text, and since when it is there.
struct Seen {
    text: String,
    first: Instant,
    /// How long it had been there before `first`, as the file system says; believed only where no other text was seen before.
    before: Duration,
}

impl PolicyFile {
    /// The text, once at least two looks in a row have found the same and it has stayed the same for `settle`.
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
            tracing::info!(file = %self.path.display(), "the policy file has changed; it counts once it stays the same");
            Duration::ZERO
        } else {
            age
        };
        self.newest = Some(Seen { text, first: now, before });
        Ok(None)
    }
}

/// For how long nobody has written to a file, by the clock of its file system; none if that lies ahead of this machine's.
fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.ok().and_then(|time| SystemTime::now().duration_since(time).ok()).unwrap_or_default()
}

/// See the module.
pub struct PolicyWatch {
    prices: Prices,
    /// `None`: the embedded policy, which does not change.
    file: Option<PolicyFile>,
    /// What was last offered, or found to be no policy.
    last_text: Option<String>,
    /// That it cannot be read has been said.
    complained: bool,
    reprice_due: bool,
}

impl PolicyWatch {
    /// Prices that an earlier life of the service left undone are due at once. A changed file is adopted once it has been the same
    /// for `settle`.
    pub fn new(prices: Prices, file: Option<PathBuf>, settle: Duration) -> Self {
        let file = file.map(|path| PolicyFile { path, settle, newest: None });
        Self { prices, file, last_text: None, complained: false, reprice_due: true }
    }

    /// Sees to it that a policy is in force. Where the store holds none yet, that is the file's, which is waited for until it has
    /// stayed the same; else a file that has changed lately is left to [`Self::run`].
    ///
    /// # Errors
    /// If the store does not answer, or the file cannot be read or holds no policy.
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

    /// Looks at the file again and again until asked to stop.
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

    /// Looks at the file once, and computes what is due.
    pub async fn run_once(&mut self, now: Instant) -> Outcome {
        let outcome = self.look(now).await;
        self.reprice_due |= outcome == Outcome::Offered(Offer::Adopt);
        if self.reprice_due {
            match self.prices.reprice().await {
                Ok(count) => {
                    self.reprice_due = false;
                    if count > 0 {
                        tracing::info!(count, "priced anew by the policy in force");
                    }
                }
                Err(error) => tracing::warn!(%error, "prices are not computed anew yet"),
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
                    tracing::warn!(%error, "the policy file is not taken in yet");
                    return Outcome::Postponed;
                }
            },
            Err(error) => {
                unused("it holds no policy", &error.to_string());
                Outcome::Unreadable
            }
        };
        self.last_text = Some(text);
        outcome
    }
}

/// Offers a policy and says what became of it.
///
/// # Errors
/// If the store does not answer.
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
            unused("its version was given before", &advice);
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

//! Follows the policy file: a new version is adopted while the service runs, and what nobody holds is priced anew.
//!
//! The file's text is compared, not its time: in Kubernetes a ConfigMap changes behind a symbolic link. What cannot be read or is
//! not used changes nothing; the log and a metric say so, and `GetPricingPolicy` which policy is in force.

use std::{path::PathBuf, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    application::Prices,
    domain::{Offer, Policy},
    policy_file,
};

/// What a look at the file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unchanged,
    Offered(Offer),
    /// The file cannot be read, or holds no policy.
    Unreadable,
    /// The store does not answer; the file is looked at again.
    Postponed,
}

/// See the module.
pub struct PolicyWatch {
    prices: Prices,
    /// `None`: the embedded policy, which does not change.
    file: Option<PathBuf>,
    /// What was last offered, or found to be no policy.
    last_text: Option<String>,
    /// That it cannot be read has been said.
    complained: bool,
    reprice_due: bool,
}

impl PolicyWatch {
    /// Prices that an earlier life of the service left undone are due at once.
    pub fn new(prices: Prices, file: Option<PathBuf>) -> Self {
        Self { prices, file, last_text: None, complained: false, reprice_due: true }
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
            self.run_once().await;
        }
    }

    /// Looks at the file once, and computes what is due.
    pub async fn run_once(&mut self) -> Outcome {
        let outcome = self.look().await;
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

    async fn look(&mut self) -> Outcome {
        let Some(file) = &self.file else { return Outcome::Unchanged };
        let text = match tokio::fs::read_to_string(file).await {
            Ok(text) => text,
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
pub async fn offer(prices: &Prices, policy: Policy) -> Result<Offer, eticket_chassis::batch::Error> {
    let version = policy.version();
    let offer = prices.offer(policy).await?;
    match offer {
        Offer::Adopt => {
            tracing::info!(version, "a new pricing policy is in force");
            in_force(version);
        }
        Offer::Same => in_force(version),
        Offer::Lower => unused("a higher version is in force", &format!("its version is {version}")),
        Offer::OtherContent => {
            let advice = format!("version {version} is in force with other content; raise the version");
            unused("its version was given before", &advice);
        }
    }
    Ok(offer)
}

fn in_force(version: i64) {
    metrics::gauge!("eticket_policy_version").set(version as f64);
    metrics::gauge!("eticket_policy_file_used").set(1.0);
}

fn unused(why: &str, detail: &str) {
    metrics::gauge!("eticket_policy_file_used").set(0.0);
    tracing::warn!(why, detail, "the policy file is not used");
}

//! One-time codes for tokens: `eticket dev` prints links with a code, and the console exchanges it for its token.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use eticket_base::clock::SharedClock;
use sha2::{Digest, Sha256};

use crate::development::KeyError;

/// How long a code can be exchanged.
pub const LIFETIME: Duration = Duration::from_secs(600);

/// Codes that wait for their exchange, in memory only. Clones share them.
#[derive(Clone)]
pub struct LoginCodes {
    clock: SharedClock,
    // By the hash of the code: how long a look-up takes says nothing about the codes themselves.
    waiting: Arc<Mutex<HashMap<[u8; 32], Waiting>>>,
}

struct Waiting {
    token: String,
    until: chrono::DateTime<chrono::Utc>,
}

impl LoginCodes {
    /// No codes.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, waiting: Arc::default() }
    }

    /// Returns a code of 128 random bits for this token.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn issue(&self, token: String) -> Result<String, KeyError> {
        let mut bits = [0; 16];
        let random = SystemRandom::new().fill(&mut bits);
        random.map_err(|_| KeyError::Sign("no random numbers".to_owned()))?;
        let code = BASE64_URL_SAFE_NO_PAD.encode(bits);
        let until = self.clock.now() + LIFETIME;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.insert(hash(&code), Waiting { token, until });
        Ok(code)
    }

    /// Returns the token of a code, once; `None` if the code is unknown, used or has ended.
    #[must_use]
    pub fn exchange(&self, code: &str) -> Option<String> {
        let now = self.clock.now();
        let found = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash(code))?;
        (now < found.until).then_some(found.token)
    }
}

/// Shows nothing: codes and tokens are secrets.
impl fmt::Debug for LoginCodes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LoginCodes").finish_non_exhaustive()
    }
}

fn hash(code: &str) -> [u8; 32] {
    Sha256::digest(code).into()
}

#[cfg(test)]
mod tests {
    use eticket_base::clock::{Clock, ManualClock, SystemClock};

    use super::*;

    #[test]
    fn a_code_brings_its_token_once() {
        let codes = LoginCodes::new(Arc::new(SystemClock));
        let [first, second] = ["a", "b"].map(|token| codes.issue(token.to_owned()).expect("random"));
        assert_ne!(first, second);
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(&first).expect("base64url").len(), 16);
        assert_eq!(codes.exchange("unknown"), None);
        assert_eq!(codes.clone().exchange(&second), Some("b".to_owned()));
        assert_eq!(codes.exchange(&first), Some("a".to_owned()));
        assert_eq!(codes.exchange(&first), None);
    }

    #[test]
    fn a_code_ends_after_ten_minutes() {
        let clock = Arc::new(ManualClock::new(SystemClock.now()));
        let codes = LoginCodes::new(clock.clone());
        let [used, late] = ["a", "b"].map(|token| codes.issue(token.to_owned()).expect("random"));
        clock.set(clock.now() + LIFETIME - Duration::from_secs(1));
        assert_eq!(codes.exchange(&used), Some("a".to_owned()));
        clock.set(clock.now() + Duration::from_secs(1));
        assert_eq!(codes.exchange(&late), None);
    }

    #[test]
    fn a_log_shows_no_code_and_no_token() {
        let codes = LoginCodes::new(Arc::new(SystemClock));
        codes.issue("secret".to_owned()).expect("random");
        assert_eq!(format!("{codes:?}"), "LoginCodes { .. }");
    }
}

//! Tokens whose signature has been checked. A client sends the same token with each call, and checking a signature costs
//! more than many calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::Claims;

/// The most tokens that are kept.
const MOST: usize = 10_000;

/// Identifies a token without keeping it.
pub(crate) type Fingerprint = [u8; 32];

#[derive(Default)]
pub(crate) struct Cache(Mutex<HashMap<Fingerprint, Arc<Claims>>>);

pub(crate) fn fingerprint(token: &str) -> Fingerprint {
    Sha256::digest(token.as_bytes()).into()
}

impl Cache {
    pub(crate) fn get(&self, token: &Fingerprint) -> Option<Arc<Claims>> {
        self.entries().get(token).cloned()
    }

    pub(crate) fn insert(&self, token: Fingerprint, claims: Arc<Claims>) {
        let mut entries = self.entries();
        if entries.len() >= MOST {
            entries.retain(|_, claims| !claims.has_expired());
        }
        if entries.len() >= MOST {
            entries.clear();
        }
        entries.insert(token, claims);
    }

    /// Removes everything: the keys have changed.
    pub(crate) fn clear(&self) {
        self.entries().clear();
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<Fingerprint, Arc<Claims>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

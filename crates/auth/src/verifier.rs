//! Checks tokens, and follows the keys of the identity provider.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use eticket_base::{config::Error, error::chain};
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::Deserialize;
use tokio::{sync::Mutex, task::AbortHandle, time::Instant};

use crate::{
    cache::{Cache, fingerprint},
    config::{AuthConfig, JwtConfig},
    keys::{InvalidKeys, Keys},
    source::Reader,
};

/// How far the clocks of issuer and server may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The keys are read again after this time. Changed keys are in force within 15 s.
const REFRESH: Duration = Duration::from_secs(8);
/// The shortest time between two reads because of tokens with an unknown key.
const UNKNOWN_KEY: Duration = Duration::from_secs(2);
/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;
const ALGORITHMS: [Algorithm; 3] = [Algorithm::EdDSA, Algorithm::ES256, Algorithm::RS256];

/// Why a token is refused. The texts are safe to return to the caller: they never contain a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a signed JWT.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// The algorithm is not accepted.
    #[error("the token is signed with another algorithm than EdDSA, ES256 and RS256")]
    Algorithm,
    /// No key of the identity provider has the id of the token.
    #[error("no key of the identity provider fits the token")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the signature of the token is wrong")]
    Signature,
    /// The time of `exp` has passed.
    #[error("the token has expired; get a new one")]
    Expired,
    /// The time of `nbf` has not come.
    #[error("the token is not valid yet; check the clocks of issuer and server")]
    NotYetValid,
    /// The issuer is another one.
    #[error("the token is of another issuer (iss)")]
    Issuer,
    /// The token is for another audience.
    #[error("the token is for another audience (aud)")]
    Audience,
    /// A claim is missing or has another type.
    #[error("the token lacks a claim, or a claim has another type; sub, exp, iss and aud are required")]
    Claims,
    /// The keys have never been read. Not the caller's fault: a retry may succeed.
    #[error("the keys of the identity provider are not available yet; try again shortly")]
    NoKeys,
}

/// The claims of a valid token.
#[derive(Clone, PartialEq)]
pub struct Claims {
    subject: String,
    roles: Vec<String>,
    grade: Option<String>,
    expires: SystemTime,
}

impl Claims {
    /// Creates claims without a token, for tests of what a caller may do.
    #[must_use]
    pub fn new(subject: &str, roles: &[&str], grade: Option<&str>, expires: SystemTime) -> Self {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        Self { subject: subject.to_owned(), roles, grade: grade.map(str::to_owned), expires }
    }

    /// `sub`: the user. Do not log it.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Returns whether `eticket_roles` contains the role.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|given| given == role)
    }

    /// `eticket_grade`; `None` if the token has none.
    #[must_use]
    pub fn grade(&self) -> Option<&str> {
        self.grade.as_deref()
    }

    /// When the token stops being valid: `exp` and the leeway.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    pub(crate) fn has_expired(&self) -> bool {
        SystemTime::now() >= self.expires
    }
}

/// Shows nothing of the caller.
impl fmt::Debug for Claims {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Claims").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Body {
    sub: String,
    exp: f64,
    #[serde(default)]
    eticket_roles: Vec<String>,
    eticket_grade: Option<String>,
}

/// Checks tokens. Clones share the keys, which are followed until the last clone is dropped.
#[derive(Clone)]
pub struct Verifier {
    shared: Arc<Shared>,
    _refresh: Arc<Refresh>,
}

struct Shared {
    reader: Reader,
    issuer: String,
    audience: String,
    keys: RwLock<Option<Arc<Keys>>>,
    /// The document of the keys in force, and the time of the last read.
    last: Mutex<Last>,
    cache: Cache,
}

struct Last {
    document: Bytes,
    read: Option<Instant>,
    failed: bool,
}

struct Refresh(AbortHandle);

impl Drop for Refresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Verifier {
    /// Starts to follow the keys. Returns before a URL has responded: the server starts without its identity provider.
    ///
    /// # Errors
    /// If a key of the section is missing or wrong.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(config: &AuthConfig) -> Result<Self, Error> {
        let JwtConfig { source, issuer, audience } = config.jwt()?;
        let reader =
            Reader::new(source).map_err(|error| Error::new("auth.jwks", config.jwks.clone(), error.to_string()))?;
        let last = Mutex::new(Last { document: Bytes::new(), read: None, failed: false });
        let (keys, cache) = (RwLock::new(None), Cache::default());
        let shared = Arc::new(Shared { reader, issuer, audience, keys, last, cache });
        let followed = shared.clone();
        let task = tokio::spawn(async move {
            loop {
                followed.refresh(Duration::ZERO).await;
                tokio::time::sleep(REFRESH).await;
            }
        });
        Ok(Self { shared, _refresh: Arc::new(Refresh(task.abort_handle())) })
    }

    /// Checks a token with the keys at hand.
    ///
    /// # Errors
    /// Why the token is refused. After `UnknownKey` and `NoKeys`, [`Self::verify_with_new_keys`] may succeed.
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::Malformed);
        }
        let fingerprint = fingerprint(token);
        if let Some(claims) = self.shared.cache.get(&fingerprint) {
            return if claims.has_expired() { Err(TokenError::Expired) } else { Ok(claims) };
        }
        let keys = self.shared.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let keys = keys.ok_or(TokenError::NoKeys)?;
        let claims = Arc::new(self.shared.check(token, &keys)?);
        self.shared.cache.insert(fingerprint, claims.clone());
        Ok(claims)
    }

    /// Reads the keys again, at a bounded rate, and checks the token.
    ///
    /// # Errors
    /// Why the token is refused.
    pub async fn verify_with_new_keys(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        self.shared.refresh(UNKNOWN_KEY).await;
        self.verify(token)
    }

    /// Reads the keys now.
    #[cfg(test)]
    pub(crate) async fn shared_refresh(&self) {
        self.shared.refresh(Duration::ZERO).await;
    }
}

impl Shared {
    /// Reads the keys, unless they have been read within `least`. The keys in force stay if that fails.
    async fn refresh(&self, least: Duration) {
        // Callers at the same time share one read.
        let mut last = self.last.lock().await;
        if last.read.is_some_and(|read| read.elapsed() < least) {
            return;
        }
        let read = self.reader.read().await;
        last.read = Some(Instant::now());
        let parsed = match read {
            Ok(document) if document == last.document && !document.is_empty() => return,
            Ok(document) => Keys::parse(&document).map(|keys| (document, keys)),
            Err(error) => Err(error),
        };
        match parsed {
            Ok((document, keys)) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(keys));
                self.cache.clear();
                last.document = document;
                last.failed = false;
                tracing::info!("the keys of the identity provider are in force");
            }
            Err(error) => {
                // Once for each outage.
                if !std::mem::replace(&mut last.failed, true) {
                    warn(&error, last.document.is_empty());
                }
            }
        }
    }

    fn check(&self, token: &str, keys: &Keys) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| reason(error.kind()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(TokenError::Algorithm);
        }
        // RFC 7515, 4.1.11: the library refuses extensions that it does not understand. No JWT needs the one that it does.
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let key = keys.find(header.kid.as_deref(), header.alg).ok_or(TokenError::UnknownKey)?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let decoded = jsonwebtoken::decode::<Body>(token, key, &validation);
        let body = decoded.map_err(|error| match error.kind() {
            ErrorKind::Json(_) => TokenError::Claims,
            kind => reason(kind),
        });
        let body = body?.claims;
        if body.sub.is_empty() {
            return Err(TokenError::Claims);
        }
        let until = Duration::try_from_secs_f64(body.exp).ok().and_then(|until| UNIX_EPOCH.checked_add(until));
        let expires = until.and_then(|until| until.checked_add(LEEWAY)).ok_or(TokenError::Claims)?;
        Ok(Claims { subject: body.sub, roles: body.eticket_roles, grade: body.eticket_grade, expires })
    }
}

fn warn(error: &InvalidKeys, have_none: bool) {
    let error = chain(error);
    if have_none {
        tracing::error!(%error, "no keys of the identity provider: calls with tokens are refused until they can be read");
    } else {
        tracing::warn!(%error, "the keys of the identity provider cannot be read again; the old ones stay in force");
    }
}

fn reason(kind: &ErrorKind) -> TokenError {
    match kind {
        ErrorKind::InvalidSignature | ErrorKind::InvalidRsaKey(_) | ErrorKind::InvalidEcdsaKey => TokenError::Signature,
        ErrorKind::ExpiredSignature => TokenError::Expired,
        ErrorKind::ImmatureSignature => TokenError::NotYetValid,
        ErrorKind::InvalidIssuer => TokenError::Issuer,
        ErrorKind::InvalidAudience => TokenError::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::InvalidSubject => {
            TokenError::Claims
        }
        ErrorKind::InvalidAlgorithm
        | ErrorKind::InvalidAlgorithmName
        | ErrorKind::UnsupportedAlgorithm
        | ErrorKind::MissingAlgorithm => TokenError::Algorithm,
        _ => TokenError::Malformed,
    }
}

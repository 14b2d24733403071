//! The identity of the caller. A server layer puts it into the extensions of each request.
//!
//! With `auth.mode = off` every caller is an admin, and a command acts for the `user_id` in its request. With `jwt` the
//! caller is the user of its token, and acts for itself unless it is an admin.

use std::{sync::Arc, time::SystemTime};

use eticket_auth::{Claims, TokenError, Verifier, config::AuthConfig};
use eticket_base::{config::Error, credentials::Credentials};
use eticket_proto::{authorization::Access, error::ErrorReason};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::time::Instant;
use tonic::Status;

use crate::error::ApiError;

const ADMIN: &str = "admin";
const USER: &str = "user";

/// How a server finds out who calls.
#[derive(Clone, Default)]
pub struct Authentication(Mode);

#[derive(Clone, Default)]
enum Mode {
    #[default]
    Off,
    Tokens {
        verifier: Verifier,
        anonymous_reads: bool,
    },
}

impl Authentication {
    /// Starts the authentication that the section `auth` describes; with `mode = jwt` it follows the keys.
    ///
    /// # Errors
    /// If a key of the section is missing or wrong.
    pub fn start(config: &AuthConfig) -> Result<Self, Error> {
        if !config.is_on() {
            return Ok(Self(Mode::Off));
        }
        let verifier = Verifier::start(config)?;
        Ok(Self(Mode::Tokens { verifier, anonymous_reads: config.anonymous_reads }))
    }

    /// Returns whether callers must have tokens.
    #[must_use]
    pub fn is_on(&self) -> bool {
        matches!(self.0, Mode::Tokens { .. })
    }

    /// The verifier of tokens, and whether calls without a token may read; `None` if authentication is off.
    pub(crate) fn tokens(&self) -> Option<(&Verifier, bool)> {
        match &self.0 {
            Mode::Off => None,
            Mode::Tokens { verifier, anonymous_reads } => Some((verifier, *anonymous_reads)),
        }
    }
}

/// The identity of a caller.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Caller(Identity);

#[derive(Debug, Clone, PartialEq, Default)]
enum Identity {
    /// No token, where tokens are required: a caller without rights. A request that has not passed the authentication
    /// layer may do nothing that needs a caller.
    #[default]
    Anonymous,
    /// Authentication is off.
    Everyone,
    /// The caller has a valid token.
    Token { claims: Arc<Claims>, credentials: Credentials },
}

impl Caller {
    /// Returns an admin without a name: every caller, if authentication is off.
    #[must_use]
    pub fn admin() -> Self {
        Self(Identity::Everyone)
    }

    /// Returns the caller of a valid token. `credentials` is the header that it came in.
    #[must_use]
    pub fn with_token(claims: Arc<Claims>, credentials: Credentials) -> Self {
        Self(Identity::Token { claims, credentials })
    }

    /// Returns whether the caller has the rights of an admin.
    #[must_use]
    pub fn is_admin(&self) -> bool {
        match &self.0 {
            Identity::Anonymous => false,
            Identity::Everyone => true,
            Identity::Token { claims, .. } => claims.has_role(ADMIN),
        }
    }

    /// The caller's name, for hashes and comparisons; do not log it. `None` if authentication is off or without a token.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.claims().map(Claims::subject)
    }

    /// The claim `eticket_grade` of the caller's token.
    #[must_use]
    pub fn grade(&self) -> Option<&str> {
        self.claims().and_then(Claims::grade)
    }

    /// The credentials for calls that are made on behalf of the caller.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        match &self.0 {
            Identity::Token { credentials, .. } => Some(credentials),
            _ => None,
        }
    }

    /// Returns the user that a caller without the rights of an admin acts for, or reads: itself.
    ///
    /// # Errors
    /// `NOT_ALLOWED` if the caller has no name, or if the request names another user; an empty `user` names none.
    pub fn only(&self, user: &str) -> Result<&str, ApiError> {
        match self.subject() {
            Some(subject) if user.is_empty() || user == subject => Ok(subject),
            Some(_) => {
                Err(ApiError::new(ErrorReason::NotAllowed).message("expected the user of the token, or no user"))
            }
            None => Err(ApiError::new(ErrorReason::NotAllowed).message("a token must name the user")),
        }
    }

    /// Returns whether the caller may see what concerns this user: the user itself, and admins.
    #[must_use]
    pub fn may_see(&self, user: &str) -> bool {
        self.is_admin() || self.subject() == Some(user)
    }

    /// When the caller's token expires. Streams end at this time with `TOKEN_INVALID`.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        let left = self.claims()?.expires().duration_since(SystemTime::now()).unwrap_or_default();
        // A time too far away to be represented is never reached.
        Instant::now().checked_add(left)
    }

    /// Checks that the caller may call methods with this access.
    ///
    /// # Errors
    /// `NOT_ALLOWED`.
    pub(crate) fn check(&self, access: Access) -> Result<(), ApiError> {
        let role = match (access, &self.0) {
            (_, Identity::Everyone) | (Access::Everyone, _) => return Ok(()),
            (Access::User, Identity::Token { claims, .. }) if claims.has_role(USER) || claims.has_role(ADMIN) => {
                return Ok(());
            }
            (Access::Admin, Identity::Token { claims, .. }) if claims.has_role(ADMIN) => return Ok(()),
            (Access::User, _) => "the role user or admin",
            (Access::Admin | Access::Unspecified, _) => "the role admin",
        };
        Err(ApiError::new(ErrorReason::NotAllowed).message(format!("this method needs {role} in eticket_roles")))
    }

    fn claims(&self) -> Option<&Claims> {
        match &self.0 {
            Identity::Token { claims, .. } => Some(claims),
            _ => None,
        }
    }
}

/// Ends a stream with `TOKEN_INVALID` when the caller's token expires.
pub fn until_expiry<T: Send + 'static>(
    caller: &Caller,
    stream: BoxStream<'static, Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    let Some(expires) = caller.expires() else { return stream };
    let state = Some(stream);
    let until = stream::unfold(state, move |state| async move {
        let mut stream = state?;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(expires) => Some((Err(expired().into()), None)),
            item = stream.next() => item.map(|item| (item, Some(stream))),
        }
    });
    until.boxed()
}

/// The error for a stream whose caller's token has expired.
#[must_use]
pub fn expired() -> ApiError {
    ApiError::new(ErrorReason::TokenInvalid).message(TokenError::Expired.to_string())
}

pub(crate) fn refused(error: TokenError) -> ApiError {
    let reason = match error {
        TokenError::NoKeys => ErrorReason::UpstreamUnavailable,
        _ => ErrorReason::TokenInvalid,
    };
    let refused = ApiError::new(reason).message(error.to_string());
    if error == TokenError::NoKeys { refused.with("upstream", "identity provider") } else { refused }
}

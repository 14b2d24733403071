//! Finds out who calls, leaves it in the request as a [`Caller`], and checks that the caller may call the method.
//!
//! It stands before the deadline and the admission, so that a refusal costs the service nothing. Health and reflection
//! need no token. The gateway and each service check on their own: a service trusts no one who reaches it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use eticket_auth::TokenError;
use eticket_base::credentials::Credentials;
use eticket_proto::{authorization::Access, error::ErrorReason};
use http::{HeaderMap, Request, Response, header};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{methods, reply};
use crate::{
    auth::{self, Authentication, Caller},
    error::ApiError,
};

#[derive(Clone)]
pub(crate) struct AuthenticateLayer(pub(crate) Authentication);

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate { inner, authentication: self.0.clone() }
    }
}

#[derive(Clone)]
pub(crate) struct Authenticate<S> {
    inner: S,
    authentication: Authentication,
}

/// What is known without reading the keys again.
enum Known {
    Caller(Caller),
    /// The token may be signed with a key that is newer than ours.
    NewKey(Credentials),
}

impl Authentication {
    fn caller(&self, headers: &HeaderMap, access: Access) -> Result<Known, ApiError> {
        let Some((verifier, anonymous_reads)) = self.tokens() else { return Ok(Known::Caller(Caller::admin())) };
        let Some(credentials) = credentials(headers)? else {
            if access == Access::Everyone && anonymous_reads {
                return Ok(Known::Caller(Caller::default()));
            }
            let message = "expected a token in the header authorization: Bearer TOKEN";
            return Err(ApiError::new(ErrorReason::TokenMissing).message(message));
        };
        match verifier.verify(credentials.bearer().ok_or_else(malformed)?) {
            Ok(claims) => Ok(Known::Caller(Caller::with_token(claims, credentials))),
            Err(TokenError::UnknownKey | TokenError::NoKeys) => Ok(Known::NewKey(credentials)),
            Err(error) => Err(auth::refused(error)),
        }
    }

    async fn caller_with_new_keys(self, credentials: Credentials) -> Result<Caller, ApiError> {
        let Some((verifier, _)) = self.tokens() else { return Ok(Caller::admin()) };
        let token = credentials.bearer().ok_or_else(malformed)?;
        let claims = verifier.verify_with_new_keys(token).await.map_err(auth::refused)?;
        Ok(Caller::with_token(claims, credentials))
    }
}

/// Reads the credentials; `None` if there is no header.
fn credentials(headers: &HeaderMap) -> Result<Option<Credentials>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let header = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(header), None) => header.to_str().map_err(|_| malformed())?,
        _ => return Err(malformed()),
    };
    Ok(Some(Credentials::new(header.to_owned())))
}

fn malformed() -> ApiError {
    ApiError::new(ErrorReason::TokenInvalid).message("expected one header authorization: Bearer TOKEN")
}

impl<S, A, B> Service<Request<A>> for Authenticate<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = AuthenticateFuture<S, A, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let caller = match methods::of(&request) {
            Some(method) if !method.exempt => {
                let access = method.access;
                match self.authentication.caller(request.headers(), access) {
                    Ok(Known::Caller(caller)) => caller.check(access).map(|()| caller),
                    Ok(Known::NewKey(credentials)) => {
                        let authentication = self.authentication.clone();
                        let caller = async move {
                            let caller = authentication.caller_with_new_keys(credentials).await?;
                            caller.check(access).map(|()| caller)
                        };
                        let call = Some((self.inner.clone(), request));
                        return AuthenticateFuture::Waiting { caller: Box::pin(caller), call };
                    }
                    Err(error) => Err(error),
                }
            }
            // Health, reflection, and paths that nobody serves.
            _ if self.authentication.is_on() => Ok(Caller::default()),
            _ => Ok(Caller::admin()),
        };
        match caller {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                AuthenticateFuture::Calling { call: self.inner.call(request) }
            }
            Err(error) => AuthenticateFuture::Refused { error: Some(error) },
        }
    }
}

type Checking = Pin<Box<dyn Future<Output = Result<Caller, ApiError>> + Send>>;

pin_project! {
    #[project = AuthenticateProjection]
    pub(crate) enum AuthenticateFuture<S, A, F> {
        Calling { #[pin] call: F },
        Waiting { caller: Checking, call: Option<(S, Request<A>)> },
        Refused { error: Option<ApiError> },
    }
}

impl<S, A, B> Future for AuthenticateFuture<S, A, S::Future>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Output = Result<Response<B>, S::Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                AuthenticateProjection::Calling { call } => return call.poll(context),
                AuthenticateProjection::Refused { error } => {
                    let error = error.take().unwrap_or_else(malformed);
                    return Poll::Ready(Ok(reply::only_trailers(error)));
                }
                AuthenticateProjection::Waiting { caller, call } => {
                    match (ready!(caller.as_mut().poll(context)), call.take()) {
                        (Ok(caller), Some((mut service, mut request))) => {
                            request.extensions_mut().insert(caller);
                            // The layers inside are always ready.
                            Self::Calling { call: service.call(request) }
                        }
                        (Ok(_), None) => Self::Refused { error: None },
                        (Err(error), _) => Self::Refused { error: Some(error) },
                    }
                }
            };
            self.set(next);
        }
    }
}

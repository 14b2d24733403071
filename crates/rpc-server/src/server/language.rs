//! The language of a call, from `accept-language`, for the texts of its errors.
//!
//! The language is a task-local instead of an argument, because errors occur in every part of a call. A task that is
//! spawned for a call returns its error by value; the call's own task converts it into a status. This layer is outside
//! of all layers that create errors.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use eticket_proto::error_text::Language;
use http::{HeaderMap, Request, Response, header::ACCEPT_LANGUAGE};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower::{Layer, Service};

tokio::task_local! {
    static LANGUAGE: Language;
}

/// The language of the call that this task serves; English outside of calls.
#[must_use]
pub fn current() -> Language {
    LANGUAGE.try_with(|language| *language).unwrap_or_default()
}

/// Returns the language that a caller prefers.
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Language {
    // Several header lines form one list (RFC 9110, 5.3).
    let lines: Vec<_> = headers.get_all(ACCEPT_LANGUAGE).iter().filter_map(|line| line.to_str().ok()).collect();
    Language::negotiate(&lines.join(","))
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct LanguageLayer;

impl<S> Layer<S> for LanguageLayer {
    type Service = LanguageService<S>;

    fn layer(&self, inner: S) -> LanguageService<S> {
        LanguageService { inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct LanguageService<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for LanguageService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
{
    type Response = Response<LanguageBody<B>>;
    type Error = S::Error;
    type Future = LanguageFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let language = from_headers(request.headers());
        let inner = LANGUAGE.sync_scope(language, || self.inner.call(request));
        LanguageFuture { inner: LANGUAGE.scope(language, inner), language }
    }
}

pin_project! {
    pub(crate) struct LanguageFuture<F> {
        #[pin]
        inner: TaskLocalFuture<Language, F>,
        language: Language,
    }
}

impl<F, B, E> Future for LanguageFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<LanguageBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        let language = *this.language;
        Poll::Ready(Ok(response.map(|inner| LanguageBody { inner, language })))
    }
}

/// A body that also creates the errors of a stream in the language of the call.
#[derive(Debug, Default)]
pub(crate) struct LanguageBody<B> {
    inner: B,
    language: Language,
}

impl<B: Body<Data = Bytes> + Unpin> Body for LanguageBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let language = self.language;
        LANGUAGE.sync_scope(language, || Pin::new(&mut self.inner).poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

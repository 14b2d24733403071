//! A session of a client: reads include the effects of the commands that were sent before.
//!
//! [`Session::attach`] wraps a channel. It keeps the consistency token of each command's response, and sends the kept
//! tokens with each call of the query service.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tonic::codegen::{
    BoxFuture, Service,
    http::{HeaderValue, Request, Response},
};

use crate::{
    headers,
    query::query_service_server::SERVICE_NAME,
    token::{Consistency, MOST_CONSISTENCY_TOKENS},
};

/// The tokens of a session: of each ticket and service the newest, and of these the latest 64. Clones share the tokens.
#[derive(Debug, Clone, Default)]
pub struct Session(Arc<Mutex<Vec<Consistency>>>);

impl Session {
    pub fn new() -> Self {
        Self::default()
    }

    /// Wraps a channel, so that calls through it belong to the session.
    pub fn attach<S>(&self, channel: S) -> InSession<S> {
        InSession { channel, session: self.clone() }
    }

    /// Keeps a token. Text that is no token is ignored.
    pub fn keep(&self, token: &str) {
        if let Ok(token) = Consistency::decode(token) {
            let mut tokens = self.tokens();
            token.add_to(&mut tokens);
            let surplus = tokens.len().saturating_sub(MOST_CONSISTENCY_TOKENS);
            tokens.drain(..surplus);
        }
    }

    /// Returns the value of the request metadata `eticket-consistency-token`; `None` without a token.
    pub fn header(&self) -> Option<HeaderValue> {
        let tokens: Vec<String> = self.tokens().iter().map(Consistency::encode).collect();
        if tokens.is_empty() { None } else { HeaderValue::try_from(tokens.join(",")).ok() }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Vec<Consistency>> {
        // Each change leaves a valid list, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel in a session.
#[derive(Debug, Clone)]
pub struct InSession<S> {
    channel: S,
    session: Session,
}

impl<S, B, R> Service<Request<B>> for InSession<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<Response<R>, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let is_read =
            request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next()) == Some(SERVICE_NAME);
        // A caller that sets tokens itself has decided what to wait for.
        if is_read
            && !request.headers().contains_key(headers::CONSISTENCY_TOKEN)
            && let Some(value) = self.session.header()
        {
            request.headers_mut().insert(headers::CONSISTENCY_TOKEN, value);
        }
        let (session, response) = (self.session.clone(), self.channel.call(request));
        Box::pin(async move {
            let response = response.await?;
            for token in response.headers().get_all(headers::CONSISTENCY_TOKEN) {
                session.keep(token.to_str().unwrap_or_default());
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn token(ticket: &str, revision: i64) -> String {
        Consistency::Reservation { ticket: ticket.parse().unwrap(), revision }.encode()
    }

    /// Answers each call with a token, and keeps the tokens that it was sent.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Vec<String>>>);

    impl Service<Request<&'static str>> for Server {
        type Response = Response<()>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<()>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<&'static str>) -> Self::Future {
            let sent =
                request.headers().get(headers::CONSISTENCY_TOKEN).map(|value| value.to_str().unwrap().to_owned());
            self.0.lock().unwrap().push(sent.unwrap_or_default());
            let mut response = Response::new(());
            if !request.body().is_empty() {
                response.headers_mut().insert(headers::CONSISTENCY_TOKEN, request.body().parse().unwrap());
            }
            std::future::ready(Ok(response))
        }
    }

    #[tokio::test]
    async fn tokens_of_commands_are_sent_with_reads_only() {
        let server = Server::default();
        let mut channel = Session::new().attach(server.clone());
        let first: &'static str = token("a", 1).leak();
        let mut call = async |path: &str, answer: &'static str| {
            let request = Request::builder().uri(format!("http://host/{path}")).body(answer).unwrap();
            channel.call(request).await.unwrap();
            server.0.lock().unwrap().pop().unwrap()
        };
        assert_eq!(call("eticket.query.v1.QueryService/ListTicketViews", "").await, "");
        assert_eq!(call("eticket.reservation.v1.ReservationService/ReserveTicket", first).await, "");
        assert_eq!(call("eticket.reservation.v1.ReservationService/ReserveTicket", "").await, "");
        assert_eq!(call("eticket.query.v1.QueryService/ListTicketViews", "").await, first);
    }

    #[test]
    fn the_newest_tokens_of_the_latest_64_tickets_are_kept() {
        let session = Session::new();
        session.keep("nonsense");
        assert_eq!(session.header(), None);
        for ticket in 0..70 {
            session.keep(&token(&format!("t-{ticket}"), 2));
        }
        session.keep(&token("t-69", 1));
        session.keep(&token("t-6", 3));
        let header = session.header().unwrap();
        let sent: Vec<&str> = header.to_str().unwrap().split(',').collect();
        assert_eq!(sent.len(), MOST_CONSISTENCY_TOKENS);
        assert_eq!((sent[0], sent[62], sent[63]), (&*token("t-7", 2), &*token("t-69", 2), &*token("t-6", 3)));
    }
}

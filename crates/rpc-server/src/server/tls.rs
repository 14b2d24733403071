//! TLS of accepted connections, and the clients that may call by the name of their certificate.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::ErrorKind,
    task::{Context, Poll},
    time::Duration,
};

use eticket_proto::error::ErrorReason;
use eticket_tls::{Acceptor, ClientCertificate};
use futures::future::Either;
use http::{Request, Response};
use tokio::{net::TcpStream, time::timeout};
use tower::{Layer, Service};

use super::{http1::Socket, reply};
use crate::error::ApiError;

/// Makes the handshake of a connection, if the server has TLS; `None` if the handshake fails or takes too long.
pub(super) async fn handshake(
    acceptor: Option<&Acceptor>,
    server: &'static str,
    stream: TcpStream,
    limit: Duration,
) -> Option<(Socket, Option<ClientCertificate>)> {
    let Some(acceptor) = acceptor else { return Some((Socket::Plain(stream), None)) };
    let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let error = match timeout(limit, acceptor.accept(stream)).await {
        Ok(Ok((stream, client))) => return Some((Socket::Tls(Box::new(stream)), client)),
        Ok(Err(error)) => error,
        Err(_) => std::io::Error::new(ErrorKind::TimedOut, "the handshake took too long"),
    };
    // Probes of load balancers connect and disconnect.
    if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) {
        tracing::debug!(server, peer, %error, "a client disconnected during the TLS handshake");
    } else {
        metrics::counter!("eticket_tls_handshake_failures_total", "service" => server).increment(1);
        tracing::info!(server, peer, %error, "a TLS handshake failed");
    }
    None
}

/// Refuses the calls of clients whose certificate has none of the allowed names.
#[derive(Debug, Clone, Copy)]
pub(super) struct AllowedClientsLayer;

impl<S> Layer<S> for AllowedClientsLayer {
    type Service = AllowedClients<S>;

    fn layer(&self, inner: S) -> AllowedClients<S> {
        AllowedClients { inner }
    }
}

#[derive(Debug, Clone)]
pub(super) struct AllowedClients<S> {
    inner: S,
}

impl<S, A, B> Service<Request<A>> for AllowedClients<S>
where
    S: Service<Request<A>, Response = Response<B>, Error = Infallible>,
    B: Default,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<B>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        match request.extensions().get::<ClientCertificate>() {
            Some(client) if !client.is_allowed() => Either::Left(ready(Ok(reply::only_trailers(refusal(client))))),
            _ => Either::Right(self.inner.call(request)),
        }
    }
}

fn refusal(client: &ClientCertificate) -> ApiError {
    let names = match client.names() {
        [] => "no DNS name".to_owned(),
        names => names.join(", "),
    };
    let text = format!("the client certificate has {names}; tls.allowed_clients of this server has none of its names");
    ApiError::new(ErrorReason::NotAllowed).message(text)
}

//! Responses of commands. A response is encoded once, when the command is committed. The caller and each retry receive
//! the same bytes, so a version of the program that does not know a field of a stored response still sends that field.
//!
//! tonic encodes the message that a handler returns. A handler of a command therefore returns an empty message and puts
//! the encoded one into the extensions of its response. [`Responses`], a layer around the generated server, sends the
//! encoded message instead.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use eticket_bus::Bytes;
use eticket_proto::headers;
use eticket_rpc_server::error::ApiError;
use eticket_store::EncodedResponse;
use futures::{TryFutureExt, future::MapOk};
use http_body_util::{BodyExt, Full};
use prost::{Message, Name};
use tonic::{
    Response, Status,
    body::Body,
    codegen::{Service, http},
    metadata::MetadataValue,
    server::NamedService,
};

/// Encodes a response.
pub fn encode<M: Message + Name>(message: &M) -> EncodedResponse {
    EncodedResponse { type_name: Some(M::full_name()), bytes: message.encode_to_vec().into(), replayed: false }
}

/// Converts an encoded response into that of an RPC with the response type `M`. Its metadata has the consistency token,
/// which `token` returns, and the mark of a replayed response.
///
/// # Errors
/// `INTERNAL` if the stored response has another type.
pub fn respond<M: Message + Name + Default>(
    response: EncodedResponse,
    token: fn(&M) -> &str,
) -> Result<Response<M>, Status> {
    if let Some(found) = response.type_name.filter(|found| *found != M::full_name()) {
        let error = format!("the record of a {} holds a {found}", M::full_name());
        return Err(ApiError::internal(&std::io::Error::other(error)));
    }
    let mut empty = Response::new(M::default());
    let metadata = empty.metadata_mut();
    // Decoding drops fields that this version does not know; the token is not one of them.
    let known = M::decode(response.bytes.clone()).unwrap_or_default();
    if let Some(token) = Some(token(&known)).filter(|token| !token.is_empty())
        && let Ok(token) = token.parse()
    {
        metadata.insert(headers::CONSISTENCY_TOKEN, token);
    }
    if response.replayed {
        metadata.insert(headers::IDEMPOTENT_REPLAYED, MetadataValue::from_static("true"));
    }
    empty.extensions_mut().insert(Encoded(response.bytes));
    Ok(empty)
}

/// The message that is sent instead of the one encoded by tonic.
#[derive(Clone)]
struct Encoded(Bytes);

/// Wraps a generated server whose handlers may use [`respond`].
#[derive(Debug, Clone)]
pub struct Responses<S>(pub S);

impl<S: NamedService> NamedService for Responses<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Responses<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = MapOk<S::Future, fn(http::Response<Body>) -> http::Response<Body>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.0.call(request).map_ok(replaced)
    }
}

fn replaced(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Encoded>() {
        Some(Encoded(message)) => response.map(|_| framed(&message)),
        None => response,
    }
}

/// Returns a body with one uncompressed message and the status OK, in the framing of the gRPC protocol.
fn framed(message: &Bytes) -> Body {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let frame = [&[0][..], &length.to_be_bytes(), message].concat();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    Body::new(Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) }))
}

#[cfg(test)]
mod tests {
    use eticket_proto::health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_client::HealthClient,
        health_server::{Health, HealthServer},
    };
    use futures::stream::Empty;
    use tonic::{Code, Request};

    use super::*;

    /// Responds to each check with this response.
    struct Stored(EncodedResponse);

    #[tonic::async_trait]
    impl Health for Stored {
        type WatchStream = Empty<Result<HealthCheckResponse, Status>>;

        async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
            respond(self.0.clone(), |_| "a-token")
        }

        async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
            Ok(Response::new(HealthListResponse::default()))
        }

        async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
            Err(Status::unimplemented("not here"))
        }
    }

    fn stored(response: EncodedResponse) -> Responses<HealthServer<Stored>> {
        Responses(HealthServer::new(Stored(response)))
    }

    #[tokio::test]
    async fn a_response_is_sent_as_it_was_encoded() {
        let mut response = encode(&HealthCheckResponse { status: 2 });
        // A field that this version does not know: number 15, a varint.
        response.bytes = [&response.bytes[..], &[0x78, 7]].concat().into();
        let request = http::Request::builder()
            .uri("/grpc.health.v1.Health/Check")
            .body(Body::new(Full::new(Bytes::from_static(&[0; 5]))))
            .expect("a request");
        let sent = stored(response.clone()).call(request).await.expect("infallible").into_body();
        let sent = sent.collect().await.expect("a body");
        assert_eq!(sent.trailers().and_then(|trailers| trailers.get("grpc-status")).expect("a status"), "0");
        assert_eq!(sent.to_bytes()[5..], response.bytes);
        let read = HealthClient::new(stored(response)).check(HealthCheckRequest::default()).await.expect("a response");
        assert_eq!(read.metadata().get(headers::CONSISTENCY_TOKEN).expect("a token"), "a-token");
        assert!(read.metadata().get(headers::IDEMPOTENT_REPLAYED).is_none());
        assert_eq!(read.into_inner().status, 2);
        let mut client = HealthClient::new(stored(encode(&HealthCheckResponse::default())));
        let listed = client.list(HealthListRequest {}).await.expect("encoded by tonic");
        assert_eq!(listed.into_inner(), HealthListResponse::default());
    }

    #[tokio::test]
    async fn a_replayed_response_is_marked_and_has_its_token() {
        let response = EncodedResponse { replayed: true, ..encode(&HealthCheckResponse { status: 2 }) };
        let read = HealthClient::new(stored(response)).check(HealthCheckRequest::default()).await.expect("a response");
        for (name, value) in [(headers::IDEMPOTENT_REPLAYED, "true"), (headers::CONSISTENCY_TOKEN, "a-token")] {
            assert_eq!(read.metadata().get(name).unwrap_or_else(|| panic!("no {name}")), value);
        }
    }

    #[tokio::test]
    async fn a_response_of_another_type_is_not_sent() {
        let check = async |response| HealthClient::new(stored(response)).check(HealthCheckRequest::default()).await;
        let other = encode(&HealthListResponse::default());
        assert_eq!(check(other.clone()).await.expect_err("another type").code(), Code::Internal);
        // Responses recorded by earlier versions have no type.
        assert!(check(EncodedResponse { type_name: None, ..other }).await.is_ok());
    }
}

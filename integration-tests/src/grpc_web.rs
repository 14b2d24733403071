//! A gRPC-Web client over HTTP/1.1 for both encodings. It is written from the specification and shares no code with the
//! gateway.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use tonic::{Code, Status};

/// Binary messages, or base64 for clients that can only read text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Binary,
    Text,
}

#[derive(Debug, Clone)]
pub struct GrpcWeb {
    address: String,
    form: Form,
    client: Client<HttpConnector, Full<Bytes>>,
}

const FRAME_HEADER: usize = 5;
const TRAILERS: u8 = 0x80;

impl GrpcWeb {
    pub fn new(address: &str, form: Form) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address: address.to_owned(), form, client }
    }

    /// Calls a unary method.
    ///
    /// # Errors
    /// The status of the response.
    ///
    /// # Panics
    /// If the response is not gRPC-Web.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
        headers: &HeaderMap,
    ) -> Result<A, Status> {
        let response = self.client.request(self.request(method, &request.encode_to_vec(), headers)).await;
        let response = response.map_err(|error| Status::unavailable(error.to_string()))?;
        assert_eq!(response.version(), http::Version::HTTP_11, "a browser may speak HTTP/1.1 only");
        self.answer(response).await
    }

    fn request(&self, method: &str, message: &[u8], headers: &HeaderMap) -> Request<Full<Bytes>> {
        let mut frame = BytesMut::with_capacity(FRAME_HEADER + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).expect("messages of tests are small"));
        frame.put_slice(message);
        let (content_type, body) = match self.form {
            Form::Binary => ("application/grpc-web+proto", frame.freeze()),
            Form::Text => ("application/grpc-web-text+proto", Bytes::from(STANDARD.encode(frame))),
        };
        let mut request = Request::post(format!("http://{}/{method}", self.address))
            .header("content-type", content_type)
            .header("accept", content_type)
            .header("x-grpc-web", "1")
            .body(Full::new(body))
            .expect("a valid request");
        request.headers_mut().extend(headers.clone());
        request
    }

    async fn answer<A: Message + Default>(&self, response: Response<Incoming>) -> Result<A, Status> {
        assert_eq!(response.status(), 200, "gRPC-Web reports errors in the gRPC status");
        let (parts, body) = response.into_parts();
        let expected = match self.form {
            Form::Binary => "application/grpc-web+proto",
            Form::Text => "application/grpc-web-text+proto",
        };
        assert_eq!(parts.headers.get("content-type").and_then(|value| value.to_str().ok()), Some(expected));
        // A response without a message may have its status in the headers.
        if let Some(status) = Status::from_header_map(&parts.headers).filter(|status| status.code() != Code::Ok) {
            return Err(status);
        }
        let body = body.collect().await.map_err(|error| Status::unavailable(error.to_string()))?.to_bytes();
        let body = if self.form == Form::Text { decoded(&body) } else { body };
        let (message, trailers) = frames(body);
        let status = Status::from_header_map(&trailers).expect("the last frame has a status");
        if status.code() != Code::Ok {
            return Err(status);
        }
        Ok(A::decode(message.expect("a call that succeeds answers a message")).expect("a message of the type"))
    }
}

/// Parts of a text response may be encoded separately, so padding may occur inside.
pub(crate) fn decoded(text: &[u8]) -> Bytes {
    assert_eq!(text.len() % 4, 0, "base64 comes in groups of four");
    let groups = text.chunks(4).map(|group| STANDARD.decode(group).expect("base64"));
    groups.flatten().collect::<Vec<u8>>().into()
}

fn frames(mut body: Bytes) -> (Option<Bytes>, HeaderMap) {
    let mut message = None;
    while body.len() >= FRAME_HEADER {
        let flags = body.get_u8();
        let length = body.get_u32() as usize;
        let frame = body.split_to(length);
        if flags & TRAILERS == 0 {
            assert!(message.replace(frame).is_none(), "a unary call has one answer");
        } else {
            assert!(body.is_empty(), "nothing follows the trailers");
            return (message, trailers(&frame));
        }
    }
    panic!("the answer has no trailers")
}

fn trailers(frame: &[u8]) -> HeaderMap {
    let text = std::str::from_utf8(frame).expect("trailers are ASCII");
    let pair = |line: &str| {
        let (name, value) = line.split_once(':').expect("name: value");
        assert_eq!(name, name.to_ascii_lowercase(), "names of trailers are lower case");
        let name = HeaderName::try_from(name).expect("a name");
        (name, HeaderValue::try_from(value.trim()).expect("a value"))
    };
    text.split("\r\n").filter(|line| !line.is_empty()).map(pair).collect()
}

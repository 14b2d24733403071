//! The wires of the gateway: one request, in the form in which each kind of client sends it.
//!
//! The same HTTP client sends all of them, so that differences are those of the gateway.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use eticket_proto::query::GetTicketViewRequest;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use prost::Message;
use tonic::Status;

use crate::grpc_web::decoded;

const METHOD: &str = "/eticket.query.v1.QueryService/GetTicketView";

/// How a client sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Grpc,
    GrpcWeb,
    GrpcWebText,
    ConnectProto,
    ConnectJson,
    ConnectGet,
    Rest,
}

/// A form and the version of HTTP below it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    pub(super) name: &'static str,
    form: Form,
    http2: bool,
}

/// All wires. Plain gRPC is the first: the others are compared with it.
pub(super) const ALL: [Wire; 9] = [
    Wire { name: "gRPC", form: Form::Grpc, http2: true },
    Wire { name: "gRPC-Web, HTTP/2", form: Form::GrpcWeb, http2: true },
    Wire { name: "gRPC-Web, HTTP/1.1", form: Form::GrpcWeb, http2: false },
    Wire { name: "gRPC-Web text, HTTP/1.1", form: Form::GrpcWebText, http2: false },
    Wire { name: "Connect, HTTP/2", form: Form::ConnectProto, http2: true },
    Wire { name: "Connect, HTTP/1.1", form: Form::ConnectProto, http2: false },
    Wire { name: "Connect JSON, HTTP/1.1", form: Form::ConnectJson, http2: false },
    Wire { name: "Connect GET, HTTP/1.1", form: Form::ConnectGet, http2: false },
    Wire { name: "REST, HTTP/1.1", form: Form::Rest, http2: false },
];

/// A client of one wire. Clones share connections.
#[derive(Debug, Clone)]
pub(super) struct WireClient {
    wire: Wire,
    address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl WireClient {
    pub(super) fn new(wire: Wire, address: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(wire.http2).build(connector);
        Self { wire, address: address.to_owned(), client }
    }

    /// Reads the view of a ticket, and checks that it shows this reservation.
    pub(super) async fn view(&self, ticket: &str, reservation: &str) -> Result<(), Status> {
        let unavailable = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
        let response = self.client.request(self.request(ticket)).await.map_err(|error| unavailable(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| unavailable(&error))?.to_bytes();
        let body = if self.wire.form == Form::GrpcWebText { decoded(&body) } else { body };
        if status == 200 && contains(&body, reservation.as_bytes()) {
            Ok(())
        } else {
            Err(Status::unknown(format!("{}: {status}, {body:?}", self.wire.name)))
        }
    }

    fn request(&self, ticket: &str) -> Request<Full<Bytes>> {
        let message = GetTicketViewRequest { ticket_id: ticket.to_owned(), ..Default::default() }.encode_to_vec();
        let json = serde_json::json!({ "ticketId": ticket }).to_string();
        let (content_type, body) = match self.wire.form {
            Form::Grpc => ("application/grpc", framed(&message)),
            Form::GrpcWeb => ("application/grpc-web+proto", framed(&message)),
            Form::GrpcWebText => ("application/grpc-web-text+proto", STANDARD.encode(framed(&message)).into()),
            Form::ConnectProto => ("application/proto", message.into()),
            Form::ConnectJson => ("application/json", json.into()),
            Form::ConnectGet => {
                let query = format!("connect=v1&encoding=json&message=%7B%22ticketId%22%3A%22{ticket}%22%7D");
                return self.get(&format!("{METHOD}?{query}"));
            }
            Form::Rest => return self.get(&format!("/v1/views/{ticket}")),
        };
        let request = Request::post(self.uri(METHOD)).header("content-type", content_type).header("te", "trailers");
        request.body(Full::new(body)).expect("a valid request")
    }

    fn get(&self, path: &str) -> Request<Full<Bytes>> {
        let request = Request::builder().method(Method::GET).uri(self.uri(path));
        request.body(Full::default()).expect("a valid request")
    }

    fn uri(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// The frame of gRPC: no compression, the length, the message.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("messages of tests are small"));
    frame.put_slice(message);
    frame.freeze()
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

//! Requests that no correct client sends: the gateway rejects them, where possible without calling an upstream, and
//! continues to work.

use axum::body::Body;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use eticket_proto::ticket::{GetTicketRequest, RegisterTicketRequest};
use futures::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request, Status};

use super::{
    MAX_MESSAGE_BYTES, World,
    web_client::{Web, frame, method, read, request},
};

fn get_ticket() -> Vec<u8> {
    frame(&GetTicketRequest { ticket_id: "t1".to_owned() }.encode_to_vec())
}

#[tokio::test]
async fn malformed_bodies_are_rejected_with_the_fault() {
    let world = World::new().await;
    let twice = [get_ticket(), get_ticket()].concat();
    let whole = get_ticket();
    for (body, code, said) in [
        (&whole[..whole.len() - 1], Code::InvalidArgument, "in the middle of a message"),
        (&[0, 0, 0][..], Code::InvalidArgument, "in the middle of a message"),
        (&[7, 0, 0, 0, 0], Code::InvalidArgument, "flag 7"),
        (b"\x80\0\0\0\x0fgrpc-status:0\r\n", Code::InvalidArgument, "flag 128"),
        (&twice, Code::Unimplemented, "several messages"),
        (&[], Code::Unimplemented, "no message"),
        (b"{\"ticket_id\":\"t1\"}", Code::InvalidArgument, "flag 123"),
    ] {
        for text in [false, true] {
            let web = Web::connect(&world).await;
            let sent = if text { BASE64_STANDARD.encode(body).into_bytes() } else { body.to_vec() };
            let response = web.send(request(method::GET_TICKET, text, Body::from(sent))).await;
            assert_eq!(response.status(), StatusCode::OK);
            let status = read(response, text).await.status();
            assert_eq!(status.code(), code, "{body:?}: {status}");
            assert!(status.message().contains(said), "{status}");
        }
    }
    let web = Web::connect(&world).await;
    let status = read(web.send(request(method::GET_TICKET, true, Body::from("!!!!"))).await, true).await.status();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("base64"), "{status}");
    assert!(world.tickets().await.get_ticket(super::calls::ticket("t1")).await.is_ok(), "the gateway still works");
}

#[tokio::test]
async fn undecodable_messages_are_rejected_by_the_upstream() {
    let world = World::new().await;
    for body in [frame(&[0xff; 8]), [&[1_u8, 0, 0, 0, 3][..], b"abc"].concat()] {
        let web = Web::connect(&world).await;
        let status =
            read(web.send(request(method::GET_TICKET, false, Body::from(body.clone()))).await, false).await.status();
        assert!(
            matches!(status.code(), Code::Internal | Code::InvalidArgument | Code::Unimplemented),
            "{body:?}: {status}"
        );
    }
}

fn titled(length: usize) -> RegisterTicketRequest {
    RegisterTicketRequest { title: "x".repeat(length), ..RegisterTicketRequest::default() }
}

#[tokio::test]
async fn an_oversized_message_is_rejected_after_its_header() {
    let world = World::new().await;
    let largest = MAX_MESSAGE_BYTES as usize;
    let mut client = world.tickets().await;
    assert!(client.register_ticket(Request::new(titled(largest - 10))).await.is_ok());
    let status = client.register_ticket(Request::new(titled(largest + 1))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("max_message_bytes"), "{status}");
    for text in [false, true] {
        let web = Web::connect(&world).await;
        let answer = web.call(method::REGISTER_TICKET, text, &titled(largest + 1), &HeaderMap::new()).await;
        assert_eq!(answer.status().code(), Code::ResourceExhausted);
        // Only the header of the message is sent.
        let web = Web::connect(&world).await;
        let head: &[u8] = if text { b"AP////8=" } else { b"\0\xff\xff\xff\xff" };
        let chunks = stream::iter([Ok::<_, Status>(Bytes::copy_from_slice(head))]);
        let body = Body::from_stream(futures::StreamExt::chain(chunks, stream::pending()));
        let status = read(web.send(request(method::GET_TICKET, text, body)).await, text).await.status();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    }
}

#[tokio::test]
async fn unusual_headers_are_harmless() {
    let world = World::new().await;
    for (name, value) in [
        ("grpc-timeout", &b"\xff\xfe"[..]),
        ("grpc-timeout", b"99999999H"),
        ("traceparent", b"00-zz-zz-zz"),
        ("eticket-correlation-id", &[b'x'; 4000]),
        ("grpc-encoding", b"nonsense"),
        ("accept", b"\xff"),
        ("content-length", b"23"),
        ("te", b"nonsense"),
        ("expect", b"100-continue"),
    ] {
        let web = Web::connect(&world).await;
        let mut call = request(method::GET_TICKET, false, Body::from(get_ticket()));
        let value = HeaderValue::from_bytes(value).unwrap();
        if name == "content-length" {
            // The HTTP layer handles an invalid length.
            continue;
        }
        call.headers_mut().insert(name, value);
        let response = web.send(call).await;
        assert_eq!(response.status(), StatusCode::OK, "{name}");
        let answer = read(response, false).await;
        assert!(answer.status().code() == Code::Ok || answer.messages.is_empty(), "{name}");
    }
    assert!(world.tickets().await.get_ticket(super::calls::ticket("t1")).await.is_ok(), "the gateway still works");
}

#[tokio::test]
async fn a_disconnecting_caller_does_not_mark_the_upstream_as_failed() {
    let world = World::new().await;
    let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\ncontent-length: 100\r\n\r\n\0\0",
        method::GET_TICKET
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok();
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("UPSTREAM"), "{answer}");
    assert!(world.tickets().await.get_ticket(super::calls::ticket("t1")).await.is_ok(), "the gateway still works");
}

#[tokio::test]
async fn garbage_closes_only_its_own_connection() {
    let world = World::new().await;
    for garbage in [
        &b"\0\x01\x02\x03\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"GET",
    ] {
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.ok();
    }
    assert!(world.tickets().await.get_ticket(super::calls::ticket("t1")).await.is_ok(), "the gateway still works");
}

#[tokio::test]
async fn a_client_that_is_still_writing_gets_the_rejection() {
    let world = World::new().await;
    for text in [false, true] {
        // More than the buffers between client and gateway can hold.
        let body = frame(&vec![0; 8 * 1024 * 1024]);
        let body = if text { BASE64_STANDARD.encode(body).into_bytes() } else { body };
        let mut stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
        let content_type = if text { "application/grpc-web-text" } else { "application/grpc-web" };
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            method::GET_TICKET,
            body.len()
        );
        // Writes everything before it reads, as simple clients do.
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.expect("all of the body is taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("grpc-status: 8"), "{answer}");
    }
}

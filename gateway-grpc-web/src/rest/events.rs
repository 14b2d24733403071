//! A stream of responses as server-sent events.
//!
//! The id of an event is its resume token, with which the browser connects again. A response that only has a token has
//! no data: the browser takes its id without showing an event.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use prost_reflect::DynamicMessage;
use tokio::time::timeout;
use tonic::Status;

use super::request::RESUME_TOKEN;
use crate::transcode::{
    Contract, Method,
    exchange::Answer,
    json::{self, Defaults},
    messages::{Messages, Next},
    refusal::Refusal,
};

/// The pause after which a comment keeps the connection open.
const HEARTBEAT: Duration = Duration::from_secs(20);

struct Events {
    messages: Messages,
    method: Arc<Method>,
    contract: Arc<Contract>,
    ended: bool,
}

/// Creates the response. Dropping its body ends the call.
pub(crate) fn response(answer: Answer, method: Arc<Method>, contract: Arc<Contract>) -> Response<Body> {
    let events = Events { messages: answer.messages, method, contract, ended: false };
    let events = stream::unfold(events, |mut events| async move {
        let text = events.next().await?;
        Some((Ok::<_, Status>(Bytes::from(text)), events))
    });
    let mut response = Response::new(Body::from_stream(events));
    *response.headers_mut() = answer.metadata;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies must not collect events.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Events {
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        let text = match timeout(HEARTBEAT, self.messages.next()).await {
            Err(_) => return Some(": heartbeat\n\n".to_owned()),
            Ok(Ok(Next::Message(message))) => self.event(message),
            Ok(Ok(Next::End(_))) => {
                self.ended = true;
                return None;
            }
            Ok(Err(failure)) => Err(failure.refusal),
        };
        Some(text.unwrap_or_else(|refusal| {
            self.ended = true;
            self.error(&refusal)
        }))
    }

    fn event(&self, message: Bytes) -> Result<String, Refusal> {
        let broken = |_| Refusal::from(Status::internal("a message of the response cannot be read"));
        let message = DynamicMessage::decode(self.method.output.clone(), message).map_err(|_| broken(()))?;
        let token = message.get_field_by_name(RESUME_TOKEN);
        // A line break would end the line of the id.
        let token =
            token.as_deref().and_then(|token| token.as_str()).filter(|token| !token.contains(['\n', '\r', '\0']));
        let id = token.filter(|token| !token.is_empty()).map(|token| format!("id: {token}\n")).unwrap_or_default();
        if message.fields().all(|(field, _)| field.name() == RESUME_TOKEN) {
            return Ok(format!(": heartbeat\n{id}\n"));
        }
        let data = json::write(&message, Defaults::Written).map_err(|_| broken(()))?;
        Ok(format!("{id}data: {}\n\n", String::from_utf8_lossy(&data)))
    }

    fn error(&self, refusal: &Refusal) -> String {
        let retry = refusal.retry_milliseconds().map(|delay| format!("retry: {delay}\n")).unwrap_or_default();
        format!("event: error\n{retry}data: {}\n\n", refusal.to_json(&self.contract))
    }
}

#[cfg(test)]
mod tests {
    use eticket_proto::{
        error::ErrorReason,
        query::{TicketView, WatchTicketViewsResponse},
    };
    use eticket_rpc_server::error::ApiError;
    use futures::StreamExt;
    use http::HeaderMap;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use prost::Message;

    use super::*;
    use crate::transcode::request_body::SharedRefusal;

    fn frame(title: &str, token: &str) -> Frame<Bytes> {
        let view = TicketView { title: title.to_owned(), ..TicketView::default() };
        let message =
            WatchTicketViewsResponse { view: (!title.is_empty()).then_some(view), resume_token: token.to_owned() };
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Frame::data([&[0][..], &length, &message].concat().into())
    }

    fn events(frames: impl futures::Stream<Item = Frame<Bytes>> + Send + 'static) -> Body {
        let contract = Arc::new(Contract::try_new(None).unwrap());
        let method = contract.method("/eticket.query.v1.QueryService/WatchTicketViews").unwrap().clone();
        let body = Body::new(StreamBody::new(frames.map(Ok::<_, Status>)));
        let answer = Answer { metadata: HeaderMap::new(), messages: Messages::new(body, SharedRefusal::default()) };
        response(answer, method, contract).into_body()
    }

    #[tokio::test]
    async fn responses_become_events_and_an_error_is_the_last_one() {
        let mut trailers = HeaderMap::new();
        Status::from(ApiError::new(ErrorReason::ShuttingDown)).add_header(&mut trailers).unwrap();
        let frames = [frame("one\nline", ""), frame("two", "token-2"), frame("", "token-3"), Frame::trailers(trailers)];
        let text = events(stream::iter(frames)).collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        let [one, two, heartbeat, error, rest] = text.split("\n\n").collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(one.starts_with(r#"data: {"view":"#) && one.contains(r"one\nline") && !one.contains('\n'), "{one}");
        assert!(two.starts_with("id: token-2\ndata: {"), "{two}");
        assert_eq!(heartbeat, ": heartbeat\nid: token-3");
        let json = error.strip_prefix("event: error\nretry: 1000\ndata: ").unwrap_or_else(|| panic!("{error}"));
        let json: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(json["code"], 14);
        assert_eq!(rest, "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_has_a_comment_every_20_seconds() {
        let start = tokio::time::Instant::now();
        let mut body = events(stream::iter([frame("one", "")]).chain(stream::pending()));
        body.frame().await.unwrap().unwrap();
        for count in 1..3 {
            let comment = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((&comment[..], start.elapsed()), (&b": heartbeat\n\n"[..], HEARTBEAT * count));
        }
    }
}

//! The request body on its way to a service; checked for size and completeness.
//!
//! Messages are not decoded, but their frames are parsed. A message that is too large is therefore rejected after its
//! header, before its bytes arrive, and a truncated body ends the call instead of leaving the service waiting.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::Frame;
use tonic::{Code, Status};

use crate::{protocol::request::NotBase64, transcode::request_body::Untranslatable};

/// What is wrong with a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the message has {length} bytes, more than the {limit} that max_message_bytes allows")]
    TooLarge { length: u32, limit: u32 },
    #[error("the body is not base64, although its content type is gRPC-Web text")]
    NotBase64,
    #[error("a message begins with the flag {0}; 0 or 1 is expected, then four bytes of length")]
    UnknownFlag(u8),
    #[error("the body ends in the middle of a message")]
    CutOff,
    #[error("the body has several messages; the method takes one")]
    SeveralMessages,
    #[error("the body has no message; the method takes one")]
    NoMessage,
    #[error("the caller disconnected before its request was complete")]
    CallerGone,
    #[error("the request cannot be translated to gRPC")]
    Untranslatable(Code),
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge { .. } => Self::resource_exhausted(fault.to_string()),
            Fault::CallerGone => Self::cancelled(fault.to_string()),
            Fault::Untranslatable(code) => Self::new(code, fault.to_string()),
            // The code that gRPC has for another number of requests than the method takes.
            Fault::SeveralMessages | Fault::NoMessage => Self::unimplemented(fault.to_string()),
            _ => Self::invalid_argument(fault.to_string()),
        }
    }
}

/// Holds the fault of a body for the response: the upstream only sees that the stream was reset.
pub(crate) type SharedFault = Arc<OnceLock<Fault>>;

/// Limits of a request body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    pub(crate) max_message_bytes: u32,
    /// Whether the method takes a single message instead of a stream.
    pub(crate) single: bool,
}

/// A request body as the service receives it.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Body,
    frames: Frames,
    fault: SharedFault,
    ended: bool,
}

impl RequestBody {
    pub(crate) fn new(inner: Body, allowance: Allowance, fault: SharedFault) -> Self {
        Self { inner, frames: Frames::new(allowance), fault, ended: false }
    }

    fn fail(&mut self, fault: Fault) -> Fault {
        self.ended = true;
        self.fault.set(fault).ok();
        fault
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        while !this.ended {
            let fault = match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => match this.frames.pass(&data) {
                        Ok(()) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(fault) => fault,
                    },
                    // gRPC requests have no trailers; those of a client are ignored.
                    Err(_) => continue,
                },
                Some(Err(error)) => match Untranslatable::find(&error) {
                    Some(Untranslatable(code)) => Fault::Untranslatable(code),
                    None if NotBase64::is_cause_of(&error) => Fault::NotBase64,
                    None => Fault::CallerGone,
                },
                None if this.frames.may_end() => {
                    this.ended = true;
                    break;
                }
                None if this.frames.is_between_messages() => Fault::NoMessage,
                None => Fault::CutOff,
            };
            return Poll::Ready(Some(Err(this.fail(fault))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.frames.may_end() && self.inner.is_end_stream())
    }
}

/// Tracks the frames of a body without decoding the messages.
#[derive(Debug)]
struct Frames {
    allowance: Allowance,
    header: [u8; 5],
    header_bytes: usize,
    /// Remaining bytes of the current message.
    left: usize,
    begun: bool,
}

impl Frames {
    fn new(allowance: Allowance) -> Self {
        Self { allowance, header: [0; 5], header_bytes: 0, left: 0, begun: false }
    }

    fn is_between_messages(&self) -> bool {
        self.left == 0 && self.header_bytes == 0
    }

    fn may_end(&self) -> bool {
        self.is_between_messages() && (self.begun || !self.allowance.single)
    }

    fn pass(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        while !data.is_empty() {
            if self.left > 0 {
                let step = self.left.min(data.len());
                self.left -= step;
                data = &data[step..];
                continue;
            }
            if self.begun && self.header_bytes == 0 && self.allowance.single {
                return Err(Fault::SeveralMessages);
            }
            let step = (self.header.len() - self.header_bytes).min(data.len());
            self.header[self.header_bytes..self.header_bytes + step].copy_from_slice(&data[..step]);
            self.header_bytes += step;
            data = &data[step..];
            self.read_header()?;
        }
        Ok(())
    }

    fn read_header(&mut self) -> Result<(), Fault> {
        let [flag, length @ ..] = self.header;
        if flag > 1 {
            return Err(Fault::UnknownFlag(flag));
        }
        if self.header_bytes == self.header.len() {
            let (length, limit) = (u32::from_be_bytes(length), self.allowance.max_message_bytes);
            if length > limit {
                return Err(Fault::TooLarge { length, limit });
            }
            self.left = length as usize;
            self.header_bytes = 0;
            self.begun = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const ONE: Allowance = Allowance { max_message_bytes: 1000, single: true };
    const MANY: Allowance = Allowance { max_message_bytes: 1000, single: false };

    fn message(bytes: &[u8]) -> Vec<u8> {
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(bytes);
        frame
    }

    async fn read(bytes: &[u8], size: usize, allowance: Allowance) -> Result<Vec<u8>, Fault> {
        let chunks: Vec<_> = bytes.chunks(size).map(|chunk| Ok::<_, Fault>(Bytes::copy_from_slice(chunk))).collect();
        let shared = SharedFault::default();
        let body = RequestBody::new(Body::from_stream(stream::iter(chunks)), allowance, shared.clone());
        let read = body.collect().await.map(|all| all.to_bytes().to_vec());
        assert_eq!(shared.get().copied(), read.as_ref().err().copied());
        read
    }

    #[tokio::test]
    async fn each_fault_is_found_however_the_body_is_cut() {
        let too_large = Fault::TooLarge { length: 1001, limit: 1000 };
        for (bytes, allowance, fault) in [
            (vec![0, 0, 0, 3, 0xe9], ONE, too_large),
            (vec![2, 0, 0, 0, 0], ONE, Fault::UnknownFlag(2)),
            (vec![0x80], MANY, Fault::UnknownFlag(0x80)),
            (message(b"whole")[..9].to_vec(), ONE, Fault::CutOff),
            (vec![0, 0], ONE, Fault::CutOff),
            ([message(b"a"), message(b"b")].concat(), ONE, Fault::SeveralMessages),
            (Vec::new(), ONE, Fault::NoMessage),
        ] {
            for size in 1..=bytes.len().max(1) {
                assert_eq!(read(&bytes, size, allowance).await, Err(fault), "{bytes:?} by {size}");
            }
        }
    }

    #[tokio::test]
    async fn the_largest_message_and_the_empty_stream_pass() {
        let largest = message(&[7; 1000]);
        assert_eq!(read(&largest, 64, ONE).await, Ok(largest.clone()));
        assert_eq!(read(b"", 1, MANY).await, Ok(vec![]));
    }

    #[tokio::test]
    async fn a_disconnect_and_invalid_bodies_are_distinguished() {
        for (error, expected) in [
            (axum::Error::new(std::io::Error::other("reset")), Fault::CallerGone),
            (axum::Error::new(NotBase64), Fault::NotBase64),
            (axum::Error::new(Untranslatable(Code::NotFound)), Fault::Untranslatable(Code::NotFound)),
        ] {
            let chunks = [Ok(Bytes::from_static(&[0, 0])), Err(error)];
            let fault = SharedFault::default();
            let body = RequestBody::new(Body::from_stream(stream::iter(chunks)), ONE, fault.clone());
            assert_eq!(body.collect().await.unwrap_err(), expected);
            assert_eq!(fault.get(), Some(&expected));
        }
    }

    proptest! {
        #[test]
        fn whole_messages_pass_unchanged(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            size in 1_usize..50,
        ) {
            let bytes = messages.iter().flat_map(|bytes| message(bytes)).collect::<Vec<_>>();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(read(&bytes, size, MANY)), Ok(bytes));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), size in 1_usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(read(&bytes, size, ONE)).ok();
        }
    }
}

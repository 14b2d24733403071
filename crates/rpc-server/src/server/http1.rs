//! HTTP/1.1 connections between and under their requests, as far as hyper does not look after them.
//!
//! hyper has one timeout for the headers of a request and the idle time before it, and it either ends a call when its client
//! closes the sending half of the connection, or does not see at all that a client has gone.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};

use super::ConnectionLimits;

/// What an HTTP/2 connection begins with, and no method of HTTP/1.1 does.
const PREFACE: &[u8] = b"PRI ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come since the connection or the last answer.
    Idle,
    /// A request has begun to come.
    Headers,
    /// A request is answered.
    Busy {
        /// By a stream, which may go on without end.
        streams: bool,
    },
    /// The connection is none of HTTP/1.1.
    Http2,
}

/// What is known of one connection; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Http1 {
    phase: watch::Sender<Phase>,
    read: Arc<OwnedReadHalf>,
}

impl Http1 {
    /// Takes a socket in, and returns it as the connection uses it.
    pub(crate) fn new(stream: TcpStream) -> (Self, Noted) {
        let (read, write) = stream.into_split();
        let http1 = Self { phase: watch::Sender::new(Phase::Idle), read: Arc::new(read) };
        (http1.clone(), Noted { write, http1, preface: Some(0) })
    }

    fn set(&self, next: Phase) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, next) != next);
    }

    /// A request has come; its answer ends when the returned value is dropped.
    pub(crate) fn begin(&self, streams: bool) -> Busy {
        self.set(Phase::Busy { streams });
        Busy(self.clone())
    }

    /// Returns once the connection should be closed: it is idle or sends its headers for too long, or a stream is sent to a
    /// client that has closed its half. Such a client has gone, most likely, and nothing else would tell; what has an end is
    /// answered all the same.
    pub(crate) async fn is_over(&self, limits: &ConnectionLimits) {
        tokio::select! {
            () = self.overstays(limits) => {}
            () = self.is_abandoned() => {}
        }
    }

    async fn overstays(&self, limits: &ConnectionLimits) {
        let mut phase = self.phase.subscribe();
        loop {
            let now = *phase.borrow_and_update();
            // The sender is ours: it is never gone.
            let changed = async { phase.changed().await.ok() };
            let bound = match now {
                Phase::Idle => limits.idle,
                Phase::Headers => limits.header_read_timeout,
                Phase::Busy { .. } | Phase::Http2 => {
                    changed.await;
                    continue;
                }
            };
            if timeout(bound, changed).await.is_err() {
                return;
            }
        }
    }

    async fn is_abandoned(&self) {
        let mut phase = self.phase.subscribe();
        let stream: &TcpStream = (*self.read).as_ref();
        loop {
            // The sender is ours: it is never gone.
            phase.wait_for(|phase| *phase == Phase::Busy { streams: true }).await.ok();
            let mut next = [0];
            let peeked = tokio::select! {
                peeked = stream.peek(&mut next) => peeked,
                _ = phase.changed() => continue,
            };
            match peeked {
                Ok(0) | Err(_) => return,
                // The next request has come already, so that what comes after it cannot be seen.
                Ok(_) => drop(phase.changed().await),
            }
        }
    }
}

/// An answer under way.
pub(crate) struct Busy(Http1);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

/// A body whose end is the end of the answer.
pub(crate) struct BusyBody {
    pub(crate) inner: Body,
    pub(crate) _busy: Busy,
}

impl http_body::Body for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A socket that notes what its connection does.
pub(crate) struct Noted {
    write: OwnedWriteHalf,
    http1: Http1,
    /// How much of the preface has come; `None` once something else has.
    preface: Option<usize>,
}

impl Noted {
    fn note(&mut self, bytes: &[u8]) {
        if let Some(known) = self.preface.filter(|known| *known < PREFACE.len()) {
            let count = bytes.len().min(PREFACE.len() - known);
            self.preface = (bytes[..count] == PREFACE[known..known + count]).then_some(known + count);
        }
        let next = if self.preface == Some(PREFACE.len()) { Phase::Http2 } else { Phase::Headers };
        // Under an answer come the rest of its request, and the next one.
        self.http1.phase.send_if_modified(|phase| match phase {
            Phase::Idle | Phase::Headers => std::mem::replace(phase, next) != next,
            Phase::Busy { .. } | Phase::Http2 => false,
        });
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            let stream: &TcpStream = (*self.http1.read).as_ref();
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(count) => {
                    if count > 0 {
                        self.note(&buffer.filled()[before..]);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.write.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(context)
    }
}

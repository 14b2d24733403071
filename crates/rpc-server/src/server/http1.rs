//! Timeouts and disconnects of HTTP/1.1 connections that hyper does not handle.
//!
//! hyper has one timeout for both the idle time and the headers of a request. When a client closes its sending half,
//! hyper either aborts the call or does not notice that the client has disconnected.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use eticket_tls::ServerStream;
use http::{HeaderMap, header};
use http_body::{Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    time::timeout,
};

use super::ConnectionLimits;

/// The start of an HTTP/2 connection; no HTTP/1.1 method begins like this.
const PREFACE: &[u8] = b"PRI ";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was received since the connection opened or since the last response.
    Idle,
    /// The headers of a request are being received.
    Headers,
    /// A response is being sent.
    Busy {
        /// The response is a stream, which may be endless.
        streams: bool,
    },
    /// The connection uses HTTP/2.
    Http2,
}

/// An accepted connection.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<ServerStream>),
    /// From a client of this process.
    InProcess(DuplexStream),
}

/// The state of one connection. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Http1 {
    phase: watch::Sender<Phase>,
    /// Observed for a half-close; `None` with TLS and within the process.
    read: Option<Arc<OwnedReadHalf>>,
}

impl Http1 {
    /// Wraps a socket; returns the state and the socket for the connection to use.
    pub(crate) fn new(socket: Socket) -> (Self, Noted) {
        let (read, io) = match socket {
            Socket::Plain(stream) => {
                let (read, write) = stream.into_split();
                let read = Arc::new(read);
                (Some(read.clone()), Io::Plain(read, write))
            }
            Socket::Tls(stream) => (None, Io::Tls(stream)),
            Socket::InProcess(stream) => (None, Io::InProcess(stream)),
        };
        let http1 = Self { phase: watch::Sender::new(Phase::Idle), read };
        (http1.clone(), Noted { io, http1, preface: Some(0) })
    }

    /// Returns whether hyper should send the response to a client that has closed its sending half.
    pub(crate) fn half_close(&self) -> bool {
        self.read.is_some()
    }

    fn set(&self, next: Phase) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, next) != next);
    }

    /// Marks the start of a request; its response ends when the returned value is dropped.
    pub(crate) fn begin(&self, streams: bool) -> Busy {
        self.set(Phase::Busy { streams });
        Busy(self.clone())
    }

    /// Returns once the connection should close: it was idle or received headers for too long, or it sends a stream to
    /// a client that has closed its sending half. Such a client has most likely disconnected, and nothing else detects
    /// it; a finite response is still sent.
    pub(crate) async fn should_close(&self, limits: &ConnectionLimits) {
        tokio::select! {
            () = self.exceeds_timeout(limits) => {}
            () = self.is_abandoned() => {}
        }
    }

    async fn exceeds_timeout(&self, limits: &ConnectionLimits) {
        let mut phase = self.phase.subscribe();
        loop {
            let now = *phase.borrow_and_update();
            // The wait cannot fail: `self` owns the sender.
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
        let Some(read) = &self.read else { return std::future::pending().await };
        let mut phase = self.phase.subscribe();
        let stream: &TcpStream = (**read).as_ref();
        loop {
            // The wait cannot fail: `self` owns the sender.
            phase.wait_for(|phase| *phase == Phase::Busy { streams: true }).await.ok();
            let mut next = [0];
            let peeked = tokio::select! {
                peeked = stream.peek(&mut next) => peeked,
                _ = phase.changed() => continue,
            };
            match peeked {
                Ok(0) | Err(_) => return,
                // The next request is already buffered and hides a later disconnect.
                Ok(_) => drop(phase.changed().await),
            }
        }
    }
}

/// A response that is being sent.
pub(crate) struct Busy(Http1);

impl Busy {
    /// Notes a response that is a stream although the path of its request is not that of a streaming method.
    pub(crate) fn answers(&self, headers: &HeaderMap) {
        let media_type = headers.get(header::CONTENT_TYPE);
        if media_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream")) {
            self.0.set(Phase::Busy { streams: true });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(Phase::Idle);
    }
}

/// A body whose end marks the end of the response.
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

enum Io {
    Plain(Arc<OwnedReadHalf>, OwnedWriteHalf),
    Tls(Box<ServerStream>),
    InProcess(DuplexStream),
}

impl Io {
    fn writer(&mut self) -> Pin<&mut (dyn AsyncWrite + Send + Unpin)> {
        match self {
            Self::Plain(_, write) => Pin::new(write),
            Self::Tls(stream) => Pin::new(stream),
            Self::InProcess(stream) => Pin::new(stream),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = match self {
            Self::Plain(read, _) => read,
            Self::Tls(stream) => return Pin::new(stream).poll_read(context, buffer),
            Self::InProcess(stream) => return Pin::new(stream).poll_read(context, buffer),
        };
        let stream: &TcpStream = (**read).as_ref();
        loop {
            ready!(stream.poll_read_ready(context))?;
            match stream.try_read_buf(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome.map(drop)),
            }
        }
    }
}

/// A socket that records the state of its connection.
pub(crate) struct Noted {
    io: Io,
    http1: Http1,
    /// The number of received bytes of the preface; `None` once other bytes were received.
    preface: Option<usize>,
}

impl Noted {
    fn note(&mut self, bytes: &[u8]) {
        if let Some(known) = self.preface.filter(|known| *known < PREFACE.len()) {
            let count = bytes.len().min(PREFACE.len() - known);
            self.preface = (bytes[..count] == PREFACE[known..known + count]).then_some(known + count);
        }
        let next = if self.preface == Some(PREFACE.len()) { Phase::Http2 } else { Phase::Headers };
        // Bytes that arrive during a response belong to its request or to the next one.
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
        ready!(self.io.poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.note(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Noted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io.writer().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.writer().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(_, write) => write.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::InProcess(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.writer().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.writer().poll_shutdown(context)
    }
}

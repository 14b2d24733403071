//! HTTP/2 flow control: how many bytes of a body a peer may send before they are read.
//!
//! The window of a connection is as large as the windows of all its streams together. With a smaller one, a few unread
//! streams exhaust it, and every other stream of the connection stops too (head-of-line blocking). The bound on unread
//! data in memory is the number of calls that a server admits, not the number of connections.

/// The window of a stream, unless there are very many streams: the default of HTTP/2, sufficient for most messages.
const STREAM: u32 = 64 * 1024;

/// The largest window that HTTP/2 allows (RFC 9113, 6.9.1).
const LARGEST: u32 = (1 << 31) - 1;

/// The flow control windows of one end of a connection, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The window of each stream.
    pub stream: u32,
    /// The window of the connection.
    pub connection: u32,
}

impl Windows {
    /// Returns the windows of a connection with up to `streams` concurrent streams.
    #[must_use]
    pub fn for_streams(streams: u32) -> Self {
        let streams = streams.clamp(1, LARGEST);
        let stream = (LARGEST / streams).min(STREAM);
        Self { stream, connection: stream.saturating_mul(streams) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_has_room_for_all_of_its_streams() {
        for streams in [1, 1_000, 5_120, 32_767, 32_768, 1_001_024, LARGEST] {
            let windows = Windows::for_streams(streams);
            let all = u64::from(windows.stream) * u64::from(streams);
            assert!(windows.stream >= 1 && u64::from(windows.connection) == all, "{streams}: {windows:?}");
            assert!(windows.connection <= LARGEST, "{streams}: {windows:?}");
        }
        assert_eq!(Windows::for_streams(5_120), Windows { stream: STREAM, connection: 320 * 1024 * 1024 });
    }
}

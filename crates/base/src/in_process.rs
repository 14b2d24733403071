//! Connections between servers of one process, without the network.

use std::{fmt, io};

use tokio::{
    io::{DuplexStream, duplex},
    sync::mpsc,
};

/// The number of bytes that one side can write before the other side reads them.
const BUFFER: usize = 64 * 1024;

/// Connects to a server of this process. Clones connect to the same server.
#[derive(Clone)]
pub struct Dialer(mpsc::UnboundedSender<DuplexStream>);

/// Accepts the connections of dialers. Dropping it refuses further ones.
#[derive(Debug)]
pub struct Listener(mpsc::UnboundedReceiver<DuplexStream>);

/// Creates a listener and its dialer.
#[must_use]
pub fn listen() -> (Listener, Dialer) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Listener(receiver), Dialer(sender))
}

impl Dialer {
    /// Connects. Bytes can be sent before the server accepts the connection.
    ///
    /// # Errors
    /// `ConnectionRefused` if the server does not accept connections any more.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        let (near, far) = duplex(BUFFER);
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "the server in this process has stopped");
        self.0.send(far).map_err(|_| refused())?;
        Ok(near)
    }
}

impl Listener {
    /// Returns the next connection; `None` once there is no dialer. Cancelling it loses no connection.
    pub async fn accept(&mut self) -> Option<DuplexStream> {
        self.0.recv().await
    }
}

/// Dialers of the same server are equal.
impl PartialEq for Dialer {
    fn eq(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl Eq for Dialer {}

impl fmt::Debug for Dialer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Dialer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn both_sides_read_what_the_other_one_writes() {
        let (mut listener, dialer) = listen();
        let mut client = dialer.connect().expect("accepted");
        client.write_all(b"ping").await.expect("room");
        let mut server = listener.accept().await.expect("a connection");
        let mut read = [0; 4];
        server.read_exact(&mut read).await.expect("four bytes");
        assert_eq!(&read, b"ping");
        server.write_all(b"pong").await.expect("room");
        client.read_exact(&mut read).await.expect("four bytes");
        assert_eq!(&read, b"pong");
    }

    #[tokio::test]
    async fn a_server_that_has_stopped_refuses_connections() {
        let (listener, dialer) = listen();
        drop(listener);
        let refused = dialer.connect().expect_err("nobody accepts it");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn dialers_of_one_server_are_equal() {
        let ((_one, first), (_other, second)) = (listen(), listen());
        assert_eq!(first, first.clone());
        assert_ne!(first, second);
    }
}

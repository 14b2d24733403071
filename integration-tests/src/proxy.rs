//! A TCP proxy between a service and its servers that can close, delay or freeze connections.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// How the proxy treats connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// Forwards all bytes.
    Fair,
    /// Closes all connections immediately, including new ones.
    Cut,
    /// Delays each chunk by this time.
    Slow(Duration),
    /// Keeps and accepts connections but forwards nothing, like a lost link.
    Hanging,
}

/// Listens on the loopback and forwards to one address.
pub struct Proxy {
    address: SocketAddr,
    link_state: watch::Sender<LinkState>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts the proxy.
    ///
    /// # Panics
    /// If it cannot bind a port.
    pub async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let link_state = watch::Sender::new(LinkState::Fair);
        let changes = link_state.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(stream, to.clone(), changes.subscribe()));
            }
        });
        Self { address, link_state, accepting }
    }

    /// Returns the listen address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets how connections are treated from now on.
    pub fn set(&self, link_state: LinkState) {
        self.link_state.send_replace(link_state);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.link_state.send_replace(LinkState::Cut);
    }
}

async fn pass_on(stream: TcpStream, to: String, mut link_state: watch::Receiver<LinkState>) {
    if *link_state.borrow_and_update() == LinkState::Cut {
        return;
    }
    let Ok(other) = TcpStream::connect(to).await else { return };
    let ((from, back), (answers, forth)) = (stream.into_split(), other.into_split());
    let one_way = tokio::spawn(pump(from, forth, link_state.clone()));
    let other_way = tokio::spawn(pump(answers, back, link_state.clone()));
    let (one_abort, other_abort) = (one_way.abort_handle(), other_way.abort_handle());
    tokio::select! {
        _ = one_way => {}
        _ = other_way => {}
        _ = link_state.wait_for(|link_state| *link_state == LinkState::Cut) => {}
    }
    one_abort.abort();
    other_abort.abort();
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut link_state: watch::Receiver<LinkState>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        // Held bytes are not lost: they arrive after the link is back, as with TCP.
        let now =
            *link_state.wait_for(|link_state| *link_state != LinkState::Hanging).await.map_err(io::Error::other)?;
        if let LinkState::Slow(delay) = now {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn bytes_pass_hang_and_are_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Proxy::start(listener.local_addr().expect("an address").to_string()).await;
        let mut client = TcpStream::connect(proxy.address()).await.expect("connected");
        let (mut server, _) = listener.accept().await.expect("passed on");
        let mut byte = [0];
        client.write_all(&[1]).await.expect("sent");
        server.read_exact(&mut byte).await.expect("arrived");
        assert_eq!(byte, [1]);

        proxy.set(LinkState::Hanging);
        client.write_all(&[2]).await.expect("sent");
        assert!(timeout(Duration::from_millis(50), server.read_exact(&mut byte)).await.is_err(), "it hangs");
        proxy.set(LinkState::Slow(Duration::from_millis(1)));
        server.read_exact(&mut byte).await.expect("arrived");
        assert_eq!(byte, [2]);

        proxy.set(LinkState::Cut);
        assert_eq!(client.read(&mut byte).await.unwrap_or(0), 0, "the client's end is closed");
        assert_eq!(server.read(&mut byte).await.unwrap_or(0), 0, "so is the server's");
        let mut again = TcpStream::connect(proxy.address()).await.expect("accepted");
        assert_eq!(again.read(&mut byte).await.unwrap_or(0), 0, "and closed at once");
    }
}

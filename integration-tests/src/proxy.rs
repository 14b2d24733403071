//! A TCP proxy whose connections can be cut, slowed, or made to hang half-open, for what lies between a service and its servers.

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

/// What becomes of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Bytes pass.
    Fair,
    /// Those that there are are closed, new ones too, at once.
    Cut,
    /// Each piece that is read is held up for so long.
    Slow(Duration),
    /// Connections stay and are accepted, and nothing passes: what a lost link looks like from either end.
    Hanging,
}

/// Listens on loopback, and passes on to one address.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// # Panics
    /// If no port can be had.
    pub async fn start(to: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let weather = watch::Sender::new(Weather::Fair);
        let changes = weather.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(stream, to.clone(), changes.subscribe()));
            }
        });
        Self { address, weather, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.weather.send_replace(Weather::Cut);
    }
}

async fn pass_on(stream: TcpStream, to: String, mut weather: watch::Receiver<Weather>) {
    if *weather.borrow_and_update() == Weather::Cut {
        return;
    }
    let Ok(other) = TcpStream::connect(to).await else { return };
    let ((from, back), (answers, forth)) = (stream.into_split(), other.into_split());
    let one_way = tokio::spawn(pump(from, forth, weather.clone()));
    let other_way = tokio::spawn(pump(answers, back, weather.clone()));
    let (one_abort, other_abort) = (one_way.abort_handle(), other_way.abort_handle());
    tokio::select! {
        _ = one_way => {}
        _ = other_way => {}
        _ = weather.wait_for(|weather| *weather == Weather::Cut) => {}
    }
    one_abort.abort();
    other_abort.abort();
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        // What hangs has not been lost: it arrives once the link is back, as with TCP it would.
        let now = *weather.wait_for(|weather| *weather != Weather::Hanging).await.map_err(io::Error::other)?;
        if let Weather::Slow(delay) = now {
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

        proxy.set(Weather::Hanging);
        client.write_all(&[2]).await.expect("sent");
        assert!(timeout(Duration::from_millis(50), server.read_exact(&mut byte)).await.is_err(), "it hangs");
        proxy.set(Weather::Slow(Duration::from_millis(1)));
        server.read_exact(&mut byte).await.expect("arrived");
        assert_eq!(byte, [2]);

        proxy.set(Weather::Cut);
        assert_eq!(client.read(&mut byte).await.unwrap_or(0), 0, "the client's end is closed");
        assert_eq!(server.read(&mut byte).await.unwrap_or(0), 0, "so is the server's");
        let mut again = TcpStream::connect(proxy.address()).await.expect("accepted");
        assert_eq!(again.read(&mut byte).await.unwrap_or(0), 0, "and closed at once");
    }
}

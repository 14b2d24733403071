//! Metrics of the processes under load, from `/metrics`: the numbers of commits and events.

use std::collections::BTreeMap;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Values by series, such as `eticket_batch_size_count{service="ticket"}`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// Reads several processes and adds their values.
    ///
    /// # Panics
    /// Like [`Self::at`].
    pub(super) async fn at_all(admins: &[String]) -> Self {
        let mut sum = BTreeMap::new();
        for admin in admins {
            for (series, value) in Self::at(admin).await.0 {
                *sum.entry(series).or_insert(0.0) += value;
            }
        }
        Self(sum)
    }

    /// Reads one process.
    ///
    /// # Panics
    /// If `/metrics` does not respond.
    pub(super) async fn at(admin: &str) -> Self {
        let mut stream = TcpStream::connect(admin).await.expect("the admin port is open");
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it takes a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers with text");
        assert!(answer.starts_with("HTTP/1.1 200"), "/metrics answers {answer}");
        Self::parse(&answer)
    }

    fn parse(text: &str) -> Self {
        let number = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(number).collect())
    }

    /// Returns the value of a series, if there is one.
    pub(super) fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// Returns the increase of a series since `earlier`; a missing series counts as 0.
    pub(super) fn since(&self, earlier: &Self, series: &str) -> f64 {
        let value = |counters: &Self| counters.0.get(series).copied().unwrap_or(0.0);
        value(self) - value(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_compared_with_its_earlier_value() {
        let text = "# TYPE a counter\na{service=\"x y\"} 7\n\nb 1.5\nHTTP/1.1 200 OK";
        let (earlier, later) = (Counters::parse("b 1"), Counters::parse(text));
        assert!((later.since(&earlier, "a{service=\"x y\"}") - 7.0).abs() < 1e-9);
        assert!((later.since(&earlier, "b") - 0.5).abs() < 1e-9);
        assert!(later.since(&earlier, "c").abs() < 1e-9);
    }
}

//! HTTP endpoints `/metrics`, `/livez`, `/readyz` and `/log-level`: one instance per process, shared by all its
//! servers.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use axum::{
    Router,
    extract::State,
    routing::{get, put},
};
use eticket_base::{exit::StartError, telemetry};
use http::{StatusCode, header::CONTENT_TYPE};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::{
    config::{LimitsConfig, ShutdownConfig},
    health::Health,
    server::{Running, Server},
};

/// The expected servers of a process, and the health of those that have started. Clones share state.
#[derive(Debug, Clone)]
pub struct Admin(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    expected: Vec<&'static str>,
    started: Mutex<Vec<(&'static str, Option<Health>)>>,
}

impl Admin {
    /// Creates the list of expected servers; none has started.
    #[must_use]
    pub fn new(expected: Vec<&'static str>) -> Self {
        Self(Arc::new(Inner { expected, started: Mutex::new(Vec::new()) }))
    }

    /// Marks a server as started. A server without a health counts as ready.
    pub fn started(&self, name: &'static str, health: Option<Health>) {
        self.0.started.lock().unwrap_or_else(PoisonError::into_inner).push((name, health));
    }

    /// Returns the names of the servers that are not ready or have not started.
    #[must_use]
    pub fn not_ready(&self) -> Vec<&'static str> {
        let started = self.0.started.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ready = |name: &str| {
            let found = started.iter().find(|(known, _)| *known == name);
            found.is_some_and(|(_, health)| health.as_ref().is_none_or(Health::is_ready))
        };
        self.0.expected.iter().copied().filter(|name| !is_ready(name)).collect()
    }

    /// Records what is read at the time of a scrape: which servers are ready, and the resources of the process.
    fn observe(&self) {
        static PROCESS: LazyLock<metrics_process::Collector> = LazyLock::new(metrics_process::Collector::default);
        let not_ready = self.not_ready();
        for server in &self.0.expected {
            let ready = if not_ready.contains(server) { 0.0 } else { 1.0 };
            metrics::gauge!("eticket_server_ready", "service" => *server).set(ready);
        }
        PROCESS.collect();
    }

    /// Waits until all servers that have started are ready.
    pub async fn ready(&self) {
        let started = self.0.started.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (_, health) in started {
            if let Some(health) = health {
                health.ready().await;
            }
        }
    }

    /// Binds the address and serves until the returned server is stopped.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(&self, listen: SocketAddr) -> Result<Running, StartError> {
        let metrics = telemetry::metrics();
        let router = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(readyz).with_state(self.clone()))
            .route("/metrics", get(render).with_state((self.clone(), metrics)))
            .route("/log-level", put(set_log_level));
        let shutdown = ShutdownConfig { drain_delay_ms: 0, ..ShutdownConfig::default() };
        Server::new("admin", listen, &LimitsConfig::default(), &shutdown).routes(router).start().await
    }
}

async fn readyz(State(admin): State<Admin>) -> (StatusCode, String) {
    let not_ready = admin.not_ready();
    if not_ready.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", not_ready.join(", ")))
}

/// Changes the log level. The body is a level or a filter, with the syntax of the configuration key `log.level`.
async fn set_log_level(level: String) -> (StatusCode, String) {
    match telemetry::set_log_level(level.trim()) {
        Ok(true) => (StatusCode::NO_CONTENT, String::new()),
        Ok(false) => (StatusCode::SERVICE_UNAVAILABLE, "this process writes no log\n".to_owned()),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn render(
    State((admin, metrics)): State<(Admin, Option<PrometheusHandle>)>,
) -> impl axum::response::IntoResponse {
    let text = metrics.map(|metrics| {
        admin.observe();
        metrics.run_upkeep();
        metrics.render()
    });
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer)
    }

    #[tokio::test]
    async fn a_process_is_ready_when_all_its_servers_are() {
        let admin = Admin::new(vec!["ticket", "gateway"]);
        let running = admin.start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("started");
        let address = running.address();
        let (status, text) = get(address, "/readyz").await;
        assert_eq!(status, 503);
        assert!(text.contains("not ready: ticket, gateway"), "{text}");
        let health = Health::new(["a"]).with_store();
        admin.started("ticket", Some(health.clone()));
        admin.started("gateway", None);
        assert_eq!(admin.not_ready(), ["ticket"]);
        let (_, text) = get(address, "/metrics").await;
        assert!(text.contains("eticket_server_ready{service=\"ticket\"} 0"), "{text}");
        assert!(text.contains("eticket_server_ready{service=\"gateway\"} 1"), "{text}");
        assert!(text.contains("process_cpu_seconds_total") && text.contains("process_open_fds"), "{text}");
        assert_eq!(get(address, "/livez").await.0, 200, "a live process need not be ready");
        health.set_store(true);
        admin.ready().await;
        assert_eq!(get(address, "/readyz").await.0, 200);
        metrics::counter!("eticket_admin_test_total").increment(7);
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("eticket_admin_test_total 7"), "{text}");
        running.stop().await;
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        let running = Admin::new(Vec::new()).start(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("started");
        assert_eq!(get(running.address(), "/else").await.0, 404);
        running.stop().await;
    }
}

//! Fault injection: delays calls or fails a fraction of them, so that the behaviour of callers can be tested.
//!
//! The layer sits directly before the service, inside the deadline and admission layers. A delayed call therefore holds
//! its admission slot, as a slow call does.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use eticket_proto::error::ErrorReason;
use eticket_rpc_server::error::ApiError;
use tonic::{Status, body::Body, codegen::http, server::NamedService};
use tower::{Layer, Service};

use crate::config::FaultConfig;

/// Retry delay of an injected failure. It is short because the next call may succeed.
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Layer that adds the configured faults to a service.
#[derive(Clone)]
pub struct FaultLayer(Arc<FaultConfig>);

impl FaultLayer {
    pub fn new(config: FaultConfig) -> Self {
        Self(Arc::new(config))
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { config: self.0.clone(), inner }
    }
}

#[derive(Clone)]
pub struct Faulty<S> {
    config: Arc<FaultConfig>,
    inner: S,
}

impl<S> Faulty<S> {
    fn concerns(&self, path: &str) -> bool {
        let method = path.rsplit('/').next().unwrap_or_default();
        self.config.only.is_empty() || self.config.only.iter().any(|only| only == method)
    }
}

impl<S: NamedService> NamedService for Faulty<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Faulty<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Future: Send> + Clone + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // Call the instance that was polled ready, and keep the clone for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        if !self.concerns(request.uri().path()) {
            return Box::pin(inner.call(request));
        }
        let latency = Duration::from_millis(self.config.latency_ms);
        let fails = self.config.error_ratio > 0.0 && rand::random::<f64>() < self.config.error_ratio;
        Box::pin(async move {
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            if fails {
                let fault = ApiError::new(ErrorReason::ServiceOverloaded).message("an injected fault");
                return Ok(Status::from(fault.retry_after(RETRY_AFTER)).into_http());
            }
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    fn config(latency_ms: u64, error_ratio: f64, only: &str) -> FaultConfig {
        let only = only.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        FaultConfig { latency_ms, error_ratio, only }
    }

    /// Calls a method through the layer. Returns the gRPC status and the duration.
    async fn call(config: FaultConfig, method: &str) -> (Option<String>, Duration) {
        let healthy =
            service_fn(|_: http::Request<Body>| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
        let path = format!("/eticket.ticket.v1.TicketService/{method}");
        let request = http::Request::builder().uri(path).body(Body::empty()).unwrap();
        let start = tokio::time::Instant::now();
        let response = FaultLayer::new(config).layer(healthy).oneshot(request).await.unwrap();
        let status = response.headers().get("grpc-status").map(|value| value.to_str().unwrap().to_owned());
        (status, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_named_calls_are_delayed_and_failed() {
        let fault = || config(300, 1.0, "CheckAvailability");
        assert_eq!(call(fault(), "CheckAvailability").await, (Some("14".to_owned()), Duration::from_millis(300)));
        assert_eq!(call(fault(), "GetTicket").await, (None, Duration::ZERO));
        assert_eq!(call(config(0, 1.0, ""), "GetTicket").await.0.as_deref(), Some("14"));
        assert_eq!(call(config(0, 0.0, ""), "GetTicket").await, (None, Duration::ZERO));
    }

    #[tokio::test]
    async fn an_injected_failure_is_an_error_of_the_contract() {
        let healthy =
            service_fn(|_: http::Request<Body>| async { Ok::<_, Infallible>(http::Response::new(Body::empty())) });
        let request = http::Request::builder().uri("/a/B").body(Body::empty()).unwrap();
        let response = FaultLayer::new(config(0, 1.0, "")).layer(healthy).oneshot(request).await.unwrap();
        let status = Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(ApiError::from_status(&status), Some(ErrorReason::ServiceOverloaded));
        assert_eq!(status.metadata().get(eticket_proto::headers::RETRY_PUSHBACK).expect("a pushback"), "10");
    }
}

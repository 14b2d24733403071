//! `grpc.health.v1` that reports the real state of a service.
//!
//! Every component of a service counts as down until it is set. `readiness`, the empty name and the full name of each
//! gRPC service report whether the server should get calls (the store responds, the view has caught up, the server does
//! not drain). `bus` reports whether events flow. It is not part of readiness: an outage of the bus must not make
//! commands such as cancel unavailable. `liveness` reports that the process responds.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use eticket_proto::{
    health::{
        HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
        health_check_response::ServingStatus, health_server,
    },
    operations::ComponentHealth,
};
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// Services that every server has besides its own; their health is the server's readiness.
pub const STANDARD_SERVICES: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The health of one server. Clones share state.
#[derive(Debug, Clone)]
pub struct Health {
    services: Arc<Vec<String>>,
    state: Arc<watch::Sender<State>>,
}

/// The state of each component; `None` for a component that the service does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    store: Option<bool>,
    caught_up: Option<bool>,
    bus: Option<bool>,
    /// The bus rejects published messages, whether or not it delivers events.
    refuses: bool,
    draining: bool,
    /// Names whose state is independent of this server's readiness, such as backends.
    others: BTreeMap<String, bool>,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.draining && self.store.unwrap_or(true) && self.caught_up.unwrap_or(true)
    }

    fn bus_serves(&self) -> Option<bool> {
        self.bus.map(|progresses| progresses && !self.refuses)
    }

    /// Returns the names that are not gRPC services of this server.
    fn special_names(&self) -> impl Iterator<Item = &str> {
        let bus = self.bus.map(|_| "bus");
        ["", "readiness", "liveness"].into_iter().chain(bus).chain(self.others.keys().map(String::as_str))
    }
}

impl Health {
    /// Creates the health of a server with these gRPC services (full names). The `with_…` methods add components.
    #[must_use]
    pub fn new<N: Into<String>>(services: impl IntoIterator<Item = N>) -> Self {
        let services = Arc::new(services.into_iter().map(Into::into).collect());
        Self { services, state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Adds a store; it counts as down until `set_store(true)`.
    #[must_use]
    pub fn with_store(self) -> Self {
        self.changed(|state| state.store = Some(false))
    }

    /// Adds a view; it counts as behind until `set_caught_up(true)`.
    #[must_use]
    pub fn with_catching_up(self) -> Self {
        self.changed(|state| state.caught_up = Some(false))
    }

    /// Adds a subscription to the bus; it counts as down until `set_bus(true)`.
    #[must_use]
    pub fn with_bus(self) -> Self {
        self.changed(|state| state.bus = Some(false))
    }

    /// Adds the state of a remote service under its full name; it counts as not ready until `set_other`.
    #[must_use]
    pub fn with_other(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.changed(|state| {
            state.others.insert(name, false);
        })
    }

    fn changed(self, change: impl FnOnce(&mut State)) -> Self {
        self.state.send_modify(change);
        self
    }

    /// Sets whether the store responds.
    pub fn set_store(&self, answers: bool) {
        self.set(|state| &mut state.store, answers);
    }

    /// Sets whether the view has caught up once.
    pub fn set_caught_up(&self, caught_up: bool) {
        self.set(|state| &mut state.caught_up, caught_up);
    }

    /// Sets whether the bus responds and consumers progress.
    pub fn set_bus(&self, progresses: bool) {
        self.set(|state| &mut state.bus, progresses);
    }

    /// Sets whether the bus accepts published messages. Separate from `set_bus`: receiver and sender detect recovery
    /// independently.
    pub fn set_sending(&self, sends: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.refuses, !sends) == sends);
    }

    fn set(&self, component: impl Fn(&mut State) -> &mut Option<bool>, value: bool) {
        self.state.send_if_modified(|state| component(state).replace(value) != Some(value));
    }

    /// Sets whether a remote service is ready.
    pub fn set_other(&self, name: &str, ready: bool) {
        self.state.send_if_modified(|state| state.others.insert(name.to_owned(), ready) != Some(ready));
    }

    /// Marks the server as not ready, permanently.
    pub fn set_draining(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.draining, true));
    }

    /// Returns whether the server should get calls.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Waits until the server should get calls.
    pub async fn ready(&self) {
        // The wait cannot fail: `self` keeps the sender alive.
        self.state.subscribe().wait_for(State::is_ready).await.ok();
    }

    /// Returns the components whose state the health has, with a reason for each that does not serve.
    #[must_use]
    pub fn components(&self) -> Vec<ComponentHealth> {
        let state = self.state.borrow();
        let bus_reason = match state.bus {
            Some(true) => "the bus does not accept events",
            _ => "the bus does not respond, or delivers no events",
        };
        let known = [
            ("server", Some(!state.draining), "the server is shutting down"),
            ("store", state.store, "the store does not respond"),
            ("view", state.caught_up, "the view has not caught up with the stream"),
            ("bus", state.bus_serves(), bus_reason),
        ];
        let component = |(name, serving, reason): (&str, Option<bool>, &str)| {
            let serving = serving?;
            let reason = if serving { String::new() } else { reason.to_owned() };
            Some(ComponentHealth { name: name.to_owned(), serving, reason })
        };
        known.into_iter().filter_map(component).collect()
    }

    /// Returns whether a name is SERVING; `None` for an unknown name.
    #[must_use]
    pub fn is_serving(&self, name: &str) -> Option<bool> {
        self.serving_in(&self.state.borrow(), name)
    }

    fn serving_in(&self, state: &State, name: &str) -> Option<bool> {
        match name {
            "" | "readiness" => Some(state.is_ready()),
            "liveness" => Some(true),
            "bus" => state.bus_serves(),
            other => state.others.get(other).copied().or_else(|| {
                let mut services = self.services.iter().map(String::as_str).chain(STANDARD_SERVICES);
                services.any(|service| service == other).then(|| state.is_ready())
            }),
        }
    }
}

fn response(serving: Option<bool>) -> HealthCheckResponse {
    let status = match serving {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        match self.is_serving(name) {
            None => Err(Status::not_found("unknown health name; List returns the known names")),
            serving => Ok(Response::new(response(serving))),
        }
    }

    /// Returns the state of every name that `check` accepts, read at one moment.
    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let state = self.state.borrow();
        let services = self.services.iter().map(String::as_str).chain(STANDARD_SERVICES);
        let names = state.special_names().chain(services);
        let statuses = names.map(|name| (name.to_owned(), response(self.serving_in(&state, name)))).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends the current state immediately and then each change. For an unknown name it sends SERVICE_UNKNOWN, as the
    /// health protocol specifies.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (health, name) = (self.clone(), request.into_inner().service);
        let mut last = None;
        let changes = WatchStream::new(self.state.subscribe()).filter_map(move |state| {
            let now = response(health.serving_in(&state, &name));
            let news = (last.replace(now) != Some(now)).then_some(Ok(now));
            std::future::ready(news)
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use health_server::Health as _;

    use super::*;

    const NAME: &str = "eticket.query.v1.QueryService";

    fn query() -> Health {
        Health::new([NAME]).with_store().with_catching_up().with_bus()
    }

    #[tokio::test]
    async fn a_list_has_every_name_with_the_state_that_a_check_returns() {
        let health = query().with_other("eticket.pricing.v1.PricingService");
        health.set_bus(true);
        let list =
            async || health.list(Request::new(HealthListRequest {})).await.expect("listed").into_inner().statuses;
        let mut names: Vec<_> = list().await.into_keys().collect();
        names.sort();
        let mut expected = vec!["", "bus", "liveness", "readiness", NAME, "eticket.pricing.v1.PricingService"];
        expected.extend(STANDARD_SERVICES);
        expected.sort_unstable();
        assert_eq!(names, expected);
        for ready in [false, true] {
            health.set_store(ready);
            health.set_caught_up(ready);
            for (name, listed) in list().await {
                let checked = health.check(Request::new(HealthCheckRequest { service: name.clone() })).await;
                assert_eq!(checked.expect("known").into_inner(), listed, "{name}");
            }
            assert_eq!(list().await[NAME].status() == ServingStatus::Serving, ready);
        }
        assert!(
            !Health::new([NAME])
                .list(Request::new(HealthListRequest {}))
                .await
                .expect("listed")
                .get_ref()
                .statuses
                .contains_key("bus")
        );
    }

    #[test]
    fn nothing_serves_before_its_state_is_set() {
        let health = query();
        for name in ["", "readiness", "bus", NAME].into_iter().chain(STANDARD_SERVICES) {
            assert_eq!(health.is_serving(name), Some(false), "{name:?}");
        }
        assert_eq!(health.is_serving("liveness"), Some(true));
        assert_eq!(health.is_serving("eticket.other"), None);
        health.set_store(true);
        assert!(!health.is_ready());
        health.set_caught_up(true);
        for name in ["", "readiness", NAME].into_iter().chain(STANDARD_SERVICES) {
            assert_eq!(health.is_serving(name), Some(true), "{name:?}");
        }
    }

    #[test]
    fn the_bus_is_not_part_of_readiness() {
        let health = Health::new([NAME]).with_store().with_bus();
        health.set_store(true);
        assert!(health.is_ready());
        assert_eq!(health.is_serving("bus"), Some(false));
        health.set_bus(true);
        assert_eq!(health.is_serving("bus"), Some(true));
        health.set_store(false);
        assert!(!health.is_ready());
        assert_eq!(health.is_serving("bus"), Some(true));
    }

    #[test]
    fn the_bus_serves_when_receiving_and_publishing_work() {
        let health = Health::new([NAME]).with_bus();
        health.set_bus(true);
        health.set_sending(false);
        health.set_bus(true);
        assert_eq!(health.is_serving("bus"), Some(false), "delivery does not show that publishing works");
        health.set_sending(true);
        assert_eq!(health.is_serving("bus"), Some(true));
        let without = Health::new([NAME]);
        without.set_sending(true);
        assert_eq!(without.is_serving("bus"), None);
    }

    #[test]
    fn each_component_has_a_reason_exactly_if_it_does_not_serve() {
        let shown = |health: &Health| {
            let components = health.components();
            assert!(
                components.iter().all(|component| component.serving == component.reason.is_empty()),
                "{components:?}"
            );
            components.into_iter().map(|component| (component.name, component.serving)).collect::<Vec<_>>()
        };
        let named = |states: [(&str, bool); 4]| states.map(|(name, serving)| (name.to_owned(), serving)).to_vec();
        let health = query();
        assert_eq!(shown(&health), named([("server", true), ("store", false), ("view", false), ("bus", false)]));
        health.set_store(true);
        health.set_caught_up(true);
        health.set_bus(true);
        assert_eq!(shown(&health), named([("server", true), ("store", true), ("view", true), ("bus", true)]));
        health.set_sending(false);
        health.set_draining();
        assert_eq!(shown(&health), named([("server", false), ("store", true), ("view", true), ("bus", false)]));
        assert_eq!(shown(&Health::new([NAME])), [("server".to_owned(), true)], "it has no other component");
    }

    #[test]
    fn a_gateway_is_ready_regardless_of_its_backends() {
        let health = Health::new(Vec::<String>::new()).with_other(NAME);
        assert!(health.is_ready());
        assert_eq!(health.is_serving("bus"), None);
        assert_eq!(health.is_serving(NAME), Some(false));
        health.set_other(NAME, true);
        assert_eq!(health.is_serving(NAME), Some(true));
    }

    #[test]
    fn draining_ends_readiness_for_good() {
        let health = Health::new([NAME]).with_store();
        health.set_store(true);
        health.set_draining();
        health.set_store(true);
        assert!(!health.is_ready());
        assert_eq!(health.is_serving("liveness"), Some(true));
    }

    #[tokio::test]
    async fn an_unknown_name_is_not_found() {
        let request = Request::new(HealthCheckRequest { service: "nobody".into() });
        assert_eq!(query().check(request).await.expect_err("unknown").code(), tonic::Code::NotFound);
    }

    #[tokio::test]
    async fn a_watch_shows_each_change_once() {
        let health = query();
        let request = Request::new(HealthCheckRequest { service: "bus".into() });
        let mut stream = health.watch(request).await.expect("a stream").into_inner();
        let status = |item: Option<Result<HealthCheckResponse, Status>>| item.expect("open").expect("ok").status();
        assert_eq!(status(stream.next().await), ServingStatus::NotServing);
        health.set_store(true);
        assert!(stream.next().now_or_never().is_none(), "the state of the bus has not changed");
        health.set_bus(true);
        assert_eq!(status(stream.next().await), ServingStatus::Serving);
    }
}

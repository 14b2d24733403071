//! `grpc.health.v1` with the real state of a service.
//!
//! Nothing is SERVING before it is known: a component that a service has counts as down until it is set. `readiness`, the empty
//! name and each gRPC service's full name say whether calls should come (store answers, caught up, not draining); `bus` says
//! whether events flow and is never part of readiness, or an outage of the bus would take cancelling away; `liveness` says
//! that the process turns.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use eticket_proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
    health_check_response::ServingStatus, health_server,
};
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

/// The services that every server has beside its own, with the same state.
pub const STANDARD_SERVICES: [&str; 3] =
    ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

/// The health of one server; clones speak of the same one.
#[derive(Debug, Clone)]
pub struct Health {
    services: Arc<Vec<String>>,
    state: Arc<watch::Sender<State>>,
}

/// What is known of each component; `None` for one that the service does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    store: Option<bool>,
    caught_up: Option<bool>,
    bus: Option<bool>,
    /// The bus does not take what is sent, whatever it delivers.
    refuses: bool,
    draining: bool,
    /// Names that answer for something else than this service's readiness.
    others: BTreeMap<String, bool>,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.draining && self.store.unwrap_or(true) && self.caught_up.unwrap_or(true)
    }

    /// The names beside those of gRPC services.
    fn special_names(&self) -> impl Iterator<Item = &str> {
        let bus = self.bus.map(|_| "bus");
        ["", "readiness", "liveness"].into_iter().chain(bus).chain(self.others.keys().map(String::as_str))
    }
}

impl Health {
    /// The health of a server with these gRPC services (full names). Its components are added by the methods `with_…`.
    #[must_use]
    pub fn new<N: Into<String>>(services: impl IntoIterator<Item = N>) -> Self {
        let services = Arc::new(services.into_iter().map(Into::into).collect());
        Self { services, state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// It has a store, which is not known to answer yet.
    #[must_use]
    pub fn with_store(self) -> Self {
        self.changed(|state| state.store = Some(false))
    }

    /// It has a view, which is not known to have caught up yet.
    #[must_use]
    pub fn with_catching_up(self) -> Self {
        self.changed(|state| state.caught_up = Some(false))
    }

    /// It listens to the bus, which is not known to answer yet.
    #[must_use]
    pub fn with_bus(self) -> Self {
        self.changed(|state| state.bus = Some(false))
    }

    /// It answers for a service elsewhere by that service's full name, which is not known to be ready yet.
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

    /// Whether the store answers.
    pub fn set_store(&self, answers: bool) {
        self.set(|state| &mut state.store, answers);
    }

    /// Whether the view has once caught up.
    pub fn set_caught_up(&self, caught_up: bool) {
        self.set(|state| &mut state.caught_up, caught_up);
    }

    /// Whether the bus answers and consumers progress.
    pub fn set_bus(&self, progresses: bool) {
        self.set(|state| &mut state.bus, progresses);
    }

    /// Whether the bus takes what is sent. Apart from `set_bus`, because each side knows only when its own way is free again.
    pub fn set_sending(&self, sends: bool) {
        self.state.send_if_modified(|state| std::mem::replace(&mut state.refuses, !sends) == sends);
    }

    fn set(&self, component: impl Fn(&mut State) -> &mut Option<bool>, value: bool) {
        self.state.send_if_modified(|state| component(state).replace(value) != Some(value));
    }

    /// Whether a service elsewhere is ready.
    pub fn set_other(&self, name: &str, ready: bool) {
        self.state.send_if_modified(|state| state.others.insert(name.to_owned(), ready) != Some(ready));
    }

    /// Not ready from here on, for good.
    pub fn set_draining(&self) {
        self.state.send_if_modified(|state| !std::mem::replace(&mut state.draining, true));
    }

    /// Whether calls should come.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state.borrow().is_ready()
    }

    /// Waits until calls should come.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        self.state.subscribe().wait_for(State::is_ready).await.ok();
    }

    /// Whether a name is SERVING; `None` for a name that is not known here.
    #[must_use]
    pub fn is_serving(&self, name: &str) -> Option<bool> {
        self.serving_in(&self.state.borrow(), name)
    }

    fn serving_in(&self, state: &State, name: &str) -> Option<bool> {
        match name {
            "" | "readiness" => Some(state.is_ready()),
            "liveness" => Some(true),
            "bus" => state.bus.map(|progresses| progresses && !state.refuses),
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
            None => Err(Status::not_found("this server has no health under that name")),
            serving => Ok(Response::new(response(serving))),
        }
    }

    /// Returns every name that `check` knows, with its state at one moment.
    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let state = self.state.borrow();
        let services = self.services.iter().map(String::as_str).chain(STANDARD_SERVICES);
        let names = state.special_names().chain(services);
        let statuses = names.map(|name| (name.to_owned(), response(self.serving_in(&state, name)))).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends the state at once and then each change. An unknown name is answered with SERVICE_UNKNOWN, as the protocol has it.
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
    fn nothing_serves_before_it_is_known() {
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
    fn the_bus_is_no_part_of_readiness() {
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
    fn the_bus_serves_when_both_ways_are_free() {
        let health = Health::new([NAME]).with_bus();
        health.set_bus(true);
        health.set_sending(false);
        health.set_bus(true);
        assert_eq!(health.is_serving("bus"), Some(false), "what is delivered says nothing of what is sent");
        health.set_sending(true);
        assert_eq!(health.is_serving("bus"), Some(true));
        let without = Health::new([NAME]);
        without.set_sending(true);
        assert_eq!(without.is_serving("bus"), None);
    }

    #[test]
    fn a_gateway_is_ready_whatever_is_behind_it() {
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
        assert!(stream.next().now_or_never().is_none(), "of the bus there is nothing new");
        health.set_bus(true);
        assert_eq!(status(stream.next().await), ServingStatus::Serving);
    }
}

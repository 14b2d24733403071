//! The gateway: one port that serves gRPC, gRPC-Web, Connect and REST, over HTTP/1.1 and HTTP/2, for the four services.
//!
//! Calls are routed by path; those of gRPC and gRPC-Web are forwarded without decoding their messages. The way of a
//! call: `gateway` detects its protocol, `protocol` (gRPC-Web), `connect` or `rest` translates it to gRPC, the layers of
//! `eticket-rpc-server` observe and limit it, `routes` finds its backend, and `call` forwards it over `upstream`. The
//! response takes the same way back. This file assembles these parts.

mod call;
mod config;
mod connect;
mod cors;
mod gateway;
mod guest;
mod health;
mod protocol;
mod rate_limit;
mod rest;
mod routes;
mod site;
mod status;
mod transcode;
mod upstream;

#[cfg(test)]
mod tests;

use axum::Router;
use eticket_base::{
    config::{Error, urls::StoreSupport},
    exit::StartError,
    tasks::Tasks,
    windows::Windows,
};
use eticket_rpc_server::{
    health::Health,
    server::{self, Browsers, Running},
};
use eticket_runtime::{
    config::Settings,
    context::Context,
    process::{Deployment, Service},
};

pub use crate::{
    config::{Config, ConsoleConfig, CorsConfig, UpstreamConfig, Upstreams},
    guest::Guest,
    routes::Backend,
};
use crate::{
    gateway::{Pages, Protocols},
    rate_limit::RateLimit,
    routes::Routes,
    site::Site,
    transcode::Contract,
    upstream::Pool,
};

/// The gateway as a server of a process.
#[derive(Debug)]
pub enum Gateway {}

impl Service for Gateway {
    const NAME: &'static str = "gateway";
    const DEFAULTS: &'static str = include_str!("defaults.toml");
    const ABOUT: &'static str = "Serves gRPC, gRPC-Web, Connect and REST for all services under one address.";
    const NEEDS: &'static str =
        "upstream.{ticket,reservation,pricing,query}.url: where the services are, as http://127.0.0.1:8082";
    const EXAMPLE: &'static str =
        "eticket-gateway --config gateway.toml  # with [upstream.ticket] url = \"http://127.0.0.1:8082\" and so on";
    const STORE: StoreSupport = StoreSupport::None;
    const LIMITS_CALLERS: bool = true;
    type Config = Config;

    fn check(config: &Config, _: &Settings, place: Deployment) -> Result<(), Error> {
        config.check(place)
    }

    async fn build(context: &Context, config: Config) -> Result<Running, StartError> {
        Self::start(context, config, None).await
    }
}

impl Gateway {
    /// Builds and starts a gateway that also serves `guest`, for tests.
    ///
    /// # Errors
    /// As [`Service::build`], or if the descriptors of the guest do not fit the contract.
    pub async fn build_with(context: &Context, config: Config, guest: Guest) -> Result<Running, StartError> {
        Self::start(context, config, Some(guest)).await
    }

    async fn start(context: &Context, config: Config, guest: Option<Guest>) -> Result<Running, StartError> {
        let targets = |backend: Backend| {
            let configured = config.upstream.get(backend).url.as_ref();
            context.upstream(backend.name(), configured).ok_or_else(|| config::missing_url(backend))
        };
        let targets = Backend::ALL.into_iter().map(targets).collect::<Result<Vec<_>, _>>()?;
        let tasks = Tasks::new();
        let windows = Windows::for_streams(context.settings.limits.streams());
        let connector = |backend: Backend| {
            let tls = &config.upstream.get(backend).tls;
            targets[backend as usize].connector(tls, &config::section(backend), &tasks)
        };
        let connectors = Backend::ALL.into_iter().map(connector).collect::<Result<Vec<_>, _>>()?;
        let pool = |backend: Backend| {
            let (targets, connector) = (&targets[backend as usize], connectors[backend as usize].clone());
            Pool::connect(backend.name(), targets, connector, windows, &tasks)
        };
        let health = Health::new([""; 0]);
        let rate_limit = RateLimit::from_config(&context.settings.limits);
        let routes = Routes::try_new(guest.as_ref()).map_err(StartError::failed)?;
        let calls = gateway::calls(pool, routes, health.clone(), config.max_message_bytes, rate_limit)
            .map_err(StartError::failed)?;
        let site = Site::new(config.console.folder.as_deref(), context.login.clone());
        let contract = Contract::try_new(guest.as_ref()).map_err(StartError::failed)?;
        let pages = Pages::try_new(site, contract, config.max_message_bytes).map_err(StartError::failed)?;
        let browsers = Browsers::new(config.origins()?, context.settings.listen);
        // Whoever has a log-in code has no token yet.
        let has_tokens = context.authentication.is_on() && context.login.is_none();
        let browsers = if has_tokens { browsers.by_any_name() } else { browsers };
        let cors = cors::layer(browsers.clone(), &config.cors);
        let grpc = server::layered(Self::NAME, &context.settings.limits, &context.authentication, calls);
        let router = Router::new().fallback_service(Protocols::new(grpc, pages, &cors, tasks.clone()));
        match context.server().routes(router).browsers(browsers).health(health).start().await {
            Ok(running) => Ok(running.then(move || async move { tasks.stop().await })),
            Err(error) => {
                tasks.stop().await;
                Err(error)
            }
        }
    }
}

//! The server that Connect's conformance suite tests: a gateway with the suite's service behind it.
//!
//! `connectconformance` starts this program for each kind of server that it tests, and calls the gateway. It dictates
//! the form of standard input and output: one message each, after its length in four bytes. The service runs on the
//! server of all services of eTicket, so each call takes the way of a call to a service.

mod service;

use std::io::{Read, Write};

use anyhow::{Context as _, Result, ensure};
use eticket_gateway::{Backend, Config, Gateway, Guest, UpstreamConfig, Upstreams};
use eticket_rpc_server::health::Health;
use eticket_runtime::{config::Settings, context::Context, process::Service as _};
use prost::Message;
use tokio::signal::unix::{SignalKind, signal};

use self::service::{
    ConformanceService, SERVICE_NAME,
    proto::{ServerCompatRequest, ServerCompatResponse},
};

const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/conformance.bin"));

/// The limit of a message if the suite asks for none: the default of the gateway.
const MAX_MESSAGE_BYTES: u32 = 4 * 1024 * 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let mut ended = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let asked: ServerCompatRequest = read()?;
    ensure!(!asked.use_tls, "TLS is not tested; the suite's configuration must leave it out");
    let max_message_bytes = match asked.message_receive_limit {
        0 => MAX_MESSAGE_BYTES,
        limit => limit,
    };
    let service = ConformanceService { max_message_bytes };
    let backend = Context::new("conformance", Settings::for_tests());
    let backend = backend.server().service(service).health(Health::new([SERVICE_NAME])).start().await?;
    let url = format!("http://{}", backend.address()).parse().context("an address is a target")?;
    let upstream = UpstreamConfig { url: Some(url), ..UpstreamConfig::default() };
    let config = Config {
        max_message_bytes,
        // The gateway needs all four; only one is called.
        upstream: Upstreams {
            ticket: upstream.clone(),
            reservation: upstream.clone(),
            pricing: upstream.clone(),
            query: upstream,
        },
        cors: Default::default(),
        console: Default::default(),
    };
    let guest = Guest { service: SERVICE_NAME, descriptors: DESCRIPTORS, backend: Backend::Ticket };
    let gateway = Gateway::build_with(&Context::new(Gateway::NAME, Settings::for_tests()), config, guest).await?;
    let address = gateway.address();
    write(&ServerCompatResponse { host: address.ip().to_string(), port: address.port().into(), pem_cert: Vec::new() })?;
    ended.recv().await;
    // No call is left then: the suite ends the server after its last call.
    Ok(())
}

fn read<M: Message + Default>() -> Result<M> {
    let mut input = std::io::stdin().lock();
    let mut length = [0; 4];
    input.read_exact(&mut length).context("no length on standard input")?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    input.read_exact(&mut message).context("no message on standard input")?;
    M::decode(message.as_slice()).context("the message on standard input is of another type")
}

fn write(message: &impl Message) -> Result<()> {
    let bytes = message.encode_to_vec();
    let mut output = std::io::stdout().lock();
    output.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
    output.write_all(&bytes)?;
    output.flush().context("cannot write to standard output")
}

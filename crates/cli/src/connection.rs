//! The connection to a gateway, and calls through it: with a deadline, retries, the token and the language of the user.

use std::{error::Error as _, path::Path, time::Duration};

use eticket_base::{
    config::regular_file,
    credentials::{Credentials, TOKEN_VARIABLE},
    error::chain,
    telemetry::{self, TraceContext},
};
use eticket_rpc_client::{CallError, Outgoing, authorization, deadline::DeadlineLayer, retry::RetryLayer};
use futures::future::BoxFuture;
use http::Uri;
use tokio::time::Instant;
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::{
    args::Common,
    error::{self, Error},
    time::show_duration,
};

/// A connection that takes longer is not made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an idle connection is checked, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(10));
/// Attempts after the first. The deadline bounds them too.
const RETRIES: u32 = 4;

/// A gateway. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    address: String,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    timeout: Duration,
    retry: RetryLayer,
}

impl Server {
    /// Connects to the address of the command line.
    ///
    /// # Errors
    /// 78 if the address, the token or a certificate is invalid; 69 if no server responds.
    pub(crate) async fn connect(common: &Common) -> Result<Self, Error> {
        let token = token(common)?;
        let uri = uri(&common.address)?;
        let encrypted = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().to_owned();
        if token.is_some() && !encrypted && !is_loopback(&host) {
            let advice = "use https:// if the server has it";
            telemetry::say(&format!("warning: the token goes to {host} without encryption; {advice}\n"));
        }
        let mut endpoint = Endpoint::from(uri)
            .connect_timeout(CONNECT_TIMEOUT.min(common.timeout))
            .http2_keep_alive_interval(KEEP_ALIVE.0)
            .keep_alive_timeout(KEEP_ALIVE.1);
        if encrypted {
            endpoint = endpoint.tls_config(tls(common.ca_file.as_deref())?).map_err(Error::internal)?;
        } else if common.ca_file.is_some() {
            return Err(Error::config("--ca-file has no effect without https://").with("address", &common.address));
        }
        let channel = endpoint.connect().await.map_err(|error| unreachable(&common.address, encrypted, &error))?;
        let retry = RetryLayer::new("gateway", RETRIES);
        Ok(Self { address: common.address.clone(), channel, token, timeout: common.timeout, retry })
    }

    /// Makes a call that is safe to repeat: a read, or a command with a `request_id`. It is repeated while the server is not
    /// available, after the pauses that the server asks for, within the time of `--timeout`.
    ///
    /// # Errors
    /// The server's status, or that no answer came.
    pub(crate) async fn call<M, R, F, Fut>(&self, message: M, call: F) -> Result<R, Error>
    where
        M: Clone + Send + Sync + 'static,
        R: Send + 'static,
        F: Fn(Channel, Request<M>) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let server = self.clone();
        let attempt = service_fn(move |outgoing: Outgoing<M>| -> BoxFuture<'static, Result<R, CallError>> {
            let attempt = call(server.channel.clone(), server.request(outgoing));
            Box::pin(async move { attempt.await.map(Response::into_inner).map_err(CallError::Status) })
        });
        let service = DeadlineLayer::new(self.timeout).layer(self.retry.layer(attempt));
        let outgoing = Outgoing { message, deadline: None, trace: TraceContext::new_root(), credentials: None };
        service.oneshot(outgoing).await.map_err(|error| self.failed(error))
    }

    /// Opens a stream of messages, which has no deadline. Nothing is repeated.
    ///
    /// # Errors
    /// The server's status.
    pub(crate) async fn stream<M, R, F, Fut>(&self, message: M, call: F) -> Result<Streaming<R>, Status>
    where
        F: FnOnce(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<Streaming<R>>, Status>>,
    {
        let outgoing = Outgoing { message, deadline: None, trace: TraceContext::new_root(), credentials: None };
        let opening = tokio::time::timeout(self.timeout, call(self.channel.clone(), self.request(outgoing)));
        let late = |_| Status::unavailable(format!("no answer within {}", show_duration(self.timeout)));
        Ok(opening.await.map_err(late)??.into_inner())
    }

    /// The failure of a stream.
    pub(crate) fn status(&self, status: Status) -> Error {
        self.failed(CallError::Status(status))
    }

    fn request<M>(&self, outgoing: Outgoing<M>) -> Request<M> {
        let mut request = Request::new(outgoing.message);
        if let Some(deadline) = outgoing.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let metadata = request.metadata_mut();
        metadata.insert("accept-language", MetadataValue::from_static(error::language().tag()));
        if let Some(token) = &self.token {
            metadata.insert("authorization", token.clone());
        }
        outgoing.trace.write_to(metadata.as_mut());
        request
    }

    fn failed(&self, error: CallError) -> Error {
        let address = &self.address;
        match error {
            CallError::Status(status) if status.source().is_some() => {
                let cause = status.source().map(chain).unwrap_or_default();
                Error::unavailable(format!("the connection to {address} broke"))
                    .with("cause", cause)
                    .with("try", "check that a gateway of eTicket listens at this address")
            }
            CallError::Status(status) if status.code() == Code::Unimplemented => Error::Status(Box::new(status))
                .with("try", format!("check that {address} is a gateway, not one of its services")),
            CallError::Status(status) => Error::Status(Box::new(status)),
            _ => Error::unavailable(format!("{address} did not respond within {}", show_duration(self.timeout)))
                .with("try", "run the command again with a longer --timeout"),
        }
    }
}

fn unreachable(address: &str, encrypted: bool, error: &tonic::transport::Error) -> Error {
    // The library's own words say nothing: the cause does.
    let cause = error.source().map_or_else(|| error.to_string(), chain);
    let advice = if encrypted && cause.to_lowercase().contains("certificate") {
        "name the authority that signed the certificate with --ca-file"
    } else if encrypted {
        "check the address; a gateway without TLS needs http://"
    } else {
        "start a server with `eticket`, or give its address with --address or ETICKET_ADDRESS"
    };
    Error::unavailable(format!("no server responds at {address}")).with("cause", cause).with("try", advice)
}

/// `host:port`, or a URL with `http` or `https` and nothing behind the port.
fn uri(address: &str) -> Result<Uri, Error> {
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let bare = |uri: &Uri| {
        let authority = uri.authority().is_some_and(|authority| {
            !authority.host().is_empty() && !authority.as_str().contains('@') && authority.port_u16() != Some(0)
        });
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        // Only a URL has a usual port.
        let port = address.contains("://") || uri.port_u16().is_some();
        let nothing_else = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        authority && scheme && port && nothing_else
    };
    url.parse::<Uri>().ok().filter(bare).ok_or_else(|| {
        Error::config(format!("{address:?} is no address of a gateway"))
            .with("try", "host:port, http://host:port or https://host:port, such as 127.0.0.1:8088")
            .with("from", "--address or ETICKET_ADDRESS")
    })
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(ca_file: Option<&Path>) -> Result<ClientTlsConfig, Error> {
    let Some(path) = ca_file else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let read =
        |error| Error::config(format!("the file of --ca-file cannot be read: {error}")).with("file", shown(path));
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(regular_file::read_once(path).map_err(read)?)))
}

/// The value of `authorization`, from the file or the environment. The text of an error never contains the token.
fn token(common: &Common) -> Result<Option<MetadataValue<Ascii>>, Error> {
    if common.token.is_some() {
        return Err(Error::usage("a token does not belong on the command line, where other users can read it")
            .with("try", format!("put it into a file and use --token-file, or into the variable {TOKEN_VARIABLE}")));
    }
    let read = Credentials::read(common.token_file.as_deref()).map_err(Error::config)?;
    read.as_ref().map(authorization).transpose().map_err(Error::internal)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests;

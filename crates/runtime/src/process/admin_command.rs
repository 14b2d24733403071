//! Admin commands: the command line, and the services that a command applies to.
//!
//! `eticket-ticket republish` calls `OperationsService` of the service itself; `eticket admin republish` calls the
//! gateway, which forwards the call to the services. Results go to standard output, one per line; progress goes to
//! standard error, as a bar on a terminal.

mod calls;
mod connection;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{
    Arg, ArgMatches, Command,
    builder::{NonEmptyStringValueParser, PossibleValuesParser},
    value_parser,
};
use eticket_base::exit::StartError;
use eticket_tls::ClientTlsConfig;

use self::calls::Failure;
pub(crate) use connection::{Listener, Peer};

/// The services with operations; the gateway forwards calls to them.
pub(super) const SERVICES: [&str; 4] = ["ticket", "reservation", "pricing", "query"];
/// The services that publish states.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
const VIEW: &str = "query";
/// The servers that report a state.
const REPLICATED: [&str; 5] = ["ticket", "reservation", "pricing", "query", "gateway"];

/// The operation of an admin command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    Status,
    Republish,
    Parked,
    /// All parked events, or the one with this id.
    Resend(Option<String>),
    /// The parked event with this id.
    Discard(String),
    RebuildView,
    CompareView,
    Unsettled,
}

/// A parsed admin command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminCommand {
    pub(crate) task: Task,
    /// `host:port`, or `https://host:port`; `None` for the listen address in the configuration.
    pub(crate) address: Option<String>,
    /// The file with the bearer token; `None` for the variable.
    pub(crate) token_file: Option<PathBuf>,
    /// The flags for TLS.
    pub(crate) tls: ClientTlsConfig,
    /// The services to call through the gateway; `None` to call a service directly.
    services: Option<Vec<&'static str>>,
}

/// The flags of the connection: `--address`, and the files for TLS.
pub(crate) fn connection_flags() -> Vec<Arg> {
    let help =
        "Address of the running server, with https:// for TLS (default: its listen address in the configuration)";
    let address = Arg::new("address").long("address").value_name("HOST:PORT").help(help);
    let file = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("FILE").value_parser(value_parser!(PathBuf)).help(help)
    };
    let name = Arg::new("server-name").long("server-name").value_name("NAME");
    let name = name.help("With TLS: the name that the certificate of the server must have");
    vec![
        address,
        file("ca-file", "With TLS: trust the authorities in this PEM file (default: tls.client_ca_file)"),
        file("cert-file", "With TLS: show this certificate, a PEM file (default: that of the server)"),
        file("key-file", "With TLS: the private key of --cert-file"),
        name,
        file("token-file", "Read the bearer token from a file (default: the variable ETICKET_TOKEN, if it is set)"),
    ]
}

/// The admin commands of one service, or those of the gateway for all services.
pub(crate) fn commands(service: Option<&'static str>) -> Vec<Command> {
    let command = |name: &'static str, about: &'static str| {
        // Commands of the gateway inherit the flags from their parent.
        let command = Command::new(name).about(about);
        if service.is_some() { command.args(connection_flags()) } else { command }
    };
    let of_any = |name, about, services: &[&'static str]| match service {
        Some(_) => command(name, about),
        None => {
            let which = Arg::new("service").long("service").value_name("SERVICE");
            let which = which.value_parser(PossibleValuesParser::new(services.iter().copied()));
            command(name, about).arg(which.help("Run it at this service only (default: at every service that has it)"))
        }
    };
    // An empty id is refused, because it usually comes from an unset variable.
    let event = || Arg::new("event").value_name("EVENT_ID").value_parser(NonEmptyStringValueParser::new());
    let required_event = event().required(true).help("Id of the event, as listed by `parked`");
    let mut commands = vec![
        of_any("status", "Show the state of each replica; the exit code is 1 if one is not ready", &REPLICATED),
        of_any("parked", "List parked events: events that the service could not apply", &SERVICES),
        of_any("resend", "Apply parked events again; events that fail again stay parked", &SERVICES)
            .arg(event().help("Id of one event (default: all parked events)")),
        of_any("discard", "Discard a parked event that can never be applied", &SERVICES).arg(required_event),
    ];
    if service != Some(VIEW) {
        commands.push(of_any("republish", "Publish the current states again; safe at any time", &OWNERS));
    }
    if service.is_none_or(|service| service == VIEW) {
        commands.extend([
            command("rebuild-view", "Build the view again from the stream; the old view serves meanwhile"),
            command("compare-view", "Compare the view with the owners of its data; the exit code is 1 if they differ"),
            command("unsettled", "List the tickets for which a service has not yet reacted to a change"),
        ]);
    }
    commands
}

impl AdminCommand {
    /// Parses the matches of [`commands`] with the same `service`.
    pub(crate) fn from_matches(matches: &ArgMatches, service: Option<&'static str>) -> Option<Self> {
        let (name, matches) = matches.subcommand()?;
        let argument = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let task = match name {
            "status" => Task::Status,
            "republish" => Task::Republish,
            "parked" => Task::Parked,
            "resend" => Task::Resend(argument("event")),
            "discard" => Task::Discard(argument("event")?),
            "rebuild-view" => Task::RebuildView,
            "compare-view" => Task::CompareView,
            "unsettled" => Task::Unsettled,
            _ => return None,
        };
        let services = service.is_none().then(|| {
            let selected = argument("service");
            let possible: &[&'static str] = match task {
                Task::Status => &REPLICATED,
                Task::Republish => &OWNERS,
                Task::Parked | Task::Resend(_) | Task::Discard(_) => &SERVICES,
                Task::RebuildView | Task::CompareView | Task::Unsettled => &[VIEW],
            };
            possible.iter().copied().filter(|name| selected.as_ref().is_none_or(|selected| selected == name)).collect()
        });
        let file = |name: &str| matches.try_get_one::<PathBuf>(name).ok().flatten().cloned();
        let tls = ClientTlsConfig {
            ca_file: file("ca-file"),
            cert_file: file("cert-file"),
            key_file: file("key-file"),
            server_name: argument("server-name"),
        };
        Some(Self { task, address: argument("address"), token_file: file("token-file"), tls, services })
    }

    /// Runs the command. `listener` reads the configuration of the server; it is called if the command has no
    /// `--address`.
    pub(crate) fn run(self, listener: impl FnOnce() -> Result<Listener, StartError>) -> Result<ExitCode, StartError> {
        let peer = match &self.address {
            Some(address) => Peer::given(address, &self.tls)?,
            None => Peer::configured(&listener()?, &self.tls)?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::failed)?;
        runtime.block_on(self.send_to(&peer))
    }

    /// Calls every service, even if one has refused; returns all errors together.
    async fn send_to(&self, peer: &Peer) -> Result<ExitCode, StartError> {
        let mut server = calls::Server::connect(peer, self.token_file.as_deref()).await?;
        let services: Vec<_> = match &self.services {
            Some(services) => services.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let (mut problems, mut done, mut errors, mut not_parked) = (0, false, Vec::new(), Vec::new());
        for service in services {
            server.select(service);
            match server.run(&self.task).await {
                Ok(count) => (problems, done) = (problems + count, true),
                Err(Failure::NotParked(error)) => not_parked.push(error),
                Err(Failure::Refused(error)) => errors.push(error),
                Err(Failure::Lost(error)) => {
                    errors.push(error);
                    break;
                }
            }
        }
        // An event is parked at some services only.
        if !done && errors.is_empty() {
            errors = not_parked;
        }
        match StartError::all(errors) {
            Some(error) => Err(error),
            None => Ok(if problems == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(service: Option<&'static str>, arguments: &[&str]) -> Result<Option<AdminCommand>, clap::Error> {
        let command = Command::new("x").no_binary_name(true).subcommands(commands(service));
        command.try_get_matches_from(arguments).map(|matches| AdminCommand::from_matches(&matches, service))
    }

    #[test]
    fn a_service_has_the_commands_of_its_operations() {
        let found = parse(Some("ticket"), &["resend", "a/1", "--address", "h:1"]).expect("valid").expect("a command");
        let task = Task::Resend(Some("a/1".to_owned()));
        assert_eq!(
            found,
            AdminCommand {
                task,
                address: Some("h:1".to_owned()),
                token_file: None,
                tls: ClientTlsConfig::default(),
                services: None
            }
        );
        let found = parse(Some("query"), &["discard", "a/1"]).expect("valid").expect("a command");
        assert_eq!(found.task, Task::Discard("a/1".to_owned()));
        for nothing in [&["discard"][..], &["discard", ""], &["resend", ""]] {
            assert!(parse(Some("ticket"), nothing).is_err(), "{nothing:?}");
        }
        assert!(parse(Some("ticket"), &["compare-view"]).is_err());
        assert!(parse(Some("query"), &["republish"]).is_err());
        assert!(parse(Some("ticket"), &["republish", "--service", "pricing"]).is_err());
    }

    #[test]
    fn the_gateway_forwards_to_one_service_or_to_all_that_have_the_command() {
        let services = |arguments: &[&str]| parse(None, arguments).expect("valid").expect("a command").services;
        assert_eq!(services(&["republish"]), Some(vec!["ticket", "reservation", "pricing"]));
        assert_eq!(services(&["parked", "--service", "query"]), Some(vec!["query"]));
        assert_eq!(services(&["compare-view"]), Some(vec!["query"]));
        assert_eq!(services(&["status"]), Some(vec!["ticket", "reservation", "pricing", "query", "gateway"]));
        assert_eq!(services(&["status", "--service", "gateway"]), Some(vec!["gateway"]));
        assert!(parse(None, &["parked", "--service", "nobody"]).is_err());
        assert!(parse(None, &["republish", "--service", "query"]).is_err(), "the view publishes nothing");
    }
}

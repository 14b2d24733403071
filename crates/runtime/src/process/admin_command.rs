//! What operators say on the command line to a server that runs: a client of `OperationsService`.
//!
//! `eticket-ticket republish` speaks to the service itself, `eticket admin republish` to the gateway, which hands it on. What was
//! done goes to standard output, a line each; progress to standard error, as a bar where that is a terminal.

mod calls;

use std::{net::SocketAddr, process::ExitCode};

use clap::{
    Arg, ArgMatches, Command,
    builder::{NonEmptyStringValueParser, PossibleValuesParser},
};
use eticket_base::exit::StartError;

use self::calls::Failure;

/// The services whose operations the gateway hands on.
const SERVICES: [&str; 4] = ["ticket", "reservation", "pricing", "query"];
/// Those of them that publish states.
const OWNERS: [&str; 3] = ["ticket", "reservation", "pricing"];
const VIEW: &str = "query";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Task {
    Republish,
    Parked,
    /// All, or the one with this id.
    Resend(Option<String>),
    /// The one with this id.
    Discard(String),
    RebuildView,
    CompareView,
    Unsettled,
}

/// A command of an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminCommand {
    pub(crate) task: Task,
    /// `host:port`; none: where the configuration has the server listen.
    pub(crate) address: Option<String>,
    /// Through the gateway: whom it is for.
    services: Option<Vec<&'static str>>,
}

/// Where the server runs.
pub(crate) fn address() -> Arg {
    let help = "Where it runs, if not where the configuration says";
    Arg::new("address").long("address").value_name("HOST:PORT").help(help)
}

/// The commands of one service, or of all through the gateway.
pub(crate) fn commands(service: Option<&'static str>) -> Vec<Command> {
    let command = |name: &'static str, about: &'static str| {
        // Through the gateway the flag stands at the command above, which has nothing else.
        let command = Command::new(name).about(about);
        if service.is_some() { command.arg(address()) } else { command }
    };
    let of_any = |name, about, services: &[&'static str]| match service {
        Some(_) => command(name, about),
        None => {
            let which = Arg::new("service").long("service").value_name("SERVICE");
            let which = which.value_parser(PossibleValuesParser::new(services.iter().copied()));
            command(name, about).arg(which.help("For this service only"))
        }
    };
    // An empty one is most often a variable that nobody has set.
    let event = || Arg::new("event").value_name("EVENT_ID").value_parser(NonEmptyStringValueParser::new());
    let discarded = event().required(true).help("As `parked` lists it");
    let mut commands = vec![
        of_any("parked", "List the messages from the bus that could not be applied", &SERVICES),
        of_any("resend", "Apply parked messages again; those that fail again stay parked", &SERVICES)
            .arg(event().help("Only this one; else all")),
        of_any("discard", "Discard a parked message that can never be applied", &SERVICES).arg(discarded),
    ];
    if service != Some(VIEW) {
        commands.push(of_any("republish", "Publish the current state of everything again; safe at any time", &OWNERS));
    }
    if service.is_none_or(|service| service == VIEW) {
        commands.extend([
            command("rebuild-view", "Build the view anew from the stream; the old one serves meanwhile"),
            command("compare-view", "Compare the view with its owners; ends with 1 where they differ"),
            command("unsettled", "List the tickets for which a reaction is still to come"),
        ]);
    }
    commands
}

impl AdminCommand {
    /// The order in these matches of [`commands`]; `service` as given there.
    pub(crate) fn from_matches(matches: &ArgMatches, service: Option<&'static str>) -> Option<Self> {
        let (name, matches) = matches.subcommand()?;
        let asked = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let task = match name {
            "republish" => Task::Republish,
            "parked" => Task::Parked,
            "resend" => Task::Resend(asked("event")),
            "discard" => Task::Discard(asked("event")?),
            "rebuild-view" => Task::RebuildView,
            "compare-view" => Task::CompareView,
            "unsettled" => Task::Unsettled,
            _ => return None,
        };
        let services = service.is_none().then(|| {
            let asked = asked("service");
            let having: &[&'static str] = match task {
                Task::Republish => &OWNERS,
                Task::Parked | Task::Resend(_) | Task::Discard(_) => &SERVICES,
                Task::RebuildView | Task::CompareView | Task::Unsettled => &[VIEW],
            };
            having.iter().copied().filter(|name| asked.as_ref().is_none_or(|asked| asked == name)).collect()
        });
        Some(Self { task, address: asked("address"), services })
    }

    /// Does it; `listen` is asked where the server listens, if the order does not say.
    pub(crate) fn carry_out(
        self,
        listen: impl FnOnce() -> Result<(String, SocketAddr), StartError>,
    ) -> Result<ExitCode, StartError> {
        let address = match &self.address {
            Some(address) => address.clone(),
            None => {
                let (key, listen) = listen()?;
                reachable(&key, listen)?
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::failed)?;
        runtime.block_on(self.send_to(&address))
    }

    /// Asks every service, also where one has refused; what has failed is told at the end.
    async fn send_to(&self, address: &str) -> Result<ExitCode, StartError> {
        let mut server = calls::Server::connect(address).await?;
        let services: Vec<_> = match &self.services {
            Some(services) => services.iter().copied().map(Some).collect(),
            None => vec![None],
        };
        let (mut differences, mut done, mut errors, mut elsewhere) = (0, false, Vec::new(), Vec::new());
        for service in services {
            server.hand_on_to(service);
            match server.carry_out(&self.task).await {
                Ok(count) => (differences, done) = (differences + count, true),
                Err(Failure::NotParked(error)) => elsewhere.push(error),
                Err(Failure::Refused(error)) => errors.push(error),
                Err(Failure::Lost(error)) => {
                    errors.push(error);
                    break;
                }
            }
        }
        // An event is parked at some services only.
        if !done && errors.is_empty() {
            errors = elsewhere;
        }
        match StartError::all(errors) {
            Some(error) => Err(error),
            None => Ok(if differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        }
    }
}

/// Where a server that listens there can be reached from this machine.
fn reachable(key: &str, listen: SocketAddr) -> Result<String, StartError> {
    if listen.port() == 0 {
        let expected = "the server took a free port, which its ready line says: give it as --address";
        return Err(StartError::config(key, listen.to_string(), expected));
    }
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    Ok(address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(service: Option<&'static str>, arguments: &[&str]) -> Result<Option<AdminCommand>, clap::Error> {
        let command = Command::new("x").no_binary_name(true).subcommands(commands(service));
        command.try_get_matches_from(arguments).map(|matches| AdminCommand::from_matches(&matches, service))
    }

    #[test]
    fn a_service_has_the_commands_of_its_operations() {
        let found = order(Some("ticket"), &["resend", "a/1", "--address", "h:1"]).expect("valid").expect("an order");
        let task = Task::Resend(Some("a/1".to_owned()));
        assert_eq!(found, AdminCommand { task, address: Some("h:1".to_owned()), services: None });
        let found = order(Some("query"), &["discard", "a/1"]).expect("valid").expect("an order");
        assert_eq!(found.task, Task::Discard("a/1".to_owned()));
        for nothing in [&["discard"][..], &["discard", ""], &["resend", ""]] {
            assert!(order(Some("ticket"), nothing).is_err(), "{nothing:?}");
        }
        assert!(order(Some("ticket"), &["compare-view"]).is_err());
        assert!(order(Some("query"), &["republish"]).is_err());
        assert!(order(Some("ticket"), &["republish", "--service", "pricing"]).is_err());
    }

    #[test]
    fn the_gateway_hands_on_to_one_or_to_all_that_have_it() {
        let services = |arguments: &[&str]| order(None, arguments).expect("valid").expect("an order").services;
        assert_eq!(services(&["republish"]), Some(vec!["ticket", "reservation", "pricing"]));
        assert_eq!(services(&["parked", "--service", "query"]), Some(vec!["query"]));
        assert_eq!(services(&["compare-view"]), Some(vec!["query"]));
        assert!(order(None, &["parked", "--service", "nobody"]).is_err());
        assert!(order(None, &["republish", "--service", "query"]).is_err(), "the view publishes nothing");
    }

    #[test]
    fn a_server_that_listens_everywhere_is_reached_on_the_loopback() {
        let reach = |listen: &str| reachable("listen", listen.parse().expect("an address"));
        assert_eq!(reach("0.0.0.0:8082").expect("reachable"), "127.0.0.1:8082");
        assert_eq!(reach("[::]:8082").expect("reachable"), "[::1]:8082");
        assert_eq!(reach("10.0.0.1:8082").expect("reachable"), "10.0.0.1:8082");
        assert_eq!(reach("127.0.0.1:0").expect_err("unknown").code(), 78);
    }
}

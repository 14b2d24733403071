//! `doctor`: checks the configuration and everything that it names, without changing any of it, also beside a running
//! server. Every check gives a result, whatever hangs.

mod authentication;
mod certificates;
mod clock;
mod data;
mod health;
mod report;
mod server;
mod upstreams;
mod versions;

use std::{future::Future, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Arg, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use eticket_base::{
    config,
    credentials::Credentials,
    doctor::{Check, Group, Status},
    exit::StartError,
};
use eticket_tls::ClientTlsConfig;
use tokio::{task::JoinHandle, time::Instant};

use self::{report::Report, server::Address};
use super::{
    admin_command,
    run::{ConfiguredProgram, Program, Server},
};
use crate::{config::load::Sources, examination::Examination};

pub(super) const NAME: &str = "doctor";
const JSON: &str = "json";
/// A check takes at most this many times the patience of one step, with a second for the rest.
const STEPS: u32 = 3;
const REST: Duration = Duration::from_secs(1);
/// The exit code of invalid arguments, as that of clap.
const USAGE: u8 = 2;

/// The flags of `doctor`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DoctorFlags {
    /// A running server to check as well.
    address: Option<String>,
    /// The file with the token of an admin; `None` for the variable.
    token_file: Option<PathBuf>,
    tls: ClientTlsConfig,
    patience: Duration,
    json: bool,
}

pub(super) fn command(program: &str) -> Command {
    let output = Arg::new("output").long("output").value_name("FORMAT").default_value("table");
    let output = output.value_parser(PossibleValuesParser::new(["table", JSON]));
    let timeout = Arg::new("timeout").long("timeout").value_name("SECONDS").default_value("3");
    let timeout = timeout.value_parser(value_parser!(u64).range(1..=60));
    let connection = admin_command::connection_flags().into_iter();
    Command::new(NAME)
        .about("Check the configuration and everything that it names; nothing is changed")
        .args(connection.map(|flag| match flag.get_id().as_str() {
            "address" => flag.help("Check this running server too, with https:// for TLS"),
            "ca-file" => flag.help("With TLS: trust the authorities in this PEM file"),
            "cert-file" => flag.help("With TLS: show this certificate, a PEM file"),
            "token-file" => flag.help("Read the token of an admin from a file, for the versions of replicas\n(default: the variable ETICKET_TOKEN)"),
            _ => flag,
        }))
        .arg(timeout.help("How long a server or a disk may take for one step"))
        .arg(output.help("table for people, json for programs"))
        .after_help(format!(
            "It checks what a server with the same --config, --data and variables would use, and may run beside it.\n\
             The exit code is 0 if nothing fails (there may be warnings), 1 if something fails, and 2 if the\n\
             arguments are invalid. docs/doctor.md describes each check.\n\n\
             Example:\n  {program} doctor --config eticket.toml --address 127.0.0.1:8088"
        ))
}

impl DoctorFlags {
    pub(super) fn from_matches(matches: &ArgMatches) -> Self {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let file = |name: &str| matches.get_one::<PathBuf>(name).cloned();
        let tls = ClientTlsConfig {
            ca_file: file("ca-file"),
            cert_file: file("cert-file"),
            key_file: file("key-file"),
            server_name: text("server-name"),
        };
        Self {
            address: text("address"),
            token_file: file("token-file"),
            tls,
            patience: Duration::from_secs(matches.get_one("timeout").copied().unwrap_or(3)),
            json: text("output").is_some_and(|output| output == JSON),
        }
    }

    /// Runs all checks and prints them. The exit code is 1 if one failed.
    ///
    /// # Errors
    /// If the process itself cannot run them.
    pub(super) fn run(
        self,
        program: &Program,
        sources: Result<Sources, config::Error>,
    ) -> Result<ExitCode, StartError> {
        let address = match self.running_server() {
            Ok(address) => address,
            Err(error) => {
                // The argument is wrong, not the configuration.
                let _ = error.report(&program.name);
                return Ok(ExitCode::from(USAGE));
            }
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(StartError::failed)?;
        let configured = sources.and_then(|sources| program.configure(&sources));
        let report = runtime.block_on(examine(configured, address, self.patience));
        // A disk or a server that hangs still occupies a thread.
        runtime.shutdown_background();
        super::ready::print(&if self.json { report.json() } else { report.text() });
        Ok(if report.has(Status::Fail) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn running_server(&self) -> Result<Option<Address>, StartError> {
        let Some(address) = &self.address else { return Ok(None) };
        let invalid = |what: String| StartError::Config(config::Error::new("--token-file", None, what));
        let credentials = Credentials::read(self.token_file.as_deref()).map_err(invalid)?;
        Address::parse(address, &self.tls, credentials).map(Some)
    }
}

/// A running check: its results, or what to say if it does not end.
struct Running {
    checks: JoinHandle<Vec<Check>>,
    unfinished: Check,
}

impl Running {
    /// Starts a check in a task of its own: a call to a disk that hangs blocks a thread, and no other check.
    fn start(
        (group, name): (Group, &'static str),
        subject: &str,
        checks: impl Future<Output = Vec<Check>> + Send + 'static,
    ) -> Self {
        let remedy = "look for what hangs: a disk, a name server or a server; or give it more time with --timeout";
        let unfinished = Check::fail(group, name, "it did not end in time", remedy).of(subject);
        Self { checks: tokio::spawn(checks), unfinished }
    }

    async fn finish(self, until: Instant) -> Vec<Check> {
        match tokio::time::timeout_at(until, self.checks).await {
            Ok(Ok(checks)) => checks,
            Ok(Err(error)) => {
                let remedy = "report this, with the output of `--output json`, to those who maintain eTicket";
                vec![Check {
                    detail: format!("the check itself failed: {error}"),
                    remedy: remedy.to_owned(),
                    ..self.unfinished
                }]
            }
            Err(_) => vec![self.unfinished],
        }
    }
}

async fn examine(
    configured: Result<ConfiguredProgram, config::Error>,
    address: Option<Address>,
    patience: Duration,
) -> Report {
    let until = Instant::now() + patience * STEPS + REST;
    let mut running = Vec::new();
    if let Some(address) = address {
        let what = (Group::Server, "server-connection");
        let subject = address.to_string();
        running.push(Running::start(what, &subject, async move { address.check(patience).await }));
    }
    let skipped = configured.is_err();
    let mut checks = vec![clock::check()];
    match configured {
        Ok(configured) => {
            checks.push(described(&configured));
            start(configured, patience, &mut running);
        }
        Err(error) => checks.push(wrong(&error)),
    }
    for each in running {
        checks.extend(each.finish(until).await);
    }
    Report::new(checks, skipped)
}

fn described(configured: &ConfiguredProgram) -> Check {
    let servers: Vec<_> = configured.servers.iter().map(|server| server.entry.spec.name).collect();
    Check::ok(Group::Configuration, "configuration", format!("valid for {}", servers.join(", ")))
}

/// The error is that of `--check-config`.
fn wrong(error: &config::Error) -> Check {
    let remedy = match error.key() {
        flag if flag.starts_with("--") => format!("correct {flag} or its file; docs/configuration.md lists all keys"),
        variable if variable.starts_with("ETICKET__") => format!("correct or unset the variable {variable}"),
        key => {
            let variable = format!("ETICKET__{}", key.to_uppercase().replace('.', "__"));
            format!("correct {key} in the file of --config, or the variable {variable}; then run doctor again")
        }
    };
    Check::fail(Group::Configuration, "configuration", error.to_string(), remedy)
}

/// Starts the checks of what the configuration names.
fn start(configured: ConfiguredProgram, patience: Duration, running: &mut Vec<Running>) {
    let ConfiguredProgram { process, servers, .. } = configured;
    let data = process.data.filter(|_| servers.iter().any(Server::is_stateful));
    if let Some(data) = data.clone() {
        running.push(Running::start((Group::Data, "data-folder"), "", data::check(data)));
    }
    let files = certificates::files(&servers, process.bus.ca_file.as_deref());
    running.push(Running::start((Group::Tls, "tls-certificate"), "", async move { certificates::check(&files) }));
    for scheme in authentication::schemes(&servers) {
        running.push(Running::start((Group::Auth, "jwks"), "", scheme.check(patience)));
    }
    for upstream in upstreams::configured(&servers) {
        let key = upstream.key.clone();
        running.push(Running::start((Group::Upstreams, "upstream"), &key, upstream.check(patience)));
    }
    let examine_bus = servers.iter().find_map(|server| server.entry.examine_bus);
    if let (Some(examine), Some(data)) = (examine_bus, data.clone()) {
        let bus = process.bus;
        let checks = async move { examine(&bus, &data, patience).await };
        running.push(Running::start((Group::Bus, "bus-connection"), "", checks));
    }
    for Server { entry, settings, configured, .. } in servers {
        let name = entry.spec.name;
        let examination = Examination { name, settings, data: data.clone(), patience };
        let checks = async move { configured.server.examine(&examination).await };
        running.push(Running::start((Group::Store, "store-connection"), name, checks));
    }
}

impl Server {
    fn is_stateful(&self) -> bool {
        self.entry.spec.store != config::urls::StoreSupport::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_key_is_named_with_its_variable() {
        let error = config::Error::new("ticket.listen", Some("x".to_owned()), "expected an address");
        let check = wrong(&error);
        assert_eq!((check.status, &check.detail), (Status::Fail, &error.to_string()));
        assert!(check.remedy.contains("ETICKET__TICKET__LISTEN"), "{check:?}");
        let flag = wrong(&config::Error::new("--config", Some("x".to_owned()), "the file is not TOML"));
        assert!(flag.remedy.starts_with("correct --config"), "{flag:?}");
        let variable = wrong(&config::Error::new("ETICKET____X", None, "expected a path"));
        assert!(variable.remedy.contains("unset the variable ETICKET____X"), "{variable:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_hangs_or_panics_is_a_failure_like_any_other() {
        let until = Instant::now() + Duration::from_secs(10);
        let what = (Group::Bus, "stream");
        let hangs = Running::start(what, "a", std::future::pending());
        let found = hangs.finish(until).await;
        assert_eq!((found[0].name, found[0].status, found[0].subject.as_str()), ("stream", Status::Fail, "a"));
        assert_eq!(Instant::now(), until, "it waits no longer");
        let panics = Running::start(what, "a", async { panic!("of a test") });
        let found = panics.finish(Instant::now() + Duration::from_secs(1)).await;
        assert!(found[0].status == Status::Fail && found[0].detail.contains("the check itself failed"), "{found:?}");
    }
}

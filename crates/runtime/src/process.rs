//! `main` of every binary: flags, configuration, log, data folder, bus, servers, ready line, signals, exit code.
//!
//! Several servers in one process differ from one only by configuration: they are built in the given order, each with
//! its own context, and stopped in reverse order, the bus last.

mod admin_command;
mod dev;
mod doctor;
mod flags;
mod help;
mod ready;
mod run;
pub mod service;
mod signals;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use eticket_base::telemetry;

pub use self::dev::Demo;
pub use self::service::{Deployment, ExamineBus, OpenBus, Service, ServiceFactory, entry};
use self::{
    dev::Dev,
    flags::Flags,
    help::Help,
    run::{ConfiguredProgram, Program},
};
use crate::config::load::Sources;
pub use eticket_base::exit::StartError;

/// Runs one server in a process of its own, as `eticket-<name>`.
#[must_use]
pub fn main<S: Service>() -> ExitCode {
    let name = format!("eticket-{}", S::NAME);
    start(Program { name, entries: vec![entry::<S>()], together: false }, &[], None)
}

/// Runs several servers in one process, started in this order and stopped in reverse order. The help lists `client_commands`,
/// names with their descriptions, which the caller runs itself. `demo` fills the servers of `dev`.
#[must_use]
pub fn main_of_several(
    program: &str,
    entries: Vec<ServiceFactory>,
    client_commands: &[(String, String)],
    demo: Demo,
) -> ExitCode {
    start(Program { name: program.to_owned(), entries, together: true }, client_commands, Some(demo))
}

/// The command line that [`main_of_several`] parses, for completion scripts and man pages.
#[must_use]
pub fn command_of_several(program: &str) -> clap::Command {
    flags::command(program, flags::Binary::Together)
        .about("The servers of eTicket in one process, and its client commands")
}

fn start(program: Program, client_commands: &[(String, String)], demo: Option<Demo>) -> ExitCode {
    let help = Help::for_program(&program).with_client_commands(client_commands);
    let flags = Flags::from_process(&program.name, program.binary(), &help);
    let sources = || Sources::from_process(flags.config.clone(), flags.data.clone());
    if let Some(command) = flags.admin_command {
        let done = command.run(|| program.listener(&sources()?));
        return done.unwrap_or_else(|error| error.report(&program.name));
    }
    if let Some(doctor) = flags.doctor {
        return doctor.run(&program, sources()).unwrap_or_else(|error| error.report(&program.name));
    }
    let dev = flags.dev.zip(demo).map(|(flags, demo)| Dev::new(flags, demo)).transpose();
    let configured = dev.and_then(|dev| configure(&program, sources()?, dev));
    let configured = match configured {
        Ok(configured) => configured,
        Err(error) => return error.report(&program.name),
    };
    if flags.check_config {
        return match configured.effective() {
            Ok(text) => {
                ready::print(&text);
                ExitCode::SUCCESS
            }
            Err(error) => StartError::from(error).report(&program.name),
        };
    }
    let code = match configured.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&program.name),
    };
    telemetry::flush_log();
    code
}

fn configure(program: &Program, mut sources: Sources, dev: Option<Dev>) -> Result<ConfiguredProgram, StartError> {
    let Some(dev) = dev else { return Ok(program.configure(&sources)?) };
    let servers: Vec<_> = program.entries.iter().map(|entry| entry.spec.name).collect();
    dev.adjust(&mut sources, &servers)?;
    let configured = program.configure(&sources)?;
    Dev::check(&configured)?;
    Ok(configured.with_dev(dev))
}

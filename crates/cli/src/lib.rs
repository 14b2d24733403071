//! The client commands of `eticket`, for users and admins: they call a running gateway from a terminal or a script.
//!
//! `args` is the command line. `connection` makes calls, `output` prints results, `error` prints failures and has the exit codes;
//! `commands` has a module for each group of commands. Results go to standard output, everything else to standard error.

mod args;
mod bulk;
mod commands;
mod connection;
mod demo;
mod error;
mod history_entry;
mod json;
mod money;
mod output;
mod resources;
mod time;

use std::{env, ffi::OsStr, process::ExitCode};

use clap::{Command, FromArgMatches};

pub use self::demo::demo;
use self::{args::Cli, error::Error};

/// Runs the command of this process's command line, if it is one of this crate's; `None` if the first argument is something else.
///
/// `servers` builds the rest of the command line of `eticket`, for completion scripts and man pages. Exits with 2 if the arguments
/// are invalid.
#[must_use]
pub fn run(servers: impl FnOnce() -> Command) -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let first = arguments.next()?;
    let name = if first == "help" { arguments.next()? } else { first };
    if !is_client_command(&name) {
        return None;
    }
    let matches = args::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    Some(match commands::run(cli.command, servers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    })
}

/// The names and descriptions of the commands, in the order of the help.
pub fn overview() -> Vec<(String, String)> {
    let about = |command: &Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    args::command().get_subcommands().map(|command| (command.get_name().to_owned(), about(command))).collect()
}

fn is_client_command(name: &OsStr) -> bool {
    args::command().get_subcommands().any(|command| name == command.get_name())
}

/// The outcome of a command.
type Outcome = Result<(), Error>;

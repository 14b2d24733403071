//! The text of `--help` after the flags: address, required keys, all keys with their defaults, exit codes, an example.

use super::{run::Program, service::ServiceFactory};
use crate::config::load;

const EXIT_CODES: &str = "\
Exit codes:
  0    the server stopped after SIGTERM, SIGINT or SIGHUP, or the admin command succeeded
  1    the server refused the admin command, status found a replica that is not ready, compare-view found
       differences, or a check of doctor failed
  2    the arguments are invalid
  69   a port, folder, file or store is not available, or no server responds to the admin command
  70   an internal error, or the server did not stop within shutdown.hard_cap_ms
  78   the configuration is invalid
  130  a second signal, at least one second after the first, ended the process at once";

/// The help texts of one binary.
pub(super) struct Help {
    pub(super) about: String,
    /// The text after the flags.
    pub(super) details: String,
    /// The list of client commands; empty if there are none.
    clients: String,
}

impl Help {
    /// Adds a list of client commands.
    #[must_use]
    pub(super) fn with_client_commands(mut self, commands: &[(String, String)]) -> Self {
        if !commands.is_empty() {
            let lines = commands.iter().map(|(name, about)| format!("  {name:<13} {about}\n"));
            self.clients = format!("Client commands, which call a running gateway:\n{}\n", lines.collect::<String>());
        }
        self
    }

    /// The text after the flags of `-h`.
    pub(super) fn short(&self) -> String {
        format!("{}Use --help for the default address, keys, exit codes and examples.", self.clients)
    }

    /// The text after the flags of `--help`.
    pub(super) fn long(&self) -> String {
        format!("{}{}", self.clients, self.details)
    }

    pub(super) fn for_program(program: &Program) -> Self {
        match &program.entries[..] {
            [entry] if !program.together => Self::alone(&program.name, entry),
            entries => Self::together(&program.name, entries),
        }
    }

    fn alone(program: &str, entry: &ServiceFactory) -> Self {
        let name = entry.spec.name;
        let keys = indented(&load::defaults(entry.spec));
        let needs =
            if entry.needs.is_empty() { String::new() } else { format!("Keys to set:\n{}\n\n", indented(entry.needs)) };
        let details = format!(
            "The server listens on {}; the key `listen` changes that.\n\n{needs}Keys and their defaults, in the format of the \
             TOML file for --config. Keys that end in _ms are in\nmilliseconds. Each key is also an environment variable: \
             limits.concurrency is\nETICKET__LIMITS__CONCURRENCY, which overrides the file.\n\n{keys}\n\n{EXIT_CODES}\n\n\
             Example:\n  {}",
            load::default_address(entry.spec),
            entry.example,
        );
        Self {
            about: format!("{program}: the {name} server of eTicket. {}", entry.about),
            details,
            clients: String::new(),
        }
    }

    fn together(program: &str, entries: &[ServiceFactory]) -> Self {
        let servers = entries.iter().rev().map(|entry| {
            let (spec, about) = (entry.spec, entry.about);
            format!("  {:<12} {:<15} {about}\n", spec.name, load::default_address(spec))
        });
        let details = format!(
            "Servers and their default addresses:\n{}\n{program} needs no other program: stores and bus are files in the data \
             folder (default: ./eticket-data).\n\nIn the TOML file for --config, the keys of a server are in a section with its \
             name, such as\n`listen = \"127.0.0.1:8082\"` in `[ticket]`. At the root, auth, limits, shutdown, store and tls apply to \
             all servers;\ndata, admin, bus, log and telemetry apply to the process. Keys that end in _ms are in milliseconds. Each key is \
             also an\nenvironment variable, which overrides the file: ticket.listen is ETICKET__TICKET__LISTEN.\n\n\
             `{program} --check-config` prints the keys that are set or have a default, and their values.\n\n{EXIT_CODES}\n\nExample:\n  {program} --data \
             ./eticket-data\n  {program} doctor --data ./eticket-data\n  {program} admin parked --address 127.0.0.1:8088",
            servers.collect::<String>(),
        );
        Self { about: format!("{program}: all servers of eTicket in one process"), details, clients: String::new() }
    }
}

fn indented(text: &str) -> String {
    let lines = text.trim_end().lines();
    lines.map(|line| if line.is_empty() { String::new() } else { format!("  {line}") }).collect::<Vec<_>>().join("\n")
}

//! What `--help` says beyond the flags: which server this is, where it listens, what it needs, its keys, exit codes, an example.

use super::{run::Program, service::Entry};
use crate::config::load;

const EXIT_CODES: &str = "\
Exit codes:
  0    it has stopped after SIGTERM, SIGINT or SIGHUP, or done what an operator asked for
  1    an operator's command was refused, or found differences
  2    the command line is wrong
  69   a port, folder, file or store cannot be had, or nobody answers an operator
  70   a fault of the program, or it did not stop within shutdown.hard_cap_ms
  78   the configuration is wrong
  130  it was ended by another signal, a second or more after the first";

/// The texts of one binary.
pub(super) struct Help {
    pub(super) about: String,
    /// Stands after the flags.
    pub(super) details: String,
}

impl Help {
    pub(super) fn of(program: &Program) -> Self {
        match &program.entries[..] {
            [entry] if !program.together => Self::alone(&program.name, entry),
            entries => Self::together(&program.name, entries),
        }
    }

    fn alone(program: &str, entry: &Entry) -> Self {
        let name = entry.shape.name;
        let keys = indented(&load::defaults(entry.shape));
        let needs =
            if entry.needs.is_empty() { String::new() } else { format!("Needs:\n{}\n\n", indented(entry.needs)) };
        let details = format!(
            "It listens on {} unless `listen` says otherwise.\n\n{needs}Keys and their defaults, as in the file that --config \
             names (TOML). A key is also an environment\nvariable, as ETICKET__LIMITS__CONCURRENCY:\n{keys}\n\n{EXIT_CODES}\n\n\
             Example:\n  {}",
            load::usual_address(entry.shape),
            entry.example,
        );
        Self { about: format!("{program}: the {name} server of eTicket. {}", entry.about), details }
    }

    fn together(program: &str, entries: &[Entry]) -> Self {
        let servers = entries.iter().rev().map(|entry| {
            let (shape, about) = (entry.shape, entry.about);
            format!("  {:<12} {:<15} {about}\n", shape.name, load::usual_address(shape))
        });
        let details = format!(
            "Servers, where they listen, and what they do:\n{}\nIt needs nothing: state and bus are files in the data folder, \
             ./eticket-data unless told otherwise.\n\nThe keys of each server stand under its name, and those at the root hold for \
             all, as in the file that\n--config names (TOML): `[ticket]` and `listen = \"127.0.0.1:8082\"`. A key is also an \
             environment\nvariable, as ETICKET__TICKET__LISTEN. `{program} --check-config` prints all keys and their \
             values.\n\n{EXIT_CODES}\n\nExample:\n  {program} --data ./eticket-data\n  {program} admin parked --address \
             127.0.0.1:8088",
            servers.collect::<String>(),
        );
        Self { about: format!("{program}: the servers of eTicket in one process"), details }
    }
}

fn indented(text: &str) -> String {
    let lines = text.trim_end().lines();
    lines.map(|line| if line.is_empty() { String::new() } else { format!("  {line}") }).collect::<Vec<_>>().join("\n")
}

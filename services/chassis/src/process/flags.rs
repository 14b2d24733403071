//! Flags of the command line, the same for all binaries.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) check_config: bool,
}

impl Flags {
    /// Those of this process. Ends it where they are wrong, or ask for help or the version.
    pub(crate) fn of_process(program: &str, together: bool, has_data: bool) -> Self {
        Self::of(&command(program, together, has_data).get_matches())
    }

    fn of(matches: &ArgMatches) -> Self {
        Self {
            config: matches.get_one("config").cloned(),
            // Only there for servers that keep something.
            data: matches.try_get_one("data").ok().flatten().cloned(),
            check_config: matches.get_flag("check-config"),
        }
    }
}

fn command(program: &str, together: bool, has_data: bool) -> Command {
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf)).global(true);
    let mut command = Command::new("eticket")
        .display_name(program.to_owned())
        .bin_name(program.to_owned())
        .version(env!("CARGO_PKG_VERSION"))
        .about(if together { "eTicket in one process" } else { "One server of eTicket" })
        .after_help("Every key of the configuration is also an environment variable, as ETICKET__ADMIN__LISTEN.")
        .arg(path("config").value_name("FILE").help("Read configuration from this TOML file"))
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Say what is wrong, or print the configuration in force, and exit"),
        );
    if has_data {
        command = command.arg(path("data").value_name("DIR").help("Keep files in this folder"));
    }
    if together {
        command = command.subcommand(Command::new("serve").about("Run all servers, as without a subcommand"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(together: bool, has_data: bool, arguments: &[&str]) -> Result<Flags, clap::Error> {
        let arguments = std::iter::once("eticket").chain(arguments.iter().copied());
        command("eticket", together, has_data).try_get_matches_from(arguments).map(|matches| Flags::of(&matches))
    }

    #[test]
    fn flags_are_read_before_and_after_serve() {
        let expected = Flags { config: Some("c".into()), data: Some("d".into()), check_config: true };
        for arguments in [
            &["--config", "c", "--data", "d", "--check-config"][..],
            &["serve", "--config", "c", "--data", "d", "--check-config"],
            &["--config", "c", "serve", "--data", "d", "--check-config"],
        ] {
            assert_eq!(parse(true, true, arguments).expect("valid"), expected);
        }
        let nothing = Flags { config: None, data: None, check_config: false };
        assert_eq!(parse(false, false, &[]).expect("valid"), nothing);
    }

    #[test]
    fn a_server_without_files_has_no_data_folder() {
        assert!(parse(false, false, &["--data", "d"]).is_err());
        assert!(parse(false, true, &["serve"]).is_err());
    }
}

//! The flags of the command line. They are the same for all binaries.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{
    admin_command::{self, AdminCommand},
    dev::{self, DevFlags},
    doctor::{self, DoctorFlags},
    help::Help,
};

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) config: Option<PathBuf>,
    pub(crate) data: Option<PathBuf>,
    pub(crate) check_config: bool,
    /// The admin command for a running server; `None` to run a server.
    pub(crate) admin_command: Option<AdminCommand>,
    /// `dev` instead of `serve`.
    pub(crate) dev: Option<DevFlags>,
    /// `doctor` instead of a server.
    pub(crate) doctor: Option<DoctorFlags>,
}

impl Flags {
    /// Parses the arguments of this process. Exits if they are invalid or ask for help or the version.
    pub(crate) fn from_process(program: &str, binary: Binary, help: &Help) -> Self {
        let command = command(program, binary).about(help.about.clone());
        let command = command.after_help(help.short()).after_long_help(help.long());
        Self::from_matches(&command.get_matches(), binary)
    }

    fn from_matches(matches: &ArgMatches, binary: Binary) -> Self {
        let admin_command = match binary {
            Binary::Together => {
                matches.subcommand_matches(ADMIN).and_then(|matches| AdminCommand::from_matches(matches, None))
            }
            Binary::Service(name) => AdminCommand::from_matches(matches, Some(name)),
            Binary::Gateway => None,
        };
        let dev = match binary {
            Binary::Together => matches.subcommand_matches(dev::NAME).map(DevFlags::from_matches),
            Binary::Service(_) | Binary::Gateway => None,
        };
        Self {
            admin_command,
            dev,
            doctor: matches.subcommand_matches(doctor::NAME).map(DoctorFlags::from_matches),
            config: matches.get_one("config").cloned(),
            // Only stateful servers have this flag.
            data: matches.try_get_one("data").ok().flatten().cloned(),
            check_config: matches.get_flag("check-config"),
        }
    }
}

/// The kind of a binary, which decides its flags and subcommands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    /// All servers.
    Together,
    /// One server with a data folder and operations.
    Service(&'static str),
    /// One server without a data folder and operations.
    Gateway,
}

const ADMIN: &str = "admin";

pub(super) fn command(program: &str, binary: Binary) -> Command {
    let together = binary == Binary::Together;
    let path = |name: &'static str| Arg::new(name).long(name).value_parser(value_parser!(PathBuf)).global(true);
    let mut command = Command::new("eticket")
        .display_name(program.to_owned())
        .bin_name(program.to_owned())
        .version(env!("CARGO_PKG_VERSION"))
        // The details have line breaks of their own, and keys that must not be broken.
        .term_width(0)
        .arg(path("config").value_name("FILE").help("Read the configuration from this TOML file"))
        .arg(
            Arg::new("check-config")
                .long("check-config")
                .action(ArgAction::SetTrue)
                .global(true)
                .help("Check the configuration and exit; print it without secrets, or the first error"),
        );
    if binary != Binary::Gateway {
        command = command.arg(path("data").value_name("DIR").help("Store all files in this folder"));
    }
    if together {
        let admin = Command::new(ADMIN).about("Run an admin command at the services, through a running gateway");
        let flags = admin_command::connection_flags().into_iter().map(|flag| flag.global(true));
        let admin = admin.subcommand_required(true).args(flags);
        let admin = admin.subcommands(admin_command::commands(None));
        let serve = Command::new("serve").about("Run all servers (the default)");
        command = command.subcommand(serve).subcommand(dev::command()).subcommand(admin);
    }
    if let Binary::Service(name) = binary {
        command = command.subcommands(admin_command::commands(Some(name)));
    }
    command.subcommand(doctor::command(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(binary: Binary, arguments: &[&str]) -> Result<Flags, clap::Error> {
        let arguments = std::iter::once("eticket").chain(arguments.iter().copied());
        command("eticket", binary).try_get_matches_from(arguments).map(|matches| Flags::from_matches(&matches, binary))
    }

    #[test]
    fn flags_are_read_before_and_after_serve() {
        let expected = Flags {
            config: Some("c".into()),
            data: Some("d".into()),
            check_config: true,
            admin_command: None,
            dev: None,
            doctor: None,
        };
        for arguments in [
            &["--config", "c", "--data", "d", "--check-config"][..],
            &["serve", "--config", "c", "--data", "d", "--check-config"],
            &["--config", "c", "serve", "--data", "d", "--check-config"],
        ] {
            assert_eq!(parse(Binary::Together, arguments).expect("valid"), expected);
        }
        let nothing =
            Flags { config: None, data: None, check_config: false, admin_command: None, dev: None, doctor: None };
        assert_eq!(parse(Binary::Gateway, &[]).expect("valid"), nothing);
    }

    #[test]
    fn dev_belongs_to_all_servers_together() {
        let dev = |arguments: &[&str]| parse(Binary::Together, arguments).expect("valid").dev;
        assert_eq!(dev(&["dev"]), Some(DevFlags { retain: false, open: true, tokens: false }));
        let flags = DevFlags { retain: true, open: false, tokens: true };
        assert_eq!(dev(&["dev", "--retain", "--no-open", "--tokens"]), Some(flags));
        assert_eq!(dev(&["serve"]), None);
        assert!(parse(Binary::Service("ticket"), &["dev"]).is_err());
    }

    #[test]
    fn every_binary_has_the_doctor() {
        for binary in [Binary::Together, Binary::Service("ticket"), Binary::Gateway] {
            let flags = parse(binary, &["doctor", "--config", "c", "--output", "json"]).expect("valid");
            assert!(flags.doctor.is_some() && flags.admin_command.is_none(), "{binary:?}");
            assert_eq!(flags.config, Some("c".into()));
            for wrong in [&["doctor", "--output", "xml"][..], &["doctor", "--timeout", "0"], &["doctor", "more"]] {
                assert_eq!(parse(binary, wrong).expect_err("refused").exit_code(), 2, "{wrong:?}");
            }
        }
    }

    #[test]
    fn a_server_without_files_has_no_data_folder() {
        assert!(parse(Binary::Gateway, &["--data", "d"]).is_err());
        assert!(parse(Binary::Service("ticket"), &["serve"]).is_err());
    }

    #[test]
    fn admin_commands_go_to_a_service_or_through_the_gateway() {
        let is_admin = |binary, arguments: &[&str]| parse(binary, arguments).expect("valid").admin_command.is_some();
        assert!(is_admin(Binary::Service("ticket"), &["republish"]));
        assert!(is_admin(Binary::Together, &["admin", "republish"]));
        let address = |arguments: &[&str]| {
            parse(Binary::Together, arguments)
                .expect("valid")
                .admin_command
                .expect("a command")
                .address
                .expect("an address")
        };
        assert_eq!(address(&["admin", "--address", "h:1", "unsettled"]), "h:1");
        assert_eq!(address(&["admin", "unsettled", "--address", "h:1"]), "h:1");
        assert!(!is_admin(Binary::Together, &["serve"]));
        assert!(parse(Binary::Together, &["admin"]).is_err());
        assert!(parse(Binary::Gateway, &["republish"]).is_err());
    }
}

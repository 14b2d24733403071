//! The command line of the client commands.

mod help;
mod history;
mod token;

use std::{path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Command, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use eticket_proto::{query::WaitFor, reservation, ticket};
use uuid::Uuid;

pub(crate) use self::{
    history::History,
    token::{Role, Token},
};
use crate::{output::Format, time::Zone};

/// The address of a gateway without further configuration.
pub(crate) const DEFAULT_ADDRESS: &str = "127.0.0.1:8088";

/// On a wider terminal, help is no wider.
const WIDEST_HELP: usize = 100;

/// The exit codes of client commands; README has the same table.
const EXIT_CODES: &str = "Exit codes:
  0    success
  1    refused: by a rule, an unknown id, an invalid field or a missing right;
       or health found a server that is not serving
  2    invalid arguments, or an invalid file for register
  69   no server responds, it is not available, or the time is over
  70   an internal error, of the server or of this program
  78   invalid configuration: the address, the token or a certificate
  130  interrupted";

#[derive(Debug, Parser)]
#[command(name = "eticket", version, about = "The client commands of eTicket", subcommand_required = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// List tickets with their price and holder
    #[command(after_help = "Example:\n  eticket tickets --status available --from 2099-01-01 --output csv")]
    Tickets(Tickets),
    /// Show one ticket with its price and holder
    #[command(after_help = "Example:\n  eticket view seat-12 --wait settled")]
    View(View),
    /// List what has happened to a ticket, the newest first
    #[command(after_help = "Example:\n  eticket history seat-12 --limit 10")]
    History(History),
    /// Follow changes of tickets
    #[command(after_help = "Example:\n  eticket watch seat-12 seat-13 --output json")]
    Watch(Watch),
    /// Show what a ticket would cost
    #[command(after_help = "Example:\n  eticket quote --start '2099-01-07 19:00' --grade vip")]
    Quote(Quote),
    /// Reserve a ticket
    #[command(after_help = "Example:\n  eticket reserve seat-12 --user alice --grade gold --wait settled")]
    Reserve(Reserve),
    /// Cancel reservations
    #[command(after_help = "Example:\n  eticket cancel 01a2b3c4-0000-7000-8000-000000000001")]
    Cancel(Cancel),
    /// List reservations
    #[command(after_help = "Example:\n  eticket reservations --user alice --status reserved")]
    Reservations(Reservations),
    /// Register one ticket, or the tickets of a file
    #[command(after_help = help::REGISTER)]
    Register(Register),
    /// Change the title or the times of a ticket
    #[command(after_help = "Example:\n  eticket update seat-12 --end '2099-01-07 22:30' --wait applied")]
    Update(Update),
    /// Withdraw tickets for good
    #[command(after_help = "Example:\n  eticket withdraw --all-matching 'tour-*' --dry-run")]
    Withdraw(Withdraw),
    /// Show the pricing policy in force
    #[command(after_help = "Example:\n  eticket policy --output json")]
    Policy(Plain),
    /// Show which servers are serving; exits with 1 if one is not
    #[command(after_help = "Example:\n  eticket health --timeout 2s")]
    Health(Plain),
    /// Print a token for development, with a key that this command makes
    #[command(after_help = token::HELP)]
    Token(Token),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  eticket completion bash > ~/.local/share/bash-completion/completions/eticket")]
    Completion {
        /// The shell
        #[arg(value_name = "SHELL", value_parser = clap::builder::EnumValueParser::<Shell>::new())]
        shell: Shell,
    },
    /// Write the man pages into a folder
    #[command(after_help = "Example:\n  eticket man ~/.local/share/man/man1")]
    Man {
        /// The folder; it is created if it does not exist
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

/// The flags of every command that calls a server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// How to print the result
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT", help_heading = "Output")]
    pub(crate) output: Format,
    /// Zone of times: local, UTC or a name such as Asia/Seoul
    #[arg(long, default_value = "local", value_name = "ZONE", help_heading = "Output")]
    pub(crate) zone: Zone,
    /// The gateway, or its http:// or https:// URL
    #[arg(
        long,
        env = "ETICKET_ADDRESS",
        hide_env_values = true,
        default_value = DEFAULT_ADDRESS,
        value_name = "HOST:PORT",
        help_heading = "Connection"
    )]
    pub(crate) address: String,
    /// Read the bearer token from a file, not ETICKET_TOKEN
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub(crate) token_file: Option<PathBuf>,
    /// With https: trust the authorities in this PEM file only
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Give up after this time: 500ms, 10s or 2m
    #[arg(
        long,
        default_value = "10s",
        value_name = "TIME",
        value_parser = crate::time::parse_duration,
        help_heading = "Connection"
    )]
    pub(crate) timeout: Duration,
    /// Refused with a hint: see `connection::token`.
    #[arg(long, hide = true, num_args = 0..=1, value_name = "TOKEN", action = ArgAction::Append)]
    pub(crate) token: Option<Vec<String>>,
}

/// The flags of every command that changes something.
#[derive(Debug, Clone, Args)]
pub(crate) struct Effect {
    /// Wait until the view shows it, or until all reactions are done
    #[arg(long, value_enum, value_name = "FOR")]
    pub(crate) wait: Option<Wait>,
    /// A UUID that makes it safe to repeat the command
    #[arg(long, value_name = "UUID", value_parser = request_id)]
    pub(crate) request_id: Option<Uuid>,
}

fn request_id(text: &str) -> Result<Uuid, String> {
    let id = Uuid::try_parse(text).ok().filter(|id| !id.is_nil());
    id.ok_or_else(|| "expected a UUID other than the nil UUID".to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// The view includes the command
    Applied,
    /// Also everything that other services do because of it
    Settled,
}

impl Wait {
    pub(crate) fn to_proto(self) -> WaitFor {
        match self {
            Self::Applied => WaitFor::Applied,
            Self::Settled => WaitFor::Settled,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Grade {
    Silver,
    Gold,
    Vip,
}

/// The number of a grade; unspecified without one.
pub(crate) fn grade_number(grade: Option<Grade>) -> i32 {
    let grade = grade.map_or(reservation::UserGrade::Unspecified, |grade| match grade {
        Grade::Silver => reservation::UserGrade::Silver,
        Grade::Gold => reservation::UserGrade::Gold,
        Grade::Vip => reservation::UserGrade::Vip,
    });
    grade.into()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TicketStatus {
    Available,
    Reserved,
    Expired,
    Withdrawn,
}

impl TicketStatus {
    pub(crate) fn to_proto(self) -> ticket::TicketStatus {
        match self {
            Self::Available => ticket::TicketStatus::Available,
            Self::Reserved => ticket::TicketStatus::Reserved,
            Self::Expired => ticket::TicketStatus::Expired,
            Self::Withdrawn => ticket::TicketStatus::Withdrawn,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReservationStatus {
    Reserved,
    Cancelled,
    Rejected,
}

impl ReservationStatus {
    pub(crate) fn to_proto(self) -> reservation::ReservationStatus {
        match self {
            Self::Reserved => reservation::ReservationStatus::Reserved,
            Self::Cancelled => reservation::ReservationStatus::Cancelled,
            Self::Rejected => reservation::ReservationStatus::Rejected,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Plain {
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Tickets {
    /// Only tickets with this status
    #[arg(long, value_enum)]
    pub(crate) status: Option<TicketStatus>,
    /// Only tickets that this user holds
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Only tickets that start at this time or later
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<String>,
    /// Only tickets that start before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<String>,
    /// Such as 'discounted_price desc, ticket_id'
    #[arg(long, value_name = "FIELDS")]
    pub(crate) order_by: Option<String>,
    /// At most so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct View {
    /// The id of the ticket
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// Wait until the ticket is in the view, or until it is settled
    #[arg(long, value_enum, value_name = "FOR")]
    pub(crate) wait: Option<Wait>,
    /// With --wait: wait for the command with this token
    #[arg(long, value_name = "TOKEN", requires = "wait")]
    pub(crate) consistency_token: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The ids of the tickets; all tickets without one
    #[arg(value_name = "TICKET")]
    pub(crate) tickets: Vec<String>,
    /// End after so many changes; the tickets as they are count too
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Quote {
    /// When the ticket starts: '2099-01-07 19:00' or RFC 3339
    #[arg(long, value_name = "TIME")]
    pub(crate) start: String,
    /// The grade of the user
    #[arg(long, value_enum, ignore_case = true)]
    pub(crate) grade: Option<Grade>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Reserve {
    /// The id of the ticket
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// The user; with a token: the user of the token
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// The grade of the user; with a token: that of the token
    #[arg(long, value_enum, ignore_case = true)]
    pub(crate) grade: Option<Grade>,
    #[command(flatten)]
    pub(crate) effect: Effect,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The ids of the reservations
    #[arg(value_name = "RESERVATION", required = true)]
    pub(crate) reservations: Vec<String>,
    /// Show what would be cancelled, and cancel nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) effect: Effect,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Reservations {
    /// Only those of this user, the newest first, with their tickets
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Only those of this ticket
    #[arg(long, value_name = "TICKET")]
    pub(crate) ticket: Option<String>,
    /// Only those with this status
    #[arg(long, value_enum)]
    pub(crate) status: Option<ReservationStatus>,
    /// At most so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The id; without it, the server makes one
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// The name shown to users
    #[arg(long, value_name = "TEXT", required_unless_present = "file")]
    pub(crate) title: Option<String>,
    /// When it starts: '2099-01-07 19:00' or RFC 3339
    #[arg(long, value_name = "TIME", required_unless_present = "file")]
    pub(crate) start: Option<String>,
    /// When it ends
    #[arg(long, value_name = "TIME", required_unless_present = "file")]
    pub(crate) end: Option<String>,
    /// Register the tickets of a CSV file; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["id", "title", "start", "end", "request_id"])]
    pub(crate) file: Option<PathBuf>,
    /// With --file: show what would be registered
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) effect: Effect,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[group(id = "change", required = true, multiple = true, args = ["title", "start", "end"])]
pub(crate) struct Update {
    /// The id of the ticket
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// The new name
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// The new start
    #[arg(long, value_name = "TIME")]
    pub(crate) start: Option<String>,
    /// The new end
    #[arg(long, value_name = "TIME")]
    pub(crate) end: Option<String>,
    /// Change it only if it still has this etag
    #[arg(long, value_name = "ETAG")]
    pub(crate) etag: Option<String>,
    #[command(flatten)]
    pub(crate) effect: Effect,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["tickets", "all_matching"])]
pub(crate) struct Withdraw {
    /// The ids of the tickets
    #[arg(value_name = "TICKET")]
    pub(crate) tickets: Vec<String>,
    /// Every ticket whose id matches; * is any text, ? any character
    #[arg(long, value_name = "PATTERN", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) all_matching: Option<String>,
    /// Show what would be withdrawn, and withdraw nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --all-matching: do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
    /// Withdraw it only if it still has this etag
    #[arg(long, value_name = "ETAG", conflicts_with = "all_matching")]
    pub(crate) etag: Option<String>,
    #[command(flatten)]
    pub(crate) effect: Effect,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// The commands of this crate, with the exit codes in the long help of each.
pub(crate) fn command() -> Command {
    let with_codes = |command: Command| {
        let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        command.after_long_help(format!("{example}\n\n{EXIT_CODES}"))
    };
    Cli::command().max_term_width(WIDEST_HELP).mut_subcommands(with_codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Task, clap::Error> {
        Cli::try_parse_from(std::iter::once("eticket").chain(arguments.iter().copied())).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_has_no_contradiction() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns_and_has_an_example() {
        for sub in command().get_subcommands().cloned() {
            let mut sub = sub.term_width(80);
            for help in [sub.render_help().to_string(), sub.render_long_help().to_string()] {
                assert!(help.contains("Example"), "{} has no example", sub.get_name());
                for line in help.lines() {
                    let width = console::measure_text_width(line);
                    assert!(width <= 80, "{}: {width} columns: {line}", sub.get_name());
                }
            }
            assert!(sub.render_long_help().to_string().contains("Exit codes:"));
        }
    }

    #[test]
    fn the_default_address_is_that_of_the_gateway() {
        let defaults = include_str!("../../../gateway-grpc-web/src/defaults.toml");
        assert!(defaults.lines().any(|line| line == format!("listen = {DEFAULT_ADDRESS:?}")), "{defaults}");
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused() {
        for wrong in [
            &["register", "--file", "f", "--title", "t"][..],
            &["register", "--title", "t", "--start", "s"],
            &["update", "t"],
            &["withdraw"],
            &["withdraw", "t", "--all-matching", "t*"],
            &["withdraw", "--all-matching", ""],
            &["cancel"],
            &["view", "t", "--consistency-token", "x"],
            &["reserve", "t", "--grade", "bronze"],
            &["reserve", "t", "--request-id", "00000000-0000-0000-0000-000000000000"],
            &["tickets", "--output", "yaml"],
            &["tickets", "--zone", "Mars/Olympus"],
            &["tickets", "--timeout", "soon"],
            &["tickets", "--limit", "0"],
        ] {
            assert_eq!(parse(wrong).expect_err(&wrong.join(" ")).exit_code(), 2);
        }
    }

    #[test]
    fn grades_are_read_in_any_case() {
        for text in ["vip", "VIP", "Vip"] {
            let task = parse(&["reserve", "t", "--user", "u", "--grade", text]).expect("valid");
            assert!(matches!(task, Task::Reserve(Reserve { grade: Some(Grade::Vip), .. })), "{text}");
        }
    }
}

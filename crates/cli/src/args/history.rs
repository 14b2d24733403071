//! The arguments of `history`.

use clap::Args;

use super::Common;

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The id of the ticket
    #[arg(value_name = "TICKET")]
    pub(crate) ticket: String,
    /// At most so many
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    #[command(flatten)]
    pub(crate) common: Common,
}

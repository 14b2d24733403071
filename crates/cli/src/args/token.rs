//! The flags of `token`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use eticket_auth::development::{AUDIENCE, ISSUER};

use super::Grade;

pub(super) const HELP: &str = "Examples:
  eticket token --user alice --role user --grade vip > alice.token
  eticket reserve seat-12 --token-file alice.token

The public key goes to jwks.json in the folder of --keys. Start the servers
with it; in production, use the keys of your identity provider:
  ETICKET__AUTH__MODE=jwt ETICKET__AUTH__JWKS=./eticket-data/keys/jwks.json \\
  ETICKET__AUTH__ISSUER=eticket-development ETICKET__AUTH__AUDIENCE=eticket \\
  eticket";

/// `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// The user, claim sub: 1 to 128 characters
    #[arg(long, alias = "sub", value_name = "USER")]
    pub(crate) user: eticket_proto::ids::UserId,
    /// A role, claim eticket_roles; repeat it for several
    #[arg(long = "role", alias = "roles", value_name = "ROLE", value_delimiter = ',', default_value = "user")]
    pub(crate) roles: Vec<Role>,
    /// The grade, claim eticket_grade; without one a user is silver
    #[arg(long, value_name = "GRADE", value_enum, ignore_case = true)]
    pub(crate) grade: Option<Grade>,
    /// The issuer, claim iss
    #[arg(long, value_name = "TEXT", default_value = ISSUER)]
    pub(crate) issuer: String,
    /// The audience, claim aud
    #[arg(long, value_name = "TEXT", default_value = AUDIENCE)]
    pub(crate) audience: String,
    /// How long the token is valid: 90s, 30m or 8h
    #[arg(long, alias = "ttl", value_name = "TIME", default_value = "8h", value_parser = crate::time::parse_lifetime)]
    pub(crate) lifetime: Duration,
    /// The folder of the key; the key is made if it does not exist
    #[arg(long, value_name = "DIR", default_value = "./eticket-data/keys")]
    pub(crate) keys: PathBuf,
}

/// A role of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Registers tickets and operates the services
    Admin,
    /// Reserves tickets and cancels reservations
    User,
}

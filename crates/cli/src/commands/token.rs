//! `token`: signs a token for development.

use std::io::Write;

use eticket_auth::development::{DevelopmentKey, KeyError, NewToken};
use eticket_base::telemetry;

use crate::{
    Outcome,
    args::{Grade, Role, Token},
    error::Error,
};

/// Prints the token alone on standard output, so that it can go to a file or a variable.
pub(super) fn run(args: Token) -> Outcome {
    let key = DevelopmentKey::open(&args.keys).map_err(unusable)?;
    let roles = args.roles.iter().map(|role| match role {
        Role::Admin => "admin",
        Role::User => "user",
    });
    let grade = args.grade.map(|grade| match grade {
        Grade::Silver => "SILVER",
        Grade::Gold => "GOLD",
        Grade::Vip => "VIP",
    });
    let token = key.sign(&NewToken {
        subject: args.user.to_string(),
        roles: roles.map(str::to_owned).collect(),
        grade: grade.map(str::to_owned),
        issuer: args.issuer.clone(),
        audience: args.audience.clone(),
        lifetime: args.lifetime,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", token.map_err(unusable)?)?;
    out.flush()?;
    let (jwks, issuer, audience) = (key.jwks().display(), args.issuer, args.audience);
    telemetry::say(&format!(
        "For development only. Servers accept this token with auth.mode = \"jwt\", auth.jwks = \"{jwks}\", auth.issuer = \
         \"{issuer}\", auth.audience = \"{audience}\".\n"
    ));
    Ok(())
}

fn unusable(error: KeyError) -> Error {
    Error::config(error.to_string())
}

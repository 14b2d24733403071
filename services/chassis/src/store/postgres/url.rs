//! What a URL of PostgreSQL says. sqlx warns of a parameter that it does not know, with its value, and goes on without: here a
//! misspelt one is refused, because `sslmod=verify-full` would look as if it worked.

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

const KNOWN: [&str; 11] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "application_name",
    "options",
    "host",
    "port",
    "user",
    "password",
    "dbname",
];

/// How to connect.
///
/// # Errors
/// What is wrong with the URL, without anything of its password.
pub fn options(url: &str) -> Result<PgConnectOptions, String> {
    let names: Vec<&str> = url
        .split_once('?')
        .map_or("", |(_, query)| query)
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
        .collect();
    if let Some(unknown) = names.iter().find(|name| !KNOWN.contains(name)) {
        return Err(format!("no such parameter: {unknown}; known here: {}", KNOWN.join(", ")));
    }
    let options = PgConnectOptions::from_str(url).map_err(|error| error.to_string())?;
    if options.get_host().contains(',') {
        return Err("only one host can be named".to_owned());
    }
    // As libpq has it, and unlike sqlx: who names a root certificate wants the server's certificate checked.
    Ok(match options.get_ssl_mode() {
        PgSslMode::Require if names.contains(&"sslrootcert") => options.ssl_mode(PgSslMode::VerifyCa),
        _ => options,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_certificate_that_is_named_is_used() {
        let mode = |url: &str| options(url).expect("a URL").get_ssl_mode();
        assert!(matches!(mode("postgres://db/e?sslmode=require"), PgSslMode::Require));
        assert!(matches!(mode("postgres://db/e?sslmode=require&sslrootcert=/ca.pem"), PgSslMode::VerifyCa));
        assert!(matches!(mode("postgres://db/e?sslmode=verify-full&sslrootcert=/ca.pem"), PgSslMode::VerifyFull));
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        for url in [
            "postgres://db/e?sslmod=require",
            "postgres://db/e?sslmode=verify_full",
            "postgres://db/e?target_session_attrs=read-write",
            "postgres://one,two/e",
            "postgres://u:pass/word@db/e",
            "postgres://db:port/e",
        ] {
            let reason = options(url).expect_err(url);
            assert!(!reason.contains("pass/word"), "{reason}");
        }
    }
}

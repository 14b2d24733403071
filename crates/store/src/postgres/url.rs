//! Parses the URL of a PostgreSQL store. sqlx only logs a warning for an unknown parameter, with its value. Here it is
//! refused: a misspelt `sslmod=verify-full` would look as if it worked.

use std::{fs, path::Path, str::FromStr};

use eticket_base::config::{regular_file, text_file};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::Url;

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

/// Parses the URL.
///
/// # Errors
/// Describes the problem without any part of the password.
pub fn options(url: &str) -> Result<PgConnectOptions, String> {
    let names: Vec<&str> = url
        .split_once('?')
        .map_or("", |(_, query)| query)
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
        .collect();
    if let Some(unknown) = names.iter().find(|name| !KNOWN.contains(name)) {
        return Err(format!("unknown parameter {unknown}; expected one of {}", KNOWN.join(", ")));
    }
    let options = without_marks(url, PgConnectOptions::from_str(url).map_err(|error| error.to_string())?)?;
    if options.get_host().contains(',') {
        return Err("expected only one host".to_owned());
    }
    // Like libpq, unlike sqlx: a root certificate implies verification of the certificate of the server.
    Ok(match options.get_ssl_mode() {
        PgSslMode::Require if names.contains(&"sslrootcert") => options.ssl_mode(PgSslMode::VerifyCa),
        _ => options,
    })
}

/// The library would ignore a certificate or key after a byte order mark, so files with one are read here.
fn without_marks(url: &str, options: PgConnectOptions) -> Result<PgConnectOptions, String> {
    let Ok(url) = Url::parse(url) else { return Ok(options) };
    url.query_pairs().try_fold(options, |options, (name, path)| {
        if !matches!(&*name, "sslrootcert" | "sslcert" | "sslkey") {
            return Ok(options);
        }
        regular_file::check_if_present(Path::new(&*path)).map_err(|problem| format!("{name}={path}: {problem}"))?;
        let bytes = fs::read(&*path).unwrap_or_default();
        let text = || text_file::decode(bytes.clone()).unwrap_or_default();
        Ok(match &*name {
            _ if !text_file::has_mark(&bytes) => options,
            "sslrootcert" => options.ssl_root_cert_from_pem(text().into_bytes()),
            "sslcert" => options.ssl_client_cert_from_pem(text()),
            "sslkey" => options.ssl_client_key_from_pem(text()),
            _ => options,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_no_regular_file_is_refused() {
        for name in ["sslrootcert", "sslcert", "sslkey"] {
            let refused = options(&format!("postgres://db/e?{name}=/dev/zero")).expect_err("an endless device");
            assert!(refused.contains(name) && refused.contains("no regular file"), "{refused}");
        }
    }

    #[test]
    fn a_root_certificate_implies_verification() {
        let mode = |url: &str| options(url).expect("a URL").get_ssl_mode();
        assert!(matches!(mode("postgres://db/e?sslmode=require"), PgSslMode::Require));
        assert!(matches!(mode("postgres://db/e?sslmode=require&sslrootcert=/ca.pem"), PgSslMode::VerifyCa));
        assert!(matches!(mode("postgres://db/e?sslmode=verify-full&sslrootcert=/ca.pem"), PgSslMode::VerifyFull));
    }

    #[test]
    fn misspelt_parameters_are_refused() {
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

    #[test]
    fn a_certificate_after_a_byte_order_mark_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let url = format!("postgres://db/e?sslmode=verify-full&sslrootcert={}", path.display());
        fs::write(&path, "-----BEGIN CERTIFICATE-----").expect("written");
        let by_name = format!("{:?}", options(&url).expect("a URL"));
        assert!(by_name.contains("ca.pem"), "{by_name}");
        fs::write(&path, "\u{feff}-----BEGIN CERTIFICATE-----").expect("written");
        let read = format!("{:?}", options(&url).expect("a URL"));
        assert!(!read.contains("ca.pem") && read.contains("45, 45, 45, 45, 45, 66"), "{read}");
    }
}

//! URLs of stores and buses: parsing, and masking of passwords.

use std::path::PathBuf;

use super::Error;

/// The stores that a service supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreSupport {
    /// No store, no bus and no data folder.
    None,
    /// SQLite only: one file per replica.
    SqliteOnly,
    /// SQLite and PostgreSQL.
    Any,
}

/// Masks the passwords of one URL or of a list of URLs.
#[must_use]
pub fn without_password(text: &str) -> String {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        match urls.last_mut() {
            // In a NATS list only the first URL needs a scheme, and a password may contain a comma.
            Some(last) if !part.contains("://") => *last = format!("{last},{part}"),
            _ => urls.push(part.to_owned()),
        }
    }
    urls.iter().map(|url| one_without_password(url)).collect::<Vec<_>>().join(",")
}

fn one_without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    // Search from the last @: the part before it may be a password with any character, encoded or not.
    let host = rest.rfind('@').unwrap_or_default();
    let (authority, tail) = rest.split_at(rest[host..].find(['/', '?', '#', '&']).map_or(rest.len(), |end| host + end));
    let authority = match authority.rsplit_once('@') {
        // NATS reads a login without a colon as a token.
        Some((user, host)) => match user.split_once(':') {
            Some((user, _)) => format!("{user}:***@{host}"),
            None => format!("***@{host}"),
        },
        None => authority.to_owned(),
    };
    let tail: String = tail.split_inclusive(['?', '&']).map(parameter_without_password).collect();
    format!("{scheme}://{authority}{tail}")
}

/// Masks one parameter of a query; `text` includes the separator after it.
fn parameter_without_password(text: &str) -> String {
    let (pair, end) = text.split_at(text.trim_end_matches(['?', '&']).len());
    match pair.split_once('=') {
        Some((name, _)) if name.contains("password") || name.contains("token") => format!("{name}=***{end}"),
        _ => text.to_owned(),
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

/// Where a service stores its state.
#[derive(Debug)]
pub enum StorePlace {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A schema named after the service, in the database of this URL.
    Postgres(String),
}

/// Parses the `store.url` of one service.
///
/// # Errors
/// Fails if the URL is neither `sqlite:PATH` nor `postgres://...`, or if it is `postgres://...` and the service
/// supports SQLite only. Only the scheme of a PostgreSQL URL is checked; the store checks the rest when it opens.
pub fn store_place(support: StoreSupport, url: &str) -> Result<StorePlace, Error> {
    let refuse = |expected: String| Err(Error::new("store.url", Some(url.to_owned()), expected));
    if is_postgres(url) {
        return match support {
            StoreSupport::SqliteOnly => refuse("this service supports SQLite only; expected sqlite:PATH".to_owned()),
            _ => Ok(StorePlace::Postgres(url.to_owned())),
        };
    }
    let expected = match support {
        StoreSupport::Any => "expected sqlite:PATH or postgres://user:password@host:port/database",
        _ => "expected sqlite:PATH",
    };
    let Some(path) = url.strip_prefix("sqlite:") else { return refuse(expected.to_owned()) };
    // Other programs write `sqlite:///var/x`.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return refuse("expected sqlite:PATH with the path of a file".to_owned());
    }
    Ok(StorePlace::Sqlite(PathBuf::from(path)))
}

/// Returns the part of a `store.url` at the root of several services that applies to one of them; `None` if it does not
/// apply.
///
/// # Errors
/// Fails if the URL names a file, which several services cannot share, or is not a store.
pub fn shared_store(support: StoreSupport, url: &str) -> Result<Option<&str>, Error> {
    if url.starts_with("sqlite:") {
        let expected =
            "several services cannot share one file; set it for each service, as in ticket.store.url, or omit it";
        return Err(Error::new("store.url", Some(url.to_owned()), expected));
    }
    match support {
        StoreSupport::None => Ok(None),
        StoreSupport::SqliteOnly if is_postgres(url) => Ok(None),
        _ => Ok(Some(url)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden() {
        for (url, shown) in [
            (
                "postgres://eticket:s3c:r@t@db:5432/e?sslmode=require",
                "postgres://eticket:***@db:5432/e?sslmode=require",
            ),
            ("postgres://db/e?password=s3cret&a=b", "postgres://db/e?password=***&a=b"),
            ("nats://token@one:4222,nats://u:p@two:4222", "nats://***@one:4222,nats://u:***@two:4222"),
            ("nats://one,two:4222", "nats://one,two:4222"),
            ("nats://one,u:s3cret@two", "nats://one,u:***@two"),
            ("nats://u:s3c,ret/?@one,two", "nats://u:***@one,two"),
            ("http://localhost:8082", "http://localhost:8082"),
            ("sqlite:a@b", "sqlite:a@b"),
            ("postgres://u:sec,ret@db/e", "postgres://u:***@db/e"),
            ("postgres://u:sec/r?e#t@db/e?password=s3cret", "postgres://u:***@db/e?password=***"),
            ("postgres://db/e?user=me@shop&password=s3cret&a=b", "postgres://***@shop&password=***&a=b"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }

    #[test]
    fn the_store_of_one_service_is_a_file_or_a_schema() {
        for support in [StoreSupport::Any, StoreSupport::SqliteOnly] {
            for (url, expected) in [("sqlite:a/b.db", "a/b.db"), ("sqlite:///a/b.db", "/a/b.db")] {
                let place = store_place(support, url);
                assert!(matches!(&place, Ok(StorePlace::Sqlite(path)) if path == expected), "{place:?}");
            }
            for url in ["sqlite:", "sqlite::memory:", "mysql://x", "a.db", "postgres:"] {
                assert!(store_place(support, url).is_err(), "{url}");
            }
        }
        for url in ["postgres://u:p@db:5433/e?sslmode=require", "postgresql://db/e"] {
            assert!(matches!(store_place(StoreSupport::Any, url), Ok(StorePlace::Postgres(_))), "{url}");
        }
        let error = store_place(StoreSupport::SqliteOnly, "postgres://u:secret@db/e").expect_err("refused");
        assert!(error.to_string().contains("SQLite only") && !error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn a_shared_store_is_not_a_file_and_does_not_apply_to_all_services() {
        assert!(shared_store(StoreSupport::Any, "sqlite:a").is_err());
        assert!(shared_store(StoreSupport::SqliteOnly, "sqlite:a").is_err());
        assert_eq!(shared_store(StoreSupport::SqliteOnly, "postgres://db"), Ok(None));
        assert_eq!(shared_store(StoreSupport::Any, "postgres://db"), Ok(Some("postgres://db")));
        assert_eq!(shared_store(StoreSupport::None, "postgres://db"), Ok(None));
    }
}

//! Parses `bus.url`: `nats://[user:password@|token@]host:4222[,…]`, or `tls://` likewise.

use crate::percent;

/// NATS servers and the credentials for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `host:port` of each server.
    pub servers: Vec<String>,
    /// Whether TLS is required, even if the server does not ask for it.
    pub tls: bool,
    /// `None` if the servers need no login or it is in a credentials file.
    pub login: Option<Login>,
}

/// The credentials of a NATS client.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A token.
    Token(String),
    /// A user and password.
    User {
        /// The decoded name.
        name: String,
        /// The decoded password.
        password: String,
    },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("***")
    }
}

const PORT: u16 = 4222;

/// Parses a list of servers. Only the first needs a scheme; a scheme on the others must be the same. All servers share
/// one login, which the client also sends to servers that it discovers.
///
/// # Errors
/// Describes the error without any part that may be a password.
pub fn parse(url: &str) -> Result<Address, String> {
    let mut address = Address { servers: Vec::new(), tls: false, login: None };
    for (number, one) in url.split(',').enumerate() {
        let rest = match (one.strip_prefix("nats://"), one.strip_prefix("tls://")) {
            (Some(rest), _) if number == 0 || !address.tls => rest,
            (_, Some(rest)) if number == 0 || address.tls => {
                address.tls = true;
                rest
            }
            (None, None) if number > 0 && !one.contains("://") => one,
            _ => return Err("the same scheme, nats:// or tls://, for all servers".to_owned()),
        };
        let (login, server) = match rest.rsplit_once('@') {
            Some((login, server)) => (Some(parse_login(login)?), server),
            None => (None, rest),
        };
        match (&address.login, login) {
            (None, Some(login)) => address.login = Some(login),
            (Some(known), Some(login)) if *known != login => {
                return Err("the same user or token for all servers".to_owned());
            }
            _ => {}
        }
        address.servers.push(parse_server(server)?);
    }
    Ok(address)
}

fn parse_login(login: &str) -> Result<Login, String> {
    let known = match login.split_once(':') {
        Some((name, password)) => {
            Login::User { name: percent::decode(name).into_owned(), password: percent::decode(password).into_owned() }
        }
        // NATS reads a login without a colon as a token.
        None => Login::Token(percent::decode(login).into_owned()),
    };
    match &known {
        Login::Token(name) | Login::User { name, .. } if name.is_empty() => Err("a user or token before @".to_owned()),
        _ => Ok(known),
    }
}

fn parse_server(server: &str) -> Result<String, String> {
    let refuse = || format!("a host and a port such as bus.example:{PORT}, not {server:?}");
    let bracketed = server.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((host, port)) => (format!("[{host}]"), port.strip_prefix(':').or(port.is_empty().then_some(""))),
        None => match server.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port).filter(|port| !port.is_empty())),
            None => (server.to_owned(), Some("")),
        },
    };
    let is_host = match bracketed {
        Some((host, _)) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    };
    let port = match port.ok_or_else(refuse)? {
        "" => Some(PORT),
        port => port.parse().ok().filter(|port| *port > 0),
    };
    port.filter(|_| is_host).map(|port| format!("{host}:{port}")).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_servers_are_parsed() {
        let address = parse("nats://a:4222,b:4223,nats://[::1]:1,c").unwrap();
        assert_eq!(address.servers, ["a:4222", "b:4223", "[::1]:1", "c:4222"]);
        assert_eq!((address.tls, address.login), (false, None));
        let address = parse("tls://u:p%40%2Cs@a,tls://b").unwrap();
        assert_eq!((address.servers.len(), address.tls), (2, true));
        assert_eq!(address.login, Some(Login::User { name: "u".into(), password: "p@,s".into() }));
        assert_eq!(parse("nats://s3cret@a").unwrap().login, Some(Login::Token("s3cret".into())));
        assert_eq!(format!("{:?}", parse("nats://s3cret@a").unwrap().login), "Some(***)");
    }

    #[test]
    fn errors_of_malformed_lists_show_no_password() {
        for url in [
            "nats://",
            "nats://a,",
            "nats://,a",
            "nats://a:0",
            "nats://a:99999",
            "nats://a:b",
            "nats://a:",
            "nats://a/path",
            "nats://a b",
            "nats://[::g]:1",
            "nats://[::1]1",
            "nats://@a",
            "nats://:secret@a",
            "nats://a,tls://b",
            "tls://a,nats://b",
            "nats://a,http://b",
            "http://a",
            "a:4222",
            "nats://u:secret@a,v:secret@b",
            "nats://u:secret@a:x",
        ] {
            let reason = parse(url).map(|_| url).expect_err("refused");
            assert!(!reason.contains("secret"), "{url}: {reason}");
        }
    }
}

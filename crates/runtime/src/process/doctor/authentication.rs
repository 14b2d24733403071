//! How callers are authenticated, and whether the keys of the identity provider can be read.

use std::{net::SocketAddr, time::Duration};

use eticket_auth::config::{AuthConfig, AuthMode};
use eticket_base::{
    doctor::{Check, Group},
    error::chain,
};

use super::super::run::Server;

const AUTH: Group = Group::Auth;

/// The authentication of some servers, which have the same keys.
pub(super) struct Scheme {
    auth: AuthConfig,
    servers: Vec<&'static str>,
    /// An address on which the network reaches one of them.
    exposed: Option<SocketAddr>,
}

pub(super) fn schemes(servers: &[Server]) -> Vec<Scheme> {
    let mut schemes: Vec<Scheme> = Vec::new();
    for server in servers {
        let (auth, name, listen) = (&server.settings.auth, server.entry.spec.name, server.settings.listen);
        let exposed = Some(listen).filter(|listen| !listen.ip().is_loopback());
        match schemes.iter_mut().find(|scheme| scheme.auth == *auth) {
            Some(scheme) => {
                scheme.servers.push(name);
                scheme.exposed = scheme.exposed.or(exposed);
            }
            None => schemes.push(Scheme { auth: auth.clone(), servers: vec![name], exposed }),
        }
    }
    schemes
}

impl Scheme {
    pub(super) async fn check(self, patience: Duration) -> Vec<Check> {
        let mut checks = vec![self.judge()];
        if self.auth.is_on() {
            let read = tokio::time::timeout(patience, eticket_auth::probe(&self.auth)).await;
            let read = match read {
                Ok(outcome) => outcome.map_err(|error| chain(&error)),
                Err(_) => Err(format!("no response within {} s", patience.as_secs())),
            };
            checks.push(self.keys(read));
        }
        let servers = self.servers.join(", ");
        checks.into_iter().map(|check| check.of(&servers)).collect()
    }

    fn judge(&self) -> Check {
        const NAME: &str = "authentication";
        match (self.auth.mode, self.exposed) {
            (Some(AuthMode::Jwt), _) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_default();
                let (issuer, audience) = (shown(&self.auth.issuer), shown(&self.auth.audience));
                Check::ok(AUTH, NAME, format!("tokens of {issuer} for {audience}"))
            }
            (_, None) => Check::ok(AUTH, NAME, "off, and only this machine reaches the servers"),
            (_, Some(listen)) => Check::warn(
                AUTH,
                NAME,
                format!("off: everyone who reaches {listen} is an admin"),
                "set auth.mode = jwt with auth.jwks, auth.issuer and auth.audience, or listen on 127.0.0.1",
            ),
        }
    }

    fn keys(&self, read: Result<(), String>) -> Check {
        const NAME: &str = "jwks";
        let place = self.auth.jwks.as_deref().map(eticket_base::config::urls::without_password).unwrap_or_default();
        match read {
            Ok(()) => Check::ok(AUTH, NAME, format!("{place} has keys for tokens")),
            Err(problem) => Check::fail(
                AUTH,
                NAME,
                problem,
                format!("check that the identity provider runs and serves its keys at {place}, or correct auth.jwks"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use eticket_base::doctor::Status;

    use super::*;

    fn scheme(mode: AuthMode, exposed: bool) -> Scheme {
        let auth = AuthConfig { mode: Some(mode), ..AuthConfig::default() };
        let exposed = exposed.then(|| SocketAddr::from(([0, 0, 0, 0], 8088)));
        Scheme { auth, servers: vec!["gateway"], exposed }
    }

    #[test]
    fn off_is_fine_on_the_loopback_and_a_warning_on_the_network() {
        assert_eq!(scheme(AuthMode::Off, false).judge().status, Status::Ok);
        let open = scheme(AuthMode::Off, true).judge();
        assert!(open.status == Status::Warn && open.remedy.contains("auth.mode = jwt"), "{open:?}");
        assert_eq!(scheme(AuthMode::Jwt, true).judge().status, Status::Ok);
    }

    #[test]
    fn keys_that_cannot_be_read_are_a_failure() {
        let scheme = scheme(AuthMode::Jwt, true);
        assert_eq!(scheme.keys(Ok(())).status, Status::Ok);
        let check = scheme.keys(Err("no response within 3 s".to_owned()));
        assert!(check.status == Status::Fail && check.remedy.contains("auth.jwks"), "{check:?}");
    }
}

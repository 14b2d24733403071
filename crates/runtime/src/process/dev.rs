//! `dev`: all servers on free ports of this machine, in a folder that is removed at the end, with demo tickets.

use std::{io::IsTerminal, net::SocketAddr, sync::Arc, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Command};
use eticket_auth::development::{AUDIENCE, DevelopmentKey, ISSUER, KeyError, NewToken};
use eticket_base::{
    clock::SystemClock,
    config::{self, LogFormat, bus::EMBEDDED, urls},
    exit::StartError,
    telemetry,
};
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::run::ConfiguredProgram;
use crate::{config::load::Sources, context::LoginCodes};

pub(super) const NAME: &str = "dev";

/// Who gets a link with `--tokens`: role, user and grade.
const USERS: [(&str, &str, Option<&str>); 2] = [("admin", "admin", None), ("user", "mina", Some("VIP"))];
/// The folder of their key, in the folder of the data.
const KEYS: &str = "keys";
/// The lifetime of their tokens: a working day.
const LIFETIME: Duration = Duration::from_secs(8 * 3600);

/// Registers the demo tickets through a gateway without TLS, with the token of an admin if it needs one.
pub type Demo = fn(SocketAddr, Option<String>) -> BoxFuture<'static, Result<(), StartError>>;

/// The flags of `dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DevFlags {
    pub(crate) retain: bool,
    pub(crate) open: bool,
    pub(crate) tokens: bool,
}

impl DevFlags {
    pub(super) fn from_matches(matches: &ArgMatches) -> Self {
        let flag = |name| matches.get_flag(name);
        Self { retain: flag("retain"), open: !flag("no-open"), tokens: flag("tokens") }
    }
}

pub(super) fn command() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new(NAME)
        .about("Try eTicket: all servers on free ports, in a folder that is removed at the end, with demo tickets")
        .arg(flag("retain").help("Keep the folder"))
        .arg(flag("tokens").help("Require tokens, and print links that log in an admin and a user"))
        .arg(flag("no-open").help("Do not open the console in a browser"))
        .after_help(
            "The console opens only if the output is a terminal. A link of --tokens logs in once, within 10 minutes.\n\n\
             Examples:\n  eticket dev --retain\n  eticket dev --tokens",
        )
}

/// A run of `dev`.
pub(crate) struct Dev {
    folder: TempDir,
    open: bool,
    demo: Demo,
    tokens: Option<Tokens>,
}

/// The key and the log-in codes of `--tokens`.
struct Tokens {
    key: DevelopmentKey,
    codes: LoginCodes,
}

impl Tokens {
    fn sign(&self, role: &str, user: &str, grade: Option<&str>) -> Result<String, StartError> {
        let token = NewToken {
            subject: user.to_owned(),
            roles: vec![role.to_owned()],
            grade: grade.map(str::to_owned),
            issuer: ISSUER.to_owned(),
            audience: AUDIENCE.to_owned(),
            lifetime: LIFETIME,
        };
        self.key.sign(&token).map_err(StartError::failed)
    }

    fn code(&self, role: &str, user: &str, grade: Option<&str>) -> Result<String, StartError> {
        self.codes.issue(self.sign(role, user, grade)?).map_err(StartError::failed)
    }
}

impl Dev {
    /// Makes the folder, and the key of the tokens.
    ///
    /// # Errors
    /// If there is no room for temporary files.
    pub(super) fn new(flags: DevFlags, demo: Demo) -> Result<Self, StartError> {
        let mut folder = tempfile::Builder::new().prefix("eticket-dev-").tempdir().map_err(|error| {
            StartError::unavailable(
                "cannot create a folder for temporary files; set TMPDIR to a folder with room",
                error,
            )
        })?;
        folder.disable_cleanup(flags.retain);
        let key = flags.tokens.then(|| DevelopmentKey::open(&folder.path().join(KEYS))).transpose();
        let tokens = key.map_err(no_key)?.map(|key| Tokens { key, codes: LoginCodes::new(Arc::new(SystemClock)) });
        Ok(Self { folder, open: flags.open, demo, tokens })
    }

    /// The codes of the links that [`show`](Self::show) prints.
    pub(super) fn login(&self) -> Option<LoginCodes> {
        self.tokens.as_ref().map(|tokens| tokens.codes.clone())
    }

    /// Overrides the data folder, the address of each of these servers, and with `--tokens` who may call.
    ///
    /// # Errors
    /// If a data folder is given: nothing in it may be used or removed.
    pub(super) fn adjust(&self, sources: &mut Sources, servers: &[&str]) -> Result<(), config::Error> {
        if let Some(data) = &sources.data {
            let expected = "dev makes a folder of its own; omit --data, or run `eticket --data DIR` without dev";
            return Err(config::Error::new("--data", Some(data.display().to_string()), expected));
        }
        sources.data = Some(self.folder.path().to_owned());
        for server in servers {
            let name = format!("ETICKET__{}__LISTEN", server.to_ascii_uppercase());
            sources.environment.push((name, "127.0.0.1:0".to_owned()));
        }
        sources.environment.push(("ETICKET__ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned()));
        if let Some(tokens) = &self.tokens {
            let jwks = tokens.key.jwks().display().to_string();
            let keys = [("MODE", "jwt"), ("JWKS", &jwks), ("ISSUER", ISSUER), ("AUDIENCE", AUDIENCE)];
            sources.environment.extend(keys.map(|(key, value)| (format!("ETICKET__AUTH__{key}"), value.to_owned())));
        }
        Ok(())
    }

    /// Checks that everything is stored in the folder.
    ///
    /// # Errors
    /// Names the key that says otherwise.
    pub(super) fn check(program: &ConfiguredProgram) -> Result<(), config::Error> {
        let refuse = |key: String, url: &str, name: &str| {
            let expected = format!("dev stores everything in a folder of its own; remove {name}, or run without dev");
            Err(config::Error::new(key, Some(urls::without_password(url)), expected))
        };
        if let Some((key, url)) = program.store_elsewhere() {
            return refuse(key, url, "store.url");
        }
        program.bus_url().filter(|url| *url != EMBEDDED).map_or(Ok(()), |url| refuse("bus.url".to_owned(), url, "it"))
    }

    /// Registers the demo tickets, unless the servers ask for certificates, or for tokens of another key.
    pub(super) async fn fill(&self, gateway: SocketAddr, encrypted: bool, by_token: bool) -> Result<(), StartError> {
        let [(role, user, grade), _] = USERS;
        let token = self.tokens.as_ref().map(|tokens| tokens.sign(role, user, grade)).transpose()?;
        if !encrypted && (token.is_some() || !by_token) {
            return (self.demo)(gateway, token).await;
        }
        tracing::warn!("no demo tickets are registered, because the configuration requires TLS or tokens");
        Ok(())
    }

    /// The links that log in with `--tokens`, and who they log in.
    fn links(&self, console: &str) -> Result<Vec<(String, String)>, StartError> {
        let Some(tokens) = &self.tokens else { return Ok(Vec::new()) };
        let link = |(role, user, grade): (&str, &str, Option<&str>)| {
            let who = [Some(role), Some(user).filter(|user| *user != role), grade].into_iter().flatten();
            Ok((format!("{console}#/login/{}", tokens.code(role, user, grade)?), who.collect::<Vec<_>>().join(" ")))
        };
        USERS.into_iter().map(link).collect()
    }

    /// Shows people the console, and the links that log in.
    ///
    /// # Errors
    /// If a token cannot be signed.
    pub(super) fn show(&self, gateway: SocketAddr, encrypted: bool, format: LogFormat) -> Result<(), StartError> {
        let console = format!("{}://{gateway}/", if encrypted { "https" } else { "http" });
        let folder = self.folder.path().display();
        let links = self.links(&console)?;
        match format {
            LogFormat::Json => {
                tracing::info!(%console, %folder, "the console is ready");
                links.iter().for_each(|(link, who)| tracing::info!(%link, %who, "this link logs in once"));
            }
            LogFormat::Text => {
                let links: String = links
                    .iter()
                    .map(|(link, who)| format!("Log in:  {link}  ({who}; once, within 10 minutes)\n"))
                    .collect();
                telemetry::say(&format!("Console: {console}\n{links}Folder:  {folder}\nPress Ctrl+C to stop.\n\n"));
            }
        }
        if self.open && std::io::stderr().is_terminal() {
            // A machine without a browser is not an error: the address is above.
            open::that_detached(&console).unwrap_or_else(|error| tracing::debug!(%error, "no browser opens"));
        }
        Ok(())
    }
}

fn no_key(error: KeyError) -> StartError {
    StartError::unavailable("cannot make the key of the tokens", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(retain: bool) -> Dev {
        let demo: Demo = |_, _| Box::pin(async { Ok(()) });
        Dev::new(DevFlags { retain, open: false, tokens: false }, demo).expect("a folder")
    }

    #[test]
    fn the_folder_is_removed_at_the_end_unless_it_is_retained() {
        for retain in [false, true] {
            let dev = dev(retain);
            let path = dev.folder.path().to_owned();
            drop(dev);
            assert_eq!(path.exists(), retain, "{}", path.display());
            if retain {
                std::fs::remove_dir(path).expect("it is empty");
            }
        }
    }

    #[test]
    fn addresses_are_free_ports_whatever_the_environment_says() {
        let dev = dev(false);
        let mut sources = Sources::default();
        sources.environment.push(("ETICKET__TICKET__LISTEN".to_owned(), "127.0.0.1:8082".to_owned()));
        dev.adjust(&mut sources, &["ticket"]).expect("adjusted");
        assert_eq!(sources.data.as_deref(), Some(dev.folder.path()));
        let last = sources.environment.iter().rfind(|(name, _)| name == "ETICKET__TICKET__LISTEN").expect("set");
        assert_eq!(last.1, "127.0.0.1:0");
        let error = dev.adjust(&mut sources, &["ticket"]).expect_err("a folder is given");
        assert!(error.to_string().contains("--data"), "{error}");
    }
}

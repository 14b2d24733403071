//! `dev`: all servers on free ports of this machine, in a folder that is removed at the end, with demo tickets.

use std::{io::IsTerminal, net::SocketAddr};

use clap::{Arg, ArgAction, ArgMatches, Command};
use eticket_base::{
    config::{self, LogFormat, bus::EMBEDDED, urls},
    exit::StartError,
    telemetry,
};
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::run::ConfiguredProgram;
use crate::config::load::Sources;

pub(super) const NAME: &str = "dev";

/// Registers the demo tickets through a gateway without TLS and tokens.
pub type Demo = fn(SocketAddr) -> BoxFuture<'static, Result<(), StartError>>;

/// The flags of `dev`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DevFlags {
    pub(crate) retain: bool,
    pub(crate) open: bool,
}

impl DevFlags {
    pub(super) fn from_matches(matches: &ArgMatches) -> Self {
        Self { retain: matches.get_flag("retain"), open: !matches.get_flag("no-open") }
    }
}

pub(super) fn command() -> Command {
    let flag = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    Command::new(NAME)
        .about("Try eTicket: all servers on free ports, in a folder that is removed at the end, with demo tickets")
        .arg(flag("retain").help("Keep the folder"))
        .arg(flag("no-open").help("Do not open the console in a browser"))
        .after_help("The console opens only if the output is a terminal.\n\nExample:\n  eticket dev --retain")
}

/// A run of `dev`.
pub(crate) struct Dev {
    folder: TempDir,
    open: bool,
    demo: Demo,
}

impl Dev {
    /// Makes the folder.
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
        Ok(Self { folder, open: flags.open, demo })
    }

    /// Overrides the data folder, and the address of each of these servers.
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

    /// Registers the demo tickets, unless the servers ask for certificates or tokens.
    pub(super) async fn fill(&self, gateway: SocketAddr, is_open: bool) -> Result<(), StartError> {
        if is_open {
            return (self.demo)(gateway).await;
        }
        tracing::warn!("no demo tickets are registered, because the configuration requires TLS or tokens");
        Ok(())
    }

    /// Shows people the console.
    pub(super) fn show(&self, gateway: SocketAddr, encrypted: bool, format: LogFormat) {
        let console = format!("{}://{gateway}/", if encrypted { "https" } else { "http" });
        let folder = self.folder.path().display();
        match format {
            LogFormat::Json => tracing::info!(%console, %folder, "the console is ready"),
            LogFormat::Text => {
                telemetry::say(&format!("Console: {console}\nFolder:  {folder}\nPress Ctrl+C to stop.\n\n"));
            }
        }
        if self.open && std::io::stderr().is_terminal() {
            // A machine without a browser is not an error: the address is above.
            open::that_detached(&console).unwrap_or_else(|error| tracing::debug!(%error, "no browser opens"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(retain: bool) -> Dev {
        let demo: Demo = |_| Box::pin(async { Ok(()) });
        Dev::new(DevFlags { retain, open: false }, demo).expect("a folder")
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

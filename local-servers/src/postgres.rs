//! PostgreSQL 15 or newer, as installed by Debian's package `postgresql`.

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Signal, geteuid};
use tempfile::TempDir;

use crate::{free_port, program::Program, wait_until};

/// PostgreSQL refuses to run as root. Root runs it as this user, which is `nobody` on Linux.
const NOBODY: u32 = 65534;

/// The setup of a server.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Further lines of `postgresql.conf`, such as `max_connections = 20`.
    pub lines: Vec<String>,
    /// Whether commits are synced to disk. Without it, commits survive a crash of the server but not of the machine,
    /// which is enough for tests.
    pub synced: bool,
    /// Size of a WAL segment in megabytes. Default: that of PostgreSQL.
    pub log_file_mb: Option<u32>,
    /// Whether Ctrl-C on the terminal does not reach the server, because its owner stops it in order.
    pub own_group: bool,
}

/// A running server.
pub struct Postgres {
    program: Option<Program>,
    port: u16,
    folder: PathBuf,
    binaries: PathBuf,
    own_group: bool,
    temporary: Option<TempDir>,
}

impl Postgres {
    /// Starts a server for a test, in a temporary folder.
    ///
    /// # Errors
    /// Fails if PostgreSQL is not installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&Settings::default())
    }

    /// Like [`Self::start`], with other settings.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_with(settings: &Settings) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("eticket-postgres-").tempdir()?;
        let mut server = Self::start_in(temporary.path(), settings)?;
        server.temporary = Some(temporary);
        Ok(server)
    }

    /// Starts a server in this folder, and initializes the folder if it is empty.
    ///
    /// # Errors
    /// Like [`Self::start`].
    pub fn start_in(folder: &Path, settings: &Settings) -> Result<Self> {
        let binaries = programs()?;
        if geteuid().is_root() {
            chown(folder, Some(NOBODY), Some(NOBODY))?;
        }
        let mut server = Self {
            program: None,
            port: free_port()?,
            folder: folder.to_owned(),
            binaries,
            own_group: settings.own_group,
            temporary: None,
        };
        if !server.data().join("PG_VERSION").exists() {
            server.initialise(settings)?;
        }
        server.start_again()?;
        Ok(server)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn initialise(&self, settings: &Settings) -> Result<()> {
        let mut initdb = self.command("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale"]);
        if let Some(megabytes) = settings.log_file_mb {
            initdb.arg(format!("--wal-segsize={megabytes}"));
        }
        let output = initdb.arg("--pgdata").arg(self.data()).output().context("cannot start initdb")?;
        if !output.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut lines = vec![
            "listen_addresses = '127.0.0.1'".to_owned(),
            "unix_socket_directories = ''".to_owned(),
            format!("fsync = {}", if settings.synced { "on" } else { "off" }),
        ];
        lines.extend(settings.lines.iter().cloned());
        let path = self.data().join("postgresql.conf");
        let configuration = fs::read_to_string(&path)? + &lines.join("\n") + "\n";
        Ok(fs::write(path, configuration)?)
    }

    /// Starts a stopped server on the same port.
    ///
    /// # Errors
    /// Fails with the log if it ends at once.
    pub fn start_again(&mut self) -> Result<()> {
        let log = self.folder.join("log");
        wait_until("the start of PostgreSQL", || {
            fs::write(&log, "")?;
            let mut postgres = self.command("postgres");
            postgres.arg("-D").arg(self.data()).arg("-p").arg(self.port.to_string());
            if self.own_group {
                postgres.process_group(0);
            }
            let mut program = Program::start(postgres, &log)?;
            wait_until("a response of PostgreSQL", || Ok(program.ended()? || self.is_ready()?))?;
            if !program.ended()? {
                self.program = Some(program);
                return Ok(true);
            }
            // The child processes of a killed server need a moment to end.
            let log = program.log();
            if log.contains("is still in use") || log.contains("lock file") {
                return Ok(false);
            }
            bail!("PostgreSQL does not start:\n{log}");
        })
    }

    /// Returns the URL of a database, for `store.url`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the loopback port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs SQL as the superuser; returns its output, one line per row.
    ///
    /// # Errors
    /// Fails if the server does not respond or refuses the statements.
    pub fn sql(&self, database: &str, statements: &str) -> Result<String> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--dbname"]);
        let output = psql.arg(self.url(database)).arg("--command").arg(statements).output()?;
        if !output.status.success() {
            bail!("{statements}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Returns a database as SQL for [`Self::load`].
    ///
    /// # Errors
    /// Fails if the server does not respond.
    pub fn dump(&self, database: &str) -> Result<String> {
        let output = self.command("pg_dump").args(["--no-owner", "--dbname"]).arg(self.url(database)).output()?;
        if !output.status.success() {
            bail!("pg_dump: {}", String::from_utf8_lossy(&output.stderr));
        }
        // A token that psql checks at both ends, and another one at each dump.
        let text = String::from_utf8(output.stdout)?;
        let kept = text.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
        Ok(kept.flat_map(|line| [line, "\n"]).collect())
    }

    /// Runs the SQL of a dump as the superuser.
    ///
    /// # Errors
    /// Like [`Self::sql`].
    pub fn load(&self, database: &str, dump: &str) -> Result<()> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname"]).arg(self.url(database));
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut input = child.stdin.take().context("no standard input")?;
        // psql stops reading at an error, which its status reports.
        let _ = input.write_all(dump.as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("the dump cannot be loaded: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Creates an empty database; returns its URL.
    ///
    /// # Errors
    /// Like [`Self::sql`].
    pub fn create_database(&self, name: &str) -> Result<String> {
        self.sql("postgres", &format!("create database {name}"))?;
        Ok(self.url(name))
    }

    /// Kills the server and its child processes with SIGKILL.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut program = self.program.take().context("PostgreSQL does not run")?;
        program.signal_with_children(Signal::KILL)?;
        program.wait()
    }

    /// Stops the server without waiting for clients to disconnect.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn stop(&mut self) -> Result<()> {
        let mut program = self.program.take().context("PostgreSQL does not run")?;
        program.signal(Signal::INT)?;
        program.wait()
    }

    /// Sends a signal, such as STOP or CONT, to the server and its child processes.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.program.as_ref().context("PostgreSQL does not run")?.signal_with_children(signal)
    }

    /// Limits the size of the files that the server processes write, or removes the limit. The server reacts as to a
    /// full disk, and no privileges are needed.
    ///
    /// # Errors
    /// Fails if it does not run.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let program = self.program.as_ref().context("PostgreSQL does not run")?;
        program.limit_files(bytes, || as_server_user(Command::new("prlimit")))
    }

    /// Waits until a session waits for a lock of another session.
    ///
    /// # Errors
    /// Fails if none does within the bound. Otherwise like [`Self::sql`].
    pub fn wait_until_blocked(&self) -> Result<()> {
        let blocked = "select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'";
        wait_until("that one session waits for another", || Ok(self.sql("postgres", blocked)? == "t"))
    }

    /// Requires passwords from all users except the superuser.
    ///
    /// # Errors
    /// Like [`Self::sql`].
    pub fn ask_for_passwords(&self) -> Result<()> {
        let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(self.data().join("pg_hba.conf"), rules)?;
        self.sql("postgres", "select pg_reload_conf()").map(drop)
    }

    /// Restarts the server with TLS, with this certificate and key in PEM.
    ///
    /// # Errors
    /// Fails if it does not start.
    pub fn start_with_tls(&mut self, certificate: &str, key: &str) -> Result<()> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            fs::write(&path, text)?;
            // PostgreSQL refuses a key that other users can read.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            if geteuid().is_root() {
                chown(&path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        self.sql("postgres", "alter system set ssl = on")?;
        self.stop()?;
        self.start_again()
    }

    /// Returns its log since its last start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Returns the id of its process; `None` if it is stopped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.program.as_ref().map(Program::id)
    }

    /// Returns the folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn is_ready(&self) -> Result<bool> {
        let mut ready = self.command("pg_isready");
        ready.args(["--quiet", "--host=127.0.0.1", "--port"]).arg(self.port.to_string());
        Ok(ready.status().context("cannot start pg_isready")?.success())
    }

    /// Returns a command for a program of PostgreSQL, run as the owner of the folder.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command.current_dir(&self.folder).env_clear().env("LC_ALL", "C");
        as_server_user(command)
    }
}

fn as_server_user(mut command: Command) -> Command {
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Whether the server programs are installed.
#[must_use]
pub fn installed() -> bool {
    programs().is_ok()
}

/// Whether this process is root, so that PostgreSQL must run as another user, and packages can be installed.
#[must_use]
pub fn runs_as_root() -> bool {
    geteuid().is_root()
}

/// Returns the folder of the newest server programs, which Debian does not put on the path.
///
/// # Errors
/// If there are none.
pub fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("initdb").exists())
        .max();
    let on_path = || {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .find(|folder| folder.join("initdb").exists())
            .map(|folder| (0, folder))
    };
    let (_, folder) = newest.or_else(on_path).context("PostgreSQL is not installed: apt-get install postgresql")?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs PostgreSQL: cargo xtask test runs it"]
    fn commits_survive_a_kill() {
        let mut server = Postgres::start().expect("the server starts");
        server.create_database("kept").expect("made");
        server.sql("kept", "create table t (n int); insert into t values (7)").expect("written");
        server.kill().expect("killed");
        assert!(server.sql("kept", "select 1").is_err());
        server.start_again().expect("the server starts again");
        assert_eq!(server.sql("kept", "select n from t").expect("read"), "7");
        server.stop().expect("stopped");
    }
}

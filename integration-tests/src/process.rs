//! The real binary under test: started on free ports with its own data folder, observed by its ready line, log and exit
//! code.

use std::{
    collections::BTreeMap,
    io::{PipeReader, PipeWriter, Write},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    binary::{binary, root},
    eventually::SOON,
};

/// The servers of eticket, with their names in the ready line and the configuration.
pub const SERVERS: [&str; 5] = ["ticket", "reservation", "pricing", "query", "gateway"];

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    unread: Option<Stream>,
}

/// An output of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Output,
    Log,
}

impl Launch {
    /// `eticket` in a data folder, with all five servers on free loopback ports.
    pub fn all_in_one(data: &Path) -> Self {
        Self::program("eticket").data(data).on_free_ports()
    }

    /// Sets free loopback ports for all five servers.
    #[must_use]
    pub fn on_free_ports(self) -> Self {
        SERVERS.iter().fold(self, |launch, server| launch.key(&format!("{server}.listen"), "127.0.0.1:0"))
    }

    /// Runs a binary without any eticket variables from the environment.
    pub fn program(name: &str) -> Self {
        Self { program: binary(name), arguments: Vec::new(), environment: BTreeMap::new(), unread: None }
    }

    /// Runs the binary of the same name in another folder.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.program = folder.join(self.program.file_name().expect("a program has a name"));
        assert!(self.program.is_file(), "{} is not there", self.program.display());
        self
    }

    /// Runs a command line as a page of the documentation shows it, in the root of the checkout; `cargo run` is
    /// replaced by the program that it runs.
    pub fn as_shown(command: &str) -> Self {
        let script = format!("cd \"$0\" && exec {command}");
        let root = root().to_str().expect("the checkout's path is UTF-8").to_owned();
        let arguments = vec!["-c".to_owned(), script, root];
        Self { program: PathBuf::from("bash"), arguments, environment: BTreeMap::new(), unread: None }
    }

    #[must_use]
    pub fn data(self, folder: &Path) -> Self {
        self.argument("--data").argument(folder.to_str().expect("test folders are UTF-8"))
    }

    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Sets a configuration key, such as `ticket.listen`, through the environment.
    #[must_use]
    pub fn key(mut self, key: &str, value: &str) -> Self {
        let name = format!("ETICKET__{}", key.to_uppercase().replace('.', "__"));
        self.environment.insert(name, value.to_owned());
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Ignores the signal of a write beyond [`Eticket::limit_files`], which would otherwise kill the process. Such a
    /// limit simulates a full disk and needs no privileges.
    #[must_use]
    pub fn limitable(self) -> Self {
        self.through_shell("trap '' XFSZ; exec \"$0\" \"$@\"")
    }

    /// Limits the size of every file to a few bytes.
    #[must_use]
    pub fn without_room(self) -> Self {
        self.through_shell("trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"")
    }

    /// Limits the number of open files: `S` sets the soft limit, `H` the hard one, an empty `kind` both.
    #[must_use]
    pub fn with_open_files(self, kind: &str, most: u32) -> Self {
        self.through_shell(&format!("ulimit -{kind}n {most}; exec \"$0\" \"$@\""))
    }

    /// Connects an output to a pipe that is full and has no reader.
    #[must_use]
    pub fn unread(mut self, stream: Stream) -> Self {
        self.unread = Some(stream);
        self
    }

    fn through_shell(mut self, script: &str) -> Self {
        let program = std::mem::replace(&mut self.program, PathBuf::from("sh"));
        let program = program.to_str().expect("test folders are UTF-8");
        self.arguments.splice(0..0, ["-c", script, program].map(str::to_owned));
        self
    }

    /// Starts the process and waits for its ready line.
    ///
    /// # Panics
    /// With the log, if the process exits first or is not ready in time.
    pub async fn start(self) -> Eticket {
        self.start_within(SOON).await
    }

    /// Like [`Self::start`], for a process that has much to do before it is ready.
    ///
    /// # Panics
    /// Like [`Self::start`].
    pub async fn start_within(self, bound: Duration) -> Eticket {
        let mut process = self.spawn();
        match timeout(bound, process.ready_line()).await {
            Ok(Some(addresses)) => Eticket { addresses, process },
            Ok(None) => {
                let exit = process.exit().await;
                panic!("the process exited with {:?} before it was ready:\n{}", exit.code, exit.log)
            }
            Err(_) => panic!("the process was not ready in {bound:?}:\n{}", process.log()),
        }
    }

    /// Runs a process that is expected to exit by itself, and waits for its exit.
    pub async fn run(self) -> Exit {
        self.spawn().exit().await
    }

    fn spawn(self) -> Process {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETICKET_") || name == "RUST_LOG") {
            command.env_remove(name);
        }
        let mut full = None;
        if let Some(stream) = self.unread {
            let (reader, writer) = full_pipe();
            match stream {
                Stream::Output => command.stdout(writer),
                Stream::Log => command.stderr(writer),
            };
            full = Some(reader);
        }
        let mut child = command.envs(&self.environment).spawn().expect("the binary starts");
        let output = child.stdout.take().map(Lines::read).unwrap_or_default();
        let log = child.stderr.take().map(Lines::read).unwrap_or_default();
        Process { child, output, log, unread_output: self.unread == Some(Stream::Output), _unread: full }
    }
}

/// The exit and the outputs of a process.
#[derive(Debug)]
pub struct Exit {
    /// None if the process was killed by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub log: String,
}

/// Returns a pipe without free space. It stays full while the reading end, which comes first, is open.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut filler = writer.try_clone().expect("a descriptor");
    // The thread blocks when the pipe is full, and ends when the reader is closed.
    std::thread::spawn(move || while filler.write_all(&[b'.'; 4096]).is_ok() {});
    (reader, writer)
}

struct Process {
    child: Child,
    output: Lines,
    log: Lines,
    unread_output: bool,
    _unread: Option<PipeReader>,
}

impl Process {
    /// Returns the addresses by server; `None` if the process has exited.
    async fn ready_line(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            // Without a reader of standard output, only the log has the addresses.
            let found = match self.unread_output {
                true => self.log.text().lines().find_map(logged),
                false => self.output.text().lines().find_map(addresses),
            };
            if found.is_some() {
                return found;
            }
            if self.child.try_wait().expect("a child can be waited for").is_some() {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn exit(&mut self) -> Exit {
        let status = timeout(SOON, self.child.wait()).await;
        let Ok(status) = status else { panic!("the process did not exit in {SOON:?}:\n{}", self.log()) };
        self.output.finish().await;
        self.log.finish().await;
        Exit { code: status.expect("a child can be waited for").code(), output: self.output.text(), log: self.log() }
    }

    fn log(&self) -> String {
        self.log.text()
    }
}

fn addresses(line: &str) -> Option<BTreeMap<String, String>> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let members = line.as_object().filter(|members| members.get("ready") == Some(&true.into()))?;
    let address = |(name, value): (&String, &serde_json::Value)| Some((name.clone(), value.as_str()?.to_owned()));
    Some(members.iter().filter_map(address).collect())
}

/// Parses the addresses from the log line with the same content.
fn logged(line: &str) -> Option<BTreeMap<String, String>> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let addresses = line.get("addresses").filter(|_| line["message"] == "ready")?.as_str()?;
    let address = |text: &str| text.split_once(' ').map(|(name, address)| (name.to_owned(), address.to_owned()));
    Some(addresses.split(", ").filter_map(address).collect())
}

/// A running eticket, or one of its servers. Dropping it kills the process; if the test fails, its log is printed.
pub struct Eticket {
    addresses: BTreeMap<String, String>,
    process: Process,
}

impl Eticket {
    /// Starts `eticket` in a data folder without further configuration.
    pub async fn start(data: &Path) -> Self {
        Launch::all_in_one(data).start().await
    }

    /// Returns host and port of a server, or of `admin`.
    ///
    /// # Panics
    /// If the ready line does not contain it.
    pub fn address(&self, server: &str) -> &str {
        self.addresses.get(server).unwrap_or_else(|| panic!("the ready line has no {server}: {:?}", self.addresses))
    }

    /// Returns everything that was written to standard output so far.
    pub fn output(&self) -> String {
        self.process.output.text()
    }

    /// Returns everything that was written to standard error so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn id(&self) -> u32 {
        self.process.child.id().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child can be signalled");
    }

    /// Limits the size of files in bytes; `None` removes the limit.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a child can be limited");
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
    }

    /// Waits until the process exits.
    pub async fn exit(mut self) -> Exit {
        self.process.exit().await
    }

    /// Stops the process and waits until it has exited.
    ///
    /// # Panics
    /// If it does not exit cleanly.
    pub async fn stop(self) -> Exit {
        self.signal(Signal::TERM);
        let exit = self.exit().await;
        assert_eq!(exit.code, Some(0), "it did not end well:\n{}", exit.log);
        exit
    }

    /// Kills the process with SIGKILL; everything in its memory is lost.
    pub async fn kill(self) {
        self.signal(Signal::KILL);
        self.exit().await;
    }
}

impl Drop for Eticket {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the process under test:\n{}", self.process.log());
        }
    }
}

/// An output of a process, which is read continuously so that the process never blocks.
#[derive(Default)]
struct Lines {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Lines {
    fn read(from: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let into = text.clone();
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(from).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut text = into.lock().expect("no reader panics");
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text.lock().expect("no reader panics").clone()
    }

    async fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.await.expect("no reader panics");
        }
    }
}

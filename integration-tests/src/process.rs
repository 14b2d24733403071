//! The real binary under test: started on free ports and a data folder of its own, seen by its ready line, its log and its exit.

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

/// Servers that eticket starts, by their names in its ready line and configuration.
pub const SERVERS: [&str; 5] = ["ticket", "reservation", "pricing", "query", "gateway"];

/// How a process is started.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    unread: Option<Stream>,
}

/// Where a process writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Output,
    Log,
}

impl Launch {
    /// `eticket`, all five servers on free ports of loopback, in a data folder.
    pub fn all_in_one(data: &Path) -> Self {
        Self::program("eticket").data(data).on_free_ports()
    }

    /// Has all five servers take free ports of loopback.
    #[must_use]
    pub fn on_free_ports(self) -> Self {
        SERVERS.iter().fold(self, |launch, server| launch.key(&format!("{server}.listen"), "127.0.0.1:0"))
    }

    /// A binary as it is, with nothing of the environment that is meant for it.
    pub fn program(name: &str) -> Self {
        Self { program: binary(name), arguments: Vec::new(), environment: BTreeMap::new(), unread: None }
    }

    /// A command line as a page shows it, in the root of the checkout; cargo becomes the program that it runs.
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

    /// Sets a configuration key, as `ticket.listen`, through the environment.
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

    /// Has it outlive writes beyond [`Eticket::limit_files`], which would else end it by a signal: such a limit stands for a full
    /// disk, and needs nobody's permission.
    #[must_use]
    pub fn limitable(self) -> Self {
        self.through_shell("trap '' XFSZ; exec \"$0\" \"$@\"")
    }

    /// Starts it where no file may have more than some bytes.
    #[must_use]
    pub fn without_room(self) -> Self {
        self.through_shell("trap '' XFSZ; ulimit -f 1; exec \"$0\" \"$@\"")
    }

    /// Starts it where it may have no more than so many files open.
    #[must_use]
    pub fn with_open_files(self, most: u32) -> Self {
        self.through_shell(&format!("ulimit -n {most}; exec \"$0\" \"$@\""))
    }

    /// Gives it a pipe that is full and that nobody reads.
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

    /// Starts it and waits for its ready line.
    ///
    /// # Panics
    /// If it ends before, or is not ready in time; with its log.
    pub async fn start(self) -> Eticket {
        let mut process = self.spawn();
        match timeout(SOON, process.ready_line()).await {
            Ok(Some(addresses)) => Eticket { addresses, process },
            Ok(None) => {
                let exit = process.exit().await;
                panic!("it ended with {:?} before it was ready:\n{}", exit.code, exit.log)
            }
            Err(_) => panic!("it was not ready in {SOON:?}:\n{}", process.log()),
        }
    }

    /// Starts it where it is expected to end by itself, and waits for that.
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

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Exit {
    /// None if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub log: String,
}

/// A pipe in which there is no room, as long as its reading end, which comes first, is there.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut filler = writer.try_clone().expect("a descriptor");
    // It blocks when the pipe is full, and ends with its reader.
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
    /// Addresses by server, or none if it has ended.
    async fn ready_line(&mut self) -> Option<BTreeMap<String, String>> {
        loop {
            // Only where nobody reads standard output the log has to do.
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
        let Ok(status) = status else { panic!("it did not end in {SOON:?}:\n{}", self.log()) };
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

/// The addresses in the line of the log that says the same.
fn logged(line: &str) -> Option<BTreeMap<String, String>> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let addresses = line.get("addresses").filter(|_| line["message"] == "ready")?.as_str()?;
    let address = |text: &str| text.split_once(' ').map(|(name, address)| (name.to_owned(), address.to_owned()));
    Some(addresses.split(", ").filter_map(address).collect())
}

/// A running eticket, or one of its servers alone. Dropped, it is killed; if the test fails, its log is shown.
pub struct Eticket {
    addresses: BTreeMap<String, String>,
    process: Process,
}

impl Eticket {
    /// `eticket` in a data folder, without further configuration.
    pub async fn start(data: &Path) -> Self {
        Launch::all_in_one(data).start().await
    }

    /// Host and port of a server, or of `admin`.
    ///
    /// # Panics
    /// If its ready line does not name it.
    pub fn address(&self, server: &str) -> &str {
        self.addresses.get(server).unwrap_or_else(|| panic!("the ready line has no {server}: {:?}", self.addresses))
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    pub fn id(&self) -> u32 {
        self.process.child.id().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child can be signalled");
    }

    /// Lets no file grow beyond so many bytes, or any again.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(self.pid()), Resource::Fsize, limit).expect("a child can be limited");
    }

    fn pid(&self) -> Pid {
        i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process has an id")
    }

    /// Waits for its end.
    pub async fn exit(mut self) -> Exit {
        self.process.exit().await
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// If it does not end well.
    pub async fn stop(self) -> Exit {
        self.signal(Signal::TERM);
        let exit = self.exit().await;
        assert_eq!(exit.code, Some(0), "it did not end well:\n{}", exit.log);
        exit
    }

    /// kill -9: nothing that it had in memory is left.
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

/// What a process writes, read all the time so that it never waits for us.
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

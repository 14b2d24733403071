//! A background program that logs to a file and ends with its owner.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(self.pid()?, signal).context("cannot signal a server")
    }

    /// Signals the program and its child processes.
    pub(crate) fn signal_with_children(&self, signal: Signal) -> Result<()> {
        let children = self.children();
        self.signal(signal)?;
        for child in children {
            // It may have ended meanwhile.
            kill_process(child, signal).ok();
        }
        Ok(())
    }

    /// The process that it has started, if it runs.
    pub(crate) fn first_child(&self) -> Option<u32> {
        u32::try_from(self.children().first()?.as_raw_nonzero().get()).ok()
    }

    fn children(&self) -> Vec<Pid> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
    }

    /// Limits the size of the files that the program and its child processes write, or removes the limit. `limit`
    /// creates a command for prlimit(1) that runs as the user of the processes: even root may not be allowed to limit
    /// processes of others.
    pub(crate) fn limit_files(&self, bytes: Option<u64>, limit: impl Fn() -> Command) -> Result<()> {
        let most = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let limited = |pid: Pid| {
            let mut command = limit();
            command.arg(format!("--fsize={most}:")).arg("--pid").arg(pid.as_raw_nonzero().to_string());
            command.output().context("cannot start prlimit")
        };
        let output = limited(self.pid()?)?;
        if !output.status.success() {
            bail!("cannot limit a server: {}", String::from_utf8_lossy(&output.stderr));
        }
        // Child processes started from here on inherit its limit.
        for child in self.children() {
            // It may have ended meanwhile.
            limited(child)?;
        }
        Ok(())
    }

    pub(crate) fn wait(&mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a process has an id")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Continued first: a stopped process would not be reaped with its child processes.
        self.signal_with_children(Signal::CONT).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

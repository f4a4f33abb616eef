use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::account;

/// How long a server may take to start or to stop. Recovery after a kill is part of a start.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// A running `postgres`: a direct child in a process group of its own, which the terminal's Ctrl-C does not reach.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
}

impl Postmaster {
    /// Waits until it accepts connections; a child that ends before is an error.
    pub(crate) fn start(mut command: Command, data_dir: &Path) -> io::Result<Self> {
        let mut postmaster = Self { child: command.process_group(0).spawn()? };
        let deadline = Instant::now() + PATIENCE;
        while !postmaster.is_ready(data_dir) {
            if let Some(status) = postmaster.child.try_wait()? {
                return Err(io::Error::other(format!("it ended with {status}")));
            }
            if Instant::now() > deadline {
                postmaster.kill()?;
                return Err(io::Error::other(format!("it was not ready after {PATIENCE:?}")));
            }
            thread::sleep(PAUSE);
        }
        Ok(postmaster)
    }

    /// As `pg_ctl` asks: the eighth line of postmaster.pid, whose first may still name a predecessor.
    fn is_ready(&self, data_dir: &Path) -> bool {
        let text = fs::read_to_string(data_dir.join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        lines.next() == Some(self.child.id().to_string().as_str())
            && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    /// The crash: no farewell to anybody.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// A fast stop: transactions are rolled back, everything is written.
    pub(crate) fn stop(&mut self) -> io::Result<()> {
        self.end(Signal::INT)
    }

    /// An immediate stop, for data that nobody wants any more.
    pub(crate) fn abort(&mut self) -> io::Result<()> {
        self.end(Signal::QUIT)
    }

    fn end(&mut self, signal: Signal) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            // A child that has not been waited for keeps its number.
            kill_process(Pid::from_child(&self.child), signal)?;
        }
        if self.wait_for(PATIENCE)?.is_none() {
            self.kill()?;
        }
        Ok(())
    }

    fn wait_for(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        loop {
            let status = self.child.try_wait()?;
            if status.is_some() || Instant::now() > deadline {
                return Ok(status);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// `program` as PostgreSQL wants to be run: not as root, in a directory that it may enter, without its user's `PG*` variables, in
/// English, printing to `log`.
pub(crate) fn command(program: &Path, dir: &Path, log: &File) -> io::Result<Command> {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env_remove("LANGUAGE").env("LC_ALL", "C").current_dir(dir);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    account::drop_root(&mut command);
    Ok(command)
}

//! The benchmark as its own child process, seen from the parent.

use std::{ffi::OsStr, process::Stdio};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// The benchmark started by itself, for what is to be measured in a process of its own. It tells what it has to by lines on its standard
/// output, and stops at the end of its standard input.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// This program with other arguments.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let output = child.stdout.take().context("a child's output is piped")?;
        Ok(Self { child, lines: BufReader::new(output).lines() })
    }

    /// Its process id.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn id(&self) -> anyhow::Result<u32> {
        self.child.id().context("the child has ended")
    }

    /// The next line, which must be this one.
    ///
    /// # Errors
    /// Where it is another, or the child has ended.
    pub async fn expect(&mut self, expected: &str) -> anyhow::Result<()> {
        let line = self.lines.next_line().await?;
        anyhow::ensure!(line.as_deref() == Some(expected), "the child said {line:?} instead of {expected}");
        Ok(())
    }

    /// Tells it to stop, waits until it has, and answers the lines that are left.
    ///
    /// # Errors
    /// Where it failed.
    pub async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        drop(self.child.stdin.take());
        let mut lines = Vec::new();
        while let Some(line) = self.lines.next_line().await? {
            lines.push(line);
        }
        let status = self.child.wait().await?;
        anyhow::ensure!(status.success(), "the child ended with {status}");
        Ok(lines)
    }
}

/// In the child: until the parent wants it to stop, or is gone.
///
/// # Errors
/// Where the standard input cannot be read.
pub async fn until_told_to_stop() -> anyhow::Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

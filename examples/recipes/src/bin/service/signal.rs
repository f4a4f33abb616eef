use std::io;

/// What an orchestrator does to a process.
#[cfg(unix)]
pub(crate) fn terminate_ourselves() -> io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};

    Ok(kill_process(getpid(), Signal::TERM)?)
}

#[cfg(not(unix))]
pub(crate) fn terminate_ourselves() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "SIGTERM is Unix's"))
}

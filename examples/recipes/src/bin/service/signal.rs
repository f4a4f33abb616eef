use std::io;

/// Completes when the process is told to stop, by SIGTERM or Ctrl-C. Listens from the call on. (A process that is a consumer and nothing else
/// has `Consumer::run_until_signal`.)
#[cfg(unix)]
pub(crate) fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// What an orchestrator does to a process.
#[cfg(unix)]
pub(crate) fn terminate_ourselves() -> io::Result<()> {
    use rustix::process::{Signal, getpid, kill_process};

    Ok(kill_process(getpid(), Signal::TERM)?)
}

#[cfg(not(unix))]
pub(crate) fn told_to_stop() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

#[cfg(not(unix))]
pub(crate) fn terminate_ourselves() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "SIGTERM is Unix's"))
}

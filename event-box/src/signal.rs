use std::io;

/// Completes when the process is told to stop: SIGINT (Ctrl-C) or SIGTERM, elsewhere Ctrl-C. Listens from the call on, and for as long as the
/// process lives: the signals no longer end it by themselves.
///
/// For processes that do more than consume, which [`Consumer::run_until_signal`](crate::Consumer::run_until_signal) is for: cancel one token for all parts.
///
/// ```no_run
/// # async fn serve(consumer: event_box::Consumer) -> Result<(), Box<dyn std::error::Error>> {
/// let (told_to_stop, stop) = (event_box::stop_signal()?, tokio_util::sync::CancellationToken::new());
/// let consuming = tokio::spawn(consumer.run(stop.clone()));
/// told_to_stop.await;
/// stop.cancel();
/// consuming.await??;
/// # Ok(()) }
/// ```
///
/// # Errors
/// Where the operating system refuses.
#[cfg(unix)]
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes when Ctrl-C is pressed.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    Ok(async {
        // Without the signal nothing would ever stop the consumer but its end.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

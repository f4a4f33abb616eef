use std::{future::poll_fn, io, pin::Pin, task::Poll, time::Duration};

use tokio::time::{Instant, error::Elapsed};

/// A statement of ours, abandoned after this long: sqlx sets no keepalives, and a server that vanished never answers. The connection is
/// then in an unknown state and must be dropped.
pub(crate) async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    statement: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::time::timeout(limit, statement).await.unwrap_or_else(|_| {
        let error = io::Error::new(io::ErrorKind::TimedOut, format!("the server did not answer within {limit:?}"));
        Err(sqlx::Error::Io(error).into())
    })
}

/// A handler's future until its deadline. Most are ready at once, and need no timer.
pub(crate) async fn by<F: Future + Unpin>(deadline: Instant, mut future: F) -> Result<F::Output, Elapsed> {
    match poll_fn(|cx| Poll::Ready(Pin::new(&mut future).poll(cx))).await {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => tokio::time::timeout_at(deadline, future).await,
    }
}

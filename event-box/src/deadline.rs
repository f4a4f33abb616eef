use std::{io, time::Duration};

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

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};

/// A healthy server answers a ping at once; sqlx gives a connection that it closes as long.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that goes back to the pool only when it is handed back: a batch that fails or is cut off leaves it in an unknown state.
pub(crate) struct Held(Option<PoolConnection<Postgres>>);

/// A connection as good as it was when the pool gave it. Dropped, it goes back there.
pub(crate) struct Kept(Option<PoolConnection<Postgres>>);

impl Held {
    pub(crate) async fn acquire(pool: &PgPool) -> Result<Self, sqlx::Error> {
        Ok(Self(Some(pool.acquire().await?)))
    }

    /// `None` where none is free.
    pub(crate) fn try_acquire(pool: &PgPool) -> Option<Self> {
        Some(Self(Some(pool.try_acquire()?)))
    }

    pub(crate) fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.0.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// It is as good as it was.
    pub(crate) fn give_back(self) {
        drop(self.keep());
    }

    /// It is as good as it was, and wanted again soon.
    pub(crate) fn keep(mut self) -> Kept {
        Kept(self.0.take())
    }
}

impl From<Kept> for Held {
    fn from(mut kept: Kept) -> Self {
        Self(kept.0.take())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(mut connection) = self.0.take() {
            connection.close_on_drop();
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // The pool asks a returned connection whether it is well, and waits for the answer for ever: each server or network that vanished
        // just then would cost the pool one of its connections (github.com/transact-rs/sqlx/issues/4349).
        if let (Some(mut connection), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(RETURN_TIMEOUT, connection.return_to_pool()));
        }
    }
}

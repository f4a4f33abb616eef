use std::sync::Arc;

use sqlx::{PgPool, Postgres, Transaction};

use crate::{outbox::Outbox, pulse::SharedPulse, schema::Schema};

/// A handle on one log: a pool, a schema, and the one listener and one poll that all consumer groups of the process share.
///
/// Cheap to clone. Whatever takes `impl Into<EventBox>` takes a pool as well; share one handle where several groups run in a process,
/// so that ten of them listen and poll once.
#[derive(Debug, Clone)]
pub struct EventBox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    schema: Schema,
    pulse: SharedPulse,
}

impl EventBox {
    /// The log in schema `event_box` of the pool's database.
    pub fn new(pool: PgPool) -> Self {
        Self::in_schema(pool, Schema::default())
    }

    /// The log in another schema.
    pub fn in_schema(pool: PgPool, schema: Schema) -> Self {
        Self { inner: Arc::new(Inner { pool, schema, pulse: SharedPulse::default() }) }
    }

    /// The same log through a connection pooler in transaction mode, such as PgBouncer's. Default: the pool's connections are sessions of the
    /// server.
    ///
    /// Statements are then sent unprepared and every one of them in an explicit transaction, those that handlers send through their
    /// [`Context`](crate::Context) too. Nothing listens: consumers find events by their poll, every 100 ms unless set otherwise. What the pool
    /// and PgBouncer must be set to, and what that asks of the application's own statements, stands in `docs/pgbouncer.md`.
    /// The handle begins a poll of its own: make it so before groups share it.
    ///
    /// ```
    /// use event_box::EventBox;
    /// use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), sqlx::Error> {
    /// let options: PgConnectOptions = "postgres://app@pgbouncer:6432/app".parse()?;
    /// let pool = PgPoolOptions::new().connect_lazy_with(options.statement_cache_capacity(0));
    /// let log = EventBox::new(pool).behind_pooler();
    /// # Ok(()) }
    /// ```
    pub fn behind_pooler(self) -> Self {
        Self::in_schema(self.inner.pool.clone(), self.inner.schema.clone().behind_pooler())
    }

    /// The pool that consumers take their connections from.
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The schema the log lives in.
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// An outbox for this log, behind a pooler where the handle is.
    pub fn outbox(&self) -> Outbox {
        Outbox::new().schema(self.schema().clone())
    }

    /// For statements that stand alone, too: behind a pooler each needs a transaction of its own.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        self.inner.pool.begin().await
    }

    pub(crate) fn pulse(&self) -> &SharedPulse {
        &self.inner.pulse
    }
}

impl From<PgPool> for EventBox {
    fn from(pool: PgPool) -> Self {
        Self::new(pool)
    }
}

impl From<&PgPool> for EventBox {
    fn from(pool: &PgPool) -> Self {
        Self::new(pool.clone())
    }
}

impl From<&EventBox> for EventBox {
    fn from(log: &EventBox) -> Self {
        log.clone()
    }
}

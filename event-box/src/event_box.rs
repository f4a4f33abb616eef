use std::sync::Arc;

use sqlx::PgPool;

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

    /// The pool that consumers take their connections from.
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    /// The schema the log lives in.
    pub fn schema(&self) -> &Schema {
        &self.inner.schema
    }

    /// An outbox for this log.
    pub fn outbox(&self) -> Outbox {
        Outbox::new().schema(self.schema().clone())
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

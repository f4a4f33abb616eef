use std::{fmt, time::SystemTime};

use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::TryFutureExt;
use sqlx::{
    Acquire, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};
use uuid::Uuid;

use crate::{guard::Guarded, headers::Headers, record::Record, savepoint::Savepoint};

/// What a handler knows of the event in hand, and the transaction it works in.
///
/// `&mut *cx` is an executor like `&mut *tx`: what a handler writes through it commits together with the group's cursor, so that in this
/// database its effect happens exactly once. Events emitted through it are delivered after that commit. The transaction is the
/// consumer's: commands that would end it, or change its role, are refused before they are sent; returning an error undoes what this event's handlers wrote, and
/// only that.
///
/// Settings made local to the transaction (`set local`, `set_config(…, true)`) outlast the event and reach its neighbours of the batch.
///
/// ```
/// use event_box::{BoxError, Context, Event};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, Event)]
/// # struct OrderPlaced { order_id: i64 }
///
/// async fn reserve_stock(event: OrderPlaced, cx: &mut Context<'_>) -> Result<(), BoxError> {
///     sqlx::query("insert into reservations (order_id, event_id) values ($1, $2)")
///         .bind(event.order_id)
///         .bind(cx.id())
///         .execute(&mut *cx)
///         .await?;
///     Ok(())
/// }
/// ```
pub struct Context<'c, S = ()> {
    connection: &'c mut PgConnection,
    savepoint: &'c mut Savepoint,
    record: &'c Record,
    state: &'c S,
    group: &'c str,
    attempt: u32,
}

impl<'c, S> Context<'c, S> {
    pub(crate) fn new(delivery: Delivery<'c>, state: &'c S) -> Self {
        let Delivery { connection, savepoint, record, group, attempt, .. } = delivery;
        Self { connection, savepoint, record, state, group, attempt }
    }

    /// What was given to [`ConsumerBuilder::state`](crate::ConsumerBuilder::state).
    pub fn state(&self) -> &'c S {
        self.state
    }

    /// The event's id, the same in every delivery.
    pub fn id(&self) -> Uuid {
        self.record.id
    }

    /// The topic it was stored under.
    pub fn topic(&self) -> &str {
        &self.record.topic
    }

    /// The version it was stored with; the handler's value is already of the type's own version.
    pub fn version(&self) -> i16 {
        self.record.version
    }

    /// The key it is ordered by, if any.
    pub fn partition_key(&self) -> Option<&str> {
        self.record.partition_key.as_deref()
    }

    /// Its place in the log: ascending within a key, unique in the log.
    pub fn sequence(&self) -> i64 {
        self.record.sequence
    }

    /// What travels beside the payload.
    pub fn headers(&self) -> &Headers {
        &self.record.headers
    }

    /// When the emitting statement began, by the database's clock.
    pub fn emitted_at(&self) -> SystemTime {
        self.record.emitted_at
    }

    /// Which attempt this is, 1 for the first. Only deliveries that failed are counted.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The consumer group.
    pub fn group(&self) -> &str {
        self.group
    }

    /// The delivery's connection, for what takes a `&mut PgConnection`: COPY, or a function of your own.
    ///
    /// # Errors
    /// Where the database cannot be reached.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.savepoint.touch(self.connection).await?;
        Ok(self.connection)
    }
}

impl<S> fmt::Debug for Context<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("group", &self.group)
            .field("topic", &self.record.topic)
            .field("id", &self.record.id)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// One event on its way to its handlers.
pub(crate) struct Delivery<'c> {
    pub(crate) connection: &'c mut PgConnection,
    pub(crate) savepoint: &'c mut Savepoint,
    pub(crate) record: &'c Record,
    pub(crate) group: &'c str,
    pub(crate) attempt: u32,
    pub(crate) partition: i16,
    /// When its handlers are given up.
    pub(crate) deadline: tokio::time::Instant,
}

impl Delivery<'_> {
    /// The same delivery, for one of several handlers.
    pub(crate) fn again(&mut self) -> Delivery<'_> {
        Delivery {
            connection: self.connection,
            savepoint: self.savepoint,
            record: self.record,
            group: self.group,
            attempt: self.attempt,
            partition: self.partition,
            deadline: self.deadline,
        }
    }
}

impl<'c, S: Sync> Executor<'c> for &'c mut Context<'_, S> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, Q>(self, query: Q) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Postgres>,
    {
        let opened = async move {
            let query = Guarded::new(query)?;
            self.savepoint.touch(self.connection).await?;
            Ok(self.connection.fetch_many(query))
        };
        Box::pin(opened.try_flatten_stream())
    }

    fn fetch_optional<'e, 'q: 'e, Q>(self, query: Q) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'c: 'e,
        Q: 'q + Execute<'q, Postgres>,
    {
        Box::pin(async move {
            let query = Guarded::new(query)?;
            self.savepoint.touch(self.connection).await?;
            self.connection.fetch_optional(query).await
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            self.savepoint.touch(self.connection).await?;
            self.connection.prepare_with(sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>, sqlx::Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            self.savepoint.touch(self.connection).await?;
            self.connection.describe(sql).await
        })
    }
}

impl<'c, S: Sync> Acquire<'c> for &'c mut Context<'_, S> {
    type Database = Postgres;
    type Connection = &'c mut PgConnection;

    fn acquire(self) -> BoxFuture<'c, Result<Self::Connection, sqlx::Error>> {
        Box::pin(async move {
            self.savepoint.touch(self.connection).await?;
            Ok(&mut *self.connection)
        })
    }

    fn begin(self) -> BoxFuture<'c, Result<Transaction<'c, Postgres>, sqlx::Error>> {
        Box::pin(async move {
            self.savepoint.touch(self.connection).await?;
            Connection::begin(&mut *self.connection).await
        })
    }
}

use std::{fmt, ops::Deref, sync::Arc};

use futures_core::{future::BoxFuture, stream::BoxStream};
use futures_util::TryFutureExt;
use sqlx::{
    Acquire, Connection, Either, Execute, Executor, PgConnection, Postgres, SqlStr, Transaction,
    postgres::{PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use crate::{
    event_info::EventInfo,
    guard::Guarded,
    record::Record,
    savepoint::Savepoint,
    work::{Answer, Work},
};

/// What a handler knows of the event in hand, and the transaction it works in.
///
/// `&mut *cx` is an executor like `&mut *tx`: what a handler writes through it commits together with the group's cursor, so that in this
/// database its effect happens exactly once. Events emitted through it are delivered after that commit. The transaction is the
/// consumer's: commands that would end it, or change its role, are refused before they are sent; returning an error undoes what this event's handlers wrote, and
/// only that.
///
/// Behind a pooler ([`EventBox::behind_pooler`](crate::EventBox::behind_pooler)) what is sent through it is not prepared.
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
    records: &'c [Arc<Record>],
    info: EventInfo<'c>,
    answer: &'c mut Answer,
    unprepared: bool,
    state: &'c S,
}

impl<'c, S> Context<'c, S> {
    pub(crate) fn new(work: Work<'c>, state: &'c S) -> Self {
        let info = work.first();
        let Work { connection, savepoint, records, answer, unprepared, .. } = work;
        Self { connection, savepoint, records, info, answer, unprepared, state }
    }

    /// The same delivery, for one of several who take part in it.
    pub(crate) fn again(&mut self) -> Context<'_, S> {
        Context {
            connection: self.connection,
            savepoint: self.savepoint,
            records: self.records,
            info: self.info,
            answer: self.answer,
            unprepared: self.unprepared,
            state: self.state,
        }
    }

    /// What was given to [`ConsumerBuilder::state`](crate::ConsumerBuilder::state).
    pub fn state(&self) -> &'c S {
        self.state
    }

    /// The event's id, topic, key, headers and the like, for as long as the delivery lasts; the context itself gives them too (`cx.id()`).
    /// In a batch handler, and in the middleware around it, the first event's.
    pub fn info(&self) -> EventInfo<'c> {
        self.info
    }

    /// Every event of the delivery, in order: one, but those of the whole run around a batch handler.
    pub fn events(&self) -> impl Iterator<Item = EventInfo<'c>> + use<'c, S> {
        let info = self.info;
        self.records.iter().map(move |record| EventInfo { record, ..info })
    }

    /// The delivery's connection, for what takes a `&mut PgConnection`: COPY, or a function of your own.
    ///
    /// # Errors
    /// Where the database cannot be reached.
    pub async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.savepoint.touch(self.connection).await?;
        Ok(self.connection)
    }

    pub(crate) fn records(&self) -> &'c [Arc<Record>] {
        self.records
    }

    pub(crate) fn answer(&mut self) -> &mut Answer {
        self.answer
    }
}

impl<'c, S> Deref for Context<'c, S> {
    type Target = EventInfo<'c>;

    fn deref(&self) -> &EventInfo<'c> {
        &self.info
    }
}

impl<S> fmt::Debug for Context<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("info", &self.info).field("events", &self.records.len()).finish_non_exhaustive()
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
            let query = Guarded::new(query, self.unprepared)?;
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
            let query = Guarded::new(query, self.unprepared)?;
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

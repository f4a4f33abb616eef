use std::{
    fmt,
    future::IntoFuture,
    marker::PhantomData,
    time::{Duration, SystemTime},
};

use futures_core::future::BoxFuture;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    delayed, due::Due, error::EmitError, event::Event, headers::Headers, outbox::Outbox, partition_key::PartitionKey,
    trace, types::RawJson,
};

/// What an event is emitted through: any [`PgExecutor`].
#[diagnostic::on_unimplemented(
    message = "events cannot be emitted through `{Self}`",
    label = "not an executor",
    note = "pass `&pool`, `&mut *tx` for a transaction, `&mut connection` for a `PgConnection`, or `&mut *cx` for a handler's context"
)]
pub trait EmitThrough<'c>: PgExecutor<'c> + 'c {}

#[diagnostic::do_not_recommend]
impl<'c, X: PgExecutor<'c> + 'c> EmitThrough<'c> for X {}

/// One event on its way into the log: await it, after whatever options it needs. Made by [`Outbox::emit`].
#[must_use = "nothing is emitted until this is awaited"]
pub struct Emit<'c, X> {
    outbox: Outbox,
    executor: X,
    event: Encoded,
    id: Option<Uuid>,
    due: Due,
    connection: PhantomData<&'c ()>,
}

impl<'c, X> Emit<'c, X> {
    pub(crate) fn new(outbox: Outbox, executor: X, event: Encoded) -> Self {
        Self { outbox, executor, event, id: None, due: Due::Now, connection: PhantomData }
    }

    /// Gives the event an id of your own. Default: a new UUIDv7.
    ///
    /// The log does not look for duplicates: an id given twice makes two events, each of which is delivered.
    pub fn id(mut self, id: Uuid) -> Self {
        self.id = Some(id);
        self
    }

    /// Adds a header. A name given twice keeps the later value. An invalid name is reported by the emit.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.outbox.headers.set(name.into(), value.into());
        self
    }

    /// Uses another key than the event's own: a `None` of an `Option` takes it out of any order.
    pub fn partition_key(mut self, key: impl PartitionKey) -> Self {
        self.event.partition_key = key.partition_key().map(Into::into);
        self
    }

    /// Holds the event back for this long from the start of the emitting statement, by the database's clock. Default and zero: none.
    ///
    /// It is then appended to the log, within a second where a consumer runs or a [`Pull`](crate::Pull) waits on this log in any process,
    /// and delivered like any other. Its place among the events of its key is the one it takes then: it goes by when it became due, not by when
    /// it was emitted. Until then it is not in the log, and [`Outbox::cancel`] takes it back. A transaction that is rolled back takes
    /// it along. Given beside [`due_at`](Self::due_at), the later call wins.
    ///
    /// ```no_run
    /// # use event_box::{BoxError, Event, Outbox};
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(topic = "payments.overdue", partition_key = "order_id")]
    /// # struct PaymentOverdue { order_id: i64 }
    /// # async fn place(tx: &mut sqlx::PgConnection) -> Result<(), BoxError> {
    /// let hour = Duration::from_secs(60 * 60);
    /// let id = Outbox::new().emit(&mut *tx, &PaymentOverdue { order_id: 7 }).delay(72 * hour).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// The emit answers with [`EmitError::DueTime`] where the time is none that PostgreSQL holds.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.due = Due::After(delay);
        self
    }

    /// Holds the event back until this time, as [`delay`](Self::delay) does; to the microsecond, by the database's clock. Where it has passed,
    /// the event is moved into the log with the next that are due. Default: none.
    ///
    /// The emit answers with [`EmitError::DueTime`] where the time is none that PostgreSQL holds: before 4713 BC or after 294276 AD.
    pub fn due_at(mut self, time: SystemTime) -> Self {
        self.due = Due::At(time);
        self
    }
}

impl<'c, X: PgExecutor<'c> + 'c> IntoFuture for Emit<'c, X> {
    type Output = Result<Uuid, EmitError>;
    type IntoFuture = BoxFuture<'c, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { mut outbox, executor, event, id, due, .. } = self;
        Box::pin(async move {
            let event = event.checked(&outbox, &outbox.headers)?;
            let due = due.checked().map_err(|_| EmitError::DueTime { topic: event.topic })?;
            let id = id.unwrap_or_else(Uuid::now_v7);
            let span = trace::emitting(event.topic, id, &mut outbox.headers);
            let written = async {
                match due {
                    None => insert(&outbox, executor, id, event).await,
                    Some(due) => delayed::insert(&outbox, executor, id, event, due).await,
                }
            };
            trace::emitted(span, written).await.map_err(|source| EmitError::from_database(source, &outbox.schema))?;
            Ok(id)
        })
    }
}

async fn insert<'c>(
    outbox: &Outbox,
    executor: impl PgExecutor<'c>,
    id: Uuid,
    event: Checked,
) -> Result<(), sqlx::Error> {
    let headers = outbox.headers.to_json().map(RawJson);
    let executor = outbox.schema.over(executor);
    if let Some(announcement) = outbox.may_notify() {
        // The partition travels with the notification, so that a woken worker claims it without a look.
        sqlx::query!(
            r#"with announced as materialized (
                select pg_notify($7, coalesce((hashtextextended($4, 0) & 63)::text, '-') || $8 || ' ' || $2)
            )
            insert into event_box.events (id, topic, version, partition_key, payload, headers)
            select $1, $2, $3, $4, $5, $6 from announced"#,
            id,
            event.topic,
            event.version,
            event.partition_key,
            RawJson(event.payload) as _,
            headers as _,
            outbox.schema.name(),
            announcement.mark(),
        )
        .execute(executor)
        .await?;
    } else {
        sqlx::query!(
            "insert into event_box.events (id, topic, version, partition_key, payload, headers) values ($1, $2, $3, $4, $5, $6)",
            id,
            event.topic,
            event.version,
            event.partition_key,
            RawJson(event.payload) as _,
            headers as _,
        )
        .execute(executor)
        .await?;
    }
    Ok(())
}

impl<X> fmt::Debug for Emit<'_, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Emit")
            .field("topic", &self.event.topic)
            .field("id", &self.id)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// What an event becomes in the log.
pub(crate) struct Encoded {
    topic: &'static str,
    version: i16,
    partition_key: Option<String>,
    payload: Result<Vec<u8>, serde_json::Error>,
}

/// An encoded event that the log will take.
pub(crate) struct Checked {
    pub(crate) topic: &'static str,
    pub(crate) version: i16,
    pub(crate) partition_key: Option<String>,
    pub(crate) payload: Vec<u8>,
}

impl Encoded {
    pub(crate) fn new<E: Event>(event: &E) -> Self {
        Self {
            topic: event.topic(),
            version: event.version(),
            partition_key: event.partition_key().map(Into::into),
            payload: event.encode(),
        }
    }

    /// The same limits as the table's, met before anything is sent: a refused statement would abort the caller's transaction.
    pub(crate) fn checked(self, outbox: &Outbox, headers: &Headers) -> Result<Checked, EmitError> {
        let Self { topic, version, partition_key, payload } = self;
        if !fits(topic, 255) {
            return Err(EmitError::Topic { topic: topic.to_owned() });
        }
        if version < 1 {
            return Err(EmitError::Version { topic, version });
        }
        if let Some(key) = &partition_key
            && !fits(key, 512)
        {
            return Err(EmitError::PartitionKey { topic, bytes: key.len() });
        }
        if let Some(name) = headers.invalid_name() {
            return Err(EmitError::HeaderName { topic, name: name.to_owned() });
        }
        let payload = payload.map_err(|source| EmitError::Encode { topic, source })?;
        if payload.len() > outbox.max_payload_bytes {
            return Err(EmitError::PayloadTooLarge { topic, bytes: payload.len(), limit: outbox.max_payload_bytes });
        }
        Ok(Checked { topic, version, partition_key, payload })
    }
}

/// PostgreSQL's `text` holds no NUL.
fn fits(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && !text.contains('\0')
}

use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::{
    emit::{Emit, EmitThrough, Encoded},
    error::EmitError,
    event::Event,
    headers::Headers,
    notify::{self, Announcement},
    schema::Schema,
    trace,
    types::RawJson,
};

/// Writes events into the log, in whatever transaction the caller's executor is in.
///
/// An outbox is settings alone: it holds no connection, costs nothing to make and is cheap to clone. Emitting needs no privilege but
/// `INSERT` on the payload columns.
///
/// ```no_run
/// use event_box::{Event, Outbox};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(topic = "orders.placed", partition_key = "order_id")]
/// struct OrderPlaced { order_id: i64, total_cents: i64 }
///
/// # async fn place(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let outbox = Outbox::new();
/// let mut tx = pool.begin().await?;
/// sqlx::query("insert into orders (id, total_cents) values ($1, $2)").bind(7_i64).bind(995_i64).execute(&mut *tx).await?;
/// let id = outbox.emit(&mut *tx, &OrderPlaced { order_id: 7, total_cents: 995 }).header("tenant", "acme").await?;
/// tx.commit().await?; // the order and its event, or neither
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Outbox {
    pub(crate) schema: Schema,
    pub(crate) headers: Headers,
    pub(crate) max_payload_bytes: usize,
    pub(crate) notify: bool,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { schema: Schema::default(), headers: Headers::default(), max_payload_bytes: 1024 * 1024, notify: true }
    }
}

impl Outbox {
    /// An outbox that writes to the log in schema `event_box`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes to the log in another schema.
    pub fn schema(mut self, schema: Schema) -> Self {
        let behind_pooler = self.schema.is_behind_pooler();
        self.schema = if behind_pooler { schema.behind_pooler() } else { schema };
        self
    }

    /// For connections that come from a pooler in transaction mode, such as PgBouncer's: statements are sent unprepared. Default: prepared,
    /// once a connection. [`EventBox::outbox`](crate::EventBox::outbox) of a handle [behind a pooler](crate::EventBox::behind_pooler) does so by itself.
    ///
    /// **Emit in an explicit transaction then** (`pool.begin()`), never on a pool or a bare connection: what follows is two
    /// messages, and outside of a transaction the pooler may give the second to another session, with a statement of somebody else's.
    pub fn behind_pooler(mut self) -> Self {
        self.schema = self.schema.behind_pooler();
        self
    }

    /// Adds a header to every event of this outbox; [`Emit::header`] adds one to a single event. A name given twice keeps the later
    /// value. An invalid name is reported by the emit.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.set(name.into(), value.into());
        self
    }

    /// Refuses payloads above this many bytes. Default: 1 MiB (1,048,576).
    pub fn max_payload_bytes(mut self, bytes: usize) -> Self {
        self.max_payload_bytes = bytes;
        self
    }

    /// Whether an emit may carry a NOTIFY that wakes consumers at once (throttled to 200 a second in a process). Default: `true`.
    ///
    /// Switch it off for transactions that will be prepared for two-phase commit: PostgreSQL refuses NOTIFY there. Consumers then find
    /// the event by their poll, after 100 ms at most by default.
    pub fn notify(mut self, notify: bool) -> Self {
        self.notify = notify;
        self
    }

    /// Writes one event, at once or with a [`delay`](Emit::delay); await the answer. One statement, one round trip, and nothing remains of it where the executor's transaction or
    /// savepoint is rolled back.
    ///
    /// Gives back the event's id. On a pool the event is committed by itself.
    ///
    /// With the feature `opentelemetry` it carries the trace context of where it is awaited, unless it has a header `traceparent`.
    ///
    /// # Errors
    /// See [`EmitError`]. Within a transaction, an error that came from the database has aborted it, as for any statement; one about
    /// the event itself is found before anything is sent.
    pub fn emit<'c, E: Event, X: EmitThrough<'c>>(&self, executor: X, event: &E) -> Emit<'c, X> {
        Emit::new(self.clone(), executor, Encoded::new(event))
    }

    /// Writes any number of events, in their order, in one statement and one round trip. Gives back their ids in the same order.
    ///
    /// # Errors
    /// See [`EmitError`]: where one event is refused, none is written.
    pub async fn emit_all<'e, E: Event>(
        &self,
        executor: impl EmitThrough<'_>,
        events: impl IntoIterator<Item = &'e E>,
    ) -> Result<Vec<Uuid>, EmitError> {
        let batch = Columns::new(self, events)?;
        if !batch.ids.is_empty() {
            let mut headers = self.headers.clone();
            let span = trace::emitting_all(batch.topic(), batch.ids.len(), &mut headers);
            trace::emitted(span, self.insert(executor, &batch, &headers))
                .await
                .map_err(|source| EmitError::from_database(source, &self.schema))?;
        }
        Ok(batch.ids)
    }

    /// How the next statement announces what it writes, if it does.
    pub(crate) fn may_notify(&self) -> Option<Announcement> {
        if self.notify { notify::announcement() } else { None }
    }

    async fn insert(
        &self,
        executor: impl PgExecutor<'_>,
        batch: &Columns,
        headers: &Headers,
    ) -> Result<(), sqlx::Error> {
        let headers = headers.to_json().map(RawJson);
        let version = batch.versions[0];
        let topic = batch.topic().filter(|_| batch.versions.iter().all(|other| *other == version));
        let announcement = self.may_notify().map(|announcement| announcement.of_several(topic.unwrap_or("*")));
        let channel = self.schema.name();
        let executor = self.schema.over(executor);
        if let Some(topic) = topic {
            sqlx::query!(
                r#"with announced as materialized (select pg_notify($7, $8) where $8::text is not null)
                insert into event_box.events (id, topic, version, partition_key, payload, headers)
                select id, $4, $5, partition_key, payload, $6::json
                from unnest($1::uuid[], $2::text[], $3::json[]) as batch (id, partition_key, payload)
                left join announced on true"#,
                &batch.ids,
                &batch.keys as _,
                &batch.payloads as _,
                topic,
                version,
                headers as _,
                channel,
                announcement,
            )
            .execute(executor)
            .await?;
        } else {
            sqlx::query!(
                r#"with announced as materialized (select pg_notify($7, $8) where $8::text is not null)
                insert into event_box.events (id, topic, version, partition_key, payload, headers)
                select id, topic, version, partition_key, payload, $6::json
                from unnest($1::uuid[], $2::text[], $3::json[], $4::text[], $5::smallint[])
                    as batch (id, partition_key, payload, topic, version)
                left join announced on true"#,
                &batch.ids,
                &batch.keys as _,
                &batch.payloads as _,
                &batch.topics,
                &batch.versions,
                headers as _,
                channel,
                announcement,
            )
            .execute(executor)
            .await?;
        }
        Ok(())
    }

    /// Writes many events by COPY: the fastest way from some thousands on. Needs a connection (`&mut *tx` is one), since an executor is
    /// not known to be one. Gives back their ids in order.
    ///
    /// COPY cannot notify: idle consumers find the events by their poll, after 100 ms at most by default.
    ///
    /// # Errors
    /// See [`EmitError`]: where one event is refused, none is written.
    pub async fn copy<'e, E: Event>(
        &self,
        connection: &mut PgConnection,
        events: impl IntoIterator<Item = &'e E>,
    ) -> Result<Vec<Uuid>, EmitError> {
        let batch = Columns::new(self, events)?;
        if !batch.ids.is_empty() {
            let mut headers = self.headers.clone();
            let span = trace::emitting_all(batch.topic(), batch.ids.len(), &mut headers);
            let headers = headers.to_json();
            trace::emitted(span, crate::copy::send(&self.schema, connection, &batch, headers.as_deref()))
                .await
                .map_err(|source| EmitError::from_database(source, &self.schema))?;
        }
        Ok(batch.ids)
    }
}

/// Many events, a vector a column.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    pub(crate) ids: Vec<Uuid>,
    pub(crate) topics: Vec<String>,
    pub(crate) versions: Vec<i16>,
    pub(crate) keys: Vec<Option<String>>,
    pub(crate) payloads: Vec<RawJson>,
}

impl Columns {
    fn new<'e, E: Event>(outbox: &Outbox, events: impl IntoIterator<Item = &'e E>) -> Result<Self, EmitError> {
        let mut columns = Self::default();
        for event in events {
            let event = Encoded::new(event).checked(outbox, &outbox.headers)?;
            columns.ids.push(Uuid::now_v7());
            columns.topics.push(event.topic.to_owned());
            columns.versions.push(event.version);
            columns.keys.push(event.partition_key);
            columns.payloads.push(RawJson(event.payload));
        }
        Ok(columns)
    }

    /// The topic that all of them share, if they do.
    fn topic(&self) -> Option<&str> {
        let first = self.topics.first()?;
        self.topics.iter().all(|topic| topic == first).then_some(first)
    }
}

use std::time::SystemTime;

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    check::LogError,
    due::DueTime,
    emit::{Checked, EmitThrough},
    event_box::EventBox,
    outbox::Outbox,
    types::{RawJson, Timestamp},
};

/// What became of the wish to cancel a delayed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "it may have been too late"]
#[non_exhaustive]
pub enum Cancellation {
    /// It will not be delivered, once the transaction commits.
    Cancelled,
    /// No event waits under this id: it was due and is in the log, was cancelled before, or never was.
    NotWaiting,
}

/// The events that wait for their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delayed {
    /// How many there are.
    pub events: u64,
    /// When the next of them is due; more than a few seconds ago where no consumer runs, or none may move it.
    pub next_due_at: Option<SystemTime>,
}

impl Outbox {
    /// Takes back an event that is not due yet, by the id which [`emit`](Self::emit) gave back; in whatever transaction the executor is in:
    /// where that is rolled back, the event is delivered as if nothing had been. One statement, one round trip.
    ///
    /// Where it falls due while the transaction is open, it stays out of the log until that has ended, and its neighbours go on. Where an id
    /// was given to several events, all that wait are cancelled.
    ///
    /// ```no_run
    /// # use event_box::{BoxError, Cancellation, Event, Outbox};
    /// # use serde::{Deserialize, Serialize};
    /// # use std::time::Duration;
    /// # #[derive(Serialize, Deserialize, Event)]
    /// # #[event(topic = "payments.overdue", partition_key = "order_id")]
    /// # struct PaymentOverdue { order_id: i64 }
    /// # async fn paid(pool: sqlx::PgPool) -> Result<(), BoxError> {
    /// let outbox = Outbox::new();
    /// let three_days = Duration::from_secs(3 * 24 * 60 * 60);
    /// let id = outbox.emit(&pool, &PaymentOverdue { order_id: 7 }).delay(three_days).await?;
    ///
    /// let mut tx = pool.begin().await?;
    /// if outbox.cancel(&mut *tx, id).await? == Cancellation::NotWaiting {
    ///     println!("paid too late");
    /// }
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables or a privilege is missing, or the database cannot be reached or refuses: a transaction it happened in is aborted.
    /// In `repeatable read` and `serializable`, a serialization failure where the event falls due at the same moment.
    pub async fn cancel(&self, executor: impl EmitThrough<'_>, event_id: Uuid) -> Result<Cancellation, LogError> {
        let cancelled = sqlx::query!("delete from event_box.delayed where id = $1", event_id)
            .execute(self.schema.over(executor))
            .await
            .map_err(|error| LogError::from_database(error, &self.schema))?;
        Ok(match cancelled.rows_affected() {
            0 => Cancellation::NotWaiting,
            _ => Cancellation::Cancelled,
        })
    }
}

impl EventBox {
    /// How many events wait for their time, and when the next is due. Counts them all: about 0.1 s for a million.
    ///
    /// ```no_run
    /// # async fn show(pool: sqlx::PgPool) -> Result<(), event_box::LogError> {
    /// let delayed = event_box::EventBox::new(pool).delayed().await?;
    /// println!("{} events wait, the next until {:?}", delayed.events, delayed.next_due_at);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables are missing, or the database cannot be reached or refuses.
    pub async fn delayed(&self) -> Result<Delayed, LogError> {
        let database = |error| LogError::from_database(error, self.schema());
        let mut tx = self.begin().await.map_err(database)?;
        let row = sqlx::query!(
            r#"select count(*) as "events!", min(due_at) as "next_due_at: Timestamp" from event_box.delayed"#
        )
        .fetch_one(self.schema().over(&mut *tx))
        .await
        .map_err(database)?;
        tx.commit().await.map_err(database)?;
        Ok(Delayed { events: row.events as u64, next_due_at: row.next_due_at.map(|at| at.0) })
    }
}

/// It says nothing to anybody: what wakes consumers is the move into the log.
pub(crate) async fn insert<'c>(
    outbox: &Outbox,
    executor: impl PgExecutor<'c>,
    id: Uuid,
    event: Checked,
    due: DueTime,
) -> Result<(), sqlx::Error> {
    let (delay, at) = match due {
        DueTime::Delay(delay) => (Some(delay), None),
        DueTime::At(at) => (None, Some(at)),
    };
    sqlx::query!(
        "insert into event_box.delayed (id, topic, version, partition_key, payload, headers, due_at)
         values ($1, $2, $3, $4, $5, $6, coalesce($7::timestamptz, statement_timestamp() + $8::interval))",
        id,
        event.topic,
        event.version,
        event.partition_key,
        RawJson(event.payload) as _,
        outbox.headers.to_json().map(RawJson) as _,
        at as _,
        delay as _,
    )
    .execute(outbox.schema.over(executor))
    .await?;
    Ok(())
}

use event_box::{Event, Outbox};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// The `n`th event of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Event)]
#[event(topic = "test.counted", partition_key = "key")]
pub struct Counted {
    /// Its key.
    pub key: String,
    /// 1 for the first of its key.
    pub n: i64,
}

/// An event without a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "test.noted")]
pub struct Noted {
    /// Anything.
    pub text: String,
}

/// Emits the next of a key as an application does that serialises its transactions: under a lock on the key's row, taken before the emit.
/// Needs `create table counters (key text primary key, n bigint not null)`.
pub async fn emit_next(connection: &mut PgConnection, key: &str) -> Result<i64, event_box::BoxError> {
    let n: i64 = sqlx::query_scalar(
        "insert into counters values ($1, 1) on conflict (key) do update set n = counters.n + 1 returning n",
    )
    .bind(key)
    .fetch_one(&mut *connection)
    .await?;
    Outbox::new().emit(connection, &Counted { key: key.to_owned(), n }).await?;
    Ok(n)
}

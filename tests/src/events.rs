use event_box::{Event, Outbox};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

/// The `n`th event of its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Event)]
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

/// A large event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "test.bulky", partition_key = "key")]
pub struct Bulky {
    /// Its key.
    pub key: String,
    /// 1 for the first of its key.
    pub n: i64,
    /// What makes it large.
    pub bulk: String,
}

/// What a newer version of a service records under the same keys, beside [`Counted`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Event)]
#[event(topic = "test.tallied", partition_key = "key")]
pub struct Tallied {
    /// Its key.
    pub key: String,
    /// 1 for the first of its key, counted over both topics.
    pub n: i64,
}

/// Emits the next of a key as an application does that serialises its transactions: under a lock on the key's row, taken before the emit.
/// Needs `create table counters (key text primary key, n bigint not null)`.
pub async fn emit_next(connection: &mut PgConnection, key: &str) -> Result<i64, event_box::BoxError> {
    let n = count(connection, key).await?;
    Outbox::new().emit(connection, &Counted { key: key.to_owned(), n }).await?;
    Ok(n)
}

/// As [`emit_next`], in turn a [`Tallied`] and a [`Counted`].
pub async fn emit_either(connection: &mut PgConnection, key: &str) -> Result<i64, event_box::BoxError> {
    let n = count(connection, key).await?;
    let key = key.to_owned();
    match n % 2 {
        0 => Outbox::new().emit(connection, &Counted { key, n }).await?,
        _ => Outbox::new().emit(connection, &Tallied { key, n }).await?,
    };
    Ok(n)
}

async fn count(connection: &mut PgConnection, key: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "insert into counters values ($1, 1) on conflict (key) do update set n = counters.n + 1 returning n",
    )
    .bind(key)
    .fetch_one(connection)
    .await
}

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::{
    consumer::PATIENCE, deadline::within, event_box::EventBox, group::lock_maintenance, held::Held, mutation,
    schema::Schema,
};

/// Rows examined in one transaction.
const CHUNK: i64 = 1_000;
/// What PostgreSQL's intervals hold without trouble.
pub(crate) const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// What a pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Events that are gone.
    pub events: u64,
}

/// Removes events that every consumer group has been given, that were emitted longer than `retention` ago, and that no parked event
/// still needs. Consumers do this in the background unless told otherwise
/// ([`ConsumerBuilder::retention`](crate::ConsumerBuilder::retention)).
///
/// Without any consumer group nothing is removed: a log that nobody reads yet is not a log that everybody has read. Works in
/// transactions of 1,000 events, each under the lock that keeps new groups and replays apart from it, and touches nothing but the old
/// end of the log.
///
/// ```no_run
/// # async fn nightly(pool: sqlx::PgPool) -> Result<(), sqlx::Error> {
/// let week = std::time::Duration::from_secs(7 * 24 * 60 * 60);
/// let pruned = event_box::prune(&pool, week).await?;
/// println!("{} events removed", pruned.events);
/// # Ok(()) }
/// ```
///
/// # Errors
/// Where the database cannot be reached or refuses; what was removed by then stays removed.
pub async fn prune(log: impl Into<EventBox>, retention: Duration) -> Result<Pruned, sqlx::Error> {
    let log = log.into();
    let mut held = Held::acquire(log.pool()).await?;
    let pruned = prune_on(held.connection()?, log.schema(), retention).await?;
    held.give_back();
    Ok(pruned)
}

pub(crate) async fn prune_on(
    connection: &mut PgConnection,
    schema: &Schema,
    retention: Duration,
) -> Result<Pruned, sqlx::Error> {
    let retention = retention.min(CENTURY);
    let mut pruned = Pruned::default();
    for partition in 0..64 {
        let mut from = 0;
        while let Some(chunk) = within(PATIENCE, prune_chunk(connection, schema, partition, from, retention)).await? {
            pruned.events += chunk.deleted;
            if chunk.last_of_its_kind {
                break;
            }
            from = chunk.reached;
        }
    }
    Ok(pruned)
}

struct Chunk {
    deleted: u64,
    reached: i64,
    /// The log is younger than the retention time from here on, or ends.
    last_of_its_kind: bool,
}

async fn prune_chunk(
    connection: &mut PgConnection,
    schema: &Schema,
    partition: i16,
    from: i64,
    retention: Duration,
) -> Result<Option<Chunk>, sqlx::Error> {
    // Read committed, whatever the database's default: the chunk must be read after the lock was had.
    let mut tx = connection.begin_with("begin isolation level read committed").await?;
    if mutation::is("prune-repeatable-read") {
        sqlx::raw_sql("set transaction isolation level repeatable read").execute(&mut *tx).await?;
    }
    if !mutation::is("prune-without-the-lock") {
        lock_maintenance(&mut tx, schema).await?;
    }
    // The generic plan is always the ordered index range; a custom one may scan the log.
    sqlx::query!("select set_config('plan_cache_mode', 'force_generic_plan', true) as mode")
        .fetch_one(schema.over(&mut *tx))
        .await?;
    let row = sqlx::query_file!("src/retention.sql", partition, from, CHUNK, retention.as_secs_f64())
        .fetch_one(schema.over(&mut *tx))
        .await?;
    tx.commit().await?;
    let Some(reached) = row.reached else { return Ok(None) };
    Ok(Some(Chunk { deleted: row.deleted as u64, reached, last_of_its_kind: row.young || row.examined < CHUNK }))
}

/// Groups that nobody has run for a day while they hold back events that are due to go, with the days since.
pub(crate) async fn abandoned(
    connection: &mut PgConnection,
    schema: &Schema,
    retention: Duration,
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let rows = sqlx::query!(
        r#"select g.name, (extract(epoch from now() - g.seen_at) / 86400)::bigint as "days!"
           from event_box.consumer_groups as g
           where g.seen_at < now() - interval '1 day' and exists (
               select from event_box.cursors as c cross join lateral (
                   select emitted_at from event_box.events as e
                   where e.partition = c.partition and e.sequence > c.position order by e.sequence limit 1
               ) as oldest
               where c.group_name = g.name and oldest.emitted_at < now() - $1::float8 * interval '1 second')
           order by g.name"#,
        retention.min(CENTURY).as_secs_f64(),
    )
    .fetch_all(schema.over(&mut *tx))
    .await?;
    tx.commit().await?;
    Ok(rows.into_iter().map(|row| (row.name, row.days)).collect())
}

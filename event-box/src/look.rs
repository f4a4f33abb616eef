use std::time::Duration;

use sqlx::{Connection, PgConnection};

use crate::{mutation, schema::Schema};

/// What one look at a group's partitions found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Partitions worth a claim, least recently advanced first.
    pub(crate) partitions: Vec<i16>,
    /// Nothing may be delivered to the group.
    pub(crate) paused: bool,
    /// When the earliest retry falls due.
    pub(crate) retry_in: Option<Duration>,
}

/// Planning takes three times as long as the generic plan does, and where the bounds of late rows are wide the planner is tempted to fetch
/// and sort all of them for the first hundred.
macro_rules! settings {
    () => {
        "set local plan_cache_mode = force_generic_plan; set local jit = off; set local enable_bitmapscan = off; \
         set local statement_timeout = 30000"
    };
}

/// Asks which partitions of the group have work; `None` where there is no such group. Takes no lock and no xid.
pub(crate) async fn look(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
) -> Result<Option<Look>, sqlx::Error> {
    let mut tx =
        connection.begin_with(concat!("begin isolation level read committed read only; ", settings!())).await?;
    let look = ask(&mut tx, schema, group, topics).await?;
    tx.commit().await?;
    Ok(look)
}

/// The same in a transaction that is open already, whose own settings come back.
pub(crate) async fn look_within(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
) -> Result<Option<Look>, sqlx::Error> {
    sqlx::raw_sql(concat!("savepoint event_box_look; ", settings!())).execute(&mut *connection).await?;
    let look = ask(connection, schema, group, topics).await?;
    sqlx::raw_sql("rollback to savepoint event_box_look; release savepoint event_box_look").execute(connection).await?;
    Ok(look)
}

async fn ask(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
) -> Result<Option<Look>, sqlx::Error> {
    let rows = sqlx::query_file!("src/look.sql", group, topics).fetch_all(schema.over(&mut *connection)).await?;
    if rows.is_empty() {
        // A standby may not have heard of the group yet. That it is one is for the poll to say.
        let standby = sqlx::query_scalar!(r#"select pg_is_in_recovery() as "standby!""#);
        let standby = standby.fetch_one(schema.over(connection)).await?;
        return Ok(standby.then(Look::default));
    }
    let mut look = Look::default();
    for row in rows {
        look.paused = row.paused;
        let Some(partition) = row.partition else { continue };
        let due = row.due_in_seconds.is_some_and(|seconds| seconds <= 0.0);
        if row.work == Some(true) || row.tidy == Some(true) || due {
            look.partitions.push(partition);
        } else if let Some(seconds) = row.due_in_seconds.filter(|_| !mutation::is("idle-without-retries")) {
            let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            look.retry_in = Some(look.retry_in.map_or(wait, |earlier| earlier.min(wait)));
        }
    }
    Ok(Some(look))
}

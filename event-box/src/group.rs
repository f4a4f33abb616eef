use sqlx::{Connection, PgConnection};

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    intervention::Intervention,
    mode::Mode,
    schema::Schema,
};

/// Where a group that is new starts to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Beginning,
    Now,
}

/// A holder of a lock that vanished gives it up within a minute.
pub(crate) const LIMITS: &str = "set local idle_in_transaction_session_timeout = 45000; set local tcp_keepalives_idle = 20; \
     set local tcp_keepalives_interval = 5; set local tcp_keepalives_count = 5; set local tcp_user_timeout = 45000";

/// Retention, creation of a group and replay exclude each other by this lock, taken in a statement before the one that reads, held to the
/// end of the transaction. Without it no consumer starts.
pub(crate) async fn lock_maintenance(connection: &mut PgConnection, schema: &Schema) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(LIMITS).execute(&mut *connection).await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('event_box.maintenance', 0))")
        .execute(schema.over(connection))
        .await?;
    Ok(())
}

/// Creates the group, or adds what it does not read yet to an existing one: such topics are read from now on, and what of them lies ahead
/// of the group's position. Answers with the group's mode; where that is another than this one, nothing is changed.
pub(crate) async fn register(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
    mode: Mode,
    start: Start,
) -> Result<String, sqlx::Error> {
    let floor = match start {
        Start::Beginning => 0,
        Start::Now => floor_from_now(connection, schema).await?,
    };
    let mut tx = connection.begin_with("begin isolation level read committed").await?;
    lock_maintenance(&mut tx, schema).await?;
    let known = sqlx::query!("select topics, mode from event_box.consumer_groups where name = $1", group)
        .fetch_optional(schema.over(&mut *tx))
        .await?;
    match known {
        Some(known) if known.mode != mode.text() => return Ok(known.mode),
        Some(known) => {
            let added: Vec<_> = topics.iter().filter(|topic| !known.topics.contains(topic)).cloned().collect();
            if !added.is_empty() {
                add_topics(&mut tx, schema, group, &added, None, Some("a consumer that handles it started")).await?;
                tracing::info!(group, ?added, "the group reads more topics from now on");
            }
        }
        None => {
            sqlx::query!(
                "insert into event_box.consumer_groups (name, topics, mode) values ($1, $2, $3)",
                group,
                topics,
                mode.text()
            )
            .execute(schema.over(&mut *tx))
            .await?;
            create_cursors(&mut tx, schema, group, start, floor).await?;
            tracing::info!(group, ?topics, ?start, %mode, "the group is new");
        }
    }
    tx.commit().await?;
    Ok(mode.text().to_owned())
}

/// Above which sequence all those write whom a snapshot that is taken from now on does not know: the sequence's last value, and after it
/// an xid, each in a transaction of its own.
pub(crate) async fn floor_from_now(connection: &mut PgConnection, schema: &Schema) -> Result<i64, sqlx::Error> {
    let mut tx = connection.begin().await?;
    let last_value = sqlx::query_scalar!(
        r#"select coalesce(pg_sequence_last_value('event_box.events_sequence_seq'), 0) as "last_value!""#
    )
    .fetch_one(schema.over(&mut *tx))
    .await?;
    tx.commit().await?;
    let mut tx = connection.begin().await?;
    sqlx::query!("select pg_current_xact_id()::text as xid").fetch_one(schema.over(&mut *tx)).await?;
    tx.commit().await?;
    Ok(last_value)
}

async fn create_cursors(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    start: Start,
    floor: i64,
) -> Result<(), sqlx::Error> {
    match start {
        Start::Beginning => {
            sqlx::query!(
                "insert into event_box.cursors (group_name, partition) select $1, generate_series(0, 63)",
                group
            )
            .execute(schema.over(connection))
            .await?
        }
        // The position and the snapshot come from one statement: together they say exactly what is skipped.
        Start::Now => {
            sqlx::query!(
                r#"insert into event_box.cursors (group_name, partition, position, snapshot, floors, floor)
                   select $1, p, coalesce(last.sequence, 0), s, array_fill(0::bigint, array[(select count(*) from pg_snapshot_xip(s))::int]), $2
                   from generate_series(0, 63) as p
                   cross join (select pg_current_snapshot() as s) as now
                   left join lateral (
                       select sequence from event_box.events where partition = p order by sequence desc limit 1
                   ) as last on true"#,
                group,
                floor,
            )
            .execute(schema.over(connection))
            .await?
        }
    };
    Ok(())
}

/// Under the maintenance lock.
pub(crate) async fn add_topics(
    connection: &mut PgConnection,
    schema: &Schema,
    group: &str,
    topics: &[String],
    actor: Option<&str>,
    detail: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("update event_box.consumer_groups set topics = topics || $2::text[] where name = $1", group, topics)
        .execute(schema.over(&mut *connection))
        .await?;
    for topic in topics {
        let (action, detail) = ("add_topic", detail.map(str::to_owned));
        Intervention { actor, action, group: Some(group), topic: Some(topic), detail }
            .record(connection, schema)
            .await?;
    }
    touch_sequence(connection, schema).await
}

/// Moves the log's sequence, which every idle process watches: rows became due without one being written. Called once the transaction has
/// its xid.
pub(crate) async fn touch_sequence(connection: &mut PgConnection, schema: &Schema) -> Result<(), sqlx::Error> {
    sqlx::query!("select nextval('event_box.events_sequence_seq') as touched")
        .fetch_one(schema.over(connection))
        .await?;
    Ok(())
}

/// Says that the group is alive, once a minute: an abandoned group holds retention back.
pub(crate) async fn touch(connection: &mut PgConnection, schema: &Schema, group: &str) -> Result<(), sqlx::Error> {
    let mut tx = connection.begin().await?;
    sqlx::query!(
        "update event_box.consumer_groups set seen_at = now() where name = $1 and seen_at < now() - interval '30 seconds'",
        group
    )
    .execute(schema.over(&mut *tx))
    .await?;
    tx.commit().await
}

impl ConsumerGroup {
    /// Forgets the group: its cursors, and its parked events and dead letters with it. Answers whether there was one.
    ///
    /// A group that no process runs any more holds retention back for ever. One that still runs stops with
    /// [`RunError::GroupRemoved`](crate::RunError::GroupRemoved); started again, it is a new group. Waits for the batches in hand, each as
    /// long as a handler may take. Leaves an intervention `remove_group`.
    ///
    /// ```no_run
    /// # async fn end(log: event_box::EventBox) -> Result<(), event_box::GroupError> {
    /// let existed = log.group("warehouse").by("ann").remove().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Where the log's tables are missing or the database fails.
    pub async fn remove(&self) -> Result<bool, GroupError> {
        let mut connection = self.connect().await?;
        let removed = async {
            let mut tx = self.begin_maintenance(&mut connection).await?;
            let removed = self.remove_locked(&mut tx).await?;
            tx.commit().await?;
            Ok(removed)
        };
        removed.await.map_err(|error| self.database(error))
    }

    async fn remove_locked(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let (group, schema) = (&self.name, self.log.schema());
        self.lock_every_cursor(connection).await?;
        let parked = sqlx::query!("delete from event_box.parked where group_name = $1", group)
            .execute(schema.over(&mut *connection))
            .await?
            .rows_affected();
        sqlx::query!("delete from event_box.starts where group_name = $1", group)
            .execute(schema.over(&mut *connection))
            .await?;
        let removed = sqlx::query!("delete from event_box.consumer_groups where name = $1", group)
            .execute(schema.over(&mut *connection))
            .await?
            .rows_affected();
        if removed == 0 {
            return Ok(false);
        }
        let detail = Some(format!("{parked} parked events went with it"));
        self.intervention("remove_group", None, detail).record(&mut *connection, schema).await?;
        // Idle consumers of the group look, and end.
        touch_sequence(connection, schema).await?;
        Ok(true)
    }
}

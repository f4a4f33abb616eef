use sqlx::{Connection, PgConnection};

use crate::{
    check::{LogError, check_tables},
    event_box::EventBox,
    group::{lock_maintenance, touch_sequence},
    intervention::Intervention,
    schema::Schema,
};

/// What the adoption of a log did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adopted {
    /// Events that carried another cluster's transaction id, or one of before an earlier adoption.
    pub events: u64,
    /// Events behind a group's position that it had not been given yet: parked for it, due at once in the order of their keys.
    pub parked: u64,
}

/// Makes this cluster's a log that came from another: by `pg_dump` and restore, or by logical replication. Such rows carry the other
/// cluster's transaction ids, which mean something else here; a consumer that finds that out stops with [`LogError::Foreign`] or
/// [`LogError::SequenceBehind`]. Adopt before emitters run on the copy: what they write below a group's position, because the sequence was
/// not copied, is lost for that group, and nothing finds that out.
///
/// Nothing that a group was given in the state that was copied comes again, and nothing that it was owed is lost: what its cursors say is
/// carried out with the ids they were written with. What lies before a group's position and was not given to it is parked for it, the
/// rest is read on from there. Physical failover, point-in-time recovery, `pg_basebackup` and `pg_upgrade` keep transaction ids and need
/// none of this; on a log that needs it not, it changes nothing that a consumer could see.
///
/// Run it as the owner of the log's tables. It is one transaction, which keeps emitters and consumers out: the table is locked against
/// all access, every row is rewritten (about 11 s on two cores for a million events), and `vacuum` gets the old versions' room back
/// afterwards. A consumer that runs meanwhile waits, and goes on with the cursors as adopted.
///
/// ```no_run
/// # async fn after_restore(pool: sqlx::PgPool) -> Result<(), event_box::LogError> {
/// let adopted = event_box::adopt(&pool).await?;
/// println!("{} events adopted, {} of them owed", adopted.events, adopted.parked);
/// # Ok(()) }
/// ```
///
/// # Errors
/// [`LogError::Standby`], [`LogError::NotMigrated`] and [`LogError::Outdated`]; or where the database cannot be reached or refuses. Then
/// nothing has changed.
pub async fn adopt(log: impl Into<EventBox>) -> Result<Adopted, LogError> {
    let log = log.into();
    let schema = log.schema();
    let database = |error| LogError::from_database(error, schema);
    let mut connection = log.pool().acquire().await.map_err(database)?;
    check_tables(&mut connection, schema).await?;
    adopt_on(&mut connection, schema).await.map_err(database)
}

async fn adopt_on(connection: &mut PgConnection, schema: &Schema) -> Result<Adopted, sqlx::Error> {
    let mut tx = connection.begin_with("begin isolation level read committed").await?;
    lock_maintenance(&mut tx, schema).await?;
    // The cursors first: a worker that holds one goes on to read the log, and the two would wait for each other.
    sqlx::query!("select partition from event_box.cursors order by group_name, partition for update")
        .fetch_all(schema.over(&mut *tx))
        .await?;
    sqlx::query!("lock table event_box.events in access exclusive mode").execute(schema.over(&mut *tx)).await?;
    let parked = sqlx::query_file!("src/adopt.sql").execute(schema.over(&mut *tx)).await?.rows_affected();
    // Visible in every snapshot.
    let events = sqlx::query!("update event_box.events set xid = '0' where xid <> '0'")
        .execute(schema.over(&mut *tx))
        .await?
        .rows_affected();
    // Empty floors would lose the events of those that are open now.
    sqlx::query!(
        r#"update event_box.cursors
           set snapshot = now.s, floors = array_fill(0::bigint, array[(select count(*) from pg_snapshot_xip(now.s))::int]),
               floor = 0, mark = 0, mark_xid = '0', target = null, reached = 0, careful = 0
           from (select pg_current_snapshot() as s) as now"#
    )
    .execute(schema.over(&mut *tx))
    .await?;
    // Never back.
    sqlx::query!(
        r#"select setval('event_box.events_sequence_seq', greatest(
               (select last_value from event_box.events_sequence_seq),
               (select max(sequence) from event_box.events),
               (select max(position) from event_box.cursors),
               1)) as moved"#
    )
    .fetch_one(schema.over(&mut *tx))
    .await?;
    sqlx::query!("delete from event_box.starts").execute(schema.over(&mut *tx)).await?;
    let detail = Some(format!("{events} events, {parked} of them parked for groups that had not been given them"));
    Intervention { actor: None, action: "adopt", group: None, topic: None, detail }.record(&mut tx, schema).await?;
    touch_sequence(&mut tx, schema).await?;
    tx.commit().await?;
    Ok(Adopted { events, parked })
}

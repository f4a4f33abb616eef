use sqlx::{Connection, PgConnection};

use crate::{
    error::{is_missing_privilege, is_missing_table},
    migrate,
    schema::Schema,
};

/// The log is not one that events can be delivered from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The log's tables are not there.
    #[error("schema `{schema}` holds no event log: run `event_box::migrate(&pool)` first")]
    NotMigrated {
        /// The schema that was looked in.
        schema: String,
    },
    /// The tables are older than this code.
    #[error(
        "schema `{schema}` is at migration {applied}, this version of event-box needs {needed}: run `event_box::migrate(&pool)`"
    )]
    Outdated {
        /// The log's schema.
        schema: String,
        /// The newest migration that was applied.
        applied: i64,
        /// The newest this code knows.
        needed: i64,
    },
    /// The server is a standby, whose snapshots do not show open transactions.
    #[error("the server is a standby, from which events cannot be delivered: connect to the primary")]
    Standby,
    /// The sequence that orders the log was altered.
    #[error(
        "`{schema}.events_sequence_seq` must have increment 1, cache 1 and no cycle, or events are lost: \
         `alter sequence … increment 1 cache 1 no cycle`"
    )]
    SequenceOptions {
        /// The log's schema.
        schema: String,
    },
    /// The sequence lies behind the log: a copy was restored without it.
    #[error(
        "`{schema}.events_sequence_seq` stands at {last_value}, the log reaches {highest}: the log was copied without its \
         sequence: stop what emits and consumes, then run `event_box::adopt(&pool)`"
    )]
    SequenceBehind {
        /// The log's schema.
        schema: String,
        /// Where the sequence stands.
        last_value: i64,
        /// The highest sequence in the log or in a cursor.
        highest: i64,
    },
    /// The log's rows carry transaction ids of another cluster: it was restored from a dump, or copied.
    #[error(
        "the log in schema `{schema}` carries another cluster's transaction ids, it was restored or copied: stop its consumers, then \
         run `event_box::adopt(&pool)`"
    )]
    Foreign {
        /// The log's schema.
        schema: String,
    },
    /// The role may not do this.
    #[error(
        "the role lacks a privilege on the log in schema `{schema}`: grant it as docs/operations.md says under \"Privileges\"; `migrate` and \
         `adopt` are for the owner of the tables"
    )]
    Privilege {
        /// The log's schema.
        schema: String,
        /// What PostgreSQL said: on which table.
        source: sqlx::Error,
    },
    /// The database could not be asked.
    #[error("the event log could not be read")]
    Database(#[source] sqlx::Error),
}

impl LogError {
    pub(crate) fn from_database(error: sqlx::Error, schema: &Schema) -> Self {
        if is_missing_table(&error) {
            return Self::NotMigrated { schema: schema.name().to_owned() };
        }
        if is_missing_privilege(&error) {
            return Self::Privilege { schema: schema.name().to_owned(), source: error };
        }
        Self::Database(error)
    }
}

/// Checks that the server is a primary and that the log's tables are such as this code knows.
pub(crate) async fn check_tables(connection: &mut PgConnection, schema: &Schema) -> Result<(), LogError> {
    let database = |error| LogError::from_database(error, schema);
    let mut tx = connection.begin().await.map_err(database)?;
    let standby =
        sqlx::query_scalar!(r#"select pg_is_in_recovery() as "standby!""#).fetch_one(schema.over(&mut *tx)).await;
    if standby.map_err(database)? {
        return Err(LogError::Standby);
    }
    let needed = migrate::latest_version();
    let applied = sqlx::query_scalar!(
        r#"select coalesce(max(version), 0) as "applied!" from event_box.migrations where success"#
    )
    .fetch_one(schema.over(&mut *tx))
    .await
    .map_err(database)?;
    tx.commit().await.map_err(database)?;
    if applied < needed {
        return Err(LogError::Outdated { schema: schema.name().to_owned(), applied, needed });
    }
    Ok(())
}

/// Checks what delivery rests on, before the first claim.
pub(crate) async fn check(connection: &mut PgConnection, schema: &Schema) -> Result<(), LogError> {
    check_tables(connection, schema).await?;
    let database = |error| LogError::from_database(error, schema);
    let name = || schema.name().to_owned();
    let mut tx = connection.begin().await.map_err(database)?;
    // In one cluster no cursor and no row that a statement sees is from beyond the statement's own snapshot.
    let row = sqlx::query!(
        r#"with now as materialized (select pg_current_snapshot() as s),
           last as materialized (
               select last.sequence, last.xid from generate_series(0, 63) as p cross join lateral (
                   select sequence, xid from event_box.events where partition = p order by sequence desc limit 1) as last
           )
           select seqincrement = 1 and seqcache = 1 and not seqcycle as "options!",
                  (select case when is_called then last_value else 0 end from event_box.events_sequence_seq) as "last_value!",
                  greatest((select max(position) from event_box.cursors), (select max(sequence) from last), 0) as "highest!",
                  exists (select from event_box.cursors, now where pg_snapshot_xmax(coalesce(target, snapshot)) > pg_snapshot_xmax(s))
                      or exists (select from last, now where xid >= pg_snapshot_xmax(s)) as "foreign_log!"
           from pg_sequence where seqrelid = 'event_box.events_sequence_seq'::regclass"#
    )
    .fetch_one(schema.over(&mut *tx))
    .await
    .map_err(database)?;
    tx.commit().await.map_err(database)?;
    if !row.options {
        return Err(LogError::SequenceOptions { schema: name() });
    }
    if row.last_value < row.highest {
        return Err(LogError::SequenceBehind { schema: name(), last_value: row.last_value, highest: row.highest });
    }
    if row.foreign_log {
        return Err(LogError::Foreign { schema: name() });
    }
    Ok(())
}

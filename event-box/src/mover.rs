use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, SqlSafeStr};
use tokio::time::Instant;

use crate::{
    deadline::within,
    error::{is_missing_privilege, is_missing_table},
    failpoint::failpoint,
    failure::chain,
    group::LIMITS,
    notify::{self, Announcement},
    schema::Schema,
    trouble::Trouble,
    types::Timestamp,
};

/// Events that are moved in one transaction.
const MOST_EVENTS: i64 = 1_000;
/// Payloads that are moved in one transaction: it ends with the event that reaches this.
const MOST_BYTES: i64 = 8 * 1024 * 1024;
/// What is emitted with a shorter delay than this is found by then.
const CHECK_ANYWAY: Duration = Duration::from_millis(500);
/// A check or move that takes longer has lost its server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves delayed events into the log when they are due. One of all that there are does at a time, and each of them is ready to.
#[derive(Debug)]
pub(crate) struct Mover {
    pub(crate) next_check: Instant,
    trouble: Trouble,
    warned: bool,
}

/// What a check came to.
enum Found {
    /// The next is due after this long, as far as is known.
    Nothing(Option<Duration>),
    /// There may be more.
    Moved,
    /// Others move, or cancel, what is due.
    Taken,
}

impl Mover {
    pub(crate) fn new() -> Self {
        Self { next_check: Instant::now(), trouble: Trouble::none(), warned: false }
    }

    /// Checks, and moves a first part of what is due. Trouble with that alone is said here, once.
    ///
    /// # Errors
    /// Where the connection is of no more use.
    pub(crate) async fn step(&mut self, connection: &mut PgConnection, schema: &Schema) -> Result<(), sqlx::Error> {
        let wait = match within(PATIENCE, check(connection, schema)).await {
            Ok(Found::Nothing(next)) => next.unwrap_or(CHECK_ANYWAY).min(CHECK_ANYWAY),
            Ok(Found::Moved) => Duration::ZERO,
            Ok(Found::Taken) => CHECK_ANYWAY,
            Err(error) => {
                self.trouble.back_off(None);
                self.next_check = self.trouble.not_before;
                if is_end_of_connection(&error) {
                    return Err(error);
                }
                if !std::mem::replace(&mut self.warned, true) {
                    let (remedy, error) = (remedy(&error), chain(&error));
                    tracing::warn!(error, remedy, "delayed events cannot be moved into the log, trying on");
                }
                return Ok(());
            }
        };
        self.next_check = Instant::now() + wait;
        self.trouble.is_over();
        if std::mem::take(&mut self.warned) {
            tracing::info!("delayed events are moved into the log again");
        }
        Ok(())
    }
}

/// By the database's clock. Where nothing is due this is one statement, which takes no lock and no xid.
async fn check(connection: &mut PgConnection, schema: &Schema) -> Result<Found, sqlx::Error> {
    let wait = if schema.is_behind_pooler() {
        let mut tx = connection.begin().await?;
        let wait = next(&mut tx, schema).await?;
        tx.commit().await?;
        wait
    } else {
        next(connection, schema).await?
    };
    if wait.is_none_or(|wait| wait > 0.0) {
        return Ok(Found::Nothing(wait.and_then(|wait| Duration::try_from_secs_f64(wait).ok())));
    }
    // A lock or a disk that is waited for must not hold up the poll, whose connection this is.
    let begin = format!(
        "begin isolation level read committed; {LIMITS}; set local lock_timeout = 1000; set local statement_timeout = 5000"
    );
    let mut tx = connection.begin_with(AssertSqlSafe(begin).into_sql_str()).await?;
    // In a statement before the one that reads, held to the end of the transaction: moves follow each other, and so does what is due.
    let ours =
        sqlx::query_scalar!(r#"select pg_try_advisory_xact_lock(hashtextextended('event_box.delayed', 0)) as "ours!""#)
            .fetch_one(schema.over(&mut *tx))
            .await?;
    failpoint!(Moving);
    let moved = if ours { move_due(&mut tx, schema, None).await? } else { 0 };
    failpoint!(Moved);
    tx.commit().await?;
    failpoint!(MoveCommitted);
    Ok(if moved > 0 { Found::Moved } else { Found::Taken })
}

/// In how many seconds the next is due.
async fn next(connection: &mut PgConnection, schema: &Schema) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select extract(epoch from min(due_at) - statement_timestamp())::float8 as wait from event_box.delayed"#
    )
    .fetch_one(schema.over(connection))
    .await
}

/// Moves what is due by this time, or by now; at most as much as one transaction should. Answers how many events that were.
pub(crate) async fn move_due(
    connection: &mut PgConnection,
    schema: &Schema,
    by: Option<Timestamp>,
) -> Result<u64, sqlx::Error> {
    let mark = notify::announcement().map(Announcement::mark);
    let moved = sqlx::query_file!("src/mover.sql", MOST_EVENTS, MOST_BYTES, by as _, schema.name(), mark)
        .execute(schema.over(connection))
        .await?;
    Ok(moved.rows_affected())
}

/// Anything but the server's answer to a statement; and the answers after which it hangs up.
fn is_end_of_connection(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_none_or(|code| code.starts_with("57P") || code.starts_with("08"))
}

fn remedy(error: &sqlx::Error) -> Option<&'static str> {
    if is_missing_privilege(error) {
        return Some("grant it as docs/operations.md says under \"Privileges\"");
    }
    is_missing_table(error).then_some("run `event_box::migrate(&pool)`")
}

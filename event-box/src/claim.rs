use sqlx::PgConnection;

use crate::{
    cursor::{Advance, Cursor, Opening},
    schema::Schema,
};

/// One partition as one group reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partition<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) group: &'a str,
    pub(crate) number: i16,
}

/// The session: the settings that a claim overrides for our own read, as they were, and who serves it.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) backend: i32,
    pub(crate) jit: String,
    pub(crate) plan_cache_mode: String,
    /// The transaction that claimed the partition last, where it was rolled back: its process may have died of an event.
    pub(crate) aborted: Option<u64>,
    pub(crate) isolation: String,
}

/// A partition's cursor, locked.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) cursor: Cursor,
    /// Events that still go one a transaction.
    pub(crate) careful: usize,
    /// The transaction's own id.
    pub(crate) xid: u64,
}

/// What a transaction must read before it takes its xid, and before it claims the partition.
pub(crate) async fn open(
    connection: &mut PgConnection,
    partition: Partition<'_>,
) -> Result<(Opening, Session), sqlx::Error> {
    // By the function: a plain select reads the sequence's page without its lock, and may see the value up to 32 ahead that nextval puts there
    // for the moment in which it logs it. A mark above what was handed out lost events.
    // Every orderly end of a claim is a commit, so an xmax that was rolled back is a claim that was cut off. It has 32 bits of an id, and
    // may be a multixact: whatever cannot be judged counts as no death.
    let row = sqlx::query!(
        r#"select coalesce(pg_sequence_last_value('event_box.events_sequence_seq'), 0) as "last_value!",
                  pg_current_xact_id_if_assigned() is not null as "bound!",
                  pg_backend_pid() as "backend!",
                  current_setting('jit') as "jit!",
                  current_setting('plan_cache_mode') as "plan_cache_mode!",
                  current_setting('transaction_isolation') as "isolation!",
                  (select case when low >= 3 and xid between 3 and next - 1 then
                              case when pg_xact_status(xid::text::xid8) = 'aborted' then xid end
                          end
                   from (
                       select low, next, next - ((next - low) & 4294967295) as xid
                       from (
                           -- Read once (`offset 0`): the server takes xmax from the page, where another may write it meanwhile.
                           select xmax::text::bigint as low, next
                           from event_box.cursors,
                                lateral (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) as snapshot
                           where group_name = $1 and partition = $2 offset 0
                       ) as cursor offset 0
                   ) as last) as aborted"#,
        partition.group,
        partition.number,
    )
    .fetch_one(partition.schema.over(connection))
    .await?;
    let opening = Opening { last_value: row.last_value, bound: row.bound };
    let session = Session {
        backend: row.backend,
        jit: row.jit,
        plan_cache_mode: row.plan_cache_mode,
        aborted: row.aborted.map(|xid| xid as u64),
        isolation: row.isolation,
    };
    Ok((opening, session))
}

impl Partition<'_> {
    /// Locks the cursor to the end of the transaction; `None` where another worker holds it.
    ///
    /// By key: claiming the first unlocked row of a scan starves some partitions, and walks over dead versions of the rows.
    pub(crate) async fn claim(&self, connection: &mut PgConnection) -> Result<Option<Claim>, sqlx::Error> {
        let row = sqlx::query!(
            r#"select position, snapshot::text as "snapshot!", floors, floor, mark, mark_xid::text as "mark_xid!",
                      target::text as target, reached, careful, pg_current_xact_id()::text as "xid!",
                      set_config('jit', 'off', true) as jit,
                      set_config('plan_cache_mode', 'force_generic_plan', true) as plan_cache_mode
               from event_box.cursors
               where group_name = $1 and partition = $2
               for update skip locked"#,
            self.group,
            self.number,
        )
        .fetch_optional(self.schema.over(connection))
        .await?;
        let Some(row) = row else { return Ok(None) };
        let cursor = Cursor {
            position: row.position,
            snapshot: parse(&row.snapshot)?,
            floors: row.floors,
            floor: row.floor,
            mark: row.mark,
            mark_xid: parse(&row.mark_xid)?,
            target: row.target.as_deref().map(parse).transpose()?,
            reached: row.reached,
        };
        Ok(Some(Claim { cursor, careful: row.careful.max(0) as usize, xid: parse(&row.xid)? }))
    }

    /// Writes where the group now stands, in the claim's own transaction and at its nesting level.
    pub(crate) async fn advance(
        &self,
        connection: &mut PgConnection,
        advance: &Advance,
        careful: usize,
    ) -> Result<(), sqlx::Error> {
        let careful = careful as i32;
        let executor = self.schema.over(connection);
        match advance {
            Advance::To(cursor) => {
                sqlx::query!(
                    r#"update event_box.cursors
                       set position = $3, snapshot = $4::text::pg_snapshot, floors = $5, floor = $6, mark = $7,
                           mark_xid = $8::text::xid8, target = null, reached = 0, careful = $9, advanced_at = clock_timestamp()
                       where group_name = $1 and partition = $2"#,
                    self.group,
                    self.number,
                    cursor.position,
                    cursor.snapshot.to_string(),
                    &cursor.floors,
                    cursor.floor,
                    cursor.mark,
                    cursor.mark_xid.to_string(),
                    careful,
                )
                .execute(executor)
                .await?
            }
            Advance::Partly { target, reached } => {
                sqlx::query!(
                    r#"update event_box.cursors
                       set target = $3::text::pg_snapshot, reached = $4, careful = $5, advanced_at = clock_timestamp()
                       where group_name = $1 and partition = $2"#,
                    self.group,
                    self.number,
                    target.to_string(),
                    *reached,
                    careful,
                )
                .execute(executor)
                .await?
            }
            Advance::Nothing => sqlx::query!(
                r#"update event_box.cursors set careful = $3, advanced_at = clock_timestamp() where group_name = $1 and partition = $2"#,
                self.group,
                self.number,
                careful,
            )
            .execute(executor)
            .await?,
        };
        Ok(())
    }
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, sqlx::Error> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(error.to_string().into()))
}

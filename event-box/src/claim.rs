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

/// Several of them, for one transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Partitions<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) group: &'a str,
    pub(crate) numbers: &'a [i16],
}

/// A partition's cursor, locked.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) partition: i16,
    pub(crate) cursor: Cursor,
    /// Events that still go one a transaction.
    pub(crate) careful: usize,
    /// The transaction's own id.
    pub(crate) xid: u64,
    pub(crate) opening: Opening,
    /// The transaction that claimed the partition last, where it was rolled back: its process may have died of an event.
    pub(crate) aborted: Option<u64>,
    /// Who serves the session.
    pub(crate) backend: i32,
    /// The planner's settings that a claim overrides for our own read, as they were.
    pub(crate) planning: Vec<String>,
}

impl Partitions<'_> {
    /// Locks the cursors to the end of the transaction; those that another worker holds are left out. None where it does not read committed.
    ///
    /// What a transaction must read before it takes its xid, which it does when it locks the first row, is read by the same statement.
    ///
    /// The read that follows is planned once, as one ordered scan of the log's index: fetching and sorting all that waits, for its first
    /// thousand rows, looks cheaper to the planner, and a plan made while the log was small would scan all of it for ever.
    ///
    /// By key: claiming the first unlocked row of a scan starves some partitions, and walks over dead versions of the rows.
    pub(crate) async fn claim(&self, connection: &mut PgConnection) -> Result<Vec<Claim>, sqlx::Error> {
        let rows = sqlx::query_file!("src/claim.sql", self.group, self.numbers)
            .fetch_all(self.schema.over(connection))
            .await?;
        rows.into_iter()
            .map(|row| {
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
                Ok(Claim {
                    partition: row.partition,
                    cursor,
                    careful: row.careful.max(0) as usize,
                    xid: parse(&row.xid)?,
                    opening: Opening { last_value: row.last_value, bound: row.bound },
                    aborted: row.aborted.map(|xid| xid as u64),
                    backend: row.backend,
                    planning: row.planning,
                })
            })
            .collect()
    }

    /// Writes where the group now stands in each, as [`Partition::advance`] does.
    pub(crate) async fn advance(
        &self,
        connection: &mut PgConnection,
        cursors: &[(i16, Cursor)],
    ) -> Result<(), sqlx::Error> {
        let of = |value: fn(&Cursor) -> i64| cursors.iter().map(|(_, cursor)| value(cursor)).collect::<Vec<_>>();
        let text = |value: fn(&Cursor) -> String| cursors.iter().map(|(_, cursor)| value(cursor)).collect::<Vec<_>>();
        sqlx::query!(
            r#"update event_box.cursors as cursor
               set position = now.position, snapshot = now.snapshot::pg_snapshot, floors = now.floors::bigint[], floor = now.floor,
                   mark = now.mark, mark_xid = now.mark_xid::xid8, target = null, reached = 0, careful = 0,
                   advanced_at = clock_timestamp()
               from unnest($2::smallint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[])
                   as now (partition, position, snapshot, floors, floor, mark, mark_xid)
               where group_name = $1 and cursor.partition = now.partition"#,
            self.group,
            &cursors.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            &of(|cursor| cursor.position),
            &text(|cursor| cursor.snapshot.to_string()),
            &text(|cursor| array(&cursor.floors)),
            &of(|cursor| cursor.floor),
            &of(|cursor| cursor.mark),
            &text(|cursor| cursor.mark_xid.to_string()),
        )
        .execute(self.schema.over(connection))
        .await?;
        Ok(())
    }
}

impl<'a> Partition<'a> {
    /// As a list of its own.
    pub(crate) fn alone(&'a self) -> Partitions<'a> {
        let &Self { schema, group, .. } = self;
        Partitions { schema, group, numbers: std::slice::from_ref(&self.number) }
    }

    /// As [`Partitions::claim`]; `None` where another worker holds it.
    pub(crate) async fn claim(&self, connection: &mut PgConnection) -> Result<Option<Claim>, sqlx::Error> {
        Ok(self.alone().claim(connection).await?.pop())
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

/// As PostgreSQL reads an array.
pub(crate) fn array(numbers: &[i64]) -> String {
    let numbers: Vec<_> = numbers.iter().map(i64::to_string).collect();
    format!("{{{}}}", numbers.join(","))
}

pub(crate) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, sqlx::Error> {
    text.parse().map_err(|error: T::Err| sqlx::Error::Decode(error.to_string().into()))
}

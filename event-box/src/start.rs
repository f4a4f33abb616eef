use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::{claim::Partition, held::Held};

/// For this long a process that lives, but lost its connection, may take back what it began. Counted from when another first noticed.
const TAKE_BACK_SECONDS: f64 = 5.0;

/// An event that a process began alone and did not end.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) sequence: i64,
    pub(crate) process: Uuid,
    /// Whoever began it had its time to take it back: it died.
    pub(crate) abandoned: bool,
}

/// The table `starts`, which names the event that kills its process. Written only where a process has died.
impl Partition<'_> {
    /// What was begun and not ended, under the partition's claim; notes when that was first noticed. Locks no row of its own process,
    /// which another of its connections may be about to write.
    pub(crate) async fn starts(&self, connection: &mut PgConnection, own: Uuid) -> Result<Vec<Start>, sqlx::Error> {
        sqlx::query!(
            r#"update event_box.starts set noticed_at = clock_timestamp()
               where group_name = $1 and partition = $2 and instance <> $3 and noticed_at is null"#,
            self.group,
            self.number,
            own,
        )
        .execute(self.schema.over(&mut *connection))
        .await?;
        let rows = sqlx::query!(
            r#"select sequence, instance,
                      coalesce(noticed_at <= clock_timestamp() - $3::float8 * interval '1 second', false) as "abandoned!"
               from event_box.starts where group_name = $1 and partition = $2"#,
            self.group,
            self.number,
            TAKE_BACK_SECONDS,
        )
        .fetch_all(self.schema.over(connection))
        .await?;
        let starts = rows.into_iter().map(|row| Start {
            sequence: row.sequence,
            process: row.instance,
            abandoned: row.abandoned,
        });
        Ok(starts.collect())
    }

    /// Before the event's handlers run: committed by itself, so that it outlives the process.
    pub(crate) async fn begin(&self, pool: &PgPool, sequence: i64, process: Uuid) -> Result<(), sqlx::Error> {
        let mut held = Held::acquire(pool).await?;
        let mut tx = held.connection()?.begin().await?;
        sqlx::query!(
            r#"insert into event_box.starts (group_name, partition, sequence, instance) values ($1, $2, $3, $4)
               on conflict (group_name, partition, sequence) do update set instance = excluded.instance, noticed_at = null"#,
            self.group,
            self.number,
            sequence,
            process,
        )
        .execute(self.schema.over(&mut *tx))
        .await?;
        tx.commit().await?;
        held.give_back();
        Ok(())
    }

    /// In the batch's own transaction: what this process began has ended, and what the others did is judged.
    pub(crate) async fn end(
        &self,
        connection: &mut PgConnection,
        process: Uuid,
        judged: &[i64],
    ) -> Result<(), sqlx::Error> {
        sqlx::query!(
            r#"delete from event_box.starts
               where group_name = $1 and partition = $2 and (instance = $3 or sequence = any($4))"#,
            self.group,
            self.number,
            process,
            judged,
        )
        .execute(self.schema.over(connection))
        .await?;
        Ok(())
    }

    /// The process that began it lives: nothing is held against the event.
    pub(crate) async fn take_back(&self, pool: &PgPool, process: Uuid) -> Result<(), sqlx::Error> {
        let mut held = Held::acquire(pool).await?;
        let mut tx = held.connection()?.begin().await?;
        sqlx::query!(
            "delete from event_box.starts where group_name = $1 and partition = $2 and instance = $3",
            self.group,
            self.number,
            process,
        )
        .execute(self.schema.over(&mut *tx))
        .await?;
        tx.commit().await?;
        held.give_back();
        Ok(())
    }
}

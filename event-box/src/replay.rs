use std::time::SystemTime;

use sqlx::{PgConnection, Postgres, Transaction};

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    group::touch_sequence,
    intervention::Intervention,
    mutation,
    types::Timestamp,
};

/// What a replay did besides setting the group back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// Parked events from the point on, dead letters among them, that are forgotten as such: they are delivered again with the rest.
    pub parked: u64,
}

/// Where a partition is set back to: what lies above goes out again.
struct Point {
    partition: i16,
    position: i64,
}

/// What was found without a lock.
struct Search {
    since: SystemTime,
    /// The same as text, in UTC.
    since_text: String,
    /// What was seen.
    snapshot: String,
    partitions: Vec<i16>,
    firsts: Vec<Option<i64>>,
    bounds: Vec<i64>,
}

impl ConsumerGroup {
    /// Gives the group this sequence and all after it again, as far as the log still holds them. Its consumers may run: what they have in
    /// hand is waited for, and they go on from there.
    ///
    /// Every event from there on is delivered once more, in order per key, with attempt 1, whatever became of it before: parked events
    /// and dead letters from there on start anew, and what a person put in the place of a payload is lost with them, the log's own is
    /// delivered. Parked events before the point stay, and later ones of their keys wait behind them. Erased events do not come again.
    /// A point beyond where the group stands changes nothing.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), event_box::GroupError> {
    /// let replayed = event_box::EventBox::new(pool).group("warehouse").by("alice").replay_from(4711).await?;
    /// println!("{} parked events start anew", replayed.parked);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::NoSuchGroup`], or where the database cannot be reached or refuses: then nothing has changed.
    pub async fn replay_from(&self, sequence: i64) -> Result<Replayed, GroupError> {
        self.replay_from_everywhere(sequence, format!("from sequence {sequence}")).await
    }

    /// Gives the group all that the log still holds again, as [`replay_from`](Self::replay_from) does from a sequence.
    ///
    /// # Errors
    /// As for [`replay_from`](Self::replay_from).
    pub async fn replay_all(&self) -> Result<Replayed, GroupError> {
        self.replay_from_everywhere(1, "from the beginning".to_owned()).await
    }

    /// Gives the group what was emitted at this time or later again: in each partition the first such event and all after it, as
    /// [`replay_from`](Self::replay_from) does.
    ///
    /// An event's time is when the statement that emitted it began, not when it was committed, by the database's clock; where a long
    /// statement overlaps others, some events that were emitted shortly before the time come again too. A delayed event's time is when it was
    /// moved into the log.
    ///
    /// The log has no index by time: it is read from end to end once, without any lock, in about half a second on two cores for a million
    /// events. Under the lock only the newest of what the group was given is looked at again, which takes milliseconds; where a transaction
    /// has long been open, or the log was just adopted, all since then, about 5 s for a million events.
    ///
    /// # Errors
    /// As for [`replay_from`](Self::replay_from).
    pub async fn replay_since(&self, time: SystemTime) -> Result<Replayed, GroupError> {
        let mut connection = self.connect().await?;
        let search = self.search(&mut connection, time).await?;
        self.replay_found(&mut connection, search).await
    }

    async fn replay_from_everywhere(&self, sequence: i64, detail: String) -> Result<Replayed, GroupError> {
        let position = sequence.saturating_sub(1).max(0);
        let points: Vec<_> = (0..64).map(|partition| Point { partition, position }).collect();
        let mut connection = self.connect().await?;
        let tx = self.begin_replay(&mut connection).await?;
        self.rewind(tx, &points, detail).await
    }

    async fn search(&self, connection: &mut PgConnection, since: SystemTime) -> Result<Search, GroupError> {
        let mut tx = self.begin(connection).await.map_err(|error| self.database(error))?;
        let rows = sqlx::query_file!("src/replay_search.sql", self.name, Timestamp(since) as _)
            .fetch_all(self.log.schema().over(&mut *tx))
            .await
            .map_err(|error| self.database(error))?;
        tx.commit().await.map_err(|error| self.database(error))?;
        let Some(row) = rows.first() else {
            return Err(GroupError::NoSuchGroup { group: self.name.clone() });
        };
        Ok(Search {
            since,
            since_text: row.since.clone(),
            snapshot: row.snapshot.clone(),
            partitions: rows.iter().map(|row| row.partition).collect(),
            firsts: rows.iter().map(|row| row.first).collect(),
            bounds: rows.iter().map(|row| row.bound).collect(),
        })
    }

    async fn replay_found(&self, connection: &mut PgConnection, search: Search) -> Result<Replayed, GroupError> {
        let mut tx = self.begin_replay(connection).await?;
        // What the search did not see may have been committed, and delivered, by now.
        let points = sqlx::query_as!(
            Point,
            r#"select found.partition as "partition!", least(found.first, later.sequence) - 1 as "position!"
               from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as found (partition, first, bound)
               join event_box.cursors as c on c.group_name = $6 and c.partition = found.partition
               cross join lateral (
                   select min(e.sequence) as sequence from event_box.events as e
                   where e.partition = c.partition and e.sequence > found.bound
                     and e.sequence <= least(c.position, found.first - 1)
                     and e.emitted_at >= $4::timestamptz and not pg_visible_in_snapshot(e.xid, $5::text::pg_snapshot)
               ) as later
               where least(found.first, later.sequence) is not null"#,
            &search.partitions,
            &search.firsts as _,
            &search.bounds,
            Timestamp(search.since) as _,
            search.snapshot,
            self.name,
        )
        .fetch_all(self.log.schema().over(&mut *tx))
        .await
        .map_err(|error| self.database(error))?;
        self.rewind(tx, &points, format!("since {}", search.since_text)).await
    }

    async fn begin_replay<'c>(
        &self,
        connection: &'c mut PgConnection,
    ) -> Result<Transaction<'c, Postgres>, GroupError> {
        let mut tx = self.begin_maintenance(connection).await.map_err(|error| self.database(error))?;
        self.lock_cursors(&mut tx).await?;
        if mutation::is("replay-with-a-new-snapshot") {
            // As where the last of the cursors is waited for.
            tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        }
        Ok(tx)
    }

    async fn rewind(
        &self,
        mut tx: Transaction<'_, Postgres>,
        points: &[Point],
        detail: String,
    ) -> Result<Replayed, GroupError> {
        let schema = self.log.schema();
        let replayed = async {
            let partitions: Vec<_> = points.iter().map(|point| point.partition).collect();
            let positions: Vec<_> = points.iter().map(|point| point.position).collect();
            // Nothing else of the cursor: a new snapshot would declare delivered what was only open.
            sqlx::query!(
                r#"update event_box.cursors as c set position = least(c.position, point.position)
                   from unnest($2::smallint[], $3::bigint[]) as point (partition, position)
                   where c.group_name = $1 and c.partition = point.partition"#,
                self.name,
                &partitions,
                &positions,
            )
            .execute(schema.over(&mut *tx))
            .await?;
            let parked = sqlx::query!(
                r#"delete from event_box.parked as p using unnest($2::smallint[], $3::bigint[]) as point (partition, position)
                   where p.group_name = $1 and p.partition = point.partition and p.sequence > point.position"#,
                self.name,
                &partitions,
                &positions,
            )
            .execute(schema.over(&mut *tx))
            .await?
            .rows_affected();
            let (actor, group, detail) = (self.actor.as_deref(), Some(self.name.as_str()), Some(detail));
            Intervention { actor, action: "replay", group, topic: None, detail }.record(&mut tx, schema).await?;
            touch_sequence(&mut tx, schema).await?;
            tx.commit().await?;
            Ok(Replayed { parked })
        };
        replayed.await.map_err(|error| self.database(error))
    }
}

#[cfg(test)]
mod tests;

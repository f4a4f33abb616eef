use sqlx::{PgConnection, Postgres, Transaction};

use crate::{
    consumer_group::{ConsumerGroup, GroupError},
    group::floor_from_now,
    intervention::Intervention,
    mutation,
};

impl ConsumerGroup {
    /// Passes over all that is committed and was not given to the group: it goes on with what commits from now on. Its consumers may run:
    /// what they have in hand is waited for.
    ///
    /// Parked events stay, and are tried again; to pass over them too, [`forward_and_clear_parked`](Self::forward_and_clear_parked).
    /// An event whose transaction is open meanwhile is delivered once that commits.
    ///
    /// ```no_run
    /// # async fn example(pool: sqlx::PgPool) -> Result<(), event_box::GroupError> {
    /// event_box::EventBox::new(pool).group("search-index").by("alice").forward_to_now().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`GroupError::NoSuchGroup`], or where the database cannot be reached or refuses: then nothing has changed.
    pub async fn forward_to_now(&self) -> Result<(), GroupError> {
        let mut connection = self.connect().await?;
        let tx = self.forward(&mut connection).await?;
        tx.commit().await.map_err(|error| self.database(error))
    }

    /// As [`forward_to_now`](Self::forward_to_now), and gives up the group's parked events as well: those that wait, those that would be
    /// tried again and dead letters. Each leaves a record in `interventions`. Answers how many there were.
    ///
    /// # Errors
    /// As for [`forward_to_now`](Self::forward_to_now).
    pub async fn forward_and_clear_parked(&self) -> Result<u64, GroupError> {
        let mut connection = self.connect().await?;
        let mut tx = self.forward(&mut connection).await?;
        let cleared = async {
            let cleared = sqlx::query!(
                r#"with cleared as (
                       delete from event_box.parked where group_name = $1
                       returning partition, sequence, topic, partition_key, reason
                   )
                   insert into event_box.interventions
                       (actor, action, group_name, sequence, event_id, topic, partition_key, detail)
                   select coalesce($2, session_user::text), 'forward', $1, cleared.sequence, e.id, cleared.topic,
                          cleared.partition_key, 'parked: ' || cleared.reason
                   from cleared left join event_box.events as e
                     on e.partition = cleared.partition and e.sequence = cleared.sequence"#,
                self.name,
                self.actor,
            )
            .execute(self.log.schema().over(&mut *tx))
            .await?
            .rows_affected();
            tx.commit().await?;
            Ok(cleared)
        };
        cleared.await.map_err(|error| self.database(error))
    }

    async fn forward<'c>(&self, connection: &'c mut PgConnection) -> Result<Transaction<'c, Postgres>, GroupError> {
        let schema = self.log.schema();
        let floor = floor_from_now(connection, schema).await.map_err(|error| self.database(error))?;
        let mut tx = self.begin_maintenance(connection).await.map_err(|error| self.database(error))?;
        if !mutation::is("forward-in-one-statement") {
            self.lock_cursors(&mut tx).await?;
        }
        let moved = async {
            // A statement later than the lock: in the lock's own, a cursor that a worker has just advanced would be set back.
            sqlx::query!(
                r#"update event_box.cursors as c
                   set position = greatest(c.position, coalesce(last.sequence, 0)), snapshot = now.s,
                       floors = array_fill(0::bigint, array[(select count(*) from pg_snapshot_xip(now.s))::int]), floor = $2,
                       target = null, reached = 0
                   from generate_series(0, 63) as p
                   cross join (select pg_current_snapshot() as s) as now
                   left join lateral (
                       select sequence from event_box.events where partition = p order by sequence desc limit 1
                   ) as last on true
                   where c.group_name = $1 and c.partition = p"#,
                self.name,
                floor,
            )
            .execute(schema.over(&mut *tx))
            .await?;
            let (actor, group, detail) = (self.actor.as_deref(), Some(self.name.as_str()), Some("to now".to_owned()));
            Intervention { actor, action: "forward", group, topic: None, detail }.record(&mut tx, schema).await
        };
        moved.await.map_err(|error| self.database(error))?;
        Ok(tx)
    }
}
